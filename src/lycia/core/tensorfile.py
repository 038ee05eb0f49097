"""The safetensors file format, read and written without copies.

A file is eight bytes of header length (little endian), a JSON header, and the tensors' raw bytes one after another.
Bytes from elsewhere are checked before anything is built from them; nothing in a file is ever executed.

Source: the format description of safetensors 0.4, https://github.com/huggingface/safetensors.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from lycia.errors import TensorFileError

ITEM_BYTES: Mapping[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
}  # fmt: skip
"""Bytes of one element, by dtype; these are the dtypes that a file can hold."""

_TO_FILE = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
_FROM_FILE = {code: name for name, code in _TO_FILE.items()}
_LARGEST_HEADER = 100_000_000  # bytes; the limit of the reference implementation
_MOST_AXES = 32
_PIECE_BYTES = 1 << 20  # so that whoever writes a file holds no more of it than that
_METADATA = "__metadata__"


class Stored(Protocol):
    """What can be written into a file: a tensor, or something that becomes one as it is written."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def nbytes(self) -> int: ...

    def pieces(self) -> Iterator[memoryview]:
        """Its bytes, in order."""
        ...


@dataclass(frozen=True)
class Tensor:
    """One named tensor: what it is, and its raw bytes in C order, little endian.

    Attributes:
      start: where they begin in `file`, from which they were read; None for those that were not.
    """

    dtype: str
    shape: tuple[int, ...]
    data: memoryview
    start: int = 0
    file: memoryview | None = field(default=None, compare=False, repr=False)

    @property
    def nbytes(self) -> int:
        """How many bytes it has."""
        return self.data.nbytes

    @classmethod
    def of(cls, array: np.ndarray) -> "Tensor":
        """The tensor that holds `array`; no copy where the array is contiguous."""
        flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        return cls(flat.dtype.name, array.shape, flat.reshape(-1).view(np.uint8).data)

    def array(self) -> np.ndarray:
        """A view of the bytes; bfloat16, which NumPy lacks, comes as its uint16 patterns."""
        if self.dtype == "bool":  # any byte may come from elsewhere, and a NumPy bool is 0 or 1
            return np.asarray(np.frombuffer(self.data, np.uint8) != 0).reshape(self.shape)
        dtype = np.dtype(np.uint16 if self.dtype == "bfloat16" else self.dtype).newbyteorder("<")
        return np.frombuffer(self.data, dtype).reshape(self.shape)

    def pieces(self) -> Iterator[memoryview]:
        """Its bytes, in order."""
        return cut(self.data)


def cut(data: memoryview) -> Iterator[memoryview]:
    """The bytes in pieces of a size that is no burden to anybody."""
    return (data[start : start + _PIECE_BYTES] for start in range(0, data.nbytes, _PIECE_BYTES))


