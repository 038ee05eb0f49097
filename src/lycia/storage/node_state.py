"""What a node remembers from round to round, kept so that work done again begins where it began before."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lycia.core import tensorfile
from lycia.core.messages import Ask
from lycia.core.tensorfile import Tensor
from lycia.storage.disk import replace_file

Memory = Mapping[str, np.ndarray]
_PLACE = "lycia.place"
_STEPS = ("start", "before", "now")


@dataclass(frozen=True)
class NodeState:
    """A node's memory in one run, with what it was before the work in hand.

    A task that is asked again begins with the memory that it began with the first time; another attempt at a round
    with the memory of the round's beginning; and what came of an update that was not taken is undone.

    Attributes:
      round, attempt, task: the latest work.
      start: the memory when that round began; before: when that task began; now: after it.
    """

    round: int = -1
    attempt: int = 0
    task: int = -1
    start: Memory = field(default_factory=dict)
    before: Memory = field(default_factory=dict)
    now: Memory = field(default_factory=dict)

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
    def at(cls, path: Path) -> "NodeState":
        """What is kept at `path`; a node that remembers nothing, if there is no such file."""
        if not path.exists():
            return cls()
        tensors, metadata = tensorfile.read(path.read_bytes())
        number, attempt, task = json.loads(metadata[_PLACE])
        return cls(number, attempt, task, *(_under(step, tensors) for step in _STEPS))

    def keep(self, path: Path) -> None:
        """Keep it: the whole new state or the whole old one, whenever the process ends.

        Raises: StorageError, if the disk is full or fails.
        """
        memories = zip(_STEPS, (self.start, self.before, self.now), strict=True)
        tensors = {f"{step}/{name}": Tensor.of(array) for step, memory in memories for name, array in memory.items()}
        place = json.dumps((self.round, self.attempt, self.task))
        replace_file(path, tensorfile.write(tensors, {_PLACE: place}), fsync=False)

    def _turned_to(self, ask: Ask) -> "NodeState":
        place = (ask.round, ask.attempt, ask.task)
        if ask.round != self.round:
            return NodeState(*place, self.now, self.now, self.now)
        if ask.attempt != self.attempt or ask.task < self.task:  # the round is held again from its beginning
            return NodeState(*place, self.start, self.start, self.start)
        if ask.task != self.task:
            return NodeState(*place, self.start, self.now, self.now)
        return replace(self, now=self.before)


def _under(step: str, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(f"{step}/"): tensor.array() for name, tensor in tensors.items() if name.startswith(f"{step}/")
    }
