"""Proof: contradictions between intervals, what they prove, suspect quiet time, withdrawals, counts, reports."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _series() -> list[sa.Column[str] | sa.Column[int]]:
    return [
        sa.Column("pair", sa.String(length=64), nullable=False),
        sa.Column("interval", sa.Integer(), nullable=False),
    ]


def _span() -> list[sa.Column[int]]:
    return [
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("end", sa.BigInteger(), nullable=False),
    ]


def upgrade() -> None:
    """Applies the change."""
    # Nothing has refuted anything before this migration: the table is empty.
    op.drop_table("refutations")
    op.create_table(
        "refutations",
        sa.Column("id", _ID, nullable=False),
        *_series(),
        *_span(),
        sa.Column("refuted", sa.JSON(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("after_grant", _ID, nullable=False),
        sa.Column("after_attempt", _ID, nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refutations")),
    )
    op.create_index(op.f("ix_refutations_pair_interval"), "refutations", ["pair", "interval"])
    op.create_table(
        "proofs",
        *_series(),
        *_span(),
        sa.PrimaryKeyConstraint("pair", "interval", "start", name=op.f("pk_proofs")),
    )
    op.create_table(
        "doubts",
        sa.Column("id", _ID, nullable=False),
        *_series(),
        *_span(),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_doubts")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_doubts_pair_interval"), "doubts", ["pair", "interval"])
    op.create_table(
        "contradictions",
        sa.Column("id", _ID, nullable=False),
        sa.Column("pair", sa.String(length=64), nullable=False),
        sa.Column("fine", sa.Integer(), nullable=False),
        sa.Column("coarse", sa.Integer(), nullable=False),
        *_span(),
        sa.Column("short_side", sa.String(length=8), nullable=True),
        sa.Column("fine_candle", sa.JSON(), nullable=True),
        sa.Column("coarse_candle", sa.JSON(), nullable=True),
        sa.Column("fine_trades", sa.BigInteger(), nullable=False),
        sa.Column("coarse_trades", sa.BigInteger(), nullable=False),
        sa.Column("culprit", sa.Integer(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contradictions")),
    )
    op.create_index(
        op.f("ix_contradictions_pair_fine_coarse_start"),
        "contradictions",
        ["pair", "fine", "coarse", "start"],
        unique=True,
    )
    op.create_table(
        "suspicions",
        sa.Column("id", _ID, nullable=False),
        sa.Column("pair", sa.String(length=64), nullable=True),
        sa.Column("interval", sa.Integer(), nullable=False),
        *_span(),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_suspicions")),
    )
    op.create_index(op.f("ix_suspicions_pair_interval"), "suspicions", ["pair", "interval"])
    op.create_table(
        "withdrawals",
        sa.Column("id", _ID, nullable=False),
        *_series(),
        *_span(),
        sa.Column("file_id", _ID, nullable=True),
        sa.Column("candles", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name=op.f("fk_withdrawals_file_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_withdrawals")),
    )
    op.create_index(op.f("ix_withdrawals_pair_interval"), "withdrawals", ["pair", "interval"])
    op.create_table(
        "candle_counts",
        *_series(),
        sa.Column("year", sa.Integer(), nullable=False),
        sa.Column("months", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("pair", "interval", "year", name=op.f("pk_candle_counts")),
    )
    op.create_table(
        "reports",
        sa.Column("id", _ID, nullable=False),
        sa.Column("tier", sa.String(length=8), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("numbers", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reports")),
    )
    op.create_index(op.f("ix_reports_tier_made_at"), "reports", ["tier", "made_at"])
    # What is in the lake by now was never reconciled.
    op.execute(
        'INSERT INTO doubts (pair, interval, start, "end", made_at) '
        'SELECT pair, interval, start, "end", verified_at FROM coverage'
    )


def downgrade() -> None:
    """Takes the change back."""
    for table in (
        "reports",
        "candle_counts",
        "withdrawals",
        "suspicions",
        "contradictions",
        "doubts",
        "proofs",
        "refutations",
    ):
        op.drop_table(table)
    op.create_table(
        "refutations",
        sa.Column("id", _ID, nullable=False),
        *_series(),
        *_span(),
        sa.Column("refuted", sa.JSON(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refutations")),
    )
    op.create_index(op.f("ix_refutations_pair_interval"), "refutations", ["pair", "interval"])
