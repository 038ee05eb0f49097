"""The coordinator's database: many writers, one transaction at a time, and an answer only after its commit.

A commit waits for the disk, and waits as long for one change as for hundreds. So one thread writes: while it waits for
one commit, the next changes gather, and go in together. Each is a savepoint of its own, so one that fails is undone
alone. Reads have connections and threads of their own, and see whatever was committed before they began.

What SQLite and PostgreSQL have of their own stands in their dialects; the statements are the same.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from lycia.errors import LyciaError, StorageError
from lycia.storage import migrating
from lycia.storage.dialects import BUSY_S, PATIENCE_S, Dialect, TakenOver, dialect_of
from lycia.storage.disk import seen_through
from lycia.storage.settings import set_setting, setting
from lycia.storage.sqlite import sqlite_url

__all__ = ["Connection", "Database", "reading", "set_setting", "setting", "sqlite_url"]

_MOST_TOGETHER = 1000  # changes in one transaction; more would make the first of them wait for no gain
_AGAIN_S = 0.2  # how long to wait before a server that is away is called again
_T = TypeVar("_T")


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
    Guarantees: what `write` returned is on the disk; a change that raises leaves nothing behind, and no other with it;
      a change is made once, also where the connection to a server is lost while it is committed.
    """

    def __init__(
        self, url: str, *, readers: int = 4, busy_timeout_s: float = BUSY_S, patience_s: float = PATIENCE_S
    ) -> None:
        """Open the database at `url`, and bring its tables to the form that this version works with.

        Args:
          readers: how many reads run at once.
          busy_timeout_s: how long to wait for another program that is writing to it.
          patience_s: how long changes and reads wait for a server that is away.
        Raises: StorageError, if it cannot be opened, is damaged, another process's, or was made by a newer version.
        """
        self._dialect = dialect_of(url, busy_timeout_s=busy_timeout_s, patience_s=patience_s)
        self.told = self._dialect.told
        self._changes: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
        self._closing, self._closed, self._ending = threading.Lock(), False, threading.Event()
        self.on_commit: Callable[[int, float], None] = lambda _changes, _seconds: None
        self._dialect.take()
        self._writer, self._reader = self._dialect.writer(), self._dialect.reader(readers)
        self._reads = ThreadPoolExecutor(readers, thread_name_prefix="database-read")
        try:
            with worded(self._dialect):
                _open(self._dialect, self._writer)
        except BaseException:
            self._dispose()
            raise
        self._dialect.committed()
        self._thread = threading.Thread(target=self._write_all, name="database-write", daemon=True)
        self._thread.start()

    async def write(self, change: Callable[[Connection], _T]) -> _T:
        """What `change` returns, once it is committed. It runs in the writer's thread and must not wait for anything.

        It may run again, in another transaction, if a server went away with the first one: it does nothing but read
        and change the database. A caller who is cancelled leaves only after the commit or the failure.

        Raises: what `change` raises; StorageError, if the disk is full or fails, or the database is locked, damaged or
          away. Only where a server does not come back in time is it not known whether the change was made; the error
          says so.
        """
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[_T] = loop.create_future()
        with self._closing:
            self._check_open()
            self._changes.put(_Change(change, loop, outcome))
        return await seen_through(outcome)

    async def read(self, question: Callable[[Connection], _T]) -> _T:
        """What `question` returns, from one consistent view of all that is committed. It cannot change anything.

        Raises: what `question` raises; StorageError, if the database is damaged, away or cannot be read.
        """
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._reads, self._ask, question)

    def close(self) -> None:
        """Commit what was written, and let go of the database. Closing twice changes nothing."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._changes.put(None)
        self._ending.set()
        self._thread.join()
        self._dispose()

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError(
                f"the database {self.told} is closed.",
                why="the coordinator is stopping; what it acknowledged is kept.",
                do="start it again, and repeat the call.",
            )

    def _ask(self, question: Callable[[Connection], _T]) -> _T:
        patience = _Patience(self._dialect, self._ending)
        while True:
            try:
                with self._reader.connect() as connection:
                    return question(connection)
            except Exception as error:
                if not patience.is_over(error):
                    continue
                told = self._dialect.in_words(error)
                if told is error:
                    raise
                raise told from error

    def _dispose(self) -> None:
        self._reads.shutdown()
        self._reader.dispose()
        self._writer.dispose()
        self._dialect.let_go()

    def _write_all(self) -> None:
        while True:
            try:
                first = self._changes.get(timeout=self._dialect.watch_s)
            except queue.Empty:
                with suppress(Exception):  # whoever writes next is told
                    self._dialect.keep()
                continue
            if first is None:
                return
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
        patience, in_doubt, began_s = _Patience(self._dialect, self._ending), None, time.perf_counter()
        while True:
            try:
                self._dialect.keep()
                with self._writer.begin() as connection:
                    if in_doubt is None or not self._dialect.was_made(connection):
                        in_doubt = None
                        self._dialect.admit(connection)
                        in_doubt = [_apply(connection, change) for change in changes]
            except Exception as error:  # noqa: BLE001  # the edge of this thread: whoever waits is told
                if patience.is_over(error):
                    return [_Ended(error=_undone(self._dialect, error, in_doubt is not None)) for _ in changes]
            else:
                self._dialect.committed()
                self.on_commit(len(changes), time.perf_counter() - began_s)
                return [_Ended(one.value, one.error and self._dialect.in_words(one.error)) for one in in_doubt]


class _Patience:
    """How long one change or read still waits for a server."""

    def __init__(self, dialect: Dialect, ending: threading.Event) -> None:
        self._dialect, self._ending = dialect, ending
        self._until_s = time.monotonic() + dialect.patience_s

    def is_over(self, error: Exception) -> bool:
        """Whether it is no use to try again. If it is, returns after a while."""
        if not self._dialect.is_away(error) or time.monotonic() > self._until_s:
            return True
        return self._ending.wait(_AGAIN_S)


@contextmanager
def reading(url: str) -> Iterator[Connection]:
    """All that is committed, as it is at this moment, while a coordinator may go on writing.

    Raises: StorageError, if it cannot be read, or has not the form that this version reads.
    """
    dialect = dialect_of(url)
    engine = dialect.reader(1)
    with worded(dialect), closing(_Disposed(engine)), engine.connect() as connection:
        migrating.check_current(connection, dialect.told)
        yield connection


@dataclass(frozen=True)
class _Disposed:
    engine: Engine

    def close(self) -> None:
        self.engine.dispose()


def _open(dialect: Dialect, writer: Engine) -> None:
    with writer.begin() as connection:
        migrating.check_known(connection, dialect.told)
        found, is_empty = migrating.revision_of(connection), migrating.is_empty(connection)
    if not is_empty and found != migrating.newest():
        dialect.keep_copy(migrating.newest())
    with writer.begin() as connection:
        if found != migrating.newest():
            migrating.migrate(connection)
        dialect.claim(connection)


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


@contextmanager
def worded(dialect: Dialect) -> Iterator[None]:
    """Inside, what is the disk's, the file's or the server's fault is told as a StorageError."""
    try:
        yield
    except LyciaError:
        raise
    except Exception as error:
        told = dialect.in_words(error)
        if told is error:
            raise
        raise told from error


def _undone(dialect: Dialect, error: Exception, in_doubt: bool) -> Exception:
    if isinstance(error, TakenOver):
        return error
    told = dialect.in_words(error)
    if in_doubt and dialect.is_away(error):
        told = StorageError(
            f"the database {dialect.told} went away while it committed, and has not come back.",
            why="whether this change was made is known only when the server is there again; it is made once, or not.",
            do="start the server; then look whether it was made before making it again. A run goes on with "
            "`lycia resume`, from what the database has.",
        )
    elif told is error:
        told = StorageError(
            f"the database {dialect.told} undid a transaction: {error}.",
            why="several changes are made in one transaction, and the database gave all of them up; none was made.",
            do="make this change again.",
        )
    told.__cause__ = error
    return told
