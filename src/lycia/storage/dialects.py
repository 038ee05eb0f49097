"""What a database has of its own, apart from the statements that all of them understand."""

from typing import Protocol

from sqlalchemy import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError

from lycia.errors import StorageError

BUSY_S, PATIENCE_S = 10.0, 30.0


class TakenOver(StorageError):
    """Another process writes to the database now, so that this one never may again."""


class Dialect(Protocol):
    """One kind of database, at one place, as this process uses it.

    Attributes:
      told: where it is, as people and logs may read it: no password.
      patience_s: how long a change or a read waits for a server that is away; 0 where there is no server.
      watch_s: after how long without a change to look whether it is still this process's; None for never.
    """

    told: str
    patience_s: float
    watch_s: float | None

    def writer(self) -> Engine:
        """Connections that write: one at a time, durable at each commit."""
        ...

    def reader(self, connections: int) -> Engine:
        """Connections whose transactions see one moment, and cannot change anything."""
        ...

    def take(self) -> None:
        """Make it this process's own, before it is opened.

        Raises: StorageError, if it is another one's, or cannot be reached.
        """
        ...

    def claim(self, connection: Connection) -> None:
        """Write down whose it is, in the transaction that opens it."""
        ...

    def keep(self) -> None:
        """Make sure that it is still this process's.

        Raises: TakenOver, if it is not and will not be again.
        """
        ...

    def admit(self, connection: Connection) -> None:
        """Begin a transaction of changes.

        Raises: TakenOver.
        """
        ...

    def was_made(self, connection: Connection) -> bool:
        """Whether the transaction that `admit` began last, and whose end is in doubt, was committed after all."""
        ...

    def committed(self) -> None:
        """The transaction that `admit` or `claim` began last is made."""
        ...

    def let_go(self) -> None:
        """It may be another process's now."""
        ...

    def keep_copy(self, revision: str) -> None:
        """Keep what is there beside it, before it is changed into another revision's form; where that can be done."""
        ...

    def is_away(self, error: Exception) -> bool:
        """Whether the error means that the server could not be reached, so that it is worth while to try again."""
        ...

    def in_words(self, error: Exception) -> Exception:
        """The same error; a StorageError, if it is the disk's or the database's fault."""
        ...


def dialect_of(url: str, *, busy_timeout_s: float = BUSY_S, patience_s: float = PATIENCE_S) -> Dialect:
    """The dialect of a database's URL.

    Raises:
      StorageError: if there is none; the URL may hold a password, and is not told.
      AppError: if what it needs is not installed.
    """
    try:
        known = make_url(url)
    except (ArgumentError, ValueError):
        known = None
    kind = known.get_backend_name() if known is not None else ""
    if known is not None and kind == "sqlite":
        from lycia.storage.sqlite import Sqlite

        return Sqlite(known, busy_timeout_s)
    if known is not None and kind in ("postgresql", "postgres"):
        from lycia.storage.postgres import Postgres

        return Postgres(known, busy_timeout_s, patience_s)
    raise StorageError(
        f"a database of the kind {kind!r} cannot be used." if kind else "the URL of the database cannot be read.",
        why="a coordinator keeps its state in a SQLite file or in PostgreSQL.",
        do="use a URL such as postgresql://USER@HOST/NAME, or leave --database out for a SQLite file in the folder.",
    )
