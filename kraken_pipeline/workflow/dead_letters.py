"""Dead letters of a home: lists and exports them, and finds the operations among them that can be retried."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.storage.records import dead_letters
from kraken_pipeline.storage.records.dead_letters import Operation
from kraken_pipeline.storage.stores import Stores


def failed_operations(stores: Stores, ids: Collection[int] = ()) -> list[Operation]:
    """Return the operations that failed for good and have not succeeded since, oldest first.

    Args:
        stores: The stores.
        ids: The ids of their dead letters; all operations where there are none.

    Raises:
        InvalidRequest: An id is not that of such an operation.
    """
    with stores.catalog.read() as connection:
        known = dead_letters.operations(connection, None)
    if missing := sorted(set(ids) - {operation.id for operation in known}):
        raise InvalidRequest(
            f"{', '.join(map(str, missing))}: no failed fetch has that number; rows and files cannot be retried"
        )
    return [operation for operation in known if not ids or operation.id in ids]


def list_dead_letters(stores: Stores, pairs: Sequence[str], limit: int) -> tuple[list[dict[str, Any]], int, int]:
    """Return dead letters, those of the newest file first, the number of all, and of those that are only counted.

    Args:
        stores: The stores.
        pairs: The names of the pairs; all pairs where there are none.
        limit: The maximum number of dead letters returned.
    """
    with stores.catalog.read() as connection:
        return (
            dead_letters.listed(connection, pairs or None, limit),
            dead_letters.count(connection, pairs or None),
            dead_letters.count_unkept(connection, pairs or None),
        )


def export_dead_letters(stores: Stores, pairs: Sequence[str], path: Path) -> tuple[int, int]:
    """Write the dead letters of some pairs, or of all where there are none, to a CSV file.

    Returns:
        The number of letters, and of the rejected rows that one letter a file counts.
    """
    with stores.catalog.read() as connection:
        return dead_letters.export(connection, pairs or None, path), dead_letters.count_unkept(
            connection, pairs or None
        )
