"""Databases of older versions are brought up to date without losing anything, and newer ones are left alone."""

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from lycia.errors import StorageError
from lycia.storage import migrating
from lycia.storage.database import Database, reading, set_setting, sqlite_url
from lycia.storage.nodes import list_nodes
from lycia.storage.runs import journal_of_run, list_runs, models_of_run, records_of_run
from lycia.storage.tables import METADATA

# What the last version that counted schemas wrote: a run in the middle of its second round.
SCHEMA_2 = Path(__file__).with_name("schema_2.sql").read_text(encoding="utf-8")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A database of schema 2."""
    path = tmp_path / "coordinator.db"
    with closing(sqlite3.connect(path)) as made:
        made.executescript(SCHEMA_2)
    return path


def test_the_migrations_end_with_the_tables_as_they_are_used(url: str):
    Database(url).close()
    with reading(url) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []


def test_opening_a_database_again_changes_nothing(url: str):
    Database(url).close()
    with reading(url) as connection:
        found = migrating.revision_of(connection)
    Database(url).close()
    with reading(url) as connection:
        assert migrating.revision_of(connection) == found == migrating.newest()


def test_a_database_of_schema_2_keeps_everything(old: Path):
    def rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
        with closing(sqlite3.connect(path)) as connection:
            return {
                table: sorted(connection.execute(f"SELECT {', '.join(columns)} FROM {table}"))
                for table, columns in known.items()
            }

    with closing(sqlite3.connect(old)) as connection:  # later ones have more columns
        known = {
            table: [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            for table in ("nodes", "invitations", "runs", "events", "records", "models")
        }

    before = rows(old)
    assert all(before.values())
    Database(sqlite_url(old)).close()
    assert rows(old) == before
    with reading(sqlite_url(old)) as connection:
        assert migrating.revision_of(connection) == migrating.newest()
        (run,) = list_runs(connection)
        assert [node.name for node in list_nodes(connection)] == ["ada"]
        assert len(journal_of_run(connection, run.id)) == 2
        assert len(records_of_run(connection, run.id)) == 1
        assert [model.round for model in models_of_run(connection, run.id)] == [0, 1]


def test_before_a_file_is_changed_a_copy_is_kept_that_the_old_version_can_go_on_with(old: Path):
    Database(sqlite_url(old)).close()
    copy = old.with_name(f"coordinator.db.before-{migrating.newest()}")
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT value FROM settings WHERE key = 'schema'").fetchone() == ("2",)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert copy.stat().st_mode & 0o077 == 0
    copied_at = copy.stat().st_mtime_ns
    Database(sqlite_url(old)).close()
    assert copy.stat().st_mtime_ns == copied_at
    assert sorted(path.name for path in old.parent.iterdir()) == ["coordinator.db", copy.name]


def test_a_new_database_leaves_no_copy(tmp_path: Path):
    Database(sqlite_url(tmp_path / "coordinator.db")).close()
    assert [path.name for path in tmp_path.iterdir()] == ["coordinator.db"]


def test_a_migration_that_fails_changes_nothing(old: Path, monkeypatch: pytest.MonkeyPatch):
    before = shutil.copy(old, old.with_name("before"))

    def fail_at_last(self: object, *_: object) -> None:
        raise sqlite3.OperationalError("the machine stops here")

    monkeypatch.setattr("lycia.storage.sqlite.Sqlite.claim", fail_at_last)
    with pytest.raises(sqlite3.OperationalError):
        Database(sqlite_url(old))
    with closing(sqlite3.connect(old)) as now, closing(sqlite3.connect(before)) as then:
        assert list(now.iterdump()) == list(then.iterdump())


def test_a_database_that_is_newer_than_this_version_is_refused_and_left_as_it_is(url: str):
    database = Database(url)
    from_the_future = "UPDATE alembic_version SET version_num = '9999'"
    asyncio.run(database.write(lambda connection: connection.execute(text(from_the_future))))
    database.close()
    with pytest.raises(StorageError, match="has revision 9999") as refused:
        Database(url)
    assert "newer version" in refused.value.why
    assert "open-sesame" not in str(refused.value)
    with pytest.raises(StorageError, match="has revision 9999"), reading(url):
        pass


def test_a_database_of_a_schema_before_that_is_refused(old: Path):
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("UPDATE settings SET value = '1' WHERE key = 'schema'")
    with pytest.raises(StorageError, match="schema 1"):
        Database(sqlite_url(old))


def test_a_version_that_counted_schemas_finds_one_that_it_does_not_know(url: str):
    database = Database(url)
    asyncio.run(database.write(lambda connection: set_setting(connection, "a", "1")))
    database.close()
    with reading(url) as connection:
        found = connection.scalar(text("SELECT value FROM settings WHERE key = 'schema'"))
    assert not str(found).isdecimal()


def test_whoever_only_reads_does_not_bring_a_database_up_to_date(old: Path):
    with pytest.raises(StorageError, match="older version") as refused, reading(sqlite_url(old)):
        pass
    assert "lycia serve" in refused.value.do


def test_every_step_is_shipped_and_follows_the_one_before():
    scripts = migrating._scripts()
    steps = [script.revision for script in scripts.walk_revisions()][::-1]
    assert steps == [f"{number:04}" for number in range(1, len(steps) + 1)]
