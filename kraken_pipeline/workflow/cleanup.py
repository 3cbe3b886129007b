"""Cleaning up: records that nobody needs any more. Neither candles nor evidence are ever among them."""

from __future__ import annotations

from dataclasses import dataclass

from kraken_pipeline.storage import counters, gap_records
from kraken_pipeline.storage.stores import Stores

_DAY = 86_400


@dataclass(frozen=True, slots=True)
class CleanupOutcome:
    """What was deleted.

    Attributes:
        gaps: Records of gaps that were filled long ago.
        attempts: Attempts of that time whose span is covered.
        counters: Hours of counts.
    """

    gaps: int
    attempts: int
    counters: int


def clean_up(stores: Stores, retention_days: int, now: int) -> CleanupOutcome:
    """Deletes what is older than so many days."""
    before = now - retention_days * _DAY
    with stores.catalog.write() as connection:
        return CleanupOutcome(
            gap_records.forget_closed(connection, before),
            gap_records.forget_attempts(connection, before),
            counters.forget(connection, before),
        )
