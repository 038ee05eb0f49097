"""Files that are written whole or not at all, and that tell in words what went wrong.

Every call that only POSIX has stands here, with what other systems get instead.
"""

import asyncio
import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from lycia.errors import StorageError

AS_BYTES = getattr(os, "O_BINARY", 0)  # Windows would otherwise write line ends of its own
_IS_POSIX = os.name == "posix"
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_PIECE_BYTES = 1 << 20
_MOST_RESERVED, _SHARE_RESERVED = 256_000_000, 20
_T = TypeVar("_T")


@contextmanager
def in_words(place: Path) -> Iterator[None]:
    """Turns an OSError about `place` into a StorageError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full(place) from error
        raise StorageError(
            f"{place} cannot be used: {error.strerror or error}.",
            why="the system refused to read or write there; nothing was acknowledged that is not on the disk.",
            do="check that the disk is mounted, in order, and writable by this user; then start again, and it goes on.",
        ) from error


def disk_full(place: object) -> StorageError:
    """The error for a disk, or a user's share of it, that has no room left."""
    return StorageError(
        f"there is no room left on the disk of {place}.",
        why="a step is acknowledged only once it is on the disk; this one is not, and left nothing behind.",
        do="free some space, or move the folder to a larger disk, and start again: it goes on where it stopped.",
    )


