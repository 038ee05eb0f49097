"""The coordinator's database: many writers, one transaction at a time, and an answer only after its commit.

A commit waits for the disk, and waits as long for one change as for hundreds. So one thread writes: while it waits for
one commit, the next changes gather, and go in together. Each is a savepoint of its own, so one that fails is undone
alone. Reads have connections and threads of their own, and see whatever was committed before they began.
"""

import asyncio
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, insert, make_url, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from lycia.errors import StorageError
from lycia.storage.disk import disk_full, in_words, seen_through
from lycia.storage.tables import METADATA, SCHEMA, SETTINGS

__all__ = ["Connection", "Database", "set_setting", "setting", "sqlite_url"]

_MOST_TOGETHER = 1000  # changes in one transaction; more would make the first of them wait for no gain
_T = TypeVar("_T")


def sqlite_url(path: Path) -> str:
    """The URL of the database in a file."""
    return URL.create("sqlite", database=str(path)).render_as_string()


@dataclass(frozen=True)
class _Change:
    apply: Callable[[Connection], Any]
    loop: asyncio.AbstractEventLoop
    outcome: "asyncio.Future[Any]"


@dataclass(frozen=True)
class _Ended:
    """How a change ended: what it returned, or what it raised."""

    value: Any = None
    error: Exception | None = None


