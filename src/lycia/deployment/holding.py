"""A coordinator's or a node's folder is for one process at a time."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lycia.errors import StorageError

if sys.platform == "win32":
    import msvcrt

    def _is_mine(file: IO[str]) -> bool:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _is_mine(file: IO[str]) -> bool:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


@contextmanager
def held(folder: Path, holder: str) -> Iterator[None]:
    """Inside, the folder is this process's; the system lets go of it when the process ends, however it ends.

    Raises: StorageError, if another process has it.
    """
    with (folder / "held").open("a") as file:
        if not _is_mine(file):
            raise StorageError(
                f"{holder} runs already, in another process, with the folder {folder}.",
                why="two of them would write over each other's files.",
                do="end the other one first, or give another folder with --home.",
            )
        yield


def is_held(folder: Path) -> bool:
    """Whether a process has the folder at this moment."""
    if not (folder / "held").exists():
        return False
    with (folder / "held").open("a") as file:
        return not _is_mine(file)
