"""Seals: a checksum over the columns of a row that a claim rests on, so that a row that was damaged claims nothing."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

_UNSEALED = frozenset({"id", "checksum", "is_announced", "scrubbed_at"})
"""What tells a row from others, or how far work on it has got, and is no claim."""


def checksum(table: sa.Table, row: Mapping[str, Any]) -> int:
    """Compute the checksum of a row: CRC-32 over the names and values of its columns.

    Args:
        table: Whose row; a column that the row lacks counts as null.
        row: Column → value.
    """
    values = {column.name: row.get(column.name) for column in table.columns if column.name not in _UNSEALED}
    return zlib.crc32(json.dumps(values, sort_keys=True, default=repr).encode())


def sealed(table: sa.Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row with its checksum, ready to be inserted."""
    return {**row, "checksum": checksum(table, row)}


def broken(connection: sa.Connection, table: sa.Table) -> list[sa.RowMapping]:
    """Return the rows of a table that have not the values that they were written with."""
    return [row for row in connection.execute(sa.select(table)).mappings() if not is_intact(table, row)]


def delete(connection: sa.Connection, table: sa.Table, rows: Iterable[sa.RowMapping]) -> None:
    """Delete some rows of a table, by their primary keys as they are read."""
    for row in rows:
        is_one = [column == row[column.name] for column in table.primary_key.columns]
        connection.execute(sa.delete(table).where(*is_one))


def is_intact(table: sa.Table, row: sa.RowMapping) -> bool:
    """Tell whether a row, read with all its columns, still has the values that it was written with."""
    return bool(row["checksum"] == checksum(table, dict(row)))
