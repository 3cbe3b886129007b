"""The manifest of the lake, damage, verifications, deliveries, the ids of pairs, and checksums of evidence."""

import zlib
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_ORDER = {
    "grants": ("pair", "interval", "start", "end", "source", "file_id", "trades", "verified_at"),
    "refutations": (
        *("pair", "interval", "start", "end", "refuted", "reason", "after_grant", "after_attempt", "damage_id"),
        *("made_at", "ended_at"),
    ),
    "candle_counts": ("pair", "interval", "year", "months"),
    "coverage": ("pair", "interval", "start", "end", "source", "candles", "verified_at"),
    "extents": ("pair", "interval", "candles", "first_time", "last_time"),
    "listings": ("pair", "delisted_at", "first_trade", "seen_at"),
}
"""The columns that a row's checksum is of, in their order, of each table that gets one."""


def _series() -> list[sa.Column[str] | sa.Column[int]]:
    return [
        sa.Column("pair", sa.String(length=64), nullable=False),
        sa.Column("interval", sa.Integer(), nullable=False),
    ]


def _rows() -> list[sa.Column[str] | sa.Column[int]]:
    return [
        sa.Column("year", sa.Integer(), nullable=True),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(length=160), nullable=False),
    ]


def upgrade() -> None:
    """Applies the change."""
    op.create_table(
        "lake_files",
        sa.Column("path", sa.Text(), nullable=False),
        *_series(),
        *_rows(),
        sa.Column("first_time", sa.BigInteger(), nullable=True),
        sa.Column("last_time", sa.BigInteger(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("write_id", sa.String(length=64), nullable=False),
        sa.Column("written_at", sa.BigInteger(), nullable=False),
        sa.Column("scrubbed_at", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("checksum", sa.BigInteger(), nullable=False),
        sa.Column("is_announced", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("path", "write_id", name=op.f("pk_lake_files")),
    )
    op.create_index(op.f("ix_lake_files_pair_interval"), "lake_files", ["pair", "interval"])
    op.create_table("unadopted", *_series(), sa.PrimaryKeyConstraint("pair", "interval", name=op.f("pk_unadopted")))
    op.execute("INSERT INTO unadopted (pair, interval) SELECT pair, interval FROM extents")
    op.create_table(
        "damages",
        sa.Column("id", _ID, nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("pair", sa.String(length=64), nullable=True),
        sa.Column("interval", sa.Integer(), nullable=True),
        sa.Column("year", sa.Integer(), nullable=True),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("candles", sa.BigInteger(), nullable=False),
        sa.Column("first_time", sa.BigInteger(), nullable=True),
        sa.Column("noticed_at", sa.BigInteger(), nullable=False),
        sa.Column("settled_at", sa.BigInteger(), nullable=True),
        sa.Column("moved_to", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_damages")),
    )
    op.create_index(op.f("ix_damages_path"), "damages", ["path"])
    op.create_table(
        "verifications",
        sa.Column("id", _ID, nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=False),
        sa.Column("is_quick", sa.Boolean(), nullable=False),
        sa.Column("is_all", sa.Boolean(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("damaged", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_verifications")),
    )
    op.create_table(
        "deliveries",
        sa.Column("path", sa.Text(), nullable=False),
        *_series(),
        *_rows(),
        sa.Column("delivered_at", sa.BigInteger(), nullable=False),
        sa.Column("checksum", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("path", name=op.f("pk_deliveries")),
    )
    op.create_table(
        "assets",
        sa.Column("asset_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("pair", sa.String(length=64), nullable=False),
        sa.Column("base", sa.String(length=64), nullable=False),
        sa.Column("quote", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("asset_id", name=op.f("pk_assets")),
        sa.UniqueConstraint("pair", name=op.f("uq_assets_pair")),
    )
    with op.batch_alter_table("refutations") as batch:
        batch.add_column(
            sa.Column(
                "damage_id", _ID, sa.ForeignKey("damages.id", name=op.f("fk_refutations_damage_id")), nullable=True
            )
        )
    for name in _ORDER:
        with op.batch_alter_table(name) as batch:
            batch.add_column(sa.Column("checksum", sa.BigInteger(), nullable=True))
        _seal(name)
        with op.batch_alter_table(name) as batch:
            batch.alter_column("checksum", existing_type=sa.BigInteger(), nullable=False)


def _seal(name: str) -> None:
    """Gives every row of a table its checksum, as `storage.seals` computes it."""
    connection = op.get_bind()
    table = sa.Table(name, sa.MetaData(), autoload_with=connection)
    for column in table.columns:
        if column.name in ("months", "refuted"):
            column.type = sa.JSON(none_as_null=True)
    keys = [column.name for column in table.primary_key.columns]
    seals = [
        {**{f"of_{key}": row[key] for key in keys}, "seal": _checksum(dict(row), _ORDER[name])}
        for row in connection.execute(sa.select(table)).mappings()
    ]
    if seals:
        is_one = [table.c[key] == sa.bindparam(f"of_{key}") for key in keys]
        connection.execute(sa.update(table).where(*is_one).values(checksum=sa.bindparam("seal")), seals)


def _checksum(row: dict[str, Any], columns: Sequence[str]) -> int:
    values = (str(row[name]) for name in columns if name not in ("id", "checksum"))
    return zlib.crc32("\x1f".join(values).encode())


def downgrade() -> None:
    """Takes it back."""
    for name in _ORDER:
        with op.batch_alter_table(name) as batch:
            batch.drop_column("checksum")
    with op.batch_alter_table("refutations") as batch:
        batch.drop_constraint(op.f("fk_refutations_damage_id"), type_="foreignkey")
        batch.drop_column("damage_id")
    for name in ("assets", "deliveries", "verifications", "damages", "unadopted", "lake_files"):
        op.drop_table(name)
