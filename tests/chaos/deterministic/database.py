"""The coordinator's database in memory: the real tables and statements, simulated commits, and what a crash leaves."""

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import StaticPool

from lycia.storage.disk import seen_through
from lycia.storage.tables import METADATA
from tests.chaos.deterministic.world import Loop, World

_T = TypeVar("_T")


@cache
def _connection() -> tuple[Connection, sqlite3.Connection]:
    """One for all worlds of this test process: to prepare its statements costs more than a whole world."""
    raw = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    engine = create_engine("sqlite://", poolclass=StaticPool, creator=lambda: raw)
    return engine.connect(), raw


def fresh_image(fill: Callable[[Connection], None]) -> bytes:
    """The bytes of a database with all tables, and what `fill` puts in."""
    connection, raw = _connection()
    METADATA.drop_all(connection)
    METADATA.create_all(connection)
    fill(connection)
    if connection.in_transaction():
        connection.commit()
    return raw.serialize()


@dataclass(frozen=True)
class _Change:
    apply: Callable[[Connection], Any]
    loop: Loop
    outcome: "asyncio.Future[Any]"


class Disk:
    """What is committed. It outlives the coordinators that write to it."""

    def __init__(self, world: World, image: bytes) -> None:
        self.world, self.commits = world, 0
        self.connection, self.raw = _connection()
        self.raw.deserialize(image)
        self.raw.execute("PRAGMA foreign_keys=ON")
        self.committed: list[Callable[[], None]] = []

    def rows(self, question: str, *values: Any) -> list[tuple[Any, ...]]:
        """What is committed now."""
        return self.raw.execute(question, values).fetchall()


class SimulatedDatabase:
    """The face of `Database`, for one coordinator.

    Changes gather while a commit is under way, and go in together, in one moment. A coordinator that dies before that
    moment has written nothing; one that dies after it may not have been told.
    """

    url = "simulated"

    def __init__(self, disk: Disk, loop: Loop) -> None:
        self._disk, self._loop, self._world = disk, loop, disk.world
        self._waiting: list[_Change] = []
        self._is_committing = False

    async def write(self, change: Callable[[Connection], _T]) -> _T:
        """What `change` returns, once it is committed."""
        outcome = self._loop.create_future()
        self._waiting.append(_Change(change, self._loop, outcome))
        self._world.moment("before a commit")
        if not self._is_committing:
            self._is_committing = True
            self._loop.call_later(self._latency_s(), self._commit)
        return await seen_through(outcome)

    async def read(self, question: Callable[[Connection], _T]) -> _T:
        """What `question` returns."""
        return await self._loop.run_in_executor(None, question, self._disk.connection)

    def close(self) -> None:
        """Nothing is to be let go of."""

    def _latency_s(self) -> float:
        return self._world.random.expovariate(500)

    def _commit(self) -> None:
        changes, self._waiting = self._waiting, []
        raw = self._disk.raw
        raw.execute("BEGIN IMMEDIATE")
        ended = [self._apply(change) for change in changes]
        raw.execute("COMMIT")
        self._disk.commits += 1
        for look in self._disk.committed:
            look()
        self._world.moment("after a commit")
        self._loop.call_later(self._latency_s(), self._tell, changes, ended)

    def _apply(self, change: _Change) -> tuple[Any, Exception | None]:
        raw = self._disk.raw
        raw.execute("SAVEPOINT change")
        try:
            ended = change.apply(self._disk.connection), None
        except Exception as error:  # noqa: BLE001  # one change's failure is not its neighbours'
            raw.execute("ROLLBACK TO SAVEPOINT change")
            ended = None, error
        raw.execute("RELEASE SAVEPOINT change")
        return ended

    def _tell(self, changes: list[_Change], ended: list[tuple[Any, Exception | None]]) -> None:
        for change, (value, error) in zip(changes, ended, strict=True):
            change.outcome.set_exception(error) if error else change.outcome.set_result(value)
        if self._waiting:
            self._loop.call_later(self._latency_s(), self._commit)
        else:
            self._is_committing = False
