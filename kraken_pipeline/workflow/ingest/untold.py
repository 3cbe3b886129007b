"""Archives of trades that were ingested while trades were not kept, and that are read again for their trades."""

from __future__ import annotations

from collections.abc import Iterable

from kraken_pipeline.coverage.ranges import normalise, subtract
from kraken_pipeline.kraken.archive import ArchiveFile
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.storage.catalog.states import FileStatus
from kraken_pipeline.storage.records import evidence_records, file_records
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.storage.trades import manifest
from kraken_pipeline.storage.trades.kept import claimed_by

REASON = "to be read again: its trades are to be kept"


def untold(stores: Stores, files: Iterable[ArchiveFile]) -> set[int]:
    """Return the ids of the ingested files among some that answer for time for which no trades are kept.

    Nothing is asked of the catalog unless trades are kept and there are archives of trades.
    """
    if not stores.settings.kraken_keep_trades:
        return set()
    locations = [file.location for file in files if file.kind is Kind.TRADES]
    if not locations:
        return set()
    with stores.catalog.read() as connection:
        known = file_records.by_location(connection, locations)
        ingested = {
            record.id: record.pair
            for records in known.values()
            for record in records
            if record.status is FileStatus.COMPLETED
        }
        granted = evidence_records.granted_by(connection, ingested)
        pairs = {ingested[file_id] for file_id in granted}
        claimed = {pair: claimed_by(manifest.claims_of(connection, pair)) for pair in pairs}
    return {file_id for file_id, spans in granted.items() if subtract(normalise(spans), claimed[ingested[file_id]])}


def have_read_again(stores: Stores, files: Iterable[ArchiveFile], now: int) -> None:
    """Reset such files to PENDING, so that they are ingested like new ones."""
    if ids := untold(stores, files):
        with stores.catalog.write() as connection:
            file_records.have_read_again(connection, ids, REASON, now)
