"""Cleanup of records that are no longer needed. Neither candles nor evidence are ever deleted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from kraken_pipeline.storage.exchange_state import counters
from kraken_pipeline.storage.records import gap_records, manifest
from kraken_pipeline.storage.stores import Stores

_DAY = 86_400


@dataclass(frozen=True, slots=True)
class CleanupOutcome:
    """The number of deleted records and files.

    Attributes:
        gaps: Records of gaps that were filled long ago.
        attempts: Equally old attempts whose span is covered.
        counters: Hourly counts.
        files: Damaged files that were set aside, and files of the ledger.
    """

    gaps: int
    attempts: int
    counters: int
    files: int = 0


def clean_up(stores: Stores, retention_days: int, now: int) -> CleanupOutcome:
    """Delete records older than `retention_days`, and files older than the settings keep them."""
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
    """Delete damaged files, ledger files and records of writes that are older than the settings keep them.

    Returns:
        The number of deleted files.
    """
    days = stores.settings.kraken_aside_retention_days
    if days is None:
        return 0
    before = now - days * _DAY
    with stores.catalog.write() as connection:
        # The record goes first: a file that a crash leaves over is sound, and `verify` records it again.
        given_way = manifest.ledger_before(connection, before)
        manifest.strike(connection, given_way)
        manifest.shorten_history(connection, given_way, before)
    paths = [*given_way, *_old(stores.lake.files.below("damaged"), before)]
    stores.lake.files.remove(paths)
    return len(paths)


def _old(paths: Iterable[str], before: int) -> Iterator[str]:
    """Yield the files that were set aside before a time, by the nanoseconds in their names."""
    for path in paths:
        moved = PurePosixPath(path).suffix.removeprefix(".")
        if moved.isdecimal() and int(moved) < before * 10**9:
            yield path
