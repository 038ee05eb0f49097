"""A database on a PostgreSQL server, which may go away and come back.

Two things make it safe that the server, the network or another coordinator may step in at any moment:

- A lock of the session, on a connection of its own, keeps a second coordinator out. If that connection is lost the lock
  is taken again; if another one has it by then, this process never writes again.
- Each transaction puts a ticket of its own in the place of the last one's. Where the ticket is not the one that this
  process left there, somebody else has been writing. And where a connection died in the middle of a commit, the ticket
  tells whether the commit was made.
"""

import secrets
import selectors
import time
from contextlib import suppress
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, select, update
from sqlalchemy.pool import QueuePool

from lycia.errors import AppError, StorageError
from lycia.storage.dialects import TakenOver
from lycia.storage.settings import set_setting
from lycia.storage.tables import SETTINGS

try:
    import psycopg
except ImportError as missing:  # of an extra: most coordinators keep their state in a file
    raise AppError(
        f"PostgreSQL needs psycopg, which cannot be imported: {missing}.",
        why="the base install is small; what this needs comes with the extra 'postgres'.",
        do="pip install 'lycia[postgres]'",
    ) from None

_TICKET = "ticket"
_LOCK = 0x4C594349  # "LYCI"; the second number is the schema's, so that one database may serve several coordinators
_SECRET = ("password", "sslpassword", "passfile")
# A server asks a silent peer after 10 s, and gives it up after 25: a machine that died does not keep its lock for long.
_ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
_SETTINGS = (
    "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit') IN ('off', 'local')",
    "SET idle_in_transaction_session_timeout = 0",
    "SET statement_timeout = 0",
    *(f"SET tcp_{name} = {value}" for name, value in _ALIVE.items()),
)
_AWAY = ("08", "57P", "25P03")  # SQLSTATEs: the connection failed, the server shuts down or starts
_WAITS_FOR_LOCK_S = 5.0


