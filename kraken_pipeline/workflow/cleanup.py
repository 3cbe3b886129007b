"""Cleaning up: records that nobody needs any more. Neither candles nor evidence are ever among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kraken_pipeline.storage.exchange_state import counters
from kraken_pipeline.storage.records import gap_records, manifest
from kraken_pipeline.storage.stores import Stores

_DAY = 86_400


@dataclass(frozen=True, slots=True)
class CleanupOutcome:
    """What was deleted.

    Attributes:
        gaps: Records of gaps that were filled long ago.
        attempts: Attempts of that time whose span is covered.
        counters: Hours of counts.
        files: Damaged files that were set aside, and files of the ledger.
    """

    gaps: int
    attempts: int
    counters: int
    files: int = 0


def clean_up(stores: Stores, retention_days: int, now: int) -> CleanupOutcome:
    """Deletes what is older than so many days."""
    before = now - retention_days * _DAY
    files = _forget_files(stores, now)
    with stores.catalog.write() as connection:
        return CleanupOutcome(
            gap_records.forget_closed(connection, before),
            gap_records.forget_attempts(connection, before),
            counters.forget(connection, before),
            files,
        )


def _forget_files(stores: Stores, now: int) -> int:
    """Deletes what was set aside, and what gave way, longer ago than the settings keep it; returns how many files."""
    days = stores.settings.kraken_aside_retention_days
    if days is None:
        return 0
    before = now - days * _DAY
    with stores.catalog.write() as connection:
        # Off the record first: a file that is left over by a crash is sound, and `verify` puts it back on record.
        given_way = manifest.ledger_before(connection, before)
        manifest.strike(connection, given_way)
    paths = [*(stores.lake.home / path for path in given_way), *_old(stores.lake.home / "damaged", before)]
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


def _old(folder: Path, before: int) -> Iterator[Path]:
    """The files below a folder that were moved there before a moment, by the time in their names (nanoseconds)."""
    for path in folder.rglob("*"):
        moved = path.suffix.removeprefix(".")
        if path.is_file() and moved.isdecimal() and int(moved) < before * 10**9:
            yield path
