"""A database in a SQLite file of this machine."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import QueuePool

from lycia.errors import StorageError
from lycia.storage.disk import disk_full, in_words, replace_whole

_WRITES = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")


def sqlite_url(path: Path) -> str:
    """The URL of the database in a file."""
    return URL.create("sqlite", database=str(path)).render_as_string()


class Sqlite:
    """The `Dialect` of SQLite. That only one process writes is seen to by whoever opens the folder."""

    patience_s = 0.0
    watch_s: float | None = None

    def __init__(self, url: URL, busy_timeout_s: float) -> None:
        if url.database in (None, "", ":memory:") or url.query:
            raise StorageError(
                f"the database {url.render_as_string()!r} cannot be used.",
                why="a coordinator's state outlives its process, so it is kept in a SQLite file.",
                do="use a URL such as sqlite:///coordinator.db.",
            )
        self.file, self._url, self._busy_timeout_s = Path(str(url.database)), url, busy_timeout_s
        self.told = url.render_as_string()

    def writer(self) -> Engine:
        """One connection, whose transactions are writers from their beginning."""
        return self._engine(1, _WRITES, "BEGIN IMMEDIATE")

    def reader(self, connections: int) -> Engine:
        """Connections that cannot change anything."""
        return self._engine(connections, ("query_only=ON",), "BEGIN")

    def take(self) -> None:
        """Make the file, if it is not there; what stands in it (the secrets of open rounds) nobody else may read."""
        with in_words(self.file):
            os.close(os.open(self.file, os.O_RDWR | os.O_CREAT, 0o600))

    def claim(self, connection: Connection) -> None:
        """Whose file it is stands in the folder."""

    def keep(self) -> None:
        """Nobody can take a file away."""

    def admit(self, connection: Connection) -> None:
        """Nobody else writes to it."""

    def was_made(self, connection: Connection) -> bool:
        """A commit to a file is never in doubt."""
        return False

    def committed(self) -> None:
        """There is nothing to remember."""

    def let_go(self) -> None:
        """Nothing is held."""

    def keep_copy(self, revision: str) -> None:
        """Copy the file as it is now to FILE.before-REVISION, wholly or not at all.

        Raises: StorageError, if there is no room for it.
        """
        copy_file(self.file, self.file.with_name(f"{self.file.name}.before-{revision}"))

    def is_away(self, error: Exception) -> bool:
        """There is no server."""
        return False

    def in_words(self, error: Exception) -> Exception:
        """The same error; a StorageError, if it is the disk's or the file's fault."""
        code = str(getattr(getattr(error, "orig", error), "sqlite_errorname", ""))
        if code.startswith("SQLITE_FULL"):
            return disk_full(self.told)
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return StorageError(
                f"the database {self.told} is locked.",
                why="another program has been writing to it for too long; this change was not made.",
                do="stop the other program (a second coordinator, a database browser), and try again.",
            )
        if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return StorageError(
                f"the database {self.told} is damaged: {getattr(error, 'orig', error)}.",
                why="the file is not a sound SQLite database any more.",
                do="stop the coordinator and restore the file from a backup.",
            )
        if code.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
            return StorageError(
                f"the database {self.told} cannot be used: {getattr(error, 'orig', error)}.",
                why="the system refused to read or write the file; this change was not made.",
                do="check that its folder exists, is writable by this user, and that the disk is in order.",
            )
        return error

    def _engine(self, connections: int, settings: tuple[str, ...], begins: str) -> Engine:
        engine = create_engine(
            self._url,
            poolclass=QueuePool,
            pool_size=connections,
            max_overflow=0,
            hide_parameters=True,
            connect_args={"check_same_thread": False, "timeout": self._busy_timeout_s},
        )

        def set_up(connection: sqlite3.Connection, _: object) -> None:
            connection.isolation_level = None  # the driver would begin transactions by itself, and late
            for one in settings:
                connection.execute(f"PRAGMA {one}").close()

        def begin(connection: Connection) -> None:
            connection.exec_driver_sql(begins)

        event.listen(engine, "connect", set_up)
        event.listen(engine, "begin", begin)
        return engine


def copy_file(source: Path, target: Path) -> None:
    """Copy the database in a file as it is at one moment, while others write to it; whole or not at all, and durable.

    Raises: StorageError, if it cannot be read, or if there is no room for it.
    """

    def fill(half_written: Path) -> None:
        with closing(sqlite3.connect(half_written)) as copy:
            with closing(sqlite3.connect(source)) as original:
                original.execute("PRAGMA query_only=ON").close()
                original.backup(copy)  # in one step: between two steps a writer would make it begin again
            copy.execute("PRAGMA journal_mode=DELETE").close()  # one file, with nothing beside it

    try:
        replace_whole(target, fill)
    except sqlite3.Error as error:
        told = Sqlite(URL.create("sqlite", database=str(source)), 0.0).in_words(error)
        raise told from error
