"""Bugs, as somebody might write them: each a context inside which the product has it."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

from lycia.core import hearing
from lycia.core.events import Event
from lycia.core.messages import Ask
from lycia.deployment.coordinator.transfers import Transfers
from lycia.deployment.node.agent import Agent
from lycia.storage.node_journal import NodeJournal
from lycia.storage.node_state import NodeState
from lycia.storage.run_store import RunStore
from lycia.storage.spool import ArrivingPart, Spool


@contextmanager
def acknowledged_before_the_write() -> Iterator[None]:
    """The loop goes on, and acknowledges, while its journal is still on its way to the disk."""
    append = RunStore.append
    under_way: set[asyncio.Task[None]] = set()

    async def hasty(self: RunStore, events: Sequence[Event]) -> None:
        task = asyncio.ensure_future(append(self, events))
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    with mock.patch.object(RunStore, "append", hasty):
        yield


@contextmanager
def a_reply_counts_as_often_as_it_comes() -> Iterator[None]:
    """The loop does not know whom it has heard."""
    hear = hearing.hear

    def forgetful(run: Any, carried: Any, current: Any, reply: Any, at_s: float) -> list[Event]:
        return hear(run, carried, replace(current, heard={}), reply, at_s)

    with mock.patch.object(hearing, "hear", forgetful):
        yield


@contextmanager
def an_answer_is_forgotten_with_its_round() -> Iterator[None]:
    """Whoever sends again what was taken, because it did not learn of it, is refused once the round is over."""
    heard_of = hearing._heard_of

    def forgetful(carried: Any, current: Any, task: int) -> set[str]:
        return heard_of(replace(carried, answered={}), current, task)

    with mock.patch.object(hearing, "_heard_of", forgetful):
        yield


@contextmanager
def a_part_is_acknowledged_before_it_is_noted() -> Iterator[None]:
    """The coordinator answers for a part while its note of it is still on its way to the disk."""
    create = Transfers.__init__

    def hasty(self: Transfers, database: Any, *args: Any, **more: Any) -> None:
        create(self, _Hasty(database), *args, **more)

    with mock.patch.object(Transfers, "__init__", hasty):
        yield


@dataclass
class _Hasty:
    database: Any
    under_way: set[asyncio.Task[None]] = field(default_factory=set)

    async def write(self, change: Any) -> Any:
        if "note_part" not in change.__code__.co_names:
            return await self.database.write(change)
        task = asyncio.ensure_future(self.database.write(change))
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)
        return None

    async def read(self, question: Any) -> Any:
        return await self.database.read(question)


@contextmanager
def a_part_is_acknowledged_before_it_is_synced() -> Iterator[None]:
    """The coordinator notes and answers for a part that a power cut would take."""
    with mock.patch.object(ArrivingPart, "sync"):
        yield


@contextmanager
def an_update_is_let_go_of_before_it_is_acknowledged() -> Iterator[None]:
    """The agent strikes out in its journal what it is about to send."""
    deliver = Agent.deliver

    def hasty(self: Agent, message: Any, said: Any) -> str:
        self._journal.delivered(message.run, message.task)
        return deliver(self, message, said)

    with mock.patch.object(Agent, "deliver", hasty):
        yield


@contextmanager
def the_agent_forgets_its_journal() -> Iterator[None]:
    """After a restart, the agent does not look for what it had finished."""
    with (
        mock.patch.object(NodeJournal, "undelivered", return_value=()),
        mock.patch.object(NodeJournal, "find", return_value=None),
    ):
        yield


@contextmanager
def work_goes_on_from_what_it_left_behind() -> Iterator[None]:
    """A task that is done again begins with the memory that it ended with the first time."""

    def base(self: NodeState, _: Ask) -> Any:
        return self.now

    with mock.patch.object(NodeState, "base", base):
        yield


@contextmanager
def the_spool_is_not_synced() -> Iterator[None]:
    """A small update is acknowledged that a power cut would take."""
    create = Spool.__init__

    def careless(self: Spool, root: Path, *, fsync: bool = True) -> None:
        create(self, root, fsync=False)

    with mock.patch.object(Spool, "__init__", careless):
        yield


BUGS = [
    (acknowledged_before_the_write, "fixed", 5),
    (acknowledged_before_the_write, "default", 5),
    (a_reply_counts_as_often_as_it_comes, "fixed", 20),
    (an_answer_is_forgotten_with_its_round, "fixed", 60),
    (a_part_is_acknowledged_before_it_is_noted, "fixed", 10),
    (a_part_is_acknowledged_before_it_is_synced, "fixed", 100),
    (an_update_is_let_go_of_before_it_is_acknowledged, "fixed", 60),
    (the_agent_forgets_its_journal, "fixed", 60),
    (work_goes_on_from_what_it_left_behind, "fixed", 60),
    (the_spool_is_not_synced, "fixed", 100),
]
"""(bug, kind of seeds, how many of them must find it)."""
