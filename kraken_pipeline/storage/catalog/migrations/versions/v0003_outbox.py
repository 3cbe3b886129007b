"""The outbox's ids are never given twice, on SQLite either."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies the change."""
    _recreate(never_twice=True)


def downgrade() -> None:
    """Takes it back."""
    _recreate(never_twice=False)


def _recreate(*, never_twice: bool) -> None:
    if op.get_bind().dialect.name == "sqlite":
        with op.batch_alter_table(
            "publications", recreate="always", table_kwargs={"sqlite_autoincrement": never_twice}
        ):
            pass
