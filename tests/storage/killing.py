"""A process that is killed, played within one: from a certain file operation on, nothing reaches the disk any more."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

OPERATIONS = tuple(
    name
    for name in ("write", "pwrite", "fsync", "replace", "unlink", "ftruncate", "posix_fallocate", "mkdir")
    if hasattr(os, name)  # some systems lack the second and the one before the last
)


class Killed(BaseException):
    """Not an error that anybody could catch and mend."""


class Killer:
    """Lets some file operations through and stops at the next; of a write that it stops, half is done.

    Attributes:
      done: the operations that went through, in order.
    """

    def __init__(self, last: int | None) -> None:
        self._last, self._reached = last, 0
        self.done: list[str] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While it lasts, every file operation goes through here. Nothing waits for the disk: nobody pulls its plug."""
        with mock.patch.multiple(os, **{name: self._guard(name) for name in OPERATIONS}):
            yield

    def _guard(self, name: str) -> Any:
        real = getattr(os, name)

        def guarded(*args: Any, **more: Any) -> Any:
            if self._last is not None and self._reached >= self._last:
                if name in ("write", "pwrite") and self._reached == self._last:
                    real(args[0], bytes(args[1])[: len(args[1]) // 2], *args[2:])
                self._reached += 1
                raise Killed(f"at operation {self._last}, a {name}")
            self._reached += 1
            self.done.append(name)
            return None if name == "fsync" else real(*args, **more)

        return guarded
