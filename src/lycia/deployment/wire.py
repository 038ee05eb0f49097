"""What goes over the network: JSON for control, safetensors for tensors. Parsed here, into the types of the core."""

import json
import math
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lycia import errors
from lycia.core import tensorfile
from lycia.core.columns import Columns
from lycia.core.grid import Grid
from lycia.core.layout import Layout, Model, read_model, stored
from lycia.core.messages import Answer, Ask, Declined, Malformed, Reply, Scores, Summed, Updates
from lycia.core.space import MEMORY, Space, is_large
from lycia.core.tensorfile import Stored, Tensor
from lycia.deployment.identity import COORDINATOR_URL, NODE_NAME
from lycia.errors import LayoutError, LyciaError, StorageError, TensorFileError

PROTOCOL = 1
INLINE_BYTES = 1 << 20
"""What is no larger travels in one call; what is larger, by parts."""

_UPDATE = "lycia.update"
_SUM = "lycia.sum"
_TOTAL = "total"
_RUN = "lycia.run"
_EXTRA = "extra:"
_MASKED = "masked"
_LARGEST_NAME = 200
_LARGEST_REASON = 1000
_MOST_METRICS = 200


Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[float, Field(ge=0, le=1e15)]  # of examples; neither a NaN nor an infinity


class _Message(BaseModel):
    # What a neighbouring release says beyond this one is passed over; a field that is new here has a default.
    model_config = ConfigDict(extra="ignore", frozen=True)


class AskMessage(_Message):
    """One ask as one node gets it. Models and arrays are named by digest and fetched once; small ones come `inline`."""

    run: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")  # it becomes a path at the node, as digests do
    plan: Digest
    layout: Digest
    round: int
    attempt: int
    task: int
    exchange: str
    model: Digest | None
    base: Digest | None
    told: Digest | None
    each: str | None
    inline: dict[str, str] = Field(default_factory=dict)
    norm_bound: float | None
    grid: int | None = Field(ge=-1000, le=1023)
    weight_cap: float
    deadline_s: float
    undone: list[tuple[int, int]] = Field(default_factory=list)


class ReplyMessage(_Message):
    """A reply that is not an update: scores, an answer, or a refusal."""

    kind: str
    weight: float = 0.0
    metrics: dict[str, float] = Field(default_factory=dict, max_length=_MOST_METRICS)
    body: str = ""
    reason: str = ""


class UploadMessage(_Message):
    """Somebody announces a file that comes by parts."""

    size_bytes: int = Field(ge=0, le=1 << 50)
    parts: list[Digest] = Field(min_length=1, max_length=1 << 17)


class UploadedMessage(_Message):
    """All parts of an upload are there."""

    upload: Digest


class EnrolMessage(_Message):
    """A node introduces itself with its invitation's token; the signature covers token and key."""

    token: str
    public_key: str = Field(pattern=r"^[0-9a-f]{64}$")
    examples: Count | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    signature: str


class SessionMessage(_Message):
    """A node or an operator answers the coordinator's challenge."""

    name: str
    nonce: str
    signature: str


class PollMessage(_Message):
    """A node asks for work, and says how long it will wait."""

    wait_s: float = Field(default=20.0, ge=0, le=60)
    examples: Count | None = None


class AliveMessage(_Message):
    """A node says that it is still at a task."""

    run: str
    task: int
    phase: str = Field(default="training", max_length=_LARGEST_NAME)


class InviteMessage(_Message):
    """An operator invites a node."""

    name: str = Field(pattern=NODE_NAME)
    role: str = "node"
    valid_s: float = Field(default=7 * 86400, gt=0, le=10 * 365 * 86400)
    url: str | None = Field(default=None, pattern=COORDINATOR_URL)


class StartMessage(_Message):
    """An operator starts a run; the model's file has been uploaded before."""

    app: str = Field(max_length=_LARGEST_NAME)
    plan: str
    layout: str
    model: str
    schema_text: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)


class RollbackMessage(_Message):
    """An operator puts a run back to what it was after so many rounds."""

    round: int = Field(ge=0, le=10**9)


class CodeMessage(_Message):
    """A browser brings the code that `lycia dashboard` gave it."""

    code: str = Field(max_length=_LARGEST_NAME)


class Problem(_Message):
    """An error on its way to the other side, in the words of its `LyciaError`."""

    kind: str
    what: str
    why: str
    do: str

    @classmethod
    def of(cls, error: LyciaError) -> "Problem":
        """The problem that says what `error` says."""
        return cls(kind=type(error).__name__, what=error.what, why=error.why, do=error.do)

    def to_error(self) -> LyciaError:
        """The error that this problem tells of."""
        kind = getattr(errors, self.kind, LyciaError)
        known = isinstance(kind, type) and issubclass(kind, LyciaError)
        return (kind if known else LyciaError)(self.what, why=self.why, do=self.do)


@dataclass(frozen=True)
class Shared:
    """The part of an ask that is the same for all nodes: what to fetch, by digest; small things come `inline`."""

    model: str | None
    base: str | None
    told: str | None
    inline: Mapping[str, str]


