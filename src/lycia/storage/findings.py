"""What a look through the storage finds: damage, each with what it means and what to do, and what nothing refers to."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lycia.errors import LyciaError, NotFound, StorageError, TensorFileError
from lycia.storage import parts
from lycia.storage.blobs import BlobFolder
from lycia.storage.disk import in_words

_T = TypeVar("_T")


@dataclass(frozen=True)
class Damage:
    """Something that is not as it was written.

    Attributes:
      what: one sentence.
      means: what cannot be done because of it, and what is not affected.
      do: the next step.
      run, round: what it belongs to; "" and None where that is no single one.
      file: the path, or the table of the database.
    """

    what: str
    means: str
    do: str
    run: str = ""
    round: int | None = None
    file: str = ""


@dataclass(frozen=True)
class Findings:
    """All that was found.

    Attributes:
      orphans: files that nothing refers to; None where they were not looked for, since somebody may be writing.
      runs, files: how many were looked at.
    """

    damages: tuple[Damage, ...] = ()
    orphans: tuple[Path, ...] | None = ()
    runs: int = 0
    files: int = 0

    def to_data(self) -> dict[str, Any]:
        """The findings as JSON data."""
        orphans = None if self.orphans is None else [str(path) for path in self.orphans]
        damages = [asdict(damage) for damage in self.damages]
        return {
            "sound": not damages, "damages": damages, "orphans": orphans, "runs": self.runs, "files": self.files,
        }  # fmt: skip


@dataclass
class Look:
    """A look that is going on: what it has found, and each file that it has looked at, once."""

    damages: list[Damage] = field(default_factory=list)
    looked: dict[Path, str] = field(default_factory=dict)

    def sound(self, path: Path, check: Callable[[], None]) -> str:
        """What is wrong with a file, of which `check` raises it; "" if nothing is."""
        if path not in self.looked:
            try:
                check()
                self.looked[path] = ""
            except NotFound:
                self.looked[path] = "is missing"
            except (StorageError, TensorFileError) as error:
                self.looked[path] = f"is damaged: {error.what}"
        return self.looked[path]

    def blob(self, blobs: BlobFolder, digest: str, called: str, damage: Callable[[str, str], Damage]) -> bool:
        """Whether a blob is sound, by its digest. If not, that is damage, which is told what is wrong, and the path."""
        try:
            path = blobs.path(digest)
        except NotFound as error:
            self.damages.append(damage(f"{called} has no name that a file could have: {error.what}", ""))
            return False
        wrong = self.sound(path, lambda: blobs.check(digest))
        if wrong:
            self.damages.append(damage(f"{called} {wrong}", str(path)))
            return False
        self._list(blobs, digest)
        return True

    def _list(self, blobs: BlobFolder, digest: str) -> None:
        path = blobs.files(digest)[1]
        if path in self.looked or not path.exists():
            return
        try:
            is_right = parts.digest_of(blobs.size(digest), blobs.parts(digest)) == digest
        except ValueError:
            is_right = False
        self.looked[path] = "" if is_right else "is damaged"
        if not is_right:
            means = "nodes refuse what they fetch of that blob; the blob itself is sound."
            what = f"the list of the parts of the blob {digest[:12]}… is damaged."
            self.damages.append(Damage(what, means, f"delete {path}; it is made again", file=str(path)))

    def attempt(self, damage: Callable[[str], Damage], step: Callable[[], _T]) -> _T | None:
        """What `step` returns; None if it raises one of our errors, which is damage then."""
        try:
            return step()
        except LyciaError as error:
            self.damages.append(damage(error.what))
            return None


def files_in(folder: Path) -> Iterator[Path]:
    """All files in a folder and below, in order; none if there is no such folder."""
    with in_words(folder):
        yield from sorted(path for path in folder.rglob("*") if path.is_file())


def remove(orphans: tuple[Path, ...]) -> int:
    """Delete files that nothing refers to; returns how many bytes that freed."""
    freed = 0
    for path in orphans:
        with in_words(path):
            freed += path.stat().st_size
            path.unlink(missing_ok=True)
    return freed
