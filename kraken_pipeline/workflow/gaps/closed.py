"""Gaps that were filled."""

from __future__ import annotations

from kraken_pipeline.storage.records import gap_records
from kraken_pipeline.storage.records.gap_records import GapRow
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.gaps.snapshot import CatalogSnapshot
from kraken_pipeline.workflow.run_spec import RunSpec


def closed_gaps(stores: Stores, spec: RunSpec, snapshot: CatalogSnapshot) -> list[GapRow]:
    """Return the records of closed gaps that overlap a selection, by series and time."""
    with stores.catalog.read() as connection:
        closed = gap_records.closed_gaps(connection, sorted(snapshot.pairs))
    rows = (row for series in sorted(closed) if series.interval in spec.intervals for row in closed[series])
    return [row for row in rows if row.span.overlaps(spec.window)]
