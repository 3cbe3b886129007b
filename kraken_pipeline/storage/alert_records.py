"""Catalog records of alerts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from kraken_pipeline.storage.catalog.schema import alerts


@dataclass(frozen=True, slots=True)
class AlertRecord:
    """An alert on record.

    Attributes:
        name: Its name.
        sentence: What is wrong.
        began_at: When it was found first, in seconds since the epoch.
        ended_at: When it was not found any more; None as long as it is wrong.
        told: The digests of the addresses that know that it has begun, sorted.
    """

    name: str
    sentence: str
    began_at: int
    ended_at: int | None
    told: Sequence[str]


def records(connection: sa.Connection) -> list[AlertRecord]:
    """Return all alerts on record."""
    return [AlertRecord(**row) for row in connection.execute(sa.select(alerts)).mappings()]


def replace_all(connection: sa.Connection, kept: Iterable[AlertRecord]) -> None:
    """Replace the alerts on record; the caller holds their lock."""
    connection.execute(sa.delete(alerts))
    rows = [
        {
            "name": record.name,
            "sentence": record.sentence,
            "began_at": record.began_at,
            "ended_at": record.ended_at,
            "told": list(record.told),
        }
        for record in kept
    ]
    if rows:
        connection.execute(sa.insert(alerts), rows)
