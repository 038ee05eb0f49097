"""The database: nothing is acknowledged before its commit, and one change's failure is its own."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from lycia.errors import NotFound, StorageError
from lycia.storage.database import Connection, Database, reading, set_setting, setting, sqlite_url
from lycia.storage.tables import SETTINGS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "coordinator.db"


@pytest.fixture
def file(path: Path) -> Iterator[Database]:
    """A database in a file."""
    database = Database(sqlite_url(path))
    yield database
    database.close()


def set_to(key: str, value: str = "1"):
    return lambda connection: set_setting(connection, key, value)


def as_another_program_sees(url: str) -> set[str]:
    """The keys that were set, but for those of the database's own."""
    with reading(url) as connection:
        return set(connection.scalars(select(SETTINGS.c.key))) - {"schema", "ticket"}


def test_what_was_written_is_committed_before_it_is_acknowledged(database: Database, url: str):
    async def story() -> None:
        for key in ("a", "b", "c"):
            await database.write(set_to(key))
            assert key in as_another_program_sees(url)

    asyncio.run(story())


def test_a_change_returns_what_it_found(database: Database):
    assert asyncio.run(database.write(lambda connection: setting(connection, "schema"))) == "see alembic_version"


def test_a_read_sees_everything_that_was_acknowledged(database: Database):
    async def story() -> None:
        for number in range(20):
            await database.write(set_to("count", str(number)))
            assert await database.read(lambda connection: setting(connection, "count")) == str(number)

    asyncio.run(story())


def test_a_read_cannot_change_anything(database: Database, url: str):
    with pytest.raises(StorageError):
        asyncio.run(database.read(set_to("a")))
    assert as_another_program_sees(url) == set()


def gathered(database: Database, changes: list) -> list:
    """What became of changes that were all waiting when the writer came to them."""
    is_writing, may_go_on = threading.Event(), threading.Event()

    def keep_the_writer_busy(_: Connection) -> None:
        is_writing.set()
        may_go_on.wait(10)

    async def together() -> list:
        busy = asyncio.create_task(database.write(keep_the_writer_busy))
        await asyncio.to_thread(is_writing.wait, 10)
        waiting = [asyncio.create_task(database.write(change)) for change in changes]
        await asyncio.sleep(0)
        may_go_on.set()
        await busy
        return await asyncio.gather(*waiting, return_exceptions=True)

    return asyncio.run(together())


def test_changes_that_wait_together_are_committed_together(database: Database):
    transactions = gathered(database, [lambda connection: connection.get_transaction()] * 50)
    assert len(set(map(id, transactions))) == 1


def test_changes_are_made_in_the_order_in_which_they_were_asked_for(database: Database):
    made: list[int] = []
    gathered(database, [lambda _, number=number: made.append(number) for number in range(50)])
    assert made == list(range(50))


def test_a_change_that_fails_leaves_nothing_and_its_neighbours_stay(database: Database, url: str):
    def fails(connection: Connection) -> None:
        set_setting(connection, "half", "1")
        raise NotFound("nothing.", why="a test.", do="nothing.")

    def fails_in_the_database(connection: Connection) -> None:
        set_setting(connection, "other half", "1")
        connection.exec_driver_sql("INSERT INTO settings VALUES ('a', '2')")

    before, failed, broken, after = gathered(database, [set_to("a"), fails, fails_in_the_database, set_to("b")])
    assert (before, after) == (None, None)
    assert isinstance(failed, NotFound)
    assert "unique" in str(broken).lower()
    assert as_another_program_sees(url) == {"a", "b"}


def test_nobody_in_a_group_is_acknowledged_when_the_database_gives_up_its_transaction(database: Database, url: str):
    def lose_it(connection: Connection) -> None:
        connection.exec_driver_sql("ROLLBACK")
        raise NotFound("nothing.", why="a test.", do="nothing.")

    ended = gathered(database, [set_to("a"), lose_it, set_to("b")])
    assert [type(one) for one in ended] == [StorageError] * 3
    assert as_another_program_sees(url) == set()
    asyncio.run(database.write(set_to("c")))
    assert as_another_program_sees(url) == {"c"}


