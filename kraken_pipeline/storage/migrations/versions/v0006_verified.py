"""Proof in two levels, and where a second source confirmed what the lake has."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies the change."""
    # Whatever was proven was so by adding up: which of it was compared value by value, nobody knows.
    op.add_column("proofs", sa.Column("level", sa.String(length=16), nullable=False, server_default="RECONCILED"))
    with op.batch_alter_table("proofs") as proofs:
        proofs.alter_column("level", server_default=None)
    op.create_table(
        "confirmations",
        sa.Column("pair", sa.String(length=64), nullable=False),
        sa.Column("interval", sa.Integer(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("end", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("pair", "interval", "start", name=op.f("pk_confirmations")),
    )
    # So the next run compares all of it anew, as `reconcile --full` does: minutes for the largest collections, once.
    op.execute(
        'INSERT INTO doubts (pair, interval, start, "end", made_at) '
        'SELECT pair, interval, start, "end", verified_at FROM coverage'
    )


def downgrade() -> None:
    """Takes the change back."""
    op.drop_table("confirmations")
    op.drop_column("proofs", "level")
