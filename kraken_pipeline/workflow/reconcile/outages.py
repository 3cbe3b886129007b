"""Outages: times at which no pair traded, found in the candles and refuted where trades disprove them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import polars as pl
import sqlalchemy as sa
from numpy.typing import NDArray

from kraken_pipeline.coverage.batches import batches
from kraken_pipeline.coverage.contradictions import one_candle
from kraken_pipeline.coverage.quiet import all_quiet
from kraken_pipeline.coverage.ranges import (
    Span,
    Spans,
    clip,
    intersect,
    normalise,
    of_candles,
    subtract,
    touched_candles,
    whole_candles,
)
from kraken_pipeline.market.candle import Source
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.records import evidence_records, refutations
from kraken_pipeline.storage.records.proof_records import SuspicionRecord
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile.quiet_evidence import QuietEvidence

HOURS = Interval.H1
"""The interval in which outages are detected, because nearly every pair has it. Shorter outages are not seen."""
_WEEK = 7 * 86_400
_EVER = 2**40
NO_OUTAGE = "no pair traded, it was said, and the trades of others show that some did"


def refute_outages(
    evidence: QuietEvidence, over: Iterable[SuspicionRecord], outages: Spans, run: RunContext
) -> tuple[int, list[SuspicionRecord]]:
    """Refute the quiet time of every pair in outages that the trades of some pair have disproved.

    Returns:
        The number of refuted spans, and the disproved outages.
    """
    refuted = [suspicion for suspicion in over if _has_traded(evidence, suspicion.span)]
    spans = subtract(normalise(suspicion.span for suspicion in refuted), outages)
    if not spans:
        return 0, refuted
    with evidence.stores.catalog.read() as connection:
        coverage = evidence_records.coverage_of(connection)
    silent = {
        series.pair
        for series, records in coverage.items()
        if series.interval is HOURS and intersect(tuple(record.span for record in records), spans)
    }
    count = 0
    for series, records in sorted(coverage.items()):
        if series.pair not in silent:
            continue
        times = pl.concat([evidence.activity.times(series, span.start, span.end) for span in spans])
        absent = subtract(whole_candles(spans, series.interval), of_candles(times, series.interval))
        unbacked = evidence.unbacked(series, intersect(absent, tuple(record.span for record in records)))
        count += refute_coverage(evidence.stores, series, unbacked, NO_OUTAGE, run)
    return count, refuted


def _has_traded(evidence: QuietEvidence, span: Span) -> bool:
    """Return whether the trades of any pair, where they were read for a span, include one in it."""
    with evidence.stores.catalog.read() as connection:
        pairs = [series.pair for series in evidence_records.coverage_of(connection, [HOURS])]
    return any(
        evidence.has_candles(Series(pair, Interval.M1), part)
        for pair in pairs
        for part in clip(evidence.trades(pair), span)
    )


def refute_coverage(stores: Stores, series: Series, spans: Spans, reason: str, run: RunContext) -> int:
    """Refute the coverage of some spans, except where trades were read; each refuted span becomes a gap.

    Returns:
        The number of refuted spans.

    Raises:
        Busy: Another process has held the series for too long.
    """
    if not spans:
        return 0
    with stores.locks.series([series]):
        with stores.catalog.read() as connection:
            records = evidence_records.coverage_of(connection, [series.interval], [series.pair]).get(series, [])
            grants = evidence_records.grants_of(connection, [series]).get(series, [])
        trades = normalise(grant.span for grant in grants if grant.source == Source.TRADES)
        rest = subtract(intersect(spans, tuple(record.span for record in records)), trades)
        if rest:
            found = [
                (series, span, one_candle(stores.lake.read(series, span.start, span.end)), reason) for span in rest
            ]
            times = {series: stores.lake.times(series)}
            with stores.catalog.write() as connection:
                refutations.refute(connection, found, run.now)
                evidence_records.renew(connection, times)
    return len(rest)


def find_outages(stores: Stores, changed: Spans) -> Iterator[Span]:
    """Yield the spans in which all pairs are quiet at once and that overlap changed days."""
    days = touched_candles(changed, Interval.D1)
    if not days:
        return
    with stores.catalog.read() as connection:
        coverage = coverage_since_listing(connection, [HOURS])
    if len(coverage) < 2:
        return
    stores.lake.manifest.reread_all(coverage)  # in one query
    for part in batches(days, HOURS, Interval.D1):
        reach = Span(part[0].start - _WEEK, part[-1].end + _WEEK)
        markets = _markets(stores, coverage, reach)
        yield from (span for span in all_quiet(reach.start, HOURS, markets) if clip(part, span))


def coverage_since_listing(
    connection: sa.Connection, intervals: Sequence[Interval] | None = None, pairs: Sequence[str] | None = None
) -> dict[Series, Spans]:
    """Return the coverage of some series from their first candle on.

    A release covers its whole quarter: the time before a pair was listed is no quiet time.

    Args:
        connection: The connection to the catalog.
        intervals: The intervals; all where it is None.
        pairs: The pairs; all where it is None.
    """
    extents = evidence_records.extents(connection, pairs)
    return {
        series: intersect(tuple(record.span for record in records), (Span(extents[series].first_time, _EVER),))
        for series, records in evidence_records.coverage_of(connection, intervals, pairs).items()
        if series in extents
    }


def _markets(
    stores: Stores, coverage: Mapping[Series, Spans], reach: Span
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Yield the trade count of each hour, and whether it is covered, for each series; a series is read once."""
    hours = reach.seconds // HOURS.seconds
    for series, spans in coverage.items():
        covered = clip(whole_candles(spans, HOURS), reach)
        if not covered:
            continue
        candles = stores.lake.activity(series, reach.start, reach.end)
        trades, is_covered = np.zeros(hours, np.int64), np.zeros(hours, np.bool_)
        trades[(candles["time"].to_numpy() - reach.start) // HOURS.seconds] = candles["trade_count"].to_numpy()
        for span in covered:
            is_covered[(span.start - reach.start) // HOURS.seconds : (span.end - reach.start) // HOURS.seconds] = True
        yield trades, is_covered
