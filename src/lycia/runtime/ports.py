"""What the loop needs from the world. Simulation and deployment each bring their own."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lycia.core.events import Event
from lycia.core.messages import Ask, Reply, Summed, Updates
from lycia.core.needs import Needs
from lycia.core.parts import Roster
from lycia.core.round import Carried, Run
from lycia.runtime.facts import Fact

Entropy = Callable[[int, int], bytes]
"""(round, attempt) → 32 bytes for that round and attempt: the system's in deployment, the plan's seed in simulation."""


class Clock(Protocol):
    """The run's clock: real in deployment, virtual in simulation."""

    def now_s(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        ...


class Fleet(Protocol):
    """How the loop reaches the nodes of one run."""

    async def roster(self, at_least: int) -> Roster:
        """Who can be asked now; waits until there are `at_least` nodes.

        Raises: SelectionError, if there never will be.
        """
        ...

    async def check_space(self, needs: Needs) -> None:
        """Do nothing if there is room for the round that is about to be opened.

        Raises: StorageError, which says how much is needed and how much is free; the run can go on once there is room.
        """
        ...

    async def send(self, ask: Ask) -> None:
        """Put `ask` where its nodes find it. Sending it again changes nothing."""
        ...

    async def receive(self, until_s: float) -> Reply | None:
        """The next reply; None when the run's clock has reached `until_s`."""
        ...

    async def secure(self, reply: Reply, events: Sequence[Event]) -> Sequence[Event]:
        """Make durable what `events` say of a reply, before they are written; returns them with where that is kept.

        Several updates may be kept as one sum: they have one handle then.
        """
        ...

    async def acknowledge(self, reply: Reply, refusals: Mapping[str, str]) -> None:
        """The reply has been written down; `refusals` says of which nodes it was not taken, and why.

        A reply that was received and not acknowledged comes again after a restart. What a node remembers of work that
        was refused does not count: it goes on from what it remembered before.
        """
        ...

    async def withdraw(self, tasks: Iterable[int]) -> None:
        """Nobody needs to answer these tasks any more."""
        ...

    def kept(self, handle: str) -> Updates | Summed:
        """The update, or the sum, that is kept under `handle`."""
        ...

    def forget(self, handles: Iterable[str]) -> None:
        """The updates under these handles are part of a model now, or of a round that missed its quorum."""
        ...

    def traffic(self) -> tuple[int, int]:
        """Bytes up (from the nodes) and down (to them) in this run so far."""
        ...


@dataclass(frozen=True)
class Resumed:
    """Where a run stands: what was carried into the open round (or out of its close), and the open round's journal."""

    carried: Carried
    events: Sequence[Event] = ()


class Store(Protocol):
    """What outlives the process. Everything is durable when the call returns."""

    async def resume(self) -> Resumed | None:
        """Where the run stands; None if it has not begun."""
        ...

    async def begin(self, run: Run, carried: Carried) -> None:
        """Keep what the run starts from."""
        ...

    async def append(self, events: Sequence[Event]) -> None:
        """Write events at the end of the open round's journal."""
        ...

    async def advance(self, carried: Carried, at_s: float) -> tuple[Carried, Event]:
        """Keep the next model and write the event that says so, in one step; returns what to go on with, and the event.

        What it returns to go on with are the same numbers; they may lie where they were kept.
        """
        ...

    async def end_round(self, carried: Carried, record: Mapping[str, Any]) -> None:
        """Keep the round's record and what is carried on, and end its journal, in one step."""
        ...


class Observer(Protocol):
    """Somebody who watches. What an observer raises ends the run: it is part of the program, not of the federation."""

    def notice(self, fact: Fact) -> None: ...
