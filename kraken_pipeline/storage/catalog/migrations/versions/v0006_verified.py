"""Proof in two levels, and where a second source confirmed what the lake has."""

import zlib
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies the change."""
    # Whatever was proven was so by adding up: which of it was compared value by value, nobody knows.
    proven = op.get_bind().execute(sa.text('SELECT pair, interval, start, "end" FROM proofs')).all()
    op.drop_table("proofs")
    proofs = op.create_table(
        "proofs",
        sa.Column("pair", sa.String(length=64), nullable=False),
        sa.Column("interval", sa.Integer(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("end", sa.BigInteger(), nullable=False),
        sa.Column("level", sa.String(length=16), nullable=False),
        sa.Column("checksum", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("pair", "interval", "start", name=op.f("pk_proofs")),
    )
    rows = [dict(zip(("pair", "interval", "start", "end"), row, strict=True)) for row in proven]
    op.bulk_insert(proofs, [_sealed({**row, "level": "RECONCILED"}) for row in rows])
    op.create_table(
        "confirmations",
        sa.Column("pair", sa.String(length=64), nullable=False),
        sa.Column("interval", sa.Integer(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("end", sa.BigInteger(), nullable=False),
        sa.Column("checksum", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("pair", "interval", "start", name=op.f("pk_confirmations")),
    )
    # So the next run compares all of it anew, as `reconcile --full` does: minutes for the largest collections, once.
    op.execute(
        'INSERT INTO doubts (pair, interval, start, "end", made_at) '
        'SELECT pair, interval, start, "end", verified_at FROM coverage'
    )


def _sealed(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its checksum, as `storage.seals` computes it."""
    values = (str(row[name]) for name in ("pair", "interval", "start", "end", "level"))
    return {**row, "checksum": zlib.crc32("\x1f".join(values).encode())}


def downgrade() -> None:
    """Takes the change back."""
    op.drop_table("confirmations")
    op.drop_column("proofs", "checksum")
    op.drop_column("proofs", "level")
