"""The manifest of the trade lake."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "trade_files",
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("pair", sa.String(length=64), nullable=False),
        sa.Column("month", sa.Integer(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("claims", sa.Text(), nullable=False),
        sa.Column("write_id", sa.String(length=64), nullable=False),
        sa.Column("written_at", sa.BigInteger(), nullable=False),
        sa.Column("scrubbed_at", sa.BigInteger(), nullable=True),
        sa.Column("checksum", sa.BigInteger(), nullable=False),
        sa.Column("is_announced", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("path", name=op.f("pk_trade_files")),
    )
    op.create_index(op.f("ix_trade_files_pair_month"), "trade_files", ["pair", "month"])


def downgrade() -> None:
    """Revert the change; the files stay, and a later upgrade adopts them by `verify`."""
    op.drop_table("trade_files")
