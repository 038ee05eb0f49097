"""Going back to an earlier round: what each round carried on, and which rounds were undone."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns; rounds from before stay without what they carried on, so nobody can go back to them."""
    op.add_column("records", sa.Column("undone_s", sa.Double))
    op.add_column("records", sa.Column("undone_by", sa.String(200)))
    op.add_column("models", sa.Column("carried", sa.Text))
