"""Arrays that lie on disk: the system writes their pages back when it wants the memory, so that they take none away."""

import mmap
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from lycia.core.space import is_large
from lycia.storage.disk import fill, in_words, make_folder


class Scratch:
    """A `Space` whose large arrays are mapped files without a name: nothing is left of one when nobody holds it."""

    def __init__(self, folder: Path) -> None:
        """`folder`: on the disk that has room for them. It must not be one that lies in memory, as /tmp may be."""
        self._folder = folder

    def empty(self, size: int, dtype: DTypeLike) -> np.ndarray:
        """(size,) of `dtype`: zeros in a file if it is large, or else whatever is in the memory.

        Raises: StorageError, if the disk has no room for it.
        """
        size_bytes = size * np.dtype(dtype).itemsize
        if not is_large(size_bytes):
            return np.empty(size, dtype)
        with in_words(self._folder):
            make_folder(self._folder, fsync=False)
            with tempfile.TemporaryFile(dir=self._folder, buffering=0) as file:
                fill(file.fileno(), size_bytes)  # a page that finds no room when it is written to ends the process
                return np.frombuffer(mmap.mmap(file.fileno(), size_bytes), dtype)