class Postgres:
    """The `Dialect` of PostgreSQL."""

    watch_s: float | None = 5.0

    def __init__(self, url: URL, busy_timeout_s: float, patience_s: float) -> None:
        if not url.database:
            raise StorageError(
                "the URL of the PostgreSQL database does not say which one.",
                why="a coordinator's tables are kept in a database of a name.",
                do="use a URL such as postgresql://USER@HOST/NAME.",
            )
        self._url = url.set(drivername="postgresql+psycopg")
        self._busy_timeout_s, self.patience_s = busy_timeout_s, patience_s
        self.told = without_password(url)
        self._lock: psycopg.Connection[Any] | None = None
        self._backends: dict[str, tuple[int, str]] = {}
        self._possible: set[str] = set()  # tickets of which one stands in the database: more than one after a doubt
        self._latest = ""
        self._lost: TakenOver | None = None

    def writer(self) -> Engine:
        """One connection; a commit returns when it is on the server's disk."""
        return self._engine(1, (f"SET lock_timeout = '{self._busy_timeout_s:g}s'",), "writer")

    def reader(self, connections: int) -> Engine:
        """Connections whose transactions see one moment."""
        settings = ("SET default_transaction_isolation = 'repeatable read'", "SET default_transaction_read_only = on")
        return self._engine(connections, settings, "")

    def take(self) -> None:
        """Connect, and take the lock; whoever has just ended may keep it a moment longer.

        Raises: StorageError, if the server cannot be reached, or if another coordinator has the lock.
        """
        try:
            with psycopg.connect(self._conninfo(), autocommit=True) as first:
                encoding = str(first.info.parameter_status("server_encoding"))
            if encoding != "UTF8":
                raise StorageError(
                    f"the database {self.told} is encoded in {encoding}.",
                    why="names and texts may hold any character.",
                    do="make a database with: CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0.",
                )
            self._take_lock()
        except psycopg.Error as error:
            raise self.in_words(error) from error

    def claim(self, connection: Connection) -> None:
        """Put the first ticket down: from here on no other process can commit changes."""
        self._latest = secrets.token_hex(16)
        self._possible = {self._latest}
        set_setting(connection, _TICKET, self._latest)

    def keep(self) -> None:
        """Take the lock again if the connection that had it is lost.

        Raises:
          StorageError: if another coordinator has it.
          psycopg.Error: if the server is away.
        """
        if self._lost is not None:
            raise self._lost
        if self._lock is None or not _is_alive(self._lock):
            self._take_lock()

    def admit(self, connection: Connection) -> None:
        """Put down a ticket in the place of one of ours, or else never write again."""
        following = secrets.token_hex(16)
        ours = (SETTINGS.c.key == _TICKET) & SETTINGS.c.value.in_(sorted(self._possible))
        if not connection.execute(update(SETTINGS).where(ours).values(value=following)).rowcount:
            self._lost = self._taken()
            raise self._lost
        self._latest = following
        self._possible.add(following)

    def was_made(self, connection: Connection) -> bool:
        """Whether the ticket of the last transaction stands there; waits for the server if it still commits it."""
        ticket = select(SETTINGS.c.value).where(SETTINGS.c.key == _TICKET).with_for_update()
        return connection.scalar(ticket) == self._latest

    def committed(self) -> None:
        """The ticket that was put down last is the one that stands there."""
        self._possible = {self._latest}

    def let_go(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            with suppress(psycopg.Error):
                self._lock.close()
        self._lock = None

    def keep_copy(self, revision: str) -> None:
        """A server's database is copied by its own tools; what changes it is one transaction."""

    def is_away(self, error: Exception) -> bool:
        """Whether the server could not be reached, or went away."""
        cause = getattr(error, "orig", error)
        if not isinstance(cause, psycopg.OperationalError):
            return False
        return cause.sqlstate is None or cause.sqlstate.startswith(_AWAY)

    def in_words(self, error: Exception) -> Exception:
        """The same error; a StorageError, if it is the server's fault."""
        cause = getattr(error, "orig", error)
        if not isinstance(cause, psycopg.Error):
            return error
        state, said = cause.sqlstate or "", " ".join(str(cause).split())
        if state == "53100":
            return StorageError(
                f"there is no room left on the disk of {self.told}.",
                why="a step is acknowledged only once it is on the disk; this one is not, and left nothing behind.",
                do="free some space on the server; the run goes on where it stopped when it is resumed.",
            )
        if state in ("55P03", "57014"):
            return StorageError(
                f"the database {self.told} is locked.",
                why="another program has kept what is to be changed locked for too long; this change was not made.",
                do="see pg_stat_activity for who it is, stop it, and try again.",
            )
        if state.startswith("XX"):
            return StorageError(
                f"the database {self.told} is damaged: {said}.",
                why="the server found something in its files that cannot be.",
                do="stop the coordinator, and restore the database from a backup.",
            )
        if self.is_away(error):
            return StorageError(
                f"the database {self.told} cannot be reached: {said}.",
                why="the server is away, or refuses this user; nothing was acknowledged that it does not have.",
                do="start the server, or mend the URL, user or password; then `lycia resume` the runs that paused.",
            )
        if isinstance(cause, psycopg.OperationalError) or state.startswith(("25", "42501", "28", "3D")):
            return StorageError(
                f"the database {self.told} cannot be used: {said}.",
                why="the server refused to read or write; this change was not made.",
                do="check the server's log, its disk, and what this user may do there.",
            )
        return error

    def _conninfo(self) -> str:
        more = {"application_name": "lycia", "connect_timeout": "10", **{n: str(v) for n, v in _ALIVE.items()}}
        return self._url.set(drivername="postgresql").update_query_dict(more).render_as_string(hide_password=False)

    def _take_lock(self) -> None:
        self.let_go()
        until_s = time.monotonic() + _WAITS_FOR_LOCK_S
        lock = psycopg.connect(self._conninfo(), autocommit=True)
        try:
            self._replace_backend(lock, "lock")
            ours = f"SELECT pg_try_advisory_lock({_LOCK}, hashtext(current_schema()))"
            while not _one(lock, ours):
                if time.monotonic() > until_s:
                    if self._latest:  # it was ours: what the other one does now, we must not write over
                        self._lost = self._taken()
                        raise self._lost
                    raise self._another()
                time.sleep(0.05)
        except BaseException:
            lock.close()
            raise
        self._lock = lock

    def _replace_backend(self, connection: "psycopg.Connection[Any]", purpose: str) -> None:
        """End what the server may still have of the connection that this one replaces, and with it what it held."""
        old = self._backends.get(purpose)
        if old is not None:
            ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND backend_start::text = %s"
            connection.execute(ends, old)
        since = _one(connection, "SELECT backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()")
        self._backends[purpose] = (connection.info.backend_pid, str(since))

    def _engine(self, connections: int, settings: tuple[str, ...], purpose: str) -> Engine:
        engine = create_engine(
            self._url,
            poolclass=QueuePool,
            pool_size=connections,
            max_overflow=0,
            hide_parameters=True,
            connect_args={"application_name": "lycia", "connect_timeout": 10, **_ALIVE},
        )

        def set_up(connection: "psycopg.Connection[Any]", _: object) -> None:
            before, connection.autocommit = connection.autocommit, True
            for one in (*_SETTINGS, *settings):
                connection.execute(one)
            if purpose:
                self._replace_backend(connection, purpose)
            connection.autocommit = before

        event.listen(engine, "connect", set_up)
        return engine

    def _another(self) -> StorageError:
        return StorageError(
            f"the coordinator runs already, in another process, with the database {self.told}.",
            why="two of them would write over each other's rounds.",
            do="end the other one first, or give another database. After its machine died, the server lets go of its "
            "lock within half a minute.",
        )

    def _taken(self) -> TakenOver:
        return TakenOver(
            f"another coordinator has taken over the database {self.told}; this one writes nothing any more.",
            why="its connection was lost for a while, and two of them would write over each other's rounds.",
            do="end this one, or the other one, and start only one of them again.",
        )


def without_password(url: URL) -> str:
    """The URL as people, logs and files may read it. Whoever uses it finds the password where libpq looks for it."""
    query = {name: value for name, value in url.query.items() if name not in _SECRET}
    return URL.create("postgresql", url.username, None, url.host, url.port, url.database, query).render_as_string()


def _one(connection: "psycopg.Connection[Any]", question: str) -> Any:
    row = connection.execute(question).fetchone()
    return row[0] if row else None


def _is_alive(connection: "psycopg.Connection[Any]") -> bool:
    """Whether the server still has this session, as far as it is known here without asking."""
    if connection.closed:
        return False
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        if not selector.select(0):
            return True
    try:  # a server has nothing to say to an idle session, but good-bye or a notice
        connection.execute("SELECT 1")
    except psycopg.Error:
        return False
    return True
