"""Room for the digests of rows that have a flow: twelve parts instead of nine."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_TABLES = ("lake_files", "deliveries")


def upgrade() -> None:
    """Apply the change."""
    for name in _TABLES:
        with op.batch_alter_table(name) as batch:
            batch.alter_column("digest", existing_type=sa.String(160), type_=sa.String(255), existing_nullable=False)


def downgrade() -> None:
    """Revert the change; a digest that is too long is cut, and no longer matches its file."""
    for name in _TABLES:
        with op.batch_alter_table(name) as batch:
            batch.alter_column(
                "digest",
                existing_type=sa.String(255),
                type_=sa.String(160),
                existing_nullable=False,
                postgresql_using="substr(digest, 1, 160)",
            )
