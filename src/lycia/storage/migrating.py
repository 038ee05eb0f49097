"""Bringing a database into the form that this version works with, step by step, in one transaction."""

from pathlib import Path

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from lycia.errors import StorageError

MIGRATIONS = Path(__file__).with_name("migrations")


def newest() -> str:
    """The revision that this version works with."""
    return str(_scripts().get_current_head())


def revision_of(connection: Connection) -> str:
    """The revision that a database has; "" for one that has none."""
    return MigrationContext.configure(connection).get_current_revision() or ""


def is_empty(connection: Connection) -> bool:
    """Whether nothing of ours is in the database."""
    return not inspect(connection).has_table("settings")


def check_known(connection: Connection, told: str) -> None:
    """Do nothing if the database can be brought to this version's form, or has it.

    Raises: StorageError, if it was made by a newer version.
    """
    found = revision_of(connection)
    known = {script.revision for script in _scripts().walk_revisions()}
    if found and found not in known:
        raise StorageError(
            f"the database {told} has revision {found}, and this version knows revisions up to {newest()}.",
            why="it was made by a newer version, which may keep in it what this one does not understand.",
            do="go on with the version that made it, or restore a backup from before into a new folder.",
        )


def check_current(connection: Connection, told: str) -> None:
    """Do nothing if the database has the form that this version reads.

    Raises: StorageError, if it was made by another version.
    """
    check_known(connection, told)
    if revision_of(connection) != newest():
        raise StorageError(
            f"the database {told} was made by an older version, or holds no coordinator's state.",
            why=f"it has revision {revision_of(connection) or 'none'}, and this version reads {newest()}.",
            do="start `lycia serve` once with this version, which brings it up to date.",
        )


def migrate(connection: Connection) -> None:
    """Make of the database what this version works with, inside the caller's transaction."""
    scripts = _scripts()

    def steps(revision: object, _: MigrationContext) -> list[object]:
        return list(scripts._upgrade_revs("head", revision))  # type: ignore[arg-type]  # as alembic's own commands do

    context = MigrationContext.configure(connection, opts={"fn": steps})
    with Operations.context(context):
        context.run_migrations()


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(MIGRATIONS), version_locations=[str(MIGRATIONS)])