def base_file(layout: Layout, model: Model) -> Iterator[bytes | memoryview] | None:
    """The pieces of the file with the segments that are sent once in a run; None if the model has none."""
    tensors = layout.tensors(model, ("frozen", "local"))
    return tensorfile.write(tensors, {}) if tensors else None


def model_file(layout: Layout, model: Model, run: str) -> Iterator[bytes | memoryview]:
    """The pieces of the file that a model travels in: the segments that change from round to round.

    The file is one run's own, so that another run with an equal model never needs it.
    """
    return tensorfile.write(layout.tensors(model, ("trained", "statistics")), {_RUN: run})


def told_file(arrays: Mapping[str, np.ndarray], run: str) -> Iterator[bytes | memoryview]:
    """The pieces of the file, the run's own, that holds what parts tell the nodes."""
    return tensorfile.write({name: Tensor.of(array) for name, array in arrays.items()}, {_RUN: run})


def encode_ask(ask: Ask, layout: Layout, shared: Shared, node: str) -> AskMessage:
    """The ask as `node` gets it."""
    each = ask.each.get(node)
    return AskMessage(
        run=ask.run, plan=ask.plan, layout=layout.digest, round=ask.round, attempt=ask.attempt, task=ask.task,
        exchange=ask.exchange, model=shared.model, base=shared.base, told=shared.told,
        each=None if each is None else b64encode(each).decode(), inline=dict(shared.inline),
        norm_bound=ask.norm_bound, grid=None if ask.grid is None else ask.grid.exponent, weight_cap=ask.weight_cap,
        deadline_s=ask.deadline_s, undone=list(ask.undone),
    )  # fmt: skip


def decode_ask(message: AskMessage, node: str, model: Model | None, told: Mapping[str, np.ndarray]) -> Ask:
    """The ask, on the node, once what it names has been fetched."""
    return Ask(
        message.run, message.plan, message.round, message.attempt, message.task, message.exchange, (node,), model, told,
        {} if message.each is None else {node: b64decode(message.each)}, message.norm_bound,
        None if message.grid is None else Grid(message.grid), message.weight_cap, message.deadline_s,
        tuple(message.undone),
    )  # fmt: skip


def decode_model(
    layout: Layout, file: bytes | memoryview, base: bytes | memoryview | None, space: Space = MEMORY
) -> Model:
    """The model in a file of `model_file` and, where it has segments that are sent once, one of `base_file`.

    Raises: TensorFileError, LayoutError.
    """
    tensors = tensorfile.read(file)[0] | (tensorfile.read(base)[0] if base is not None else {})
    return read_model(layout, tensors, space)


def decode_told(file: bytes | memoryview) -> dict[str, np.ndarray]:
    """The arrays in a file of `told_file`."""
    return {name: tensor.array() for name, tensor in tensorfile.read(file)[0].items()}


def update_file(layout: Layout, updates: Updates, run: str) -> Iterator[bytes | memoryview]:
    """The pieces of the file that holds a block of one update: a tensor for each trained leaf, then the extras.

    The file says for which run, task and node it was made: it is refused anywhere else, and no two are ever the same.
    """
    row = updates.delta[0]
    tensors: dict[str, Stored]
    if row.dtype == np.float32:
        tensors = {
            leaf.name: stored(row[place], leaf.sent_dtype, leaf.shape) for leaf, place in layout.places("trained")
        }
    else:
        tensors = {_MASKED: Tensor.of(row)}
    tensors |= {_EXTRA + name: Tensor.of(rows[0]) for name, rows in updates.extra.items()}
    said = {
        "for": [run, updates.task, updates.nodes[0]],
        "weight": float(updates.weight[0]),
        "metrics": {name: float(column[0]) for name, column in updates.metrics.items()},
    }
    return tensorfile.write(tensors, {_UPDATE: json.dumps(said)})


def decode_update(
    layout: Layout, file: bytes | memoryview, run: str, task: int, node: str, handle: str
) -> Updates | Malformed:
    """The update in a file of `update_file`, as a view of it where its bytes already are float32.

    What cannot be read is no exception but a `Malformed`, with the reason for which the node is quarantined; so is what
    was made for another run, task or node.
    """
    try:
        tensors, metadata = tensorfile.read(file)
        said = json.loads(metadata.get(_UPDATE, "null"))
        if said["for"] != [run, task, node]:
            made_for = _readable(str(said["for"]), _LARGEST_NAME)
            return Malformed(task, node, f"its update was made for {made_for}, not for {[run, task, node]}")
        weight = float(said["weight"])
        metrics = {
            _readable(name, _LARGEST_NAME): np.array([float(value)])
            for name, value in islice(said["metrics"].items(), _MOST_METRICS)
        }
        extra = {
            name.removeprefix(_EXTRA): tensors.pop(name).array()[np.newaxis]
            for name in [name for name in tensors if name.startswith(_EXTRA)]
        }
        delta = tensors[_MASKED].array()[np.newaxis] if tensors.keys() == {_MASKED} else _delta(layout, tensors)
    except (LayoutError, TensorFileError) as error:
        return Malformed(task, node, _readable(error.what))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = _readable(f"its update does not say what it counts or measured ({error!r})")
        return Malformed(task, node, reason)
    return Updates(task, (node,), delta, np.array([weight]), extra, metrics, (handle,))


