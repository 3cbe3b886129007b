"""The intervals that runs named, which reports are about where nobody says otherwise."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies the change."""
    op.create_table(
        "asked_intervals",
        sa.Column("interval", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("interval", name=op.f("pk_asked_intervals")),
    )


def downgrade() -> None:
    """Takes it back."""
    op.drop_table("asked_intervals")
