"""Where updates lie from their arrival until they are part of a model: a file for each, named by its handle."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from lycia.errors import NotFound, StorageError
from lycia.storage.blobs import mapped
from lycia.storage.disk import AS_BYTES, in_words, make_folder, pwrite_all, replace_file, reserve, sync_folder

_HANDLE = re.compile(r"[0-9a-f]{64}")


def upload_id(run: str, task: int, node: str, digest: str) -> str:
    """The name of what `node` sends for a task: nobody else's upload has it, even of the same bytes."""
    fields = "".join(f"{len(field)}:{field}" for field in (run, str(task), node, digest))
    return sha256(f"lycia upload {fields}".encode()).hexdigest()


class Spool:
    """A folder of updates. What is kept here is written once, by parts in any order or in one piece."""

    def __init__(self, root: Path, *, fsync: bool = True) -> None:
        """Open the folder; make it if it is not there. `fsync`: False where a power cut may lose what is in it."""
        self.root, self._fsync = root, fsync
        with in_words(root):
            make_folder(root, fsync=fsync)

    def path(self, handle: str) -> Path:
        """Where the update is, or would be.

        Raises: NotFound, if `handle` is not 64 hexadecimal digits: it becomes a path here.
        """
        if not _HANDLE.fullmatch(handle):
            raise NotFound(
                f"{handle[:80]!r} is not the handle of anything.",
                why="a handle is 64 digits 0-9 and a-f.",
                do="use the one that the coordinator gave for this upload.",
            )
        return self.root / handle

    def begin(self, handle: str, size_bytes: int) -> None:
        """Make room for an update that comes by parts, and give it its name, durably.

        Raises: StorageError, if the disk has no room for it, or fails; nothing is left of it then.
        """
        target = self.path(handle)
        with in_words(target):
            target.unlink(missing_ok=True)  # a new file: whoever still reads or writes the old one has that
            descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | AS_BYTES, 0o600)
            try:
                reserve(descriptor, size_bytes)
                if self._fsync:
                    os.fsync(descriptor)
            except OSError:
                with suppress(OSError):
                    target.unlink(missing_ok=True)
                raise
            finally:
                os.close(descriptor)
            if self._fsync:
                sync_folder(self.root)

    def has(self, handle: str, size_bytes: int) -> bool:
        """Whether there is a file of this size for it: what was begun here and not removed."""
        with in_words(self.root):
            path = self.path(handle)
            return path.is_file() and path.stat().st_size == size_bytes

    def part(self, handle: str, start: int) -> "ArrivingPart":
        """A part, which begins at byte `start`, of an update that was begun.

        Raises: StorageError, if it was not, or the system refuses.
        """
        return ArrivingPart(self.path(handle), start, fsync=self._fsync)

    def put(self, handle: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Keep a whole update; durable when this returns, and not there before.

        Raises: StorageError, if the disk is full or fails.
        """
        replace_file(self.path(handle), pieces, fsync=self._fsync)

    def open(self, handle: str) -> memoryview:
        """The bytes of an update, mapped and not read.

        Raises: StorageError, if it is gone.
        """
        content = mapped(self.path(handle))
        if content is None:
            raise StorageError(
                f"the update {handle[:12]}… is gone from {self.root}.",
                why="it was here when its node was told that it counts, so another program has removed it.",
                do="restore it from a backup, or go back to the round's beginning with `lycia rollback`.",
            )
        return content

    def remove(self, handles: Iterable[str]) -> None:
        """Delete these updates; nothing happens for what is not here."""
        kept_open = (PermissionError,) if os.name == "nt" else ()  # Windows keeps it until the next time
        with in_words(self.root):
            for handle in handles:
                with suppress(*kept_open):
                    self.path(handle).unlink(missing_ok=True)

    def handles(self) -> Iterator[str]:
        """The names of all files here, those of crashed writers among them."""
        with in_words(self.root):
            yield from sorted(path.name for path in self.root.iterdir())

    def sweep(self, needed: Iterable[str]) -> None:
        """Delete all that is not needed: what a crash left behind."""
        with in_words(self.root):
            for name in set(self.handles()) - set(needed):
                (self.root / name).unlink(missing_ok=True)


class ArrivingPart:
    """One part of a file: written in order, hashed as it comes, and durable after `sync`."""

    def __init__(self, path: Path, start: int, *, fsync: bool) -> None:
        self._folder, self._at, self._fsync = path.parent, start, fsync
        self._hash = sha256()
        with in_words(path):
            self._descriptor = os.open(path, os.O_WRONLY | AS_BYTES)

    @property
    def digest(self) -> str:
        """The SHA-256 of what has come."""
        return self._hash.hexdigest()

    def write(self, *pieces: bytes | memoryview) -> None:
        """Add these pieces.

        Raises: StorageError, if the disk is full or fails.
        """
        for piece in pieces:
            with in_words(self._folder):
                pwrite_all(self._descriptor, piece, self._at)
            self._hash.update(piece)
            self._at += len(piece)

    def sync(self) -> None:
        """Make durable what has come.

        Raises: StorageError, if the disk is full or fails.
        """
        if self._fsync:
            with in_words(self._folder):
                os.fsync(self._descriptor)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)
