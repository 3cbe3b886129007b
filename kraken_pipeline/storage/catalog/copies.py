"""Copying of a whole catalog, without loss, into another one of the same or another kind of database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import REGCLASS

from kraken_pipeline.errors import InvalidRequest, StoreError
from kraken_pipeline.storage.catalog.database import Catalog
from kraken_pipeline.storage.catalog.schema import assets, breakers, counters, history_starts, limits, metadata

_ROWS = 2_000
_PASSING = (assets, limits, breakers, counters, history_starts)
"""The tables that may have rows in a catalog that counts as empty: any command may have written them."""


def copy_catalog(source: Catalog, target: Catalog) -> Mapping[str, int]:
    """Copy every table of one catalog into another one that is empty; both are at the newest migration.

    Returns:
        The number of rows copied, by table.

    Raises:
        InvalidRequest: The target is not empty.
        StoreError: The target rejects a row.
    """
    try:
        with source.read() as reading, target.write() as writing:
            _require_empty(writing, target.place)
            counts = {table.name: _copy(reading, writing, table) for table in metadata.sorted_tables}
            for table in metadata.sorted_tables:
                if "id" in table.primary_key.columns:
                    _continue_ids(writing, table, _last_id(reading, table))
    except sa.exc.StatementError as error:
        raise StoreError(
            f"{target.place} does not accept the contents of {source.place}, and nothing was copied: "
            f"{' '.join(str(error.orig).split())}"
        ) from error
    return counts


def _require_empty(connection: sa.Connection, place: str) -> None:
    for table in metadata.sorted_tables:
        if table in _PASSING:
            continue
        if connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is not None:
            raise InvalidRequest(
                f"{place} already has rows in {table.name}; a catalog can only be copied into an empty database: "
                "name one in KRAKEN_CATALOG_URL"
            )
    for table in _PASSING:
        connection.execute(sa.delete(table))


def _copy(reading: sa.Connection, writing: sa.Connection, table: sa.Table) -> int:
    count = 0
    for rows in _batches(reading, table):
        writing.execute(sa.insert(table), rows)
        count += len(rows)
    return count


def _batches(connection: sa.Connection, table: sa.Table) -> Iterator[list[dict[str, Any]]]:
    query = sa.select(table).order_by(*table.primary_key.columns)
    with connection.execution_options(yield_per=_ROWS).execute(query) as result:
        for partition in result.mappings().partitions():
            yield [dict(row) for row in partition]


# --- ids: an id is never reused, even after its row was deleted


def _last_id(connection: sa.Connection, table: sa.Table) -> int:
    highest = int(connection.scalar(sa.select(sa.func.coalesce(sa.func.max(table.c.id), 0))) or 0)
    if connection.dialect.name == "sqlite":
        given = connection.execute(
            sa.text("SELECT seq FROM sqlite_sequence WHERE name = :name"), {"name": table.name}
        ).scalar()
    else:
        name = connection.scalar(sa.select(sa.func.pg_get_serial_sequence(table.name, "id")))
        given = connection.scalar(sa.select(sa.func.pg_sequence_last_value(sa.cast(name, REGCLASS))))
    return max(highest, int(given or 0))


def _continue_ids(connection: sa.Connection, table: sa.Table, last: int) -> None:
    if last == 0:
        return
    if connection.dialect.name != "sqlite":
        sequence = sa.func.pg_get_serial_sequence(table.name, "id")
        connection.execute(sa.select(sa.func.setval(sequence, last)))
    elif table.dialect_options["sqlite"]["autoincrement"]:
        named = {"name": table.name, "last": last}
        connection.execute(sa.text("DELETE FROM sqlite_sequence WHERE name = :name"), named)
        connection.execute(sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)"), named)
