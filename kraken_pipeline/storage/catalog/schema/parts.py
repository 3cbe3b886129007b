"""The parts that tables share: their metadata, and the columns that several of them have."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from kraken_pipeline.storage.catalog.columns import Minutes

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)

# SQLite generates ids for INTEGER keys only; PostgreSQL needs BIGINT for years of outbox ids.
ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""The type of generated ids."""
_PAIRS = 10_000
"""The number of pairs from which on a query does not name them: SQLite allows 32,766 variables."""


def of_pairs(column: sa.Column[str], pairs: Collection[str] | None) -> sa.ColumnElement[bool]:
    """Return the condition that selects some pairs; it is always true for None, or for more pairs than can be named."""
    return sa.true() if pairs is None or len(pairs) >= _PAIRS else column.in_(list(pairs))


def series_columns() -> list[sa.Column[str] | sa.Column[int]]:
    """Return the columns of a series in a table with checksums."""
    return [
        sa.Column("pair", sa.String(64), nullable=False),
        sa.Column("interval", sa.Integer, nullable=False),
    ]


def plain_series_columns() -> list[sa.Column[str] | sa.Column[int]]:
    """Return the columns of a series in a table without checksums, where reading detects an invalid interval."""
    return [sa.Column("pair", sa.String(64), nullable=False), sa.Column("interval", Minutes, nullable=False)]


def span_columns() -> list[sa.Column[int]]:
    """Return the columns of a span `[start, end)`, in seconds since the epoch."""
    return [
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("end", sa.BigInteger, nullable=False),
    ]


def checksum_column() -> sa.Column[int]:
    """Return the checksum column of `storage.catalog.seals`: a row that does not match it claims nothing."""
    return sa.Column("checksum", sa.BigInteger, nullable=False)


def content_columns() -> list[sa.Column[str] | sa.Column[int]]:
    """Return the columns that identify the candles of one lake file: their year, number and digest."""
    return [
        sa.Column("year", sa.Integer),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.String(255), nullable=False),
    ]


@dataclass(frozen=True, slots=True)
class TableShape:
    """The shape of a table, for a description of it.

    Attributes:
        columns: The name of each column, its type, and whether it may be null.
        keys: The names of the columns of the primary key.
    """

    columns: tuple[tuple[str, str, bool], ...]
    keys: tuple[str, ...]


def shape_of(table: sa.Table) -> TableShape:
    """Return the shape of a table of the catalog."""
    return TableShape(
        tuple((column.name, str(column.type).lower(), bool(column.nullable)) for column in table.columns),
        tuple(column.name for column in table.primary_key.columns),
    )
