"""What a node remembers from round to round, kept so that work done again begins where it began before.

A run may be rolled back. For that a deployed node keeps, beside its state, those of the last rounds that it took part
in, each in the file that it was kept in anyway. What goes back further than these begins with the oldest of them: then
the model is that of the old round, and what this node remembers is a little younger.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lycia.core import tensorfile
from lycia.core.messages import Ask
from lycia.core.tensorfile import Tensor
from lycia.storage.disk import in_words, replace_file

Memory = Mapping[str, np.ndarray]
_PLACE = "lycia.place"
_STEPS = ("start", "before", "now")

EARLIER = 4
"""How many earlier rounds' states a deployed node keeps, of those that it took part in."""


@dataclass(frozen=True)
class NodeState:
    """A node's memory in one run, with what it was before the work in hand.

    A task that is asked again begins with the memory that it began with the first time; another attempt at a round
    with the memory of the round's beginning; and what came of an update that was not taken is undone.

    Attributes:
      round, attempt, task: the latest work.
      start: the memory when that round began; before: when that task began; now: after it.
      follows: the latest task of the round before, whose state is the one that is kept still; -1 if there is none.
    """

    round: int = -1
    attempt: int = 0
    task: int = -1
    start: Memory = field(default_factory=dict)
    before: Memory = field(default_factory=dict)
    now: Memory = field(default_factory=dict)
    follows: int = -1

    def base(self, ask: Ask) -> Memory:
        """The memory that work on `ask` begins with."""
        return self._turned_to(ask).now

    def worked(self, ask: Ask, memory: Memory) -> "NodeState":
        """The state after work on `ask` that ended with `memory`."""
        return replace(self._turned_to(ask), now=memory)

    def refused(self, task: int) -> "NodeState":
        """The state after the work on `task` turned out not to count."""
        return replace(self, now=self.before) if task == self.task else self

    @classmethod
    def at(cls, path: Path, undone: Sequence[tuple[int, int]] = ()) -> "NodeState":
        """What is kept at `path`; a node that remembers nothing, if there is no such file.

        Args: undone: as an `Ask` says it. What the node did then is forgotten: it remembers what it did before.
        """
        state = _read(path)
        if not state._is_undone(undone):
            return state
        start = state.start
        for file in reversed(_earlier(path)):
            earlier = _read(file)
            if not earlier._is_undone(undone):
                break
            start = earlier.start
        return cls(start=start, before=start, now=start)

    def keep(self, path: Path, *, earlier: int = 0) -> None:
        """Keep it: the whole new state or the whole old one, whenever the process ends.

        Args: earlier: of how many rounds before this one the states are kept too.
        Raises: StorageError, if the disk is full or fails.
        """
        memories = zip(_STEPS, (self.start, self.before, self.now), strict=True)
        tensors = {f"{step}/{name}": Tensor.of(array) for step, memory in memories for name, array in memory.items()}
        place = json.dumps((self.round, self.attempt, self.task))
        if earlier and self.follows >= 0 and path.exists():
            with in_words(path):
                _keep_too(path, path.with_name(f"{path.name}.{self.follows:012d}"))
        replace_file(path, tensorfile.write(tensors, {_PLACE: place}), fsync=False)
        if earlier:
            for old in _earlier(path)[:-earlier]:
                old.unlink(missing_ok=True)

    def _is_undone(self, undone: Sequence[tuple[int, int]]) -> bool:
        return any(self.round >= number and self.task < task for number, task in undone)

    def _turned_to(self, ask: Ask) -> "NodeState":
        place = (ask.round, ask.attempt, ask.task)
        if ask.round != self.round:
            return NodeState(*place, self.now, self.now, self.now, self.task)
        if ask.attempt != self.attempt or ask.task < self.task:  # the round is held again from its beginning
            return NodeState(*place, self.start, self.start, self.start, self.follows)
        if ask.task != self.task:
            return NodeState(*place, self.start, self.now, self.now, self.follows)
        return replace(self, now=self.before)


def _under(step: str, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(f"{step}/"): tensor.array() for name, tensor in tensors.items() if name.startswith(f"{step}/")
    }


def _read(path: Path) -> NodeState:
    if not path.exists():
        return NodeState()
    tensors, metadata = tensorfile.read(path.read_bytes())
    number, attempt, task = json.loads(metadata[_PLACE])
    start, before, now = (_under(step, tensors) for step in _STEPS)
    return NodeState(number, attempt, task, start, before, now)


def _earlier(path: Path) -> list[Path]:
    """The states of earlier rounds, the oldest first: tasks are numbered in the order in which they are asked."""
    return sorted(file for file in path.parent.glob(f"{path.name}.*") if file.name.rpartition(".")[2].isdecimal())


def _keep_too(path: Path, name: Path) -> None:
    with suppress(FileExistsError):
        try:
            os.link(path, name)  # it costs nothing: what is at `path` is replaced, not written to
        except (OSError, NotImplementedError) as error:
            if isinstance(error, FileExistsError):
                raise
            shutil.copyfile(path, name)
