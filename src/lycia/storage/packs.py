"""A backup as it lies on a disk: a folder, or one tar file, of files that a manifest lists with their digests.

It is made under another name and gets its own when it is whole, manifest and all: what a killed process leaves behind
is called FILE.part, and is no backup.
"""

import hashlib
import json
import mmap
import os
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lycia.errors import NotFound, StorageError
from lycia.storage.disk import AS_BYTES, in_words, make_folder, sync_file, sync_folder

MANIFEST = "manifest.json"
FORMAT = 1
_PIECE_BYTES = 1 << 20


class Packing:
    """A backup that is being made; leaving the `with` block without `finish` removes what there is of it."""

    def __init__(self, target: Path) -> None:
        """Begin a backup: one tar file if `target` ends so, else a folder. What a killed one left there is removed.

        Raises: StorageError, if there is something at `target`, or if the disk cannot be used.
        """
        self.target, self.work = target, target.with_name(f"{target.name}.part")
        self._is_tar = target.suffix == ".tar"
        self._files: dict[str, dict[str, Any]] = {}
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise StorageError(
                f"{target} is there already.",
                why="a backup never replaces anything: it might be the only one.",
                do="give another name, such as one with today's date.",
            )
        with in_words(self.work):
            shutil.rmtree(self.work, ignore_errors=True)
            make_folder(self.work.parent, fsync=True)
            self.work.mkdir(mode=0o700)
            self._tar = tarfile.open(self.work / "tar", "w") if self._is_tar else None  # noqa: SIM115  # until `finish`

    def add(self, name: str, content: memoryview) -> None:
        """Put a file in.

        Raises: StorageError, if the disk is full or fails.
        """
        found = hashlib.sha256()
        for start in range(0, content.nbytes, _PIECE_BYTES):
            found.update(content[start : start + _PIECE_BYTES])
        self._files[name] = {"bytes": content.nbytes, "sha256": found.hexdigest()}
        self._write(name, content)

    def finish(self, about: Mapping[str, Any]) -> None:
        """Write the manifest, and give the backup its name, durably.

        Raises: StorageError, if the disk is full or fails.
        """
        manifest = {"format": FORMAT, **about, "files": self._files}
        self._write(MANIFEST, memoryview(json.dumps(manifest, indent=1).encode()))
        with in_words(self.target):
            if self._tar is not None:
                self._tar.close()
                (self.work / "tar").chmod(0o600)
                sync_file(self.work / "tar")
                (self.work / "tar").replace(self.target)
            else:
                for folder in sorted(path for path in self.work.rglob("*") if path.is_dir()):
                    sync_folder(folder)
                sync_folder(self.work)
                self.work.replace(self.target)
            sync_folder(self.target.parent)

    def _write(self, name: str, content: memoryview) -> None:
        path = self.work / name
        with in_words(path):
            if self._tar is not None:
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = content.nbytes, 0o600
                self._tar.addfile(entry, _Reader(content))  # type: ignore[arg-type]  # all that it calls is `read`
                return
            make_folder(path.parent, fsync=False)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | AS_BYTES, 0o600), "wb") as file:
                for start in range(0, content.nbytes, _PIECE_BYTES):
                    file.write(content[start : start + _PIECE_BYTES])
                file.flush()
                os.fsync(file.fileno())

    def __enter__(self) -> "Packing":
        return self

    def __exit__(self, *_: object) -> None:
        if self._tar is not None:
            self._tar.close()
        shutil.rmtree(self.work, ignore_errors=True)


@dataclass
class _Reader:
    content: memoryview
    at: int = 0

    def read(self, size: int) -> bytes:
        piece = bytes(self.content[self.at : self.at + size])
        self.at += len(piece)
        return piece


@dataclass(frozen=True)
class Pack:
    """A whole backup.

    Attributes:
      about: its manifest, but for the files.
      files: name → its bytes, mapped and not read.
    """

    path: Path
    about: Mapping[str, Any]
    files: Mapping[str, memoryview]


def open_pack(path: Path) -> Pack:
    """The backup at `path`, with every file of it checked against its digest.

    Raises:
      NotFound: if there is nothing.
      StorageError: if it is no backup, not whole, of a newer version, or damaged; the damaged file is named.
    """
    if not path.exists():
        raise NotFound(f"there is no backup {path}.", why="nothing is there.", do="check the path.")
    with in_words(path):
        found = _in_folder(path) if path.is_dir() else _in_tar(path)
    if MANIFEST not in found:
        raise StorageError(
            f"{path} is not a whole backup: it has no {MANIFEST}.",
            why="the manifest is written last, so a backup without one was not finished, or is none.",
            do="use another backup; `lycia backup` gives a whole one its name.",
        )
    try:
        about = json.loads(bytes(found[MANIFEST]))
        listed = {str(name): (int(said["bytes"]), str(said["sha256"])) for name, said in about.pop("files").items()}
        number = int(about["format"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(path, MANIFEST, "it cannot be read") from None
    if number > FORMAT:
        raise StorageError(
            f"the backup {path} has format {number}, and this version reads formats up to {FORMAT}.",
            why="it was made by a newer version.",
            do="restore it with the version that made it, or a newer one.",
        )
    for name, (size, digest) in listed.items():
        if name not in found:
            raise _damaged(path, name, "it is missing")
        if found[name].nbytes != size:
            raise _damaged(path, name, f"it has {found[name].nbytes} bytes, and {size} were written")
        if hashlib.sha256(found[name]).hexdigest() != digest:
            raise _damaged(path, name, "its bytes have changed")
    return Pack(path, about, {name: found[name] for name in listed})


def _in_folder(path: Path) -> dict[str, memoryview]:
    return {file.relative_to(path).as_posix(): _mapped(file) for file in path.rglob("*") if file.is_file()}


def _in_tar(path: Path) -> dict[str, memoryview]:
    try:
        with tarfile.open(path, "r:") as tar:
            places = {entry.name: (entry.offset_data, entry.size) for entry in tar if entry.isfile()}
    except tarfile.TarError as error:
        raise StorageError(
            f"{path} is not a whole backup: {error}.",
            why="a backup is a folder or a tar file that `lycia backup` made; this one was cut off, or is none.",
            do="use another backup.",
        ) from None
    whole = _mapped(path)
    return {name: whole[start : start + size] for name, (start, size) in places.items()}


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        is_empty = os.fstat(file.fileno()).st_size == 0
        return memoryview(b"" if is_empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _damaged(path: Path, name: str, how: str) -> StorageError:
    return StorageError(
        f"the backup {path} is damaged: {name}: {how}.",
        why="the disk, or something else, has changed it since it was made; nothing was restored from it.",
        do=f"get a sound copy of {name}, or use another backup.",
    )
