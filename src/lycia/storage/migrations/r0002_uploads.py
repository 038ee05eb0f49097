"""What arrives by parts: which files are expected, and which of their parts are on the disk."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the two tables; some databases of schema 2 have them already."""
    there = sa.inspect(op.get_bind())
    if not there.has_table("uploads"):
        op.create_table(
            "uploads",
            sa.Column("id", sa.String(64), primary_key=True),
            sa.Column("run", sa.String(200), nullable=False, index=True),
            sa.Column("task", sa.BigInteger, nullable=False),
            sa.Column("node", sa.String(200), nullable=False),
            sa.Column("size_bytes", sa.BigInteger, nullable=False),
            sa.Column("parts", sa.Text, nullable=False),
        )
    if not there.has_table("parts"):
        op.create_table(
            "parts",
            sa.Column("upload", sa.String(64), sa.ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True),
            sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        )
