"""Which nodes are there: those that poll or work, and for a little while those that did."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lycia.deployment.identity import Role


@dataclass(frozen=True)
class PresentRoster:
    """The nodes that are there, in name order."""

    names: Sequence[str]
    evaluators: Sequence[str]
    examples: Sequence[float | None]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> str:
        return self.names[index]

    def sizes(self) -> np.ndarray | None:
        """(nodes,) training examples of each, if all of them say."""
        known = [count for count in self.examples if count is not None]
        return np.array(known, dtype=np.float64) if len(known) == len(self.names) else None


@dataclass
class _Seen:
    role: Role
    examples: float | None
    at_s: float
    polls: int = 0
    bytes_up: int = 0
    bytes_down: int = 0


class Presence:
    """Who was seen when. Time is the loop's own; nothing here is kept over a restart, since nodes call again."""

    def __init__(self, silence_s: float, now_s: Callable[[], float]) -> None:
        self.silence_s, self._now_s = silence_s, now_s
        self._seen: dict[str, _Seen] = {}
        self._up = self._down = 0
        self._began_s = now_s()
        self._changed = asyncio.Condition()

    async def saw(self, name: str, role: Role, examples: float | None = None) -> None:
        """A sign of life."""
        known = self._seen.get(name)
        if known is None:
            self._seen[name] = _Seen(role, examples, self._now_s())
        else:
            known.at_s = self._now_s()
            known.examples = examples if examples is not None else known.examples
        async with self._changed:
            self._changed.notify_all()

    def polling(self, name: str, by: int) -> None:
        """A poll of this node is open (+1) or ends (-1); while one is open the node is there."""
        if name in self._seen:
            self._seen[name].polls += by
            self._seen[name].at_s = self._now_s()

    def heard(self, name: str, size: int) -> None:
        """So many bytes of a body came from this node: a sign of life, too."""
        self._up += size
        if name in self._seen:
            self._seen[name].at_s = self._now_s()
            self._seen[name].bytes_up += size

    def moved(self, name: str, *, up: int = 0, down: int = 0) -> None:
        """So many bytes of bodies went up from this node, or down to it."""
        self._up, self._down = self._up + up, self._down + down
        if name in self._seen:
            self._seen[name].bytes_up += up
            self._seen[name].bytes_down += down

    def seen(self, name: str) -> tuple[float | None, int, int]:
        """When the node was last heard of, and bytes up and down, since the coordinator started."""
        seen = self._seen.get(name)
        return (seen.at_s, seen.bytes_up, seen.bytes_down) if seen else (None, 0, 0)

    def traffic(self) -> tuple[int, int]:
        """Bytes of bodies up and down, of all nodes, since the coordinator started."""
        return self._up, self._down

    def now_s(self) -> float:
        """Now, on the coordinator's own clock."""
        return self._now_s()

    def forget(self, name: str) -> None:
        """The node is not to be asked any more."""
        self._seen.pop(name, None)

    def is_there(self, name: str) -> bool:
        """Whether the node polls, or was heard of a moment ago."""
        seen = self._seen.get(name)
        return seen is not None and (seen.polls > 0 or self._now_s() - seen.at_s < self.silence_s)

    def is_lost(self, name: str) -> bool:
        """Whether nothing was heard of the node for too long; after a start, nodes have that long to call again."""
        return not self.is_there(name) and self._now_s() - self._began_s >= self.silence_s

    def roster(self) -> PresentRoster:
        """Everyone who is there now."""
        there = sorted(name for name in self._seen if self.is_there(name))
        nodes = [name for name in there if self._seen[name].role == "node"]
        evaluators = [name for name in there if self._seen[name].role == "evaluator"]
        return PresentRoster(nodes, evaluators, [self._seen[name].examples for name in nodes])

    async def wait_roster(self, at_least: int) -> PresentRoster:
        """Everyone who is there, once there are at least so many nodes."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.roster()) >= at_least)
        return self.roster()
