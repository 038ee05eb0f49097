"""The tables as they were when versions began to be counted here. A database that has them already keeps all it has."""

import sqlalchemy as sa
from alembic import op

from lycia.errors import StorageError

revision = "0001"
down_revision = None

_ADOPTED = "2"  # the number by which databases of this form were known before


def upgrade() -> None:
    """Make the tables, or adopt those that are there."""
    connection = op.get_bind()
    if not sa.inspect(connection).has_table("settings"):
        _make_tables()
    else:
        found = connection.scalar(sa.text("SELECT value FROM settings WHERE key = 'schema'"))
        if found != _ADOPTED:
            raise StorageError(
                f"the database has schema {found}, and this version works with {_ADOPTED} and what came after.",
                why="it was made by another version.",
                do="go on with the version that made it, or start with a new database.",
            )
        connection.execute(sa.text("DELETE FROM settings WHERE key = 'schema'"))
    # A version that knows of numbers only finds one that it does not know, and leaves the database alone.
    connection.execute(sa.text("INSERT INTO settings (key, value) VALUES ('schema', 'see alembic_version')"))


def _make_tables() -> None:
    op.create_table(
        "settings",
        sa.Column("key", sa.String(200), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "nodes",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("public_key", sa.LargeBinary(200), nullable=False, unique=True),
        sa.Column("role", sa.String(40), nullable=False),
        sa.Column("state", sa.String(40), nullable=False),
        sa.Column("examples", sa.BigInteger),
        sa.Column("schema_digest", sa.String(64), nullable=False),
        sa.Column("versions", sa.Text, nullable=False),
        sa.Column("joined_s", sa.Double, nullable=False),
        sa.Column("last_seen_s", sa.Double, nullable=False),
    )
    op.create_table(
        "invitations",
        sa.Column("token_hash", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("role", sa.String(40), nullable=False),
        sa.Column("made_s", sa.Double, nullable=False),
        sa.Column("expires_s", sa.Double, nullable=False),
        sa.Column("used_s", sa.Double),
        sa.Column("used_by", sa.String(200)),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("app", sa.String(200), nullable=False),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("plan_digest", sa.String(64), nullable=False),
        sa.Column("layout", sa.Text, nullable=False),
        sa.Column("schema", sa.Text),
        sa.Column("versions", sa.Text, nullable=False),
        sa.Column("state", sa.String(40), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("ended_s", sa.Double),
        sa.Column("paused_s", sa.Double, nullable=False),
        sa.Column("first_model", sa.String(64), nullable=False),
        sa.Column("carried", sa.Text),
    )
    op.create_table(
        "events",
        sa.Column("run", sa.String(200), sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("line", sa.Text, nullable=False),
    )
    op.create_table(
        "records",
        sa.Column("run", sa.String(200), sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("json", sa.Text, nullable=False),
    )
    op.create_table(
        "models",
        sa.Column("run", sa.String(200), sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.String(64), nullable=False, index=True),
    )
