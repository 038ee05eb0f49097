"""What a run carries from round to round, as blobs and a line of JSON; and back, bit for bit.

The model is a safetensors file that anyone can open. It holds nothing that belongs to one run, so equal models have
equal digests wherever they were made. Large `frozen` leaves, such as the base under adapters, never change: they lie
in a blob of their own, which the model's file names in its header, and are written once. `whole_file` puts the two
together again.
Beside the model lies one file of arrays: the slots of the server optimizer and of the parts, and the segments of the
model whose storage dtypes have fewer bits than the server's arithmetic.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lycia.core import tensorfile
from lycia.core.layout import Layout, Model, Segment, one_piece, read_model
from lycia.core.round import Carried
from lycia.core.space import MEMORY, Space, is_large
from lycia.core.tensorfile import Tensor
from lycia.errors import NotFound, StorageError
from lycia.storage import parts
from lycia.storage.blobs import BlobFolder

_LAYOUT, _FROZEN, _RUN = "lycia.layout", "lycia.frozen", "lycia.run"
_CHANGING: tuple[Segment, ...] = ("trained", "statistics", "local")
_AS_COMPUTED: tuple[Segment, ...] = ("trained", "local")  # segments that may lie in a file as they are computed with
_APART_BYTES = 1_000_000  # frozen leaves of this size and more are not written again with every model


@dataclass(frozen=True)
class Kept:
    """A Carried with the blobs that hold it.

    Attributes:
      model, arrays, frozen: digests; "" where there are no arrays, or no frozen leaves that lie apart.
    """

    carried: Carried
    model: str
    arrays: str
    frozen: str

    def to_json(self) -> str:
        """Everything but the arrays, and the digests under which these are found."""
        carried = self.carried
        return json.dumps(
            {
                "model": self.model, "arrays": self.arrays, "frozen": self.frozen,
                "round": carried.round, "attempt": carried.attempt, "norms": carried.norms, "task": carried.task,
                "best": carried.best, "since_best": carried.since_best,
                "inflight": [[task, node, version] for task, (node, version) in carried.inflight.items()],
                "participation": dict(carried.participation),
                "finished": carried.finished, "over": carried.over,
                "first_attempt": carried.first_attempt, "undone": carried.undone,
                "answered": [[task, *nodes] for task, nodes in carried.answered.items()],
            },
            separators=(",", ":"),
        )  # fmt: skip


def keep(blobs: BlobFolder, run_id: str, layout: Layout, carried: Carried, last: Kept | None = None) -> Kept:
    """Put `carried` into blobs; durable when it returns. What is the same object as in `last` is not written again.

    Raises: StorageError, if the disk is full or fails.
    """
    model, before = carried.model, last.carried.model if last else None
    same_model = last is not None and model is before
    frozen = last.frozen if last and before and model.frozen is before.frozen else _keep_frozen(blobs, layout, model)
    digest = last.model if last and same_model else blobs.put(_model_file(layout, model, frozen))
    same_arrays = same_model and last is not None and carried.slots is last.carried.slots
    arrays = last.arrays if last and same_arrays else _keep_arrays(blobs, run_id, layout, carried)
    return Kept(carried, digest, arrays, frozen)


def put_model(blobs: BlobFolder, layout: Layout, kept: Kept) -> None:
    """Put the model of `kept` into its blob again.

    Raises: StorageError, if the disk is full or fails.
    """
    blobs.put(_model_file(layout, kept.carried.model, kept.frozen))


def mapped(blobs: BlobFolder, layout: Layout, kept: Kept) -> Kept:
    """The same, what is large in it as it lies in the blobs: the space in which it was made can be let go.

    A blob that is removed while it is mapped is there until nobody looks at it any more.
    """
    carried = kept.carried
    segments = [segment for segment in _AS_COMPUTED if is_large(getattr(carried.model, segment).nbytes)]
    large = [name for name, array in carried.slots.items() if is_large(array.nbytes)]
    if not segments and not large:
        return kept
    model, arrays = tensorfile.read(blobs.open(kept.model))[0], _arrays(blobs, kept.arrays)
    found: dict[str, Any] = {}
    for segment in segments:
        exact = arrays.get(f"exact/{segment}")
        view = one_piece(layout, segment, model) if exact is None else exact.array()
        if view is not None:
            found[segment] = view
    slots = {**carried.slots, **{name: arrays[f"slot/{name}"].array() for name in large}}
    return replace(kept, carried=replace(carried, model=replace(carried.model, **found), slots=slots))


def restore(blobs: BlobFolder, text: str, space: Space = MEMORY) -> Kept:
    """What `keep` kept and `Kept.to_json` wrote down, with every blob checked against its digest.

    Raises: StorageError, if a blob is gone or damaged.
    """
    values: dict[str, Any] = json.loads(text)
    for digest in filter(None, (values["model"], values["arrays"], values["frozen"])):
        try:
            blobs.check(digest)
        except NotFound as error:
            raise StorageError(
                f"the blob {digest[:12]}… of this run is gone.",
                why="the run cannot go on without its model and its optimizer's state.",
                do=f"restore {blobs.path(digest)} from a backup, or start a new run from a model that is still there.",
            ) from error
    arrays = _arrays(blobs, values["arrays"])
    slots = {name.removeprefix("slot/"): _taken(tensor) for name, tensor in arrays.items() if name.startswith("slot/")}
    model = read_kept_model(blobs, values["model"], space)[1]
    exact = {
        name.removeprefix("exact/"): _taken(tensor) for name, tensor in arrays.items() if name.startswith("exact/")
    }
    model = Model(
        exact.get("trained", model.trained), exact.get("statistics", model.statistics), exact.get("local", model.local),
        model.frozen if values["frozen"] else {name: np.array(array) for name, array in model.frozen.items()},
    )  # fmt: skip
    carried = Carried(
        values["round"], model, slots, tuple(values["norms"]), values["task"], values["best"], values["since_best"],
        {task: (node, version) for task, node, version in values["inflight"]}, values["participation"],
        values["finished"], values["over"], values["attempt"], values.get("first_attempt", 0),
        tuple((number, task) for number, task in values.get("undone", ())),
        {task: tuple(nodes) for task, *nodes in values.get("answered", ())},
    )  # fmt: skip
    return Kept(carried, values["model"], values["arrays"], values["frozen"])


def read_kept_model(blobs: BlobFolder, digest: str, space: Space = MEMORY) -> tuple[Layout, Model]:
    """The layout and the model under `digest`, as people download them: in their storage dtypes.

    Large segments are mapped from the blob, or lie in `space`.

    Raises:
      NotFound: if a blob is not there.
      TensorFileError, LayoutError: if it is not the file of a model.
    """
    tensors, layout, _ = _tensors(blobs, digest)
    return layout, read_model(layout, tensors, space)


def is_whole(layout: Layout) -> bool:
    """Whether the file of a model of this layout holds what nodes are sent with every ask, and nothing else."""
    return all(leaf.segment in ("trained", "statistics") for leaf in layout.leaves)


def whole_file(blobs: BlobFolder, digest: str) -> Iterator[bytes | memoryview]:
    """The pieces of the checkpoint under `digest`, frozen leaves included.

    Where these do not lie apart, it is the blob itself, whose bytes make the digest.

    Raises: as `read_kept_model`.
    """
    tensors, layout, frozen = _tensors(blobs, digest)
    if not frozen:
        return tensorfile.cut(blobs.open(digest))
    return tensorfile.write({leaf.name: tensors[leaf.name] for leaf in layout.leaves}, {_LAYOUT: layout.to_json()})


def named_in(text: str) -> dict[str, str]:
    """What `Kept.to_json` names: "model", "arrays" and "frozen" → the digest of the blob, of those that there are.

    Raises: StorageError, if it cannot be read.
    """
    try:
        values: dict[str, Any] = json.loads(text)
        found = {name: str(values[name]) for name in ("model", "arrays", "frozen")}
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"what a run carries from round to round cannot be read: {error!r}.",
            why="it is not what this version writes; something has changed it.",
            do="restore it from a backup, or start a new run from a model that is still there.",
        ) from None
    return {name: digest for name, digest in found.items() if digest}


def raised(text: str, tasks: int, attempts: int) -> str:
    """What `Kept.to_json` wrote, with so many tasks behind it, all attempts from this one on, and nothing under way."""
    values: dict[str, Any] = json.loads(text)
    return json.dumps(
        {
            **values,
            "task": values["task"] + tasks,
            "attempt": attempts,
            "first_attempt": attempts,  # of later rounds, too, there may have been attempts that are not known here
            "inflight": [],
        },
        separators=(",", ":"),
    )


def frozen_of(blobs: BlobFolder, digest: str) -> str:
    """The digest of the blob of frozen leaves that a model's file names; "" if it has them itself.

    Raises: as `read_kept_model`.
    """
    return tensorfile.read(blobs.open(digest))[1].get(_FROZEN, "")


def lies_apart(blobs: BlobFolder, digest: str) -> bool:
    """Whether some leaves of the model under `digest` lie in another blob, so that its file must be put together.

    Raises: as `read_kept_model`.
    """
    return bool(frozen_of(blobs, digest))


def model_digest(layout: Layout, model: Model) -> str:
    """The digest under which `keep` would put the model: equal models have equal digests, in every store."""
    frozen = parts.digest_of_pieces(_frozen_file(layout, model)) if _lies_apart(layout) else ""
    return parts.digest_of_pieces(_model_file(layout, model, frozen))


def _model_file(layout: Layout, model: Model, frozen: str) -> Iterator[bytes | memoryview]:
    if not frozen:
        return layout.file(model)
    return tensorfile.write(layout.tensors(model, _CHANGING), {_LAYOUT: layout.to_json(), _FROZEN: frozen})


def _frozen_file(layout: Layout, model: Model) -> Iterator[bytes | memoryview]:
    return tensorfile.write(layout.tensors(model, ("frozen",)), {})


def _lies_apart(layout: Layout) -> bool:
    sizes = (leaf.size * tensorfile.ITEM_BYTES[leaf.dtype] for leaf in layout.leaves if leaf.segment == "frozen")
    return sum(sizes) >= _APART_BYTES


def _keep_frozen(blobs: BlobFolder, layout: Layout, model: Model) -> str:
    return blobs.put(_frozen_file(layout, model)) if _lies_apart(layout) else ""


def _keep_arrays(blobs: BlobFolder, run_id: str, layout: Layout, carried: Carried) -> str:
    tensors = {f"slot/{name}": Tensor.of(array) for name, array in carried.slots.items()}
    for segment in _CHANGING:
        exact = getattr(carried.model, segment)
        if not layout.is_exact(segment, exact):
            tensors[f"exact/{segment}"] = Tensor.of(exact)
    # The run's id makes the file this run's own: it may be removed without asking whether another run needs it.
    return blobs.put(tensorfile.write(tensors, {_RUN: run_id})) if tensors else ""


def _tensors(blobs: BlobFolder, digest: str) -> tuple[dict[str, Tensor], Layout, str]:
    tensors, metadata = tensorfile.read(blobs.open(digest))
    layout, frozen = Layout.from_json(metadata.get(_LAYOUT, "")), metadata.get(_FROZEN, "")
    return {**tensors, **(tensorfile.read(blobs.open(frozen))[0] if frozen else {})}, layout, frozen


def _arrays(blobs: BlobFolder, digest: str) -> dict[str, Tensor]:
    return tensorfile.read(blobs.open(digest))[0] if digest else {}


def _taken(tensor: Tensor) -> np.ndarray:
    """Its numbers: a view of the file where it is large, or else a copy, which ties nothing to the file."""
    return tensor.array() if is_large(tensor.nbytes) else np.array(tensor.array())
