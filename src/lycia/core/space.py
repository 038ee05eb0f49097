"""Where arrays as large as a model lie, and how they are walked through: block by block, so that none fills the memory.

The core does no I/O. Whoever calls it hands it a `Space`; `lycia.storage.space` has one whose large arrays lie on disk.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike

BLOCK = 1 << 16
"""Columns at a time: a block of float64 stays in the cache, and a mapped file never fills the memory."""

LARGE_BYTES = 64 << 20
"""From here on an array lies in a file where it can, and what is read from a file is not copied."""


class Space(Protocol):
    """Where new arrays lie."""

    def empty(self, size: int, dtype: DTypeLike) -> np.ndarray:
        """(size,) of `dtype`, with whatever is in it.

        Raises: StorageError, if there is no room for it.
        """
        ...


class _Memory:
    def empty(self, size: int, dtype: DTypeLike) -> np.ndarray:
        return np.empty(size, dtype)


MEMORY: Space = _Memory()
"""The space of whoever has no large models: all arrays lie in memory."""


def blocks(size: int) -> Iterator[slice]:
    """The columns from 0 to `size`, a block at a time."""
    return (slice(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK))


def is_large(size_bytes: int) -> bool:
    """Whether so many bytes are too many to lie in memory."""
    return size_bytes >= LARGE_BYTES
