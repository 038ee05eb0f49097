"""A full disk: a small file system of its own where one can be mounted, else system calls that find no room."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_SIZE_BYTES = 48 << 20
CALLS = tuple(name for name in ("write", "pwrite", "posix_fallocate") if hasattr(os, name))


@cache
def can_mount() -> bool:
    """Whether this user may mount a file system here."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    with TemporaryDirectory() as folder:
        if _mount(Path(folder), 1 << 20):
            _unmount(Path(folder))
            return True
    return False


@contextmanager
def small_disk(folder: Path) -> Iterator["SmallDisk"]:
    """A file system of its own at `folder`, for as long as the block lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    assert _mount(folder, _SIZE_BYTES)
    try:
        yield SmallDisk(folder)
    finally:
        _unmount(folder)


class SmallDisk:
    """A disk that can be filled, and emptied again."""

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"

    def fill(self, left_bytes: int) -> None:
        """Leave room for so many bytes."""
        room = os.statvfs(self._ballast.parent)
        size = max(room.f_bavail * room.f_frsize - left_bytes, 1)
        descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT)
        try:
            with suppress(OSError):  # somebody else takes room at this moment
                os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)


class Flag:
    """A disk that only says that it is full: for the process that has `install`ed it. SQLite writes past it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, left_bytes: int) -> None:
        """From now on."""
        self.path.write_text(str(left_bytes), encoding="utf-8")

    def free(self) -> None:
        """No more."""
        self.path.unlink(missing_ok=True)


Disk = SmallDisk | Flag


def install(flag: Path) -> None:
    """Let this process find no room while `flag` is there, once it has written as many bytes as stand in it."""
    written = [0]

    def guarded(name: str) -> Any:
        real = getattr(os, name)

        def call(descriptor: int, *args: Any) -> Any:
            room = _room(flag)
            written[0] = 0 if room is None else written[0] + (len(args[0]) if name != "posix_fallocate" else args[1])
            if room is not None and written[0] > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(descriptor, *args)

        return call

    for name in CALLS:
        setattr(os, name, guarded(name))


def _room(flag: Path) -> int | None:
    try:
        return int(flag.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it is not there, or being written at this moment
        return None


def _mount(folder: Path, size_bytes: int) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "lycia-chaos", str(folder)]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)
