"""Files named by the digest of their bytes: models, and whatever else is large and never changes."""

import mmap
import os
import re
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from lycia.errors import NotFound, StorageError
from lycia.storage import parts
from lycia.storage.disk import AS_BYTES, in_words, make_folder, replace_file, sync_folder, write_all
from lycia.storage.space import Scratch

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PIECE_BYTES = 1 << 20
_LIST = ".parts"  # beside a blob of several parts: the digest of each, a line each


class BlobFolder:
    """Blobs in a folder of the local disk, each at ab/cdef… after the digest abcdef….

    A blob is durable when `put` or `commit` returns, is never written to again, and has no name before it is whole.

    Attributes:
      space: where large arrays lie that are to become blobs.
    """

    def __init__(self, root: Path, *, fsync: bool = True, read_only: bool = False) -> None:
        """Open the folder: make it if it is not there, and remove what a crash left half written in it.

        Args:
          fsync: False for throw-away runs; a power cut may then lose blobs.
          read_only: leave the folder as it is, since another process may be writing at this moment.
        """
        self.root, self._fsync, self._arriving = root, fsync, root / "arriving"
        self.space = Scratch(self._arriving)
        if read_only:
            return
        with in_words(root):
            make_folder(self._arriving, fsync=fsync)
            if fsync:
                sync_folder(root)
            for half_written in self._arriving.iterdir():
                half_written.unlink(missing_ok=True)

    def put(self, pieces: Iterable[bytes | memoryview]) -> str:
        """Keep the blob that `pieces` make up; returns its digest. A blob that is there already is not written again.

        Raises: StorageError, if the disk is full or fails; nothing is left of the blob then.
        """
        with self.incoming() as blob:
            for piece in pieces:
                blob.write(piece)
            return blob.commit()

    def incoming(self, limit_bytes: int | None = None) -> "Incoming":
        """A blob that arrives piece by piece, of at most `limit_bytes`."""
        return Incoming(self, self._arriving, limit_bytes, fsync=self._fsync)

    def path(self, digest: str) -> Path:
        """Where the blob of this digest is, or would be.

        Raises: NotFound, if `digest` is not 64 hexadecimal digits: it may come from outside, and becomes a path here.
        """
        if not _DIGEST.fullmatch(digest):
            raise NotFound(
                f"{digest[:80]!r} is not the digest of anything.",
                why="a digest is a SHA-256, written as 64 digits 0-9 and a-f.",
                do="use a digest as the coordinator, a record or a report names it.",
            )
        return self.root / digest[:2] / digest[2:]

    def has(self, digest: str) -> bool:
        """Whether the blob is here."""
        return self.path(digest).is_file()

    def size(self, digest: str) -> int:
        """How many bytes the blob has.

        Raises: NotFound, if it is not here.
        """
        path = self.path(digest)
        try:
            return path.stat().st_size
        except FileNotFoundError:
            raise _missing(digest) from None

    def open(self, digest: str) -> memoryview:
        """The bytes of the blob, mapped and not read: a part that nobody looks at costs no memory.

        Raises: NotFound, if it is not here.
        """
        content = mapped(self.path(digest))
        if content is None:
            raise _missing(digest)
        return content

    def parts(self, digest: str) -> tuple[str, ...]:
        """The digest of each part of the blob.

        Raises: NotFound, if it is not here.
        """
        if parts.count(self.size(digest)) == 1:
            return (digest,)
        path = _list_of(self.path(digest))
        with in_words(path):
            try:
                return tuple(path.read_text("ascii").split())
            except FileNotFoundError:  # its writer was killed before it had written the list
                return parts.digests(self.open(digest))

    def files(self, digest: str) -> tuple[Path, Path]:
        """Where the blob is, and the list of its parts, if it has one."""
        return self.path(digest), _list_of(self.path(digest))

    def check(self, digest: str) -> None:
        """Do nothing if the blob's bytes are still those that its digest names.

        Raises:
          NotFound: if it is not here.
          StorageError: if the bytes have changed.
        """
        content = self.open(digest)
        found = parts.digest_of(content.nbytes, parts.digests(content))
        if found != digest:
            raise StorageError(
                f"the blob {digest[:12]}… is damaged: its bytes make {found[:12]}….",
                why="a blob never changes after it was written, so the disk or another program has changed it.",
                do=f"restore {self.path(digest)} from a backup.",
            )

    def remove(self, digest: str) -> None:
        """Delete the blob; nothing happens if it is not here. Windows keeps a blob that is open until the next time."""
        path = self.path(digest)
        kept_open = (PermissionError,) if os.name == "nt" else ()
        with in_words(path), suppress(*kept_open):
            path.unlink(missing_ok=True)
            _list_of(path).unlink(missing_ok=True)

    def adopt(self, path: Path, digests: tuple[str, ...]) -> str:
        """Take over a file that is whole, durable, and known to have parts with these digests; returns its digest.

        Raises: StorageError, if the disk fails; the file is then still where it was.
        """
        digest = parts.digest_of(path.stat().st_size, digests)
        self._keep_list(digest, digests)
        target = self.path(digest)
        with in_words(target):
            make_folder(target.parent, fsync=self._fsync)
            path.replace(target)
            if self._fsync:
                sync_folder(target.parent)
        return digest

    def _keep_list(self, digest: str, digests: tuple[str, ...]) -> None:
        target = self.path(digest)
        if len(digests) > 1:
            make_folder(target.parent, fsync=self._fsync)
            replace_file(_list_of(target), "\n".join(digests).encode(), fsync=False)  # it can be made again