def _delta(layout: Layout, tensors: Mapping[str, Tensor]) -> np.ndarray:
    leaves = [leaf for leaf, _ in layout.places("trained")]
    differences: list[str] = []
    for leaf in leaves:
        found = tensors.get(leaf.name)
        if found is None:
            differences.append(f"{leaf.name!r} is missing")
        elif found.shape != leaf.shape:
            differences.append(f"{leaf.name!r} has shape {found.shape} instead of {leaf.shape}")
        elif found.dtype != leaf.sent_dtype:
            differences.append(f"{leaf.name!r} has dtype {found.dtype} instead of {leaf.sent_dtype}")
    differences += [f"{name!r} is not part of the model" for name in tensors.keys() - {leaf.name for leaf in leaves}]
    if differences:
        raise LayoutError(
            "its update does not fit the model: " + "; ".join(differences[:4]),
            why="every update of a run has the shapes of its model.",
            do="train with the same app and version as the run's operator.",
        )
    pieces = [tensors[leaf.name] for leaf in leaves]
    one_piece = tensorfile.one_piece(pieces)
    if one_piece is not None:
        return one_piece[np.newaxis]
    columns = Columns(pieces)
    return cast(np.ndarray, columns) if is_large(columns.nbytes) else np.asarray(columns)


def sum_file(summed: Summed, run: str) -> Iterator[bytes | memoryview]:
    """The pieces of the file in which a sum of small updates is kept."""
    said = {
        "for": [run, summed.task, list(summed.nodes)],
        "grid": summed.grid.exponent,
        "weight": summed.weight.tolist(),
        "norm": summed.norm.tolist(),
    }
    return tensorfile.write({_TOTAL: Tensor.of(summed.total)}, {_SUM: json.dumps(said)})


def reread(layout: Layout, file: bytes | memoryview, handle: str) -> Updates | Summed:
    """An update that was accepted before, or the sum of several.

    Raises: StorageError, if it cannot be read any more.
    """
    try:
        tensors, metadata = tensorfile.read(file)
        if _SUM in metadata:
            return _sum(tensors[_TOTAL], json.loads(metadata[_SUM]), handle)
        run, task, node = json.loads(metadata[_UPDATE])["for"]
        found: Updates | Malformed = decode_update(layout, file, run, task, node, handle)
    except (LyciaError, ValueError, KeyError, TypeError, RecursionError) as error:
        found = Malformed(0, "", str(error))
    if isinstance(found, Malformed):
        raise StorageError(
            f"the update {handle[:12]}… cannot be read any more: {found.reason}.",
            why="it was sound when it was accepted, so the file has changed since.",
            do="restore the file from a backup, or ask the round again from its model.",
        )
    return found


def _sum(total: Tensor, said: Mapping[str, Any], handle: str) -> Summed:
    _, task, nodes = said["for"]
    weight, norm = np.array(said["weight"], np.float64), np.array(said["norm"], np.float64)
    return Summed(task, tuple(nodes), total.array(), Grid(said["grid"]), weight, norm, handle=handle)


def encode_reply(reply: Reply) -> ReplyMessage:
    """A reply that is not an update, for one node."""
    match reply:
        case Scores():
            metrics = {name: float(column[0]) for name, column in reply.metrics.items()}
            return ReplyMessage(kind="scores", weight=float(reply.weight[0]), metrics=_finite(metrics))
        case Answer():
            return ReplyMessage(kind="answer", body=b64encode(reply.body).decode())
        case Declined():
            return ReplyMessage(kind="declined", reason=reply.reason)
        case _:
            raise TypeError(f"{type(reply).__name__} is not a control message")


def decode_reply(message: ReplyMessage, task: int, node: str) -> Reply:
    """The reply that a node sent."""
    match message.kind:
        case "scores":
            metrics = {_readable(name, _LARGEST_NAME): np.array([value]) for name, value in message.metrics.items()}
            return Scores(task, (node,), np.array([message.weight]), metrics)
        case "answer":
            try:
                return Answer(task, node, b64decode(message.body, validate=True))
            except ValueError as error:
                return Malformed(task, node, f"its answer is not base64 ({error})")
        case "declined":
            return Declined(task, node, _readable(message.reason))
        case kind:
            return Malformed(task, node, f"it sent a reply of the unknown kind {_readable(kind, _LARGEST_NAME)!r}")


def _readable(text: str, most: int = _LARGEST_REASON) -> str:
    """What somebody else wrote, for terminals, logs and pages: not too long, and nothing but what can be printed."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:most])


def first_complaint(error: ValidationError) -> str:
    """The first thing that is wrong with a message, in one sentence."""
    item: Mapping[str, Any] = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(step) for step in item["loc"]) or "the message"
    return f"{place}: {item['msg']}"


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
