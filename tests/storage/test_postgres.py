"""A server that goes away at any moment: what was acknowledged is there, once, and a second coordinator stays out."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from lycia.errors import StorageError
from lycia.storage import postgres as room
from lycia.storage.database import Connection, Database, set_setting, setting
from lycia.storage.dialects import TakenOver
from tests.postgres import PASSWORD, Cluster

WRITES = 300


@pytest.fixture
def url(postgres: Cluster) -> str:
    return postgres.fresh()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with closing(Database(url)) as database:
        yield database


@pytest.fixture(autouse=True)
def _a_second_one_is_refused_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_WAITS_FOR_LOCK_S", 0.3)


def count_up(connection: Connection) -> int:
    """A change that shows if it was made twice."""
    number = int(setting(connection, "count") or 0) + 1
    set_setting(connection, "count", str(number))
    return number


def counted(database: Database) -> int:
    return int(asyncio.run(database.read(lambda connection: setting(connection, "count"))) or 0)


def backends(server: Cluster, url: str) -> list[int]:
    """The sessions of a coordinator on the server."""
    name = url.rpartition("/")[2]
    found = server.ask(f"SELECT pid FROM pg_stat_activity WHERE datname = '{name}' AND application_name = 'lycia'")
    return [int(str(pid)) for (pid,) in found]


def keep_counting(database: Database, while_that: Any) -> list[int]:
    """Makes changes, some of them together, for as long as a thread goes on, and at least `WRITES`."""
    acknowledged: list[int] = []

    async def story() -> None:
        trouble = threading.Thread(target=while_that)
        trouble.start()
        while trouble.is_alive() or len(acknowledged) < WRITES:
            acknowledged.extend(await asyncio.gather(*(database.write(count_up) for _ in range(3))))
        trouble.join()

    asyncio.run(story())
    return acknowledged


def test_a_server_that_crashes_in_the_middle_of_writes_loses_nothing_and_nothing_is_made_twice(
    database: Database, postgres: Cluster
):
    def crash_twice() -> None:
        for _ in range(2):
            postgres.stop("immediate")
            postgres.start()

    acknowledged = keep_counting(database, crash_twice)
    assert acknowledged == list(range(1, len(acknowledged) + 1))
    assert counted(database) == len(acknowledged)


def test_connections_that_are_cut_during_commits_lose_nothing_and_nothing_is_made_twice(
    database: Database, postgres: Cluster, url: str
):
    def cut() -> None:
        for _ in range(60):
            for pid in backends(postgres, url):
                postgres.ask(f"SELECT pg_terminate_backend({pid})")

    acknowledged = keep_counting(database, cut)
    assert acknowledged == list(range(1, len(acknowledged) + 1))
    assert counted(database) == len(acknowledged)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_whose_answer_was_lost_is_decided(database: Database, monkeypatch: pytest.MonkeyPatch, when: str):
    commit, lost = psycopg.Connection.commit, []

    def lose(self: Any) -> None:
        if lost:
            return commit(self)
        lost.append(self)
        if when == "after":
            commit(self)
        self.close()
        raise psycopg.OperationalError("the network went away")

    monkeypatch.setattr(psycopg.Connection, "commit", lose)
    assert asyncio.run(database.write(count_up)) == 1
    assert lost
    assert counted(database) == 1
    assert asyncio.run(database.write(count_up)) == 2


def test_a_transaction_that_the_server_still_has_open_is_ended_before_it_is_decided(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    commit, lost = psycopg.Connection.commit, []

    def lose(self: Any) -> None:
        if lost:
            return commit(self)
        lost.append(self)
        self.close = lambda: None  # the server does not hear that nobody is there any more, and keeps its locks
        raise psycopg.OperationalError("the network went away")

    monkeypatch.setattr(psycopg.Connection, "commit", lose)
    assert asyncio.run(database.write(count_up)) == 1
    assert counted(database) == 1
    del lost[0].close
    lost[0].close()


def test_while_the_server_is_away_a_change_waits_and_then_fails_in_words(url: str, postgres: Cluster):
    with closing(Database(url, patience_s=0.5)) as database:
        postgres.stop("immediate")
        try:
            with pytest.raises(StorageError, match="cannot be reached") as refused:
                asyncio.run(database.write(count_up))
            with pytest.raises(StorageError, match="cannot be reached"):
                counted(database)
        finally:
            postgres.start()
        assert "start the server" in refused.value.do
        assert PASSWORD not in str(refused.value)
        assert asyncio.run(database.write(count_up)) == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_that_stays_in_doubt_is_told_as_such_and_the_next_change_finds_what_is_true(
    url: str, postgres: Cluster, monkeypatch: pytest.MonkeyPatch, when: str
):
    commit = psycopg.Connection.commit

    def lose_the_server(self: Any) -> None:
        if when == "after":
            commit(self)
        postgres.stop("immediate")
        raise psycopg.OperationalError("the machine went away")

    with closing(Database(url, patience_s=0.5)) as database:
        with monkeypatch.context() as patched:
            patched.setattr(psycopg.Connection, "commit", lose_the_server)
            try:
                with pytest.raises(StorageError, match="went away while it committed") as refused:
                    asyncio.run(database.write(count_up))
            finally:
                postgres.start()
        assert "is known only when the server is there again" in refused.value.why
        made = 1 if when == "after" else 0
        assert counted(database) == made
        assert asyncio.run(database.write(count_up)) == made + 1
        assert asyncio.run(database.write(count_up)) == made + 2


def test_a_second_coordinator_is_refused_until_the_first_one_ends(url: str):
    with closing(Database(url)), pytest.raises(StorageError, match="runs already, in another process") as refused:
        Database(url)
    assert PASSWORD not in str(refused.value)
    Database(url).close()


def test_a_lock_that_was_lost_is_taken_again(database: Database, postgres: Cluster, url: str):
    for pid in backends(postgres, url):
        postgres.ask(f"SELECT pg_terminate_backend({pid})")
    assert asyncio.run(database.write(count_up)) == 1
    with pytest.raises(StorageError, match="runs already"):
        Database(url)


def test_one_that_lost_its_lock_to_another_never_writes_again(database: Database, postgres: Cluster, url: str):
    asyncio.run(database.write(count_up))
    for pid in backends(postgres, url):
        postgres.ask(f"SELECT pg_terminate_backend({pid})")
    with closing(Database(url)) as other:
        for _ in range(2):
            with pytest.raises(TakenOver, match="another coordinator has taken over") as refused:
                asyncio.run(database.write(count_up))
        assert PASSWORD not in str(refused.value)
        assert asyncio.run(other.write(count_up)) == 2
    with pytest.raises(TakenOver):
        asyncio.run(database.write(count_up))


def test_one_that_does_not_know_that_it_lost_its_lock_is_stopped_by_the_ticket(
    database: Database, postgres: Cluster, url: str, monkeypatch: pytest.MonkeyPatch
):
    asyncio.run(database.write(count_up))
    for pid in backends(postgres, url):
        postgres.ask(f"SELECT pg_terminate_backend({pid})")
    monkeypatch.setattr(room, "_is_alive", lambda _: True)
    with closing(Database(url)) as other:
        with pytest.raises(TakenOver):
            asyncio.run(database.write(count_up))
        assert asyncio.run(other.write(count_up)) == 2


def test_a_read_sees_one_moment(database: Database):
    def twice(connection: Connection) -> tuple[str | None, str | None]:
        before = setting(connection, "count")
        is_reading.set()
        written.wait(10)
        return before, setting(connection, "count")

    is_reading, written = threading.Event(), threading.Event()

    async def story() -> tuple[str | None, str | None]:
        await database.write(count_up)
        asked = asyncio.create_task(database.read(twice))
        await asyncio.to_thread(is_reading.wait, 10)
        await database.write(count_up)
        written.set()
        return await asked

    assert asyncio.run(story()) == ("1", "1")


def test_what_is_written_waits_for_the_servers_disk_whatever_the_database_says(url: str, postgres: Cluster):
    postgres.ask(f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = off")
    with closing(Database(url)) as database:
        asked = database.write(lambda connection: connection.exec_driver_sql("SHOW synchronous_commit").scalar())
        assert asyncio.run(asked) == "on"


def test_what_cannot_be_opened_is_told_in_words_and_without_the_password(url: str, postgres: Cluster):
    away = url.replace(str(postgres.port), "1")
    for wrong in (url.replace(PASSWORD, "wrong-secret"), f"{url}_is_not_there", away, f"{away}?password=wrong-secret"):
        with pytest.raises(StorageError, match=r"postgresql://lycia@127\.0\.0\.1") as refused:
            Database(wrong)
        assert "secret" not in str(refused.value)
        assert PASSWORD not in str(refused.value)


def test_a_database_that_cannot_hold_every_character_is_refused(postgres: Cluster):
    postgres.ask("CREATE DATABASE plain ENCODING 'SQL_ASCII' TEMPLATE template0")
    with pytest.raises(StorageError, match="encoded in SQL_ASCII"):
        Database(postgres.url("plain"))
    postgres.ask("DROP DATABASE plain")


def test_a_failing_statement_tells_nothing_of_what_it_was_to_write(database: Database):
    def fails(connection: Connection) -> None:
        set_setting(connection, "k" * 201, "a secret of a round")

    with pytest.raises(Exception, match="too long") as failed:
        asyncio.run(database.write(fails))
    assert "a secret" not in str(failed.value)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (psycopg.errors.DiskFull, "no room left"), (psycopg.errors.LockNotAvailable, "is locked"),
        (psycopg.errors.DataCorrupted, "is damaged"), (psycopg.errors.InsufficientPrivilege, "cannot be used"),
        (psycopg.errors.IoError, "cannot be used"), (psycopg.errors.AdminShutdown, "cannot be reached"),
    ],
)  # fmt: skip
def test_what_the_server_refuses_is_told_in_words(url: str, kind: type[psycopg.Error], words: str):
    def refused(connection: Connection) -> None:
        raise kind("the server says so")

    with closing(Database(url, patience_s=0.0)) as database:
        with pytest.raises(StorageError, match=words) as told:
            asyncio.run(database.write(refused))
        assert told.value.do
        assert asyncio.run(database.write(count_up)) == 1


def test_a_lock_that_another_program_keeps_is_told_in_words(url: str, postgres: Cluster):
    with closing(Database(url, busy_timeout_s=0.2)) as database:
        asyncio.run(database.write(count_up))
        with psycopg.connect(url) as other:
            other.execute("LOCK TABLE settings IN EXCLUSIVE MODE")
            with pytest.raises(StorageError, match="is locked"):
                asyncio.run(database.write(count_up))
        assert asyncio.run(database.write(count_up)) == 2


def test_without_its_extra_the_command_to_install_it_is_told():
    program = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from lycia.storage.database import Database\n"
        "from lycia.errors import AppError\n"
        "try: Database('postgresql://host/db')\n"
        "except AppError as error: print(error.do)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert said.stdout == "pip install 'lycia[postgres]'\n"
