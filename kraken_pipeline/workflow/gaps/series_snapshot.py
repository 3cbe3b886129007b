"""Snapshots of series at one moment: their candles in the lake, their coverage and their gaps.

Assets and job runs report the same numbers for a partition, so both use this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kraken_pipeline.coverage.completeness import SeriesCompleteness
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.records import trade_counts
from kraken_pipeline.storage.records.evidence_records import CoverageRecord, Extent
from kraken_pipeline.storage.records.trade_counts import TradeCount
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.gaps.gaps import Gap, find_gaps, measure
from kraken_pipeline.workflow.gaps.snapshot import load_snapshot
from kraken_pipeline.workflow.heed import heeding
from kraken_pipeline.workflow.run_spec import RunSpec


@dataclass(frozen=True, slots=True)
class SeriesSnapshot:
    """A snapshot of one series.

    Attributes:
        measured: The completeness of the series.
        extent: The extent of its candles in the lake; None if it has none.
        ranges: Its coverage, in order of time.
        gaps: Its gaps, in order of time.
        counted: The spans in which the ids of trades prove the number of trades.
    """

    measured: SeriesCompleteness
    extent: Extent | None
    ranges: Sequence[CoverageRecord]
    gaps: Sequence[Gap]
    counted: Sequence[TradeCount] = ()


def series_snapshots(stores: Stores, spec: RunSpec, now: int) -> Mapping[Series, SeriesSnapshot]:
    """Return a snapshot of every selected series.

    Args:
        stores: The stores to read.
        spec: The run spec that selects the series.
        now: The current time, in seconds since the epoch.

    Raises:
        InvalidRequest: Nothing is known of the selected series.
    """
    return heeding(lambda: _series_snapshots(stores, spec, now))


def _series_snapshots(stores: Stores, spec: RunSpec, now: int) -> Mapping[Series, SeriesSnapshot]:
    snapshot = load_snapshot(stores, spec, now)
    found = find_gaps(stores, spec, snapshot)
    with stores.catalog.read() as connection:
        counted = trade_counts.proven(connection, sorted(snapshot.pairs))
    gaps: dict[Series, list[Gap]] = {}
    for gap in found:
        gaps.setdefault(gap.series, []).append(gap)
    return {
        completeness.series: SeriesSnapshot(
            measured=completeness,
            extent=snapshot.extents.get(completeness.series),
            ranges=snapshot.coverage.get(completeness.series, ()),
            gaps=gaps.get(completeness.series, ()),
            counted=counted.get(completeness.series, ()),
        )
        for completeness in measure(stores, spec, snapshot, found)
    }