def free_bytes(folder: Path) -> int:
    """How much may still be put on the disk of `folder`, which need not be there yet.

    A twentieth of the disk, and at most 256 MB, is left for others: databases, logs, whatever else runs there.

    Raises: StorageError, if the disk cannot be asked.
    """
    with in_words(folder):
        usage = shutil.disk_usage(_nearest(folder))
    return max(usage.free - min(usage.total // _SHARE_RESERVED, _MOST_RESERVED), 0)


def check_free(folder: Path, needed_bytes: int, what: str) -> None:
    """Do nothing if so much may still be put on the disk of `folder`.

    Args:
      what: for what it is needed, as in "the next round".
    Raises: StorageError, which says how much is needed, how much is free, and on which disk.
    """
    free = free_bytes(folder)
    if free < needed_bytes:
        raise no_room(folder, needed_bytes, free, what)


def no_room(folder: Path, needed_bytes: int, free: int, what: str) -> StorageError:
    """The error for a disk that has too little room for what is about to be done."""
    return StorageError(
        f"{what} needs {size_in_words(needed_bytes)} on the disk of {folder}, "
        f"and {size_in_words(free)} are free beside a reserve.",
        why="it is looked at before anything is sent, so that nobody works for what cannot be kept.",
        do="free some space, or move the folder to a larger disk; then let it go on.",
    )


def size_in_words(size_bytes: float) -> str:
    """A number of bytes for people."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} TB"


def disk_of(folder: Path) -> int:
    """A number that is the same for all folders of one disk; the folder need not be there yet.

    Raises: StorageError, if the disk cannot be asked.
    """
    with in_words(folder):
        return _nearest(folder).stat().st_dev


def _nearest(folder: Path) -> Path:
    while not folder.exists() and folder.parent != folder:
        folder = folder.parent
    return folder


def write_all(descriptor: int, piece: bytes | memoryview) -> None:
    """Write every byte of `piece`, in as many calls as the system wants."""
    rest = memoryview(piece)
    if rest.format != "B" or rest.ndim != 1:
        rest = rest.cast("B")
    while rest.nbytes:
        rest = rest[os.write(descriptor, rest) :]


def pwrite_all(descriptor: int, piece: bytes | memoryview, start: int) -> None:
    """Write every byte of `piece` at `start`. Where the system cannot do both at once, nobody else may write there."""
    if not hasattr(os, "pwrite"):
        os.lseek(descriptor, start, os.SEEK_SET)
        write_all(descriptor, piece)
        return
    rest = memoryview(piece)
    while rest.nbytes:
        done = os.pwrite(descriptor, rest, start)
        rest, start = rest[done:], start + done


def reserve(descriptor: int, size_bytes: int) -> None:
    """Give the file this size, and the room for it where the system can promise that."""
    os.ftruncate(descriptor, size_bytes)
    if size_bytes and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size_bytes)


def fill(descriptor: int, size_bytes: int) -> None:
    """Give a new file this size, of zeros that have their room: whoever writes over them never finds the disk full."""
    if hasattr(os, "posix_fallocate"):
        reserve(descriptor, size_bytes)
        return
    zeros = bytes(_PIECE_BYTES)
    for start in range(0, size_bytes, _PIECE_BYTES):
        write_all(descriptor, zeros[: size_bytes - start])


def sync_file(path: Path) -> None:
    """Make durable what stands in the file now, whoever wrote it."""
    descriptor = os.open(path, os.O_RDWR | AS_BYTES)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable. Windows cannot, and keeps its names in order by itself."""
    if not _IS_POSIX:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, *, fsync: bool) -> None:
    """Make the folder and those above it, as far as they are not there, each with a durable name."""
    if folder.is_dir():
        return
    make_folder(folder.parent, fsync=fsync)
    folder.mkdir(exist_ok=True)
    if fsync:
        sync_folder(folder.parent)


def replace_file(path: Path, data: bytes | memoryview | Iterable[bytes | memoryview], *, fsync: bool) -> None:
    """Put `data`, whole or in pieces, where the file at `path` is: whoever reads it finds the old bytes or the new.

    Raises: StorageError, if it cannot be written; the old file is then still there.
    """
    half_written = path.with_name(f"{path.name}.part")
    with in_words(path):
        descriptor = os.open(half_written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | AS_BYTES, 0o600)
        try:
            try:
                for piece in (data,) if isinstance(data, (bytes, memoryview)) else data:
                    write_all(descriptor, piece)
                if fsync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            half_written.replace(path)
        except OSError:
            with suppress(OSError):
                half_written.unlink(missing_ok=True)
            raise
        if fsync:
            sync_folder(path.parent)


def replace_whole(path: Path, fill: Callable[[Path], None]) -> None:
    """As `replace_file`, durably, with what `fill` makes of an empty file that only this user may read.

    Raises: StorageError, if it cannot be written; what `fill` raises. The old file is then still there.
    """
    half_written = path.with_name(f"{path.name}.part")
    with in_words(path):
        os.close(os.open(half_written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | AS_BYTES, 0o600))
        try:
            fill(half_written)
            sync_file(half_written)
            half_written.replace(path)
        except BaseException:
            with suppress(OSError):
                half_written.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


class GrowingFile:
    """A file that is only ever added to, and of which the first `size_bytes` were acknowledged.

    Whatever a write that failed left behind them is cut off by the next one.
    """

    def __init__(self, path: Path, size_bytes: int, *, fsync: bool) -> None:
        self.path, self.size_bytes, self._fsync = path, size_bytes, fsync

    def append(self, data: bytes) -> None:
        """Add `data` at the end of what was acknowledged.

        Raises: StorageError, if it cannot be written, or if the file has lost something.
        """
        with in_words(self.path):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | AS_BYTES, 0o600)
            try:
                self._check_size(os.fstat(descriptor).st_size)
                self._add(descriptor, data)
            finally:
                os.close(descriptor)
            if self._fsync and self.size_bytes == 0:
                sync_folder(self.path.parent)
        self.size_bytes += len(data)

    def read(self) -> bytes:
        """What was acknowledged, and whatever came after it; all of it is durable from here on.

        Raises: StorageError, if the file cannot be read, or has lost something.
        """
        with in_words(self.path):
            found = self.path.read_bytes() if self.path.exists() else b""
            if self._fsync and found:
                sync_file(self.path)
        self._check_size(len(found))
        return found

    def _add(self, descriptor: int, data: bytes) -> None:
        os.ftruncate(descriptor, self.size_bytes)
        os.lseek(descriptor, 0, os.SEEK_END)
        try:
            write_all(descriptor, data)
            if self._fsync:
                os.fsync(descriptor)
        except OSError:
            with suppress(OSError):  # what was not acknowledged must not be found by the next reader
                os.ftruncate(descriptor, self.size_bytes)
            raise

    def _check_size(self, found: int) -> None:
        if found < self.size_bytes:
            raise StorageError(
                f"{self.path} has {found} bytes, and {self.size_bytes} were written.",
                why="something other than this program has shortened it.",
                do="restore the folder from a backup, or start the run anew in another folder.",
            )


async def to_its_end(step: Callable[[], _T]) -> _T:
    """What `step` returns, run in a thread. See `seen_through`."""
    return await seen_through(asyncio.get_running_loop().run_in_executor(None, step))


async def seen_through(step: "asyncio.Future[_T]") -> _T:
    """The result of `step`. A caller who is cancelled leaves only when it has ended: nobody finds it half done."""
    cancelled: asyncio.CancelledError | None = None
    while not step.done():
        try:
            await asyncio.wait([step])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled:
        if not step.cancelled():
            step.exception()  # whoever was cancelled does not want to hear of it
        raise cancelled
    return step.result()
