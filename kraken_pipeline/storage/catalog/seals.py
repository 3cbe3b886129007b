"""Seals: checksums over the columns of a row that a claim rests on, so that a damaged row claims nothing."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import filterfalse
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

_UNSEALED = frozenset({"id", "checksum", "is_announced", "scrubbed_at"})
"""The columns that identify a row or record the progress of work on it, and make no claim."""


@cache
def _columns(table: sa.Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns if column.name not in _UNSEALED)


def checksum(table: sa.Table, row: Mapping[str, Any] | sa.RowMapping) -> int:
    """Compute the checksum of a row: CRC-32 over the values of its columns, in their order.

    Args:
        table: The table of the row.
        row: Column → value.
    """
    return zlib.crc32("\x1f".join([str(row[name]) for name in _columns(table)]).encode())


def sealed(table: sa.Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row with its checksum, ready to be inserted."""
    return {**row, "checksum": checksum(table, row)}


@cache
def _is_right(table: sa.Table) -> Callable[[sa.Row[Any]], bool]:
    """Return what says whether a row of all columns, in table order, matches its checksum."""
    names = [column.name for column in table.columns]
    at, crc32 = names.index("checksum"), zlib.crc32
    sealed_values = itemgetter(*(names.index(name) for name in _columns(table)))
    text = "\x1f".join(["%s"] * len(_columns(table)))  # as `checksum` joins them, in half the time
    return lambda row: bool(row[at] == crc32((text % sealed_values(row)).encode()))


def intact(table: sa.Table, rows: Iterable[sa.Row[Any]]) -> Iterator[sa.Row[*tuple[Any, ...]]]:
    """Return those rows of a table, with all its columns in table order, that match their checksums."""
    return filter(_is_right(table), rows)


def broken(connection: sa.Connection, table: sa.Table) -> list[sa.RowMapping]:
    """Return the rows of a table that do not match their checksums."""
    rows = connection.execute(sa.select(table)).all()
    return [row._mapping for row in filterfalse(_is_right(table), rows)]


def delete(connection: sa.Connection, table: sa.Table, rows: Iterable[sa.RowMapping]) -> None:
    """Delete some rows of a table, by their primary keys as read."""
    for row in rows:
        is_one = [column == row[column.name] for column in table.primary_key.columns]
        connection.execute(sa.delete(table).where(*is_one))


def is_intact(table: sa.Table, row: sa.RowMapping) -> bool:
    """Return whether a row, read with all its columns, matches its checksum."""
    return bool(row["checksum"] == checksum(table, row))
