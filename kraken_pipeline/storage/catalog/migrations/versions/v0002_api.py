"""Kraken's API: listings, the shared limiter and breaker, counters; dead letters of requests and operations."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies the change."""
    op.add_column("dead_letters", sa.Column("pair", sa.String(length=64), nullable=True))
    op.add_column("dead_letters", sa.Column("interval", sa.Integer(), nullable=True))
    op.add_column("dead_letters", sa.Column("operation", sa.JSON(), nullable=True))
    op.add_column("dead_letters", sa.Column("retried_at", sa.BigInteger(), nullable=True))
    op.create_table(
        "listings",
        sa.Column("pair", sa.String(length=64), nullable=False),
        sa.Column("delisted_at", sa.BigInteger(), nullable=True),
        sa.Column("first_trade", sa.BigInteger(), nullable=True),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("pair", name=op.f("pk_listings")),
    )
    op.create_table(
        "limits",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("next_at", sa.Float(), nullable=False),
        sa.Column("slowness", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_limits")),
    )
    op.create_table(
        "breakers",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("opened_at", sa.Float(), nullable=True),
        sa.Column("probe_until", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_breakers")),
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("hour", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", "hour", name=op.f("pk_counters")),
    )


def downgrade() -> None:
    """Takes the change back."""
    for table in ("counters", "breakers", "limits", "listings"):
        op.drop_table(table)
    for column in ("retried_at", "operation", "interval", "pair"):
        op.drop_column("dead_letters", column)
