"""Ranges that were compared and are still to be searched for quiet time."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "quiet_checks",
        sa.Column("id", _ID, nullable=False),
        sa.Column("pair", sa.String(length=64), nullable=False),
        sa.Column("interval", sa.Integer(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("end", sa.BigInteger(), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quiet_checks")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_quiet_checks_pair_interval"), "quiet_checks", ["pair", "interval"])


def downgrade() -> None:
    """Mark what is still to be searched for another comparison, and revert the change."""
    op.execute(
        'INSERT INTO doubts (pair, interval, start, "end", made_at) '
        'SELECT pair, interval, start, "end", made_at FROM quiet_checks'
    )
    op.drop_table("quiet_checks")
