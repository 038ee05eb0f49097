"""All that a report is made of: a run as plain data, and its rounds as values with names."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from lycia.core.layout import Layout
from lycia.core.messages import DESCRIBE, TRAIN
from lycia.core.round import ASIDE
from lycia.errors import StorageError

if TYPE_CHECKING:
    from lycia.reports.figures import NodeFigure

World = Literal["simulation", "deployment"]


@dataclass(frozen=True)
class Scope:
    """What was measured in one exchange: over all its nodes together, and at each."""

    pooled: Mapping[str, float] = field(default_factory=dict)
    nodes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Drop:
    """A node that did not count in an exchange.

    Attributes:
      kind: declined, vanished, quarantined or late.
      norm: of the update, where that is why it was refused.
    """

    node: str
    exchange: str
    kind: str
    reason: str
    norm: float | None = None


@dataclass(frozen=True)
class RoundFacts:
    """One attempt at one round, as `lycia.core.closing.round_record` and the runner wrote it down.

    Attributes:
      number: counted from 1, as people do; of the epilogue, the number of the last round.
      attempt: counted from 0.
      asked: exchange → who was asked in it.
      norms: of each update that counted; a node whose norm is hidden is not in it.
      phases_s: exchange → seconds on the run's clock; "close" → seconds of the server's own work.
    """

    number: int
    attempt: int
    purpose: str
    population: int
    asked: Mapping[str, Sequence[str]]
    survivors: Sequence[str]
    weights: Mapping[str, float]
    norms: Mapping[str, float]
    training: Scope
    evaluation: Mapping[str, Scope]
    dropped: Sequence[Drop]
    late: Sequence[Drop]
    norm_bound: float | None
    model: str
    missed: str
    opened_s: float
    ended_s: float
    phases_s: Mapping[str, float]
    wall_s: float
    bytes_up: int
    bytes_down: int

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "RoundFacts":
        """The round that `record` tells of."""
        drops = [Drop(d["node"], d["exchange"], d["kind"], d["reason"], d.get("norm")) for d in record["dropped"]]
        late = [Drop(d["node"], TRAIN, "late", d["reason"]) for d in record["late"]]
        opened_s, ended_s = record["opened_s"], record["ended_s"]
        return cls(
            number=record["round"] + (record["purpose"] == "train"),
            attempt=record["attempt"],
            purpose=record["purpose"],
            population=record["population"],
            asked=record["asked"],
            survivors=record["survivors"],
            weights=_numbers(record["weights"]),
            norms=_numbers(record["norms"]),
            training=_scope(record["train_metrics"]),
            evaluation={name: _scope(scope) for name, scope in record["evaluation"].items()},
            dropped=drops,
            late=late,
            norm_bound=record["norm_bound"],
            model=record["model"],
            missed=record["missed"],
            opened_s=opened_s,
            ended_s=opened_s if ended_s is None else ended_s,
            phases_s=_numbers(record.get("phases_s", {})),
            wall_s=record.get("wall_s", 0.0),
            bytes_up=record.get("bytes_up", 0),
            bytes_down=record.get("bytes_down", 0),
        )

    @property
    def cohort(self) -> frozenset[str]:
        """Who was asked to train, and who fell out in an exchange before that."""
        return frozenset(self.asked.get(TRAIN, ())) | {d.node for d in self.dropped if d.exchange not in ASIDE}

    @property
    def described(self) -> frozenset[str]:
        """Who described its features in this round, which only the first one asks for."""
        return frozenset(self.asked.get(DESCRIBE, ())) - {d.node for d in self.dropped if d.exchange == DESCRIBE}


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A run as plain data: what `lycia report` shows and what its JSON holds.

    Attributes:
      id, app: the run, and the app that it is a run of.
      state, reason: "finished", "paused", "stopped" or "running", and why.
      plan: what `Plan.to_json` says, as data; plan_digest: its SHA-256.
      layout: the leaves of the model, as `Layout.to_json` says them.
      versions: name of a package (or of the machine) → its version.
      started, ended: ISO 8601 with a time zone; "" where it is not known, or not yet.
      records: one for each attempt at a round, in order.
      first_model: the digest of the model that the run began with.
      undone: the records of rounds that do not count, since the run was rolled back to before them; each says by whom
        and when. No figure is made of them.
    """

    id: str
    app: str
    world: World
    state: str
    reason: str
    plan: Mapping[str, Any]
    plan_digest: str
    layout: Sequence[Mapping[str, Any]] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    started: str = ""
    ended: str = ""
    records: Sequence[Mapping[str, Any]] = ()
    first_model: str = ""
    undone: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "RunFacts":
        """The run that plain data tells of, as a store or a coordinator gives it, or as `to_data` does.

        Times may be ISO texts or seconds since 1970. What only a newer version knows is passed over.

        Raises: StorageError, if something that every version writes is missing or of another kind.
        """
        try:
            known: dict[str, Any] = {item.name: data[item.name] for item in fields(cls) if item.name in data}
            known.update({name: _iso(data[name]) for name in ("started", "ended") if name in data})
            facts = cls(**known)
            facts.rounds, facts.epilogue, facts.model_layout  # noqa: B018  # parsed here, so that nothing broken comes further in
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            raise StorageError(
                f"the facts of a run cannot be read: {error!r}.",
                why="they are not what this version writes; a part may be missing, or come from another version.",
                do="make them again from the run's folder or its coordinator, with the version that held the run.",
            ) from None
        return facts

    @classmethod
    def from_json(cls, text: str) -> "RunFacts":
        """The run that `to_json` wrote.

        Raises: StorageError, if the text is no JSON object, or `of` cannot use it.
        """
        try:
            data = json.loads(text)
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise StorageError(
                f"the facts of a run cannot be read: {text[:60]!r}.",
                why="they are no JSON object; the file may have been cut off.",
                do="make them again from the run's folder or its coordinator.",
            )
        return cls.of(data)

    def to_data(self) -> dict[str, Any]:
        """The run as data that JSON can hold: what is not finite becomes null."""
        data: dict[str, Any] = _plain({item.name: getattr(self, item.name) for item in fields(self)})
        return data

    def to_json(self) -> str:
        """The run as JSON."""
        return json.dumps(self.to_data(), separators=(",", ":"), allow_nan=False)

    def summary(self) -> dict[str, Any]:
        """The figures that stand for the run; see `lycia.reports.figures.summary`."""
        from lycia.reports import figures  # here, as the figures are worked out of facts

        return figures.summary(self)

    def benefits(self) -> "tuple[NodeFigure, ...]":
        """What each node that was measured has by joining, in the metric that is shown first; by name."""
        from lycia.reports import figures

        found = figures.node_figures(self, figures.shown_metric(self))
        return tuple(item for item in found if item.together is not None or item.alone is not None)

    @cached_property
    def rounds(self) -> tuple[RoundFacts, ...]:
        """Every attempt at every round of training, in order."""
        return tuple(facts for facts in self._attempts if facts.purpose == "train")

    @cached_property
    def epilogue(self) -> RoundFacts | None:
        """What was measured after the last round."""
        return next((facts for facts in reversed(self._attempts) if facts.purpose == "epilogue"), None)

    @cached_property
    def closed(self) -> tuple[RoundFacts, ...]:
        """The attempts that made a model: one for each round that is done."""
        return tuple(facts for facts in self.rounds if not facts.missed)

    @cached_property
    def model_layout(self) -> Layout:
        """What the model is made of."""
        return Layout.from_json(json.dumps(list(self.layout)))

    @cached_property
    def _attempts(self) -> tuple[RoundFacts, ...]:
        return tuple(RoundFacts.of(record) for record in self.records)


def _iso(at: str | float | None) -> str:
    if at is None or isinstance(at, str):
        return at or ""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _scope(said: Mapping[str, Any]) -> Scope:
    return Scope(_numbers(said["pooled"]), {node: _numbers(values) for node, values in said["nodes"].items()})


def _numbers(said: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in said.items() if value is not None and math.isfinite(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
