"""How large files are cut, so that each piece can be checked, sent again and acknowledged alone; and what names a file.

The digest of a file is the SHA-256 of its bytes if it is one part. That of a larger one is the SHA-256 of its size and
the SHA-256 of each of its parts: whoever has the list can check any part without the others, in any order.
"""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

PART_BYTES = 16 << 20
# No model, update or plan begins like this, so nothing that is used as one can have the digest of a list of parts.
_LIST = b"\xff" * 8 + b"lycia parts"
_PIECE_BYTES = 1 << 20
_THREADS = 4


def count(size_bytes: int) -> int:
    """How many parts a file of this size has; an empty one has one, which is empty."""
    return max(1, -(-size_bytes // PART_BYTES))


def place(size_bytes: int, number: int) -> slice:
    """Where part `number` lies in a file of this size."""
    start = number * PART_BYTES
    return slice(start, min(start + PART_BYTES, size_bytes))


def digest_of(size_bytes: int, parts: Sequence[str]) -> str:
    """The digest of the file of this size whose parts have these digests, all as 64 hexadecimal digits.

    Example:
      >>> digest_of(0, [hashlib.sha256(b"").hexdigest()]) == hashlib.sha256(b"").hexdigest()
      True
    """
    if len(parts) == 1:
        return parts[0]
    return hashlib.sha256(_LIST + size_bytes.to_bytes(8, "big") + bytes.fromhex("".join(parts))).hexdigest()


def digests(content: bytes | memoryview) -> tuple[str, ...]:
    """The digest of each part of a file, of several at once."""
    view = memoryview(content)
    places = [place(view.nbytes, number) for number in range(count(view.nbytes))]
    if len(places) == 1:
        return (_sha256(view),)
    with ThreadPoolExecutor(min(_THREADS, len(places)), thread_name_prefix="hash") as threads:
        return tuple(threads.map(_sha256, [view[part] for part in places]))


def digest_of_pieces(pieces: Iterable[bytes | memoryview]) -> str:
    """The digest of the file that these pieces make up."""
    hasher = Hasher()
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest


class Hasher:
    """The digests of a file that comes piece by piece."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._done: list[str] = []
        self._open = hashlib.sha256()

    def update(self, piece: bytes | memoryview) -> None:
        """Add a piece, of whatever size."""
        rest = memoryview(piece).cast("B")
        while rest.nbytes:
            room = PART_BYTES - self.size_bytes % PART_BYTES
            if room == PART_BYTES and self.size_bytes:
                self._done.append(self._open.hexdigest())
                self._open = hashlib.sha256()
            now, rest = rest[:room], rest[room:]
            self._open.update(now)
            self.size_bytes += now.nbytes

    @property
    def parts(self) -> tuple[str, ...]:
        """The digest of each part of what has come."""
        return (*self._done, self._open.hexdigest())

    @property
    def digest(self) -> str:
        """The digest of what has come."""
        return digest_of(self.size_bytes, self.parts)


def _sha256(part: memoryview) -> str:
    found = hashlib.sha256()
    for start in range(0, part.nbytes, _PIECE_BYTES):  # so that a mapped part goes through the cache once
        found.update(part[start : start + _PIECE_BYTES])
    return found.hexdigest()
