"""An update that stays in its file: it becomes float32 a block of columns at a time, as far as it is read."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np

from lycia.core.layout import widen
from lycia.core.tensorfile import Tensor


class Columns:
    """A block of one row whose pieces lie in a file, in their storage dtypes.

    It is read as the array that it stands for is: `rows[0, columns]`, `rows[0]`, `rows[:1]`; `np.asarray` makes that.

    Shapes: (1, size) float32.
    """

    ndim, dtype = 2, np.dtype(np.float32)

    def __init__(self, pieces: Sequence[Tensor]) -> None:
        """`pieces`: the tensors that make up the row, in order."""
        self._pieces = [(piece.array().reshape(-1), piece.dtype) for piece in pieces]
        ends = np.cumsum([len(stored) for stored, _ in self._pieces], dtype=np.int64)
        self._starts = [0, *map(int, ends)]
        self.shape = (1, self._starts[-1])

    @property
    def nbytes(self) -> int:
        """How many bytes the array would have."""
        return self.shape[1] * self.dtype.itemsize

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place: Any) -> Any:
        match place:
            case (0, slice() as columns):
                start, stop, step = columns.indices(self.shape[1])
                return self._read(start, stop) if step == 1 else self._read(0, self.shape[1])[columns]
            case 0:
                return self._read(0, self.shape[1])
            case slice() as rows if range(1)[rows]:
                return self
            case _:
                return np.asarray(self)[place]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._read(0, self.shape[1])[np.newaxis], dtype)

    def _read(self, start: int, stop: int) -> np.ndarray:
        values = np.empty(max(stop - start, 0), np.float32)
        index = bisect_right(self._starts, start) - 1
        while start < stop:
            stored, dtype = self._pieces[index]
            first, last = self._starts[index], min(self._starts[index + 1], stop)
            into = slice(start - (stop - len(values)), last - (stop - len(values)))
            values[into] = widen(stored[start - first : last - first], dtype)
            start, index = last, index + 1
        return values
