"""Where a file of a data set is: in the folder that LYCIA_DATA names, in the cache, or at its public address."""

import gzip
import os
import sys
import zlib
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from lycia.data.datasets.description import Dataset, File
from lycia.data.datasets.fetching import Progress, fetch
from lycia.errors import DataError

DATA, CACHE = "LYCIA_DATA", "LYCIA_CACHE"
_GZIP = b"\x1f\x8b"


def is_at_hand(dataset: Dataset, names: Sequence[str]) -> bool:
    """Whether all these files lie in the folder that LYCIA_DATA names, or in the cache."""
    return all(_lying(dataset, dataset.file(name)) is not None for name in names)


def content_of(dataset: Dataset, name: str, progress: Progress | None = None) -> bytes:
    """What a file holds, known to be whole; it is fetched into the cache if it is nowhere else.

    Raises: DataError, if it is damaged, or if it is not here and cannot be fetched.
    """
    file = dataset.file(name)
    path = _lying(dataset, file)
    if path is None:
        path = _cached(dataset, file)
        _fetch(dataset, file, path, progress)
    try:
        content, damage = _read(path, file)
    except OSError as error:
        content, damage = b"", f"it cannot be read: {error.strerror or error}"
    if damage:
        raise _damaged(dataset, file, path, damage)
    return content


def cache_folder() -> Path:
    """Where fetched files are kept: LYCIA_CACHE, or a folder of this user's caches, where this system has them."""
    if named := os.environ.get(CACHE):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "lycia" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "lycia"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lycia"


def _folders(dataset: Dataset) -> list[Path]:
    named = os.environ.get(DATA)
    return [*([Path(named) / dataset.folder] if named else []), cache_folder() / dataset.folder]


def _lying(dataset: Dataset, file: File) -> Path | None:
    places = [folder / name for folder in _folders(dataset) for name in (file.name, f"{file.name}.gz")]
    return next((path for path in places if path.is_file()), None)


def _cached(dataset: Dataset, file: File) -> Path:
    """Where it is kept once it is fetched: as it comes, gzipped or not."""
    zipped = not file.name.endswith(".gz") and any(address.endswith(".gz") for address in file.addresses)
    return cache_folder() / dataset.folder / f"{file.name}{'.gz' * zipped}"


def _read(path: Path, file: File) -> tuple[bytes, str]:
    """What the file holds, and what is wrong with it, or ""."""
    content = path.read_bytes()
    if content.startswith(_GZIP) and not file.name.endswith(".gz"):
        try:
            with gzip.open(path) as unzipped:
                content = unzipped.read(file.size_bytes + 1)  # no more, whatever somebody packed into it
        except (OSError, EOFError, zlib.error) as error:
            return b"", f"it is no whole gzip file ({error})"
    if len(content) != file.size_bytes:
        more = "more than " * (len(content) > file.size_bytes)
        found = min(len(content), file.size_bytes) if more else len(content)
        return b"", f"it holds {more}{found} bytes instead of {file.size_bytes}"
    try:
        digest = sha256(content if file.digested is None else file.digested(content)).hexdigest()
    except ValueError as error:
        return b"", str(error)
    return content, "" if digest == file.sha256 else f"its SHA-256 is {digest} instead of {file.sha256}"


def _fetch(dataset: Dataset, file: File, path: Path, progress: Progress | None) -> None:
    try:
        reasons = fetch(file.addresses, path, lambda part: _read(part, file)[1], progress)
    except OSError as error:
        raise DataError(
            f"{file.name} of {dataset.title} cannot be kept as {path}: {error.strerror or error}.",
            why="what is fetched is kept in a cache, so that it is fetched once.",
            do=f"make room there, or name another folder with {CACHE}.",
        ) from None
    if path.is_file():
        return
    places = " and ".join(str(folder / file.name) for folder in _folders(dataset))
    unset = "" if os.environ.get(DATA) else f", and {DATA} is not set"
    raise DataError(
        f"{file.name} of {dataset.title} is not here{' and cannot be fetched' * bool(reasons)}.",
        why=f"it was looked for as {places}{unset}; "
        + ("; ".join(reasons) if reasons else "it has no public address, and must be brought by hand")
        + ".",
        do=f"set {DATA} to a folder that holds {dataset.folder}/{file.name}, or put the file at {path}"
        + (", or run this once on a machine that is online." if reasons else "."),
    )


def _damaged(dataset: Dataset, file: File, path: Path, damage: str) -> DataError:
    cached = cache_folder() in path.parents
    return DataError(
        f"{path} is not {file.name} of {dataset.title}: {damage}.",
        why="it was cut off or changed, or is another version; figures on other data could not be compared.",
        do=f"delete {path}; it is fetched again." if cached and file.addresses else f"put the right file at {path}.",
    )
