"""The disk under simulated processes: they may die at each call that changes it, and the power may go with them."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.chaos.deterministic.world import World, current_process

_CALLS = ("replace", "unlink", "mkdir", "ftruncate")


class Durable:
    """What of a disk would be there after a power cut: bytes that were synced, under names that were.

    Attributes:
      renamed: are told of each file that has just got its name.
    """

    def __init__(self) -> None:
        self.renamed: list[Callable[[Path], None]] = []
        self._files: set[int] = set()
        self._names: dict[int, set[str]] = {}
        self._places: dict[int, list[tuple[int, int]]] = {}

    def synced(self, descriptor: int) -> None:
        """A file, or a folder's list of names, is durable as it is now."""
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            self._names[found.st_ino] = set(os.listdir(descriptor))
        else:
            self._files.add(found.st_ino)
            self._places.pop(found.st_ino, None)

    def written(self, descriptor: int, start: int, stop: int) -> None:
        """These bytes of a file that has its size already are not durable yet."""
        self._places.setdefault(os.fstat(descriptor).st_ino, []).append((start, stop))

    def all_under(self, root: Path) -> None:
        """Whatever is there now is durable."""
        for path in (root, *root.rglob("*")):
            if path.is_dir():
                self._names[path.stat().st_ino] = {entry.name for entry in path.iterdir()}
            else:
                self._files.add(path.stat().st_ino)

    def cut_power(self, root: Path, world: World) -> None:
        """Lose, or tear, what was not synced under `root`; each such name and file by its own coin."""
        for folder in sorted(path for path in (root, *root.rglob("*")) if path.is_dir()):
            known = self._names.get(folder.stat().st_ino, set())
            for path in sorted(path for path in folder.iterdir() if path.is_file()):
                if path.name not in known and world.random.random() < 0.5:
                    path.unlink()
                elif path.stat().st_ino not in self._files and world.random.random() < 0.5:
                    os.truncate(path, world.random.randrange(path.stat().st_size + 1))
                else:
                    self._lose_places(path, world)

    def _lose_places(self, path: Path, world: World) -> None:
        for start, stop in self._places.pop(path.stat().st_ino, ()):
            if world.random.random() < 0.5:
                with path.open("r+b") as file:
                    file.seek(start)
                    file.write(bytes(stop - start))


@contextmanager
def killing_disk(world: World, durable: Durable) -> Iterator[None]:
    """Inside, simulated processes may die at each call that changes the disk; a write may then be cut off."""
    real = {name: getattr(os, name) for name in (*_CALLS, "fsync", "write", "pwrite")}

    def guarded(name: str) -> Callable[..., Any]:
        call = real[name]

        def change(*args: Any, **more: Any) -> Any:
            if current_process() is None or world.is_over:
                return call(*args, **more)
            world.moment(f"before {name}")
            done = call(*args, **more)
            if name == "replace":
                for look in durable.renamed:
                    look(Path(args[1]))
            world.moment(f"after {name}")
            return done

        return change

    def fsync(descriptor: int) -> None:
        if current_process() is None:
            real["fsync"](descriptor)
            return
        world.moment("before fsync")
        durable.synced(descriptor)
        world.moment("after fsync")

    def write(descriptor: int, data: Any) -> int:
        process = current_process()
        if process is not None and process.fuse == 0 and not world.is_over:
            real["write"](descriptor, memoryview(data)[: len(data) // 2])
        world.moment("in the middle of a write")
        return int(real["write"](descriptor, data))

    def pwrite(descriptor: int, data: Any, start: int) -> int:
        process = current_process()
        if process is not None and process.fuse == 0 and not world.is_over:
            real["pwrite"](descriptor, memoryview(data)[: len(data) // 2], start)
        world.moment("in the middle of a write")
        done = int(real["pwrite"](descriptor, data, start))
        if process is not None:
            durable.written(descriptor, start, start + done)
        return done

    for name in _CALLS:
        setattr(os, name, guarded(name))
    os.fsync, os.write, os.pwrite = fsync, write, pwrite
    try:
        yield
    finally:
        for name, call in real.items():
            setattr(os, name, call)
