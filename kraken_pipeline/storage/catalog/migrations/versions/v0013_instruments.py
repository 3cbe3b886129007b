"""The lists of pairs that the exchange sent, as the changes from one to the next."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "pair_lists",
        sa.Column("listed_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("pairs", sa.Integer(), nullable=False),
        sa.Column("checksum", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("listed_at", name=op.f("pk_pair_lists")),
    )
    op.create_table(
        "pair_changes",
        sa.Column("listed_at", sa.BigInteger(), nullable=False),
        sa.Column("pair", sa.String(length=64), nullable=False),
        sa.Column("before", sa.JSON(), nullable=True),
        sa.Column("after", sa.JSON(), nullable=True),
        sa.Column("checksum", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("listed_at", "pair", name=op.f("pk_pair_changes")),
    )


def downgrade() -> None:
    """Revert the change."""
    for name in ("pair_changes", "pair_lists"):
        op.drop_table(name)
