"""Suspicion: quiet time that is hard to believe goes on record, and what became of it.

A reply of OHLC that lists no trade amid a busy market has been wrong before, and when all pairs are quiet at once the
exchange was down, or data is missing everywhere. Either is covered, because something answered for it; it is marked
until trades, or another interval, prove it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.quiet import NEIGHBOURS, all_quiet, lone_quiet
from kraken_pipeline.coverage.ranges import (
    Span,
    Spans,
    clip,
    intersect,
    lies_in,
    normalise,
    subtract,
    touched_candles,
    whole_candles,
)
from kraken_pipeline.market.candle import Source, seconds_of
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage import evidence_records, proof_records
from kraken_pipeline.storage.proof_records import SuspicionRecord
from kraken_pipeline.storage.schema import SuspicionState
from kraken_pipeline.storage.stores import Stores

HOURS = Interval.H1
"""Outages are looked for among the hours, which nearly every pair has: shorter ones are not seen."""
_WEEK = 7 * 86_400
_CHUNK = 366 * 86_400
LONE = "OHLC says that nobody traded, between candles that all have trades"
OUTAGE = "no pair traded, though many trades are usual at that time"


def look(stores: Stores, changed: Mapping[Series, Spans], now: int) -> None:
    """Puts on record what is hard to believe of some ranges that have changed, and judges what is on record.

    Args:
        stores: Where.
        changed: What has changed, and was reconciled since.
        now: The moment, in seconds since the epoch.
    """
    if not changed:
        return
    pairs = sorted({series.pair for series in changed})
    with stores.catalog.read() as connection:
        known = proof_records.suspicions_of(connection, pairs)
        proven = proof_records.proven(connection)
        answered = evidence_records.grants_of(connection, changed)
    hours = normalise(span for series, spans in changed.items() if series.interval is HOURS for span in spans)
    outages = list(_outages(stores, hours))
    found = [
        *(
            (series.pair, series.interval, each, LONE)
            for series, spans in sorted(changed.items())
            for each in _lone(stores, series, spans, answered.get(series, ()), proven.get(series, ()))
        ),
        *((None, HOURS, each, OUTAGE) for each in outages),
    ]
    on_record = {(each.pair, each.interval, each.span) for each in known}
    new = [
        SuspicionRecord(pair, interval, span, reason, SuspicionState.UNPROVEN, now, now)
        for pair, interval, span, reason in found
        if (pair, interval, span) not in on_record
    ]
    days = touched_candles(hours, Interval.D1)
    over = [each for each in known if each.pair is None and each.span not in outages and clip(days, each.span)]
    touched = _days(changed)
    judged: dict[SuspicionState, list[int]] = {}
    for each in known:
        if each in over or not clip(touched[each.pair], each.span):
            continue
        if (state := _state(stores, each, proven)) is not each.state:
            judged.setdefault(state, []).append(each.id)
    with stores.catalog.write() as connection:
        proof_records.dispel(connection, [each.id for each in over])
        for state, ids in judged.items():
            proof_records.judge(connection, ids, state, now)
        proof_records.suspect(connection, [replace(each, state=_state(stores, each, proven)) for each in new])


def _days(changed: Mapping[Series, Spans]) -> dict[str | None, Spans]:
    """The days that have changed in any interval: pair → days, and None → those of all pairs."""
    spans: dict[str | None, list[Span]] = {}
    for series, found in changed.items():
        spans.setdefault(series.pair, []).extend(found)
        spans.setdefault(None, []).extend(found)
    return {pair: touched_candles(normalise(each), Interval.D1) for pair, each in spans.items()}


def _state(stores: Stores, each: SuspicionRecord, proven: Mapping[Series, Spans]) -> SuspicionState:
    """What is known of a suspicion by now."""
    if each.pair is not None:
        series = Series(each.pair, each.interval)
        if stores.lake.read(series, each.span.start, each.span.end).height:
            return SuspicionState.TRADED
        is_proven = not subtract((each.span,), proven.get(series, ()))
        return SuspicionState.PROVEN_QUIET if is_proven else SuspicionState.UNPROVEN
    quiet = [
        series
        for series, spans in proven.items()
        if series.interval is each.interval and not subtract((each.span,), spans)
    ]
    return SuspicionState.EXCHANGE_DOWN if len(quiet) >= 2 else SuspicionState.UNPROVEN


def _lone(stores: Stores, series: Series, spans: Spans, grants: Sequence[Grant], proven: Spans) -> Spans:
    """The quiet candles that nobody but OHLC has answered for."""
    replies = normalise(grant.span for grant in grants if grant.source == Source.OHLC)
    others = normalise(grant.span for grant in grants if grant.source not in (Source.OHLC, Source.RESAMPLED))
    answered = subtract(subtract(intersect(replies, spans), others), proven)
    margin = (NEIGHBOURS + 2) * series.interval.seconds
    found: list[Span] = []
    for each in normalise(Span(span.start - margin, span.end + margin) for span in answered):
        candles = stores.lake.read(series, each.start, each.end).with_columns(seconds_of(pl.col("time")).alias("time"))
        found += lone_quiet(candles["time"], candles["trade_count"], answered, series.interval)
    return normalise(found)


def _outages(stores: Stores, changed: Spans) -> Iterator[Span]:
    """The spans in which all pairs are quiet at once, as far as they touch what has changed."""
    days = touched_candles(changed, Interval.D1)
    if not days:
        return
    with stores.catalog.read() as connection:
        coverage = {
            series: tuple(record.span for record in records)
            for series, records in evidence_records.coverage_of(connection, [HOURS]).items()
        }
    for window in _chunks(days) if len(coverage) > 1 else ():
        reach = Span(window.start - _WEEK, window.end + _WEEK)
        markets = _markets(stores, coverage, reach)
        for each in all_quiet(reach.start, HOURS, markets):
            if each.overlaps(window):
                yield each


def _chunks(days: Spans) -> Iterator[Span]:
    for each in days:
        for start in range(each.start, each.end, _CHUNK):
            yield Span(start, min(each.end, start + _CHUNK))


def _markets(
    stores: Stores, coverage: Mapping[Series, Spans], reach: Span
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    starts = pl.int_range(reach.start, reach.end, HOURS.seconds, dtype=pl.Int64, eager=True)
    for series, spans in coverage.items():
        if not intersect(spans, (reach,)):
            continue
        candles = stores.lake.read(series, reach.start, reach.end)
        trades = np.zeros(len(starts), np.int64)
        at = (candles.select(seconds_of(pl.col("time"))).to_series().to_numpy() - reach.start) // HOURS.seconds
        trades[at] = candles["trade_count"].to_numpy()
        yield trades, lies_in(whole_candles(spans, HOURS), starts).to_numpy()


def unproven(
    stores: Stores, pairs: Iterable[str], rates: Mapping[str, float], since: int
) -> list[tuple[str, Span, str]]:
    """What to ask the trades of, to see whether a quiet time is true: pair, span and reason, the newest first.

    What they have already answered for is left out: an outage stays unproven until a second pair is asked.

    Args:
        stores: Where.
        pairs: Of which pairs; of an outage, the two busiest of them answer for all.
        rates: How many trades a second each pair has.
        since: Nothing before it, in seconds since the epoch.
    """
    names = set(pairs)
    with stores.catalog.read() as connection:
        found = [
            each
            for each in proof_records.suspicions_of(connection, sorted(names))
            if each.state is SuspicionState.UNPROVEN and each.span.end > since
        ]
        hours = evidence_records.coverage_of(connection, [HOURS], sorted(names)) if found else {}
        grants = evidence_records.grants_of(connection, [Series(name, Interval.M1) for name in names] if found else ())
    answered = {
        series.pair: normalise(grant.span for grant in some if grant.source == Source.TRADES)
        for series, some in grants.items()
    }
    wanted: list[tuple[str, Span, str]] = []
    for each in sorted(found, key=lambda each: each.span, reverse=True):
        if each.pair is not None:
            wanted.append((each.pair, each.span, each.reason))
            continue
        covered = [
            series.pair
            for series, records in hours.items()
            if not subtract((each.span,), tuple(record.span for record in records))
        ]
        busiest = sorted(covered, key=lambda pair: rates.get(pair, 0.0), reverse=True)[:2]
        wanted += [(pair, each.span, each.reason) for pair in busiest]
    return [each for each in wanted if clip(answered.get(each[0], ()), each[1]) != (each[1],)]