class Database:
    """A database, open for one process.

    Attributes:
      on_commit: called, in the writer's thread, with how many changes were committed, and in how many seconds.
    Guarantees: what `write` returned is on the disk; a change that raises leaves nothing behind, and no other with it.
    """

    def __init__(self, url: str, *, readers: int = 4, busy_timeout_s: float = 10.0) -> None:
        """Open the database at `url`, and make its tables if it has none.

        Args:
          readers: how many reads run at once.
          busy_timeout_s: how long to wait for another program that is writing to it.
        Raises: StorageError, if it cannot be opened, is damaged, or was made by another version.
        """
        file = _file_of(url)
        with in_words(file):  # what stands in it, such as the secrets of open rounds, is for nobody else to read
            os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        self.url = url
        self._writer = _sqlite(url, 1, busy_timeout_s, writes=True)
        self._reader = _sqlite(url, readers, busy_timeout_s, writes=False)
        self._reads = ThreadPoolExecutor(readers, thread_name_prefix="database-read")
        self._changes: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
        self._closing, self._closed = threading.Lock(), False
        self.on_commit: Callable[[int, float], None] = lambda _changes, _seconds: None
        try:
            with _worded(url), self._writer.begin() as connection:
                METADATA.create_all(connection)
                _check_schema(connection, url)
        except BaseException:
            self._dispose()
            raise
        self._thread = threading.Thread(target=self._write_all, name="database-write", daemon=True)
        self._thread.start()

    async def write(self, change: Callable[[Connection], _T]) -> _T:
        """What `change` returns, once it is committed. It runs in the writer's thread and must not wait for anything.

        A caller who is cancelled leaves only after the commit or the failure.

        Raises: what `change` raises; StorageError, if the disk is full or fails, or the database is locked or damaged.
        """
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[_T] = loop.create_future()
        with self._closing:
            self._check_open()
            self._changes.put(_Change(change, loop, outcome))
        return await seen_through(outcome)

    async def read(self, question: Callable[[Connection], _T]) -> _T:
        """What `question` returns, from one consistent view of all that is committed. It cannot change anything.

        Raises: what `question` raises; StorageError, if the database is damaged or cannot be read.
        """
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._reads, self._ask, question)

    def close(self) -> None:
        """Commit what was written, and let go of the files. Closing twice changes nothing."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._changes.put(None)
        self._thread.join()
        self._dispose()

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError(
                f"the database {self.url} is closed.",
                why="the coordinator is stopping; what it acknowledged is kept.",
                do="start it again, and repeat the call.",
            )

    def _ask(self, question: Callable[[Connection], _T]) -> _T:
        with _worded(self.url), self._reader.connect() as connection:
            return question(connection)

    def _dispose(self) -> None:
        self._reads.shutdown()
        self._reader.dispose()
        self._writer.dispose()

    def _write_all(self) -> None:
        while (first := self._changes.get()) is not None:
            changes, is_last = self._gather(first)
            _tell(changes, self._commit(changes))
            if is_last:
                return

    def _gather(self, first: _Change) -> tuple[list[_Change], bool]:
        """What waits to be written now, and whether the end is among it."""
        changes = [first]
        while len(changes) < _MOST_TOGETHER and not self._changes.empty():
            following = self._changes.get()
            if following is None:
                return changes, True
            changes.append(following)
        return changes, False

    def _commit(self, changes: list[_Change]) -> list[_Ended]:
        began_s = time.perf_counter()
        try:
            with self._writer.begin() as connection:
                ended = [_apply(connection, change) for change in changes]
        except Exception as error:  # noqa: BLE001  # the edge of this thread: whoever waits is told
            return [_Ended(error=_undone(error, self.url)) for _ in changes]
        self.on_commit(len(changes), time.perf_counter() - began_s)
        return [_Ended(one.value, one.error and _in_words(one.error, self.url)) for one in ended]


def setting(connection: Connection, key: str) -> str | None:
    """The value that was set under `key`; None if there is none."""
    value: str | None = connection.scalar(select(SETTINGS.c.value).where(SETTINGS.c.key == key))
    return value


def set_setting(connection: Connection, key: str, value: str) -> None:
    """Set the value under `key`."""
    changed = connection.execute(update(SETTINGS).where(SETTINGS.c.key == key).values(value=value))
    if not changed.rowcount:
        connection.execute(insert(SETTINGS).values(key=key, value=value))


def _apply(connection: Connection, change: _Change) -> _Ended:
    connection.exec_driver_sql("SAVEPOINT change")
    try:
        ended = _Ended(value=change.apply(connection))
    except Exception as error:  # noqa: BLE001  # one change's failure is not its neighbours'
        try:
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT change")
        except SQLAlchemyError:  # the database itself gave up the transaction, as it does when the disk is full
            raise error from None
        ended = _Ended(error=error)
    connection.exec_driver_sql("RELEASE SAVEPOINT change")
    return ended


def _tell(changes: list[_Change], ended: list[_Ended]) -> None:
    waiting: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], _Ended]]] = {}
    for change, one in zip(changes, ended, strict=True):
        waiting.setdefault(change.loop, []).append((change.outcome, one))
    for loop, outcomes in waiting.items():  # waking a loop is dear, so it is done once for all that wait there
        with suppress(RuntimeError):  # the loop is closed: nobody waits there any more
            loop.call_soon_threadsafe(_resolve, outcomes)


def _resolve(outcomes: "list[tuple[asyncio.Future[Any], _Ended]]") -> None:
    for outcome, ended in outcomes:
        if ended.error is not None:
            outcome.set_exception(ended.error)
        else:
            outcome.set_result(ended.value)


def _sqlite(url: str, connections: int, busy_timeout_s: float, *, writes: bool) -> Engine:
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        connect_args={"check_same_thread": False, "timeout": busy_timeout_s},
    )

    def set_up(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # the driver would begin transactions by itself, and late
        settings = (
            ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")
            if writes
            else ("query_only=ON",)
        )
        for one in settings:
            connection.execute(f"PRAGMA {one}").close()

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", set_up)
    event.listen(engine, "begin", begin)
    return engine


def _file_of(url: str) -> Path:
    known = make_url(url)
    if known.get_backend_name() != "sqlite" or known.database in (None, "", ":memory:") or known.query:
        raise StorageError(
            f"the database {known.render_as_string(hide_password=True)!r} cannot be used.",
            why="this version keeps a coordinator's state in a SQLite file.",
            do="use a URL such as sqlite:///coordinator.db.",
        )
    return Path(str(known.database))


def _check_schema(connection: Connection, url: str) -> None:
    found = setting(connection, "schema")
    if found is None:
        set_setting(connection, "schema", str(SCHEMA))
    elif found != str(SCHEMA):
        raise StorageError(
            f"the database {url} has schema {found}, and this version works with schema {SCHEMA}.",
            why="it was made by another version.",
            do="go on with the version that made it, or start with a new database.",
        )


@contextmanager
def _worded(url: str) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        told = _in_words(error, url)
        if told is error:
            raise
        raise told from error


def _undone(error: Exception, url: str) -> Exception:
    told = _in_words(error, url)
    if told is error:
        told = StorageError(
            f"the database {url} undid a transaction: {error}.",
            why="several changes are made in one transaction, and the database gave all of them up; none was made.",
            do="make this change again.",
        )
    told.__cause__ = error
    return told


def _in_words(error: Exception, url: str) -> Exception:
    """The same error; a StorageError, if it is the disk's or the database's fault."""
    code = str(getattr(getattr(error, "orig", error), "sqlite_errorname", ""))
    if code.startswith("SQLITE_FULL"):
        return disk_full(url)
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StorageError(
            f"the database {url} is locked.",
            why="another program has been writing to it for too long; this change was not made.",
            do="stop the other program (a second coordinator, a database browser), and try again.",
        )
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return StorageError(
            f"the database {url} is damaged: {getattr(error, 'orig', error)}.",
            why="the file is not a sound SQLite database any more.",
            do="stop the coordinator and restore the file from a backup.",
        )
    if code.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        return StorageError(
            f"the database {url} cannot be used: {getattr(error, 'orig', error)}.",
            why="the system refused to read or write the file; this change was not made.",
            do="check that its folder exists, is writable by this user, and that the disk is in order.",
        )
    return error
