"""Bugs, as somebody might write them: each a context inside which the product has it."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from lycia.core import hearing
from lycia.core.events import Event
from lycia.core.messages import Ask
from lycia.deployment.node.agent import Agent
from lycia.storage.node_state import NodeState
from lycia.storage.run_store import RunStore


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
def an_update_is_let_go_of_before_it_is_acknowledged() -> Iterator[None]:
    """The agent removes an update as soon as its bytes are sent."""
    deliver = Agent.deliver

    def hasty(self: Agent, message: Any, said: Any) -> str:
        upload = self._client.upload_update

        def once(run: str, task: int, path: Path) -> str:
            content = path.read_bytes()
            path.unlink()
            sent = path.with_name("sent")
            sent.write_bytes(content)
            try:
                return upload(run, task, sent)
            finally:
                sent.unlink(missing_ok=True)

        with mock.patch.object(self._client, "upload_update", once):
            return deliver(self, message, said)

    with mock.patch.object(Agent, "deliver", hasty):
        yield


@contextmanager
def work_goes_on_from_what_it_left_behind() -> Iterator[None]:
    """A task that is done again begins with the memory that it ended with the first time."""

    def base(self: NodeState, _: Ask) -> Any:
        return self.now

    with mock.patch.object(NodeState, "base", base):
        yield


@contextmanager
def a_blob_is_not_synced() -> Iterator[None]:
    """An update is acknowledged that a power cut would take."""
    from lycia.storage import blobs

    create = blobs.BlobFolder.__init__

    def careless(self: Any, root: Path, *, fsync: bool = True, read_only: bool = False) -> None:
        create(self, root, fsync=False, read_only=read_only)

    with mock.patch.object(blobs.BlobFolder, "__init__", careless):
        yield
