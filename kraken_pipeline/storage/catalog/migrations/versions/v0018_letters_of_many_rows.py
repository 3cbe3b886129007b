"""Dead letters that stand for many rejected rows of a file, of which only the first are kept."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change; so far, each letter stands for itself."""
    with op.batch_alter_table("dead_letters") as batch:
        batch.add_column(sa.Column("rows", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Revert the change."""
    with op.batch_alter_table("dead_letters") as batch:
        batch.drop_column("rows")
