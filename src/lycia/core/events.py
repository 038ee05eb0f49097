"""What happened in a round, in order. The journal of these events is the round: replaying it gives its state."""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lycia.errors import JournalError

Purpose = Literal["train", "epilogue"]
DropKind = Literal["declined", "vanished", "quarantined", "late"]


@dataclass(frozen=True)
class Opened:
    """A round begins.

    Attributes:
      at_s: seconds on the run's clock, here and in every event.
      population: how many nodes could have been asked.
      secret: 32 bytes, drawn once for this round and attempt.
      norm_bound: the largest norm of a delta that is admitted, fixed from here on.
      describes: nodes describe their features before they train.
    """

    at_s: float
    round: int
    attempt: int
    purpose: Purpose
    population: int
    secret: bytes
    norm_bound: float | None
    describes: bool = False


@dataclass(frozen=True)
class Asked:
    """Nodes are about to be asked: written before anything is sent."""

    at_s: float
    task: int
    exchange: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Heard:
    """Nodes answered, and what they sent was admitted. Columns, one entry a node.

    Attributes:
      handles: where each update is kept; "" for an answer that has none.
      norms: of the deltas; None where there is none, or where it is hidden.
      reach: extra → the largest absolute value that each node sent of it.
      bodies: answers to an exchange of a part.
    """

    at_s: float
    task: int
    nodes: tuple[str, ...]
    handles: tuple[str, ...]
    weights: tuple[float, ...]
    norms: tuple[float | None, ...]
    metrics: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    reach: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    bodies: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Dropped:
    """A node will not be heard in this exchange, or came too late for it.

    Attributes:
      norm: of its delta, where that alone was why it does not count.
    """

    at_s: float
    task: int
    node: str
    kind: DropKind
    reason: str
    norm: float | None = None


@dataclass(frozen=True)
class Settled:
    """An exchange is over: these nodes came through it. Written before anything that follows from it is sent."""

    at_s: float
    exchange: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Closed:
    """The next model is made and kept."""

    at_s: float
    model: str


@dataclass(frozen=True)
class Ended:
    """The round is over; `missed` says why it did not count, "" if it did."""

    at_s: float
    missed: str = ""


Event = Opened | Asked | Heard | Dropped | Settled | Closed | Ended
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Opened, Asked, Heard, Dropped, Settled, Closed, Ended)}


def to_json(event: Event) -> str:
    """One line of a journal."""
    return json.dumps(
        {"event": type(event).__name__, **asdict(event)}, default=_bytes, separators=(",", ":"), allow_nan=False
    )


def from_json(line: str) -> Event:
    """The event that `to_json` wrote.

    Raises: JournalError, if the line is no event that this version knows.
    """
    try:
        values = json.loads(line)
        kind = _KINDS[values.pop("event")]
        event: Event = kind(**{name: _restore(value) for name, value in values.items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise JournalError(
            f"a line of the journal cannot be read: {line[:80]!r} ({error!r}).",
            why="it is not an event that this version writes; it may have been cut off, or come from a newer version.",
            do="run `lycia scrub`, or go on with the version that wrote the journal.",
        ) from None
    return event


def _bytes(value: object) -> dict[str, str]:
    if isinstance(value, bytes):
        return {"b64": b64encode(value).decode()}
    raise TypeError(f"an event cannot hold {value!r}")


def _restore(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_restore(item) for item in value)
    if isinstance(value, dict):
        if isinstance(value.get("b64"), str):  # a metric may have that name too, but then it is no text
            return b64decode(value["b64"])
        return {key: _restore(item) for key, item in value.items()}
    return value