class Incoming:
    """A blob on its way in. It has no name until `commit`; leaving the `with` block without one aborts it.

    Attributes:
      size_bytes: how much has arrived.
    """

    def __init__(self, blobs: BlobFolder, folder: Path, limit_bytes: int | None, *, fsync: bool) -> None:
        self.size_bytes, self._limit_bytes, self._blobs, self._fsync = 0, limit_bytes, blobs, fsync
        self._hasher, self._open, self._ended = parts.Hasher(), True, False
        with in_words(folder):
            self._descriptor, name = tempfile.mkstemp(dir=folder)
        self._path = Path(name)

    @property
    def digest(self) -> str:
        """The digest of what has arrived."""
        return self._hasher.digest

    def write(self, piece: bytes | memoryview) -> None:
        """Add a piece.

        Raises: StorageError, if the blob grows past its limit, or the disk is full or fails; it is aborted then.
        """
        rest = memoryview(piece).cast("B")
        size = self.size_bytes + rest.nbytes
        if self._limit_bytes is not None and size > self._limit_bytes:
            self.abort()
            raise StorageError(
                f"what arrives is longer than {self._limit_bytes} bytes.",
                why="its size was limited beforehand, so that nobody can fill the disk.",
                do="send no more than was announced; if the limit is too low for the model, raise it.",
            )
        try:
            with in_words(self._path.parent):
                for start in range(0, rest.nbytes, _PIECE_BYTES):  # small enough to be hashed from the cache
                    write_all(self._descriptor, rest[start : start + _PIECE_BYTES])
                    self._hasher.update(rest[start : start + _PIECE_BYTES])
        except StorageError:
            self.abort()
            raise
        self.size_bytes = size

    def commit(self) -> str:
        """Give the blob its name, durably; returns its digest.

        Raises: StorageError, if the disk is full or fails; it is aborted then.
        """
        digest = self.digest
        target = self._blobs.path(digest)
        try:
            with in_words(self._path.parent):
                if self._fsync:
                    os.fsync(self._descriptor)
                self._close()
                make_folder(target.parent, fsync=self._fsync)
                self._blobs._keep_list(digest, self._hasher.parts)
                if target.is_file() and target.stat().st_size == self.size_bytes:
                    self._path.unlink()
                else:
                    self._path.replace(target)
                # Also for a blob that was there: its writer may have been killed before its name was durable.
                if self._fsync:
                    sync_folder(target.parent)
        except StorageError:
            self.abort()
            raise
        self._ended = True
        return digest

    def abort(self) -> None:
        """Forget all that has arrived. Nothing happens after a `commit`."""
        if self._ended:
            return
        self._ended = True
        with suppress(OSError):
            self._close()
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> "Incoming":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._descriptor)


def mapped(path: Path) -> memoryview | None:
    """The bytes of a file, mapped and not read; None if it is not there.

    Raises: StorageError, if the system refuses to read it.
    """
    with in_words(path):
        try:
            descriptor = os.open(path, os.O_RDONLY | AS_BYTES)
        except FileNotFoundError:
            return None
        try:
            is_empty = os.fstat(descriptor).st_size == 0  # an empty file cannot be mapped
            return memoryview(b"" if is_empty else mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
        finally:
            os.close(descriptor)


def _list_of(path: Path) -> Path:
    return path.with_name(path.name + _LIST)


def _missing(digest: str) -> NotFound:
    return NotFound(
        f"there is no blob {digest[:12]}….",
        why="it was never stored here, or was removed when nothing needed it any more.",
        do="ask for a digest that the run still lists; `lycia runs` shows which models are kept.",
    )
