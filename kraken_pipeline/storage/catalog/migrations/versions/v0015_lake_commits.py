"""Tables for reading the lake as of an earlier moment: what each write added, and where that record begins."""

import time
import zlib

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply the change; the history starts now."""
    op.create_table(
        "lake_commits",
        sa.Column("id", _ID, nullable=False),
        sa.Column("pair", sa.String(length=64), nullable=False),
        sa.Column("interval", sa.Integer(), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("added", sa.JSON(), nullable=False),
        sa.Column("ledger", sa.JSON(), nullable=False),
        sa.Column("checksum", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lake_commits")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_lake_commits_pair_interval"), "lake_commits", ["pair", "interval"])
    starts = op.create_table(
        "history_starts",
        sa.Column("pair", sa.String(length=64), nullable=False),
        sa.Column("interval", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("starts_at", sa.BigInteger(), nullable=False),
        sa.Column("checksum", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("pair", "interval", name=op.f("pk_history_starts")),
    )
    now = time.time_ns() // 1_000
    checksum = zlib.crc32("\x1f".join(["", "0", str(now)]).encode())
    op.bulk_insert(starts, [{"pair": "", "interval": 0, "starts_at": now, "checksum": checksum}])


def downgrade() -> None:
    """Revert the change."""
    op.drop_table("history_starts")
    op.drop_table("lake_commits")