def one_piece(tensors: Sequence[Tensor]) -> np.ndarray | None:
    """The tensors of one file as one float32 vector without a copy, where they lie there one behind the other."""
    end = tensors[0].start if tensors else 0
    for tensor in tensors:
        if tensor.dtype != "float32" or tensor.start != end or end % 4 or tensor.file is not tensors[0].file:
            return None
        end += tensor.nbytes
    file = tensors[0].file if tensors else None
    return None if file is None else np.frombuffer(file, np.float32, (end - tensors[0].start) // 4, tensors[0].start)


def write(tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The pieces of a file, in order; joined, or written one by one, they are the file.

    Raises: TensorFileError, if a dtype or a name is not one that a file can hold.
    """
    header: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
    offset = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _TO_FILE:
            raise TensorFileError(
                f"tensor {name!r} has dtype {tensor.dtype!r}, which a safetensors file cannot hold.",
                why=f"the format knows {', '.join(sorted(_TO_FILE))}.",
                do="convert it to one of these before it becomes part of a model.",
            )
        if name == _METADATA or not _is_text(name):
            raise TensorFileError(
                f"a tensor cannot be called {name!r} in a safetensors file.",
                why=f"names are text, and {_METADATA!r} is where a file keeps its metadata.",
                do="rename the tensor.",
            )
        end = offset + tensor.nbytes
        header[name] = {"dtype": _TO_FILE[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # data begins at a multiple of eight, so that it can be mapped as numbers
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        yield from tensor.pieces()


def to_bytes(tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> bytes:
    """The whole file in one piece."""
    return b"".join(write(tensors, metadata))


def read(file: bytes | memoryview) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, as views into it, and its metadata.

    Guarantees: every tensor lies inside the file, none overlap, no byte is left over; sizes match shapes and dtypes.
    Raises: TensorFileError, if anything about the file is unsound.
    """
    view = memoryview(file).cast("B")
    if view.nbytes < 8:
        raise _unsound(f"it has only {view.nbytes} bytes")
    length = int.from_bytes(view[:8], "little")
    if length > min(_LARGEST_HEADER, view.nbytes - 8):
        raise _unsound(f"its header claims {length} bytes, of which {view.nbytes - 8} are there")
    header, body = _header(bytes(view[8 : 8 + length])), 8 + length
    metadata = _metadata(header.pop(_METADATA, {}))
    tensors: dict[str, Tensor] = {}
    places: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        begin, end = _place(name, entry, view.nbytes - body)
        dtype, shape = _kind(name, entry, end - begin)
        tensors[name] = Tensor(dtype, shape, view[body + begin : body + end], body + begin, view)
        places.append((begin, end, name))
    _check_tiling(places, view.nbytes - body)
    return tensors, metadata


def _header(text: bytes) -> dict[str, object]:
    try:
        header: object = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise _unsound(f"its header is not JSON ({error})") from None
    if not isinstance(header, dict) or not all(map(_is_text, header)):
        raise _unsound("its header is not a JSON object with sound names")
    return header


def _metadata(found: object) -> dict[str, str]:
    if not isinstance(found, dict) or not all(_is_text(text) for item in found.items() for text in item):
        raise _unsound("its __metadata__ is not a map from text to text")
    return found


def _place(name: str, entry: object, size: int) -> tuple[int, int]:
    offsets = _counts(entry.get("data_offsets")) if isinstance(entry, dict) else None
    if offsets is None or len(offsets) != 2 or not offsets[0] <= offsets[1] <= size:
        raise _unsound(f"tensor {name!r} has no place within its {size} bytes of data: {str(entry)[:80]}")
    return offsets[0], offsets[1]


def _kind(name: str, entry: object, size: int) -> tuple[str, tuple[int, ...]]:
    if not isinstance(entry, dict) or str(entry.get("dtype")) not in _FROM_FILE:
        raise _unsound(f"tensor {name!r} has no dtype that is known: {str(entry)[:80]}")
    dtype, shape = _FROM_FILE[str(entry["dtype"])], _counts(entry.get("shape"))
    if shape is None or len(shape) > _MOST_AXES:
        raise _unsound(f"tensor {name!r} has no sound shape: {str(entry)[:80]}")
    if math.prod(shape) * ITEM_BYTES[dtype] != size:
        raise _unsound(f"tensor {name!r} of shape {shape} and dtype {dtype} does not fill its {size} bytes")
    return dtype, shape


def _counts(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 2**63 for item in value):
        return None
    return tuple(value)


def _is_text(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:  # half a surrogate pair: JSON can spell it, but no file or page can show it
        return False


def _check_tiling(places: Iterable[tuple[int, int, str]], size: int) -> None:
    reached = 0
    for begin, end, name in sorted(places):
        if begin != reached:
            raise _unsound(f"there is a gap or an overlap before tensor {name!r}")
        reached = end
    if reached != size:
        raise _unsound(f"{size - reached} bytes at its end belong to no tensor")


def _unsound(reason: str) -> TensorFileError:
    return TensorFileError(
        f"this is not a sound safetensors file: {reason}.",
        why="a file from elsewhere is used only if every byte of it is accounted for.",
        do="take the file again from its source; if it was cut off on the way, its size tells.",
    )
