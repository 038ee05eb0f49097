"""The integer grid on which every sum is taken.

A float sum depends on the order of its terms; an integer sum does not. So each weighted value is rounded once
to a multiple of a power of two and added as int64: whatever the order of arrival, the blocks, the workers or the
restarts, the bits are the same. The step is as fine as the declared bound on the whole sum allows.
"""

import math
from dataclasses import dataclass

import numpy as np

_HEADROOM = 62  # |sum| <= 2**62 leaves one bit of int64 for rounding on top of the sign
_FINEST = -1000  # 2.0**-1000 is still a normal float64, and finer than any float32


@dataclass(frozen=True)
class Grid:
    """Multiples of 2**exponent.

    Guarantees: for values whose absolute sum is at most the bound that the grid covers, no sum of them overflows.
    Example:
      >>> grid = Grid.covering(4.0)
      >>> float(grid.to_float(grid.to_grid(np.array([0.5, -0.25])).sum()))
      0.25
    """

    exponent: int

    @classmethod
    def covering(cls, bound: float) -> "Grid":
        """The finest grid on which sums up to `bound` in absolute value fit into int64.

        Raises: ValueError, if `bound` is negative or not finite.
        """
        if not (math.isfinite(bound) and bound >= 0):
            raise ValueError(f"a grid needs a finite bound that is not negative, got {bound!r}")
        if bound == 0:
            return cls(_FINEST)
        return cls(max(math.frexp(bound)[1] - _HEADROOM, _FINEST))

    def to_grid(self, values: np.ndarray) -> np.ndarray:
        """Round to the nearest grid value, ties to even.

        Shapes: any; returns int64 of the same shape.
        """
        scaled = np.asarray(values, dtype=np.float64) * 2.0**-self.exponent
        return np.asarray(np.rint(scaled)).astype(np.int64)

    def total(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The sum of weight × row on the grid; each term is rounded once, so sums of parts are parts of the sum.

        Shapes: rows (nodes, columns) float32, weights (nodes,); returns (columns,) int64.
        """
        total, room = np.zeros(rows.shape[1], np.int64), Room(rows.shape[1])
        for row, weight in zip(rows, weights, strict=True):
            self.add(total, row, float(weight), room)
        return total

    def add(self, total: np.ndarray, row: np.ndarray, weight: float, room: "Room") -> None:
        """Add weight × row to `total`, in place; the term is rounded once.

        Shapes: total (columns,) int64, row (columns,) float32; `room` has space for so many columns.
        """
        scaled, whole = room.of(len(row))
        # One multiplication: scaling by a power of two is exact, so it may be done to the weight beforehand.
        np.multiply(row, weight * 2.0**-self.exponent, out=scaled, dtype=np.float64)
        np.rint(scaled, out=scaled)
        np.copyto(whole, scaled, casting="unsafe")
        np.add(total, whole, out=total)

    def to_float(self, total: np.ndarray | np.int64) -> np.ndarray:
        """The grid values as float64, rounded once.

        Shapes: any; returns the same.
        """
        return np.asarray(np.asarray(total).astype(np.float64) * 2.0**self.exponent)


class Room:
    """Scratch space for adding rows of up to `columns`: fresh memory for every row costs more than the arithmetic."""

    def __init__(self, columns: int) -> None:
        self._scaled, self._whole = np.empty(columns), np.empty(columns, np.int64)

    def of(self, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """(columns,) float64 and (columns,) int64, with whatever is in them."""
        return self._scaled[:columns], self._whole[:columns]