def test_a_cancelled_writer_leaves_only_after_the_commit(database: Database, url: str):
    may_go_on = threading.Event()

    def slow(connection: Connection) -> None:
        may_go_on.wait(10)
        set_setting(connection, "a", "1")

    async def story() -> None:
        task = asyncio.create_task(database.write(slow))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert as_another_program_sees(url) == {"a"}

    asyncio.run(story())


def test_closing_commits_what_was_asked_for_and_refuses_what_comes_after(url: str):
    database = Database(url)

    async def story() -> None:
        waiting = [asyncio.create_task(database.write(set_to(str(number)))) for number in range(5)]
        await asyncio.sleep(0)
        await asyncio.to_thread(database.close)
        await asyncio.gather(*waiting)
        with pytest.raises(StorageError, match="is closed"):
            await database.write(set_to("late"))
        with pytest.raises(StorageError, match="is closed"):
            await database.read(lambda connection: setting(connection, "0"))

    asyncio.run(story())
    database.close()
    assert as_another_program_sees(url) == set("01234")


def test_a_loop_that_is_gone_keeps_nobody_from_writing(database: Database, url: str):
    may_go_on = threading.Event()
    loop = asyncio.new_event_loop()
    task = loop.create_task(database.write(lambda _: may_go_on.wait(10)))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    may_go_on.set()
    asyncio.run(database.write(set_to("a")))
    assert as_another_program_sees(url) == {"a"}
    task._log_destroy_pending = False  # it was left behind on purpose


def test_what_is_written_to_a_file_is_synced_at_each_commit(file: Database):
    def settings(connection: Connection) -> list[object]:
        return [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]

    assert asyncio.run(file.write(settings)) == ["wal", 2, 1]


@pytest.mark.skipif(os.name != "posix", reason="only POSIX has such permissions")
def test_nobody_else_may_read_the_database(file: Database, path: Path):
    asyncio.run(file.write(set_to("a")))
    assert {file.name: file.stat().st_mode & 0o077 for file in path.parent.glob("coordinator.db*")} == {
        "coordinator.db": 0, "coordinator.db-wal": 0, "coordinator.db-shm": 0,
    }  # fmt: skip


def test_a_database_that_another_program_holds_is_told_in_words(path: Path):
    database = Database(sqlite_url(path), busy_timeout_s=0.01)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="is locked") as refused:
        asyncio.run(database.write(set_to("a")))
    assert "stop the other program" in refused.value.do
    other.execute("ROLLBACK")
    other.close()
    asyncio.run(database.write(set_to("a")))
    database.close()


def test_a_database_that_is_locked_when_it_is_opened_is_told_in_words(path: Path):
    Database(sqlite_url(path)).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="is locked"):
        Database(sqlite_url(path), busy_timeout_s=0.01)
    other.close()
    Database(sqlite_url(path)).close()


def test_a_damaged_database_is_told_in_words(path: Path):
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(StorageError, match="is damaged"):
        Database(sqlite_url(path))


def test_a_database_in_a_folder_that_is_not_there_is_told_in_words(tmp_path: Path):
    with pytest.raises(StorageError, match="cannot be used"):
        Database(sqlite_url(tmp_path / "nowhere" / "coordinator.db"))


@pytest.mark.parametrize("url", ["mysql://ada:secret@host/db", "sqlite://", "sqlite:///:memory:", "ada:secret", ""])
def test_a_database_of_another_kind_is_refused_without_telling_its_password(url: str):
    with pytest.raises(StorageError, match="cannot be") as refused:
        Database(url)
    assert "SQLite file" in refused.value.why
    assert "secret" not in str(refused.value)


def test_a_setting_can_be_changed(database: Database):
    asyncio.run(database.write(set_to("server key", "one")))
    asyncio.run(database.write(set_to("server key", "two")))
    assert asyncio.run(database.read(lambda connection: setting(connection, "server key"))) == "two"
    assert asyncio.run(database.read(lambda connection: setting(connection, "nothing"))) is None
