"""What a model is made of: the names, shapes and dtypes of its tensors, and the segment that each belongs to.

A model is four segments. `trained` is the one that federated learning is about: a single float32 vector, all that
stages, norms, robust rules and the server optimizer see. `statistics` (running means) is averaged, never optimized.
`frozen` is sent once and never changes. `local` starts the same at every node and never leaves it again.
"""

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from lycia.core import tensorfile
from lycia.core.space import BLOCK, MEMORY, Space, blocks, is_large
from lycia.core.tensorfile import ITEM_BYTES, Stored, Tensor
from lycia.errors import LayoutError

Segment = Literal["trained", "statistics", "frozen", "local"]
IntegerRule = Literal["mean", "keep"]
SEGMENTS: tuple[Segment, ...] = ("trained", "statistics", "frozen", "local")
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_METADATA = "lycia.layout"


@dataclass(frozen=True)
class Leaf:
    """One tensor of a model.

    Attributes:
      dtype: how it is stored and sent; arithmetic is float32 whatever it says.
      aliases: further names of the same tensor (tied weights); it is trained, sent and counted once.
      rule: what becomes of a statistic when nodes differ: "mean" (an integer one is rounded to the nearest), or
        "keep" what the server has.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    segment: Segment = "trained"
    aliases: tuple[str, ...] = ()
    rule: IntegerRule = "mean"

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def sent_dtype(self) -> str:
        """The dtype of its part of an update: its own, but never wider than the float32 that is computed."""
        return "float32" if self.dtype == "float64" else self.dtype


@dataclass(frozen=True)
class Model:
    """The numbers of a model, apart from what they mean.

    Shapes:
      trained: (layout.size("trained"),) float32.
      statistics: (layout.size("statistics"),) float64, so that counters stay exact.
      local: (layout.size("local"),) float32; what a node starts from.
      frozen: each leaf by name, in its own dtype (bfloat16 as uint16 patterns).
    """

    trained: np.ndarray
    statistics: np.ndarray = field(default_factory=lambda: np.zeros(0))
    local: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    frozen: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """The leaves of a model, in order. Every vector and every file of the model follows it.

    Raises: LayoutError, if a name is taken twice, or a dtype does not suit its segment.
    """

    leaves: tuple[Leaf, ...]

    def __post_init__(self) -> None:
        names = [name for leaf in self.leaves for name in (leaf.name, *leaf.aliases)]
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise LayoutError(
                f"the layout names {', '.join(map(repr, twice))} more than once.",
                why="each name of a model stands for one tensor.",
                do="rename one of them; tensors that share their memory belong in one leaf with aliases.",
            )
        for leaf in self.leaves:
            known = leaf.dtype in tensorfile.ITEM_BYTES
            if not known or (leaf.segment in ("trained", "local") and leaf.dtype not in _FLOATS):
                raise LayoutError(
                    f"leaf {leaf.name!r} has dtype {leaf.dtype!r}, which the {leaf.segment!r} segment cannot hold.",
                    why="what is trained must be a float; the other segments hold what a safetensors file holds.",
                    do="mark integer buffers as segment='statistics' or 'frozen'.",
                )

    @classmethod
    def of(
        cls,
        arrays: Mapping[str, np.ndarray],
        *,
        statistics: Collection[str] = (),
        frozen: Collection[str] = (),
        local: Collection[str] = (),
        aliases: Mapping[str, tuple[str, ...]] | None = None,
        rules: Mapping[str, IntegerRule] | None = None,
    ) -> "Layout":
        """The layout of `arrays`; what is in none of the named collections is trained.

        Raises: LayoutError, as the class does, and if a collection names something that is not there.
        """
        aliases, rules = aliases or {}, rules or {}
        unknown = sorted({*statistics, *frozen, *local, *aliases, *rules} - set(arrays))
        if unknown:
            raise LayoutError(
                f"there is no array called {', '.join(map(repr, unknown))}.",
                why="a segment, alias or rule was given for it.",
                do=f"use the names of the arrays: {', '.join(arrays)}.",
            )

        def segment(name: str) -> Segment:
            return (
                "statistics" if name in statistics
                else "frozen" if name in frozen
                else "local" if name in local
                else "trained"
            )  # fmt: skip

        return cls(
            tuple(
                Leaf(name, array.shape, array.dtype.name, segment(name), aliases.get(name, ()), rules.get(name, "mean"))
                for name, array in arrays.items()
            )
        )

    def size(self, segment: Segment) -> int:
        """How many numbers the segment holds."""
        return sum(leaf.size for leaf in self.leaves if leaf.segment == segment)

    def places(self, segment: Segment) -> Iterator[tuple[Leaf, slice]]:
        """Each leaf of a segment with its place in the segment's vector."""
        start = 0
        for leaf in self.leaves:
            if leaf.segment == segment:
                yield leaf, slice(start, start + leaf.size)
                start += leaf.size

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the layout's JSON; equal layouts, and only these, have equal digests."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """The layout as canonical JSON."""
        return json.dumps([asdict(leaf) for leaf in self.leaves], sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Layout":
        """The layout that `to_json` wrote.

        Raises: LayoutError, if `text` is not such a layout.
        """
        try:
            return cls(
                tuple(
                    Leaf(
                        str(leaf["name"]), tuple(map(int, leaf["shape"])), str(leaf["dtype"]),
                        _segment(leaf["segment"]), tuple(map(str, leaf["aliases"])),
                        "keep" if leaf["rule"] == "keep" else "mean",
                    )
                    for leaf in json.loads(text)
                )
            )  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            raise LayoutError(
                f"a layout cannot be read: {error!r}.",
                why="it is not the JSON that this version writes.",
                do="take the file again from its source, or make it anew with this version.",
            ) from None

    def model(self, arrays: Mapping[str, np.ndarray], space: Space = MEMORY) -> Model:
        """The model that holds `arrays`: leaf by leaf in the segments' arithmetic, the frozen ones as they are.

        Raises: LayoutError, naming every array that is missing, unknown, or of another shape or kind.
        """
        self.check({name: (array.shape, array.dtype.name) for name, array in arrays.items()})
        return Model(
            self._vector("trained", arrays, np.float32, space),
            self._vector("statistics", arrays, np.float64, space),
            self._vector("local", arrays, np.float32, space),
            {leaf.name: np.asarray(arrays[leaf.name]) for leaf in self.leaves if leaf.segment == "frozen"},
        )

    def arrays(self, model: Model) -> dict[str, np.ndarray]:
        """Every tensor by name, aliases included, in its shape and storage dtype (bfloat16 as uint16 patterns).

        Raises: LayoutError, if the model's vectors are not of this layout's sizes.
        """
        self.check_model(model)
        vectors = {"trained": model.trained, "statistics": model.statistics, "local": model.local}
        by_name: dict[str, np.ndarray] = dict(model.frozen)
        for segment in ("trained", "statistics", "local"):
            for leaf, place in self.places(segment):
                by_name[leaf.name] = narrow(vectors[segment][place], leaf.dtype).reshape(leaf.shape)
        return {name: by_name[leaf.name] for leaf in self.leaves for name in (leaf.name, *leaf.aliases)}

    def as_sent(self, model: Model, space: Space = MEMORY) -> Model:
        """The model as it comes out at the other end of a wire: rounded to its storage dtypes."""
        return Model(
            self.round_trip("trained", model.trained, space=space),
            self.round_trip("statistics", model.statistics, space=space),
            self.round_trip("local", model.local, space=space),
            model.frozen,
        )

    def round_trip(
        self, segment: Segment, rows: np.ndarray, *, update: bool = False, space: Space = MEMORY
    ) -> np.ndarray:
        """`rows` rounded to what their leaves can store; the same object where nothing is lost.

        Shapes: rows (..., size of the segment); returns the same.
        """
        lossy = {name for name, _, _ in self._lossy(segment, rows, update=update)}
        if not lossy:
            return rows
        out = space.empty(rows.size, rows.dtype).reshape(rows.shape)
        for leaf, place in self.places(segment):
            if leaf.name not in lossy:
                for columns in _within(place):
                    out[..., columns] = rows[..., columns]
        for _, dtype, columns in self._lossy(segment, rows, update=update):
            out[..., columns] = widen(narrow(rows[..., columns], dtype), dtype)
        return out

    def is_exact(self, segment: Segment, vector: np.ndarray) -> bool:
        """Whether the leaves of the segment can store `vector` and no bit of it is lost."""
        return all(
            np.array_equal(
                widen(narrow(vector[columns], dtype), dtype).astype(vector.dtype).view(np.uint8),
                np.ascontiguousarray(vector[columns]).view(np.uint8),
            )
            for _, dtype, columns in self._lossy(segment, vector)
        )

    def _lossy(self, segment: Segment, rows: np.ndarray, *, update: bool = False) -> Iterator[tuple[str, str, slice]]:
        """(leaf, dtype, columns) of whatever may lose something when it is stored, a block at a time."""
        lossless = "float64" if rows.dtype == np.float64 else "float32"
        for leaf, place in self.places(segment):
            dtype = leaf.sent_dtype if update else leaf.dtype
            if dtype not in (lossless, "float64"):
                for columns in _within(place):
                    yield leaf.name, dtype, columns

    def check_model(self, model: Model) -> None:
        """Do nothing if `model` has this layout's sizes.

        Raises: LayoutError.
        """
        for segment, vector in (("trained", model.trained), ("statistics", model.statistics), ("local", model.local)):
            if vector.shape != (self.size(segment),):  # type: ignore[arg-type]
                raise LayoutError(
                    f"the {segment} segment has shape {vector.shape}, and the layout says ({self.size(segment)},).",  # type: ignore[arg-type]
                    why="a model and its layout belong together.",
                    do="use the layout that the model was made with.",
                )

    def check(self, found: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
        """Do nothing if `found` (name → shape, dtype) has a fitting array for every leaf, and no others.

        Raises: LayoutError, which lists all differences.
        """
        differences = list(self.differences(found))
        if differences:
            raise LayoutError(
                "the arrays do not fit the model: "
                + "; ".join(differences[:8])
                + ("; …" if len(differences) > 8 else ""),
                why="a model keeps its names, shapes and kinds for a whole run.",
                do="start from a model of the same app, or start a new run for the changed one.",
            )

    def differences(self, found: Mapping[str, tuple[tuple[int, ...], str]]) -> Iterator[str]:
        """One sentence for each way in which `found` is not this layout."""
        aliases = {alias for leaf in self.leaves for alias in leaf.aliases}
        for leaf in self.leaves:
            if leaf.name not in found:
                yield f"{leaf.name!r} is missing"
                continue
            shape, dtype = found[leaf.name]
            if tuple(shape) != leaf.shape:
                yield f"{leaf.name!r} has shape {tuple(shape)} instead of {leaf.shape}"
            if not _fits(dtype, leaf):
                yield f"{leaf.name!r} has dtype {dtype} instead of {leaf.dtype}"
        for name in sorted(found.keys() - {leaf.name for leaf in self.leaves} - aliases):
            yield f"{name!r} is not part of the model"

    def tensors(self, model: Model, segments: Iterable[Segment] = SEGMENTS) -> dict[str, Stored]:
        """The model's leaves as they stand in a file, in layout order."""
        self.check_model(model)
        wanted = set(segments)
        values: dict[str, np.ndarray] = {name: array.reshape(-1) for name, array in model.frozen.items()}
        for segment, vector in (("trained", model.trained), ("statistics", model.statistics), ("local", model.local)):
            values |= {leaf.name: vector[place] for leaf, place in self.places(segment)}  # type: ignore[arg-type]
        return {
            leaf.name: Tensor(leaf.dtype, leaf.shape, Tensor.of(values[leaf.name]).data)
            if leaf.segment == "frozen"
            else stored(values[leaf.name], leaf.dtype, leaf.shape)
            for leaf in self.leaves
            if leaf.segment in wanted
        }

    def file(self, model: Model, metadata: Mapping[str, str] | None = None) -> Iterator[bytes | memoryview]:
        """The pieces of a checkpoint: a safetensors file with all four segments, the layout in its header."""
        return tensorfile.write(self.tensors(model), {**(metadata or {}), _METADATA: self.to_json()})

    def _vector(
        self, segment: Segment, arrays: Mapping[str, np.ndarray], dtype: type, space: Space = MEMORY
    ) -> np.ndarray:
        vector = space.empty(self.size(segment), dtype)
        for leaf, place in self.places(segment):
            values = np.asarray(arrays[leaf.name]).reshape(-1)
            for columns in blocks(leaf.size):
                vector[place][columns] = widen(values[columns], leaf.dtype)
        return vector


@dataclass(frozen=True)
class Narrowed:
    """A tensor that takes on its storage dtype as it is written: it never stands in memory as a whole."""

    values: np.ndarray
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """How many bytes it has in its storage dtype."""
        return self.values.size * ITEM_BYTES[self.dtype]

    def pieces(self) -> Iterator[memoryview]:
        """Its bytes, in order."""
        return (Tensor.of(narrow(self.values[columns], self.dtype)).data for columns in blocks(self.values.size))


def stored(values: np.ndarray, dtype: str, shape: tuple[int, ...]) -> Stored:
    """The tensor of float `values` in the storage dtype.

    Shapes: values (size,), of as many numbers as `shape` has.
    """
    if values.dtype.name != dtype and values.size > BLOCK:
        return Narrowed(values, dtype, shape)
    return Tensor(dtype, shape, Tensor.of(narrow(values, dtype)).data)


def read_checkpoint(file: bytes | memoryview, space: Space = MEMORY) -> tuple[Layout, Model, dict[str, str]]:
    """The layout, the model and the further metadata of a checkpoint.

    Raises:
      TensorFileError: if the bytes are not a sound file.
      LayoutError: if the file has no layout, or its tensors are not those of its layout.
    """
    layout, tensors, metadata = _checkpoint(file)
    return layout, read_model(layout, tensors, space), metadata


def checkpoint_layout(file: bytes | memoryview) -> Layout:
    """The layout of a checkpoint whose tensors fit it; none of them is read.

    Raises: as `read_checkpoint`.
    """
    layout, tensors, _ = _checkpoint(file)
    _check_tensors(layout, tensors)
    return layout


def _checkpoint(file: bytes | memoryview) -> tuple[Layout, dict[str, Tensor], dict[str, str]]:
    tensors, metadata = tensorfile.read(file)
    text = metadata.pop(_METADATA, None)
    if text is None:
        raise LayoutError(
            "the file has no layout in its header.",
            why="it is a safetensors file, but not one that this package wrote.",
            do="read its tensors with the safetensors library, and pass them to Layout.of(…).model(…).",
        )
    return Layout.from_json(text), tensors, metadata


def read_model(layout: Layout, tensors: Mapping[str, Tensor], space: Space = MEMORY) -> Model:
    """The model that `tensors` hold. Large segments are views of their file, where they lie in it as they are.

    Raises: LayoutError, naming every tensor that does not fit.
    """
    _check_tensors(layout, tensors)
    arrays = {name: tensor.array() for name, tensor in tensors.items()}

    def vector(segment: Segment, dtype: type) -> np.ndarray:
        view = one_piece(layout, segment, tensors)
        return layout._vector(segment, arrays, dtype, space) if view is None else view

    return Model(
        vector("trained", np.float32),
        layout._vector("statistics", arrays, np.float64, space),
        vector("local", np.float32),
        {leaf.name: arrays[leaf.name] for leaf in layout.leaves if leaf.segment == "frozen"},
    )


def one_piece(layout: Layout, segment: Segment, tensors: Mapping[str, Tensor]) -> np.ndarray | None:
    """The vector of a large segment as it lies in a file; None where it is small, or does not lie there as it is."""
    if not is_large(4 * layout.size(segment)):
        return None
    return tensorfile.one_piece([tensors[leaf.name] for leaf, _ in layout.places(segment)])


def _check_tensors(layout: Layout, tensors: Mapping[str, Tensor]) -> None:
    layout.check({name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()})


def narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    """Float `values` in the storage dtype; bfloat16 as uint16 patterns, rounded to nearest even.

    Shapes: any; returns the same.
    """
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        to_even = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        rounded = ((bits + to_even) >> np.uint32(16)).astype(np.uint16)
        return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)
    if dtype in _FLOATS:
        with np.errstate(over="ignore"):  # a float16 that overflows is an infinity, which admission finds
            return np.asarray(values).astype(dtype, copy=False)
    return np.asarray(np.rint(values)).astype(dtype)


def widen(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Stored values as numbers: bfloat16 patterns as float32, everything else as it is."""
    if dtype == "bfloat16" and stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return stored


def _within(place: slice) -> Iterator[slice]:
    """The columns of a place, a block at a time."""
    return (slice(place.start + part.start, place.start + part.stop) for part in blocks(place.stop - place.start))


def _fits(dtype: str, leaf: Leaf) -> bool:
    if leaf.dtype == "bfloat16":
        return dtype in ("bfloat16", "uint16")
    return dtype == leaf.dtype


def _segment(text: str) -> Segment:
    for segment in SEGMENTS:
        if segment == text:
            return segment
    raise ValueError(f"unknown segment {text!r}")
