"""Suspicions: detects and records quiet time that is hard to believe, and judges it later.

OHLC replies without a trade in a busy market have been wrong before, and files lack days. When all pairs are quiet at
once, the exchange was down or data is missing everywhere. Such quiet time is covered, because a source answered for it.
It is marked and counts for no proof until trades, or a coarser candle that adds up, confirm it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kraken_pipeline.coverage.contradictions import one_candle
from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.quiet import MARGIN, NEIGHBOURS, all_quiet, lone_quiet, long_quiet
from kraken_pipeline.coverage.ranges import (
    Span,
    Spans,
    clip,
    intersect,
    lies_in,
    normalise,
    of_candles,
    subtract,
    touched_candles,
    union,
    whole_candles,
)
from kraken_pipeline.market.candle import Source, seconds_of
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import SuspicionState
from kraken_pipeline.storage.exchange_state import incident_records
from kraken_pipeline.storage.records import evidence_records, proof_records, refutations
from kraken_pipeline.storage.records.evidence_records import CoverageRecord
from kraken_pipeline.storage.records.proof_records import SuspicionRecord
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.progress import RunContext

HOURS = Interval.H1
"""The interval in which outages are detected, because nearly every pair has it. Shorter outages are not seen."""
_WEEK = 7 * 86_400
_CHUNK = 366 * 86_400
_EVER = 2**40
LONE = "OHLC says that nobody traded, between candles that all have trades"
LONG = "nobody traded, though many trades of this pair are usual at that time"
OUTAGE = "no pair traded, though many trades are usual at that time"
DOUBTS = (LONE, LONG, OUTAGE)
NO_OUTAGE = "no pair traded, it was said, and the trades of others show that some did"


def look(stores: Stores, changed: Mapping[Series, Spans], run: RunContext) -> int:
    """Record new suspicions in changed ranges, and judge the recorded ones.

    Args:
        stores: The stores.
        changed: The ranges that have changed and have been reconciled since.
        run: The context of the run.

    Returns:
        The number of refuted spans: quiet time of all pairs in an outage that trades have disproved.

    Raises:
        Busy: Another process has held a series to be refuted for too long.
    """
    if not changed:
        return 0
    days = _days(changed)
    hours = normalise(span for series, spans in changed.items() if series.interval is HOURS for span in spans)
    with stores.catalog.read() as connection:
        known = proof_records.suspicions_of(connection)
        proven = {series: found.reconciled for series, found in proof_records.added_up(connection).items()}
        evidence = _Evidence(stores, proven, incident_records.down_times(connection))
    outages = list(_outages(stores, hours))
    looked_at = touched_candles(hours, Interval.D1)
    over = [each for each in known if _is_outage(each) and each.span not in outages and clip(looked_at, each.span)]
    unproven_outages = [each for each in over if each.state is SuspicionState.UNPROVEN]
    taken_back, refuted = _refuted(evidence, unproven_outages, normalise(outages), run)
    down = normalise(
        (*evidence.down, *outages, *(each.span for each in known if _is_outage(each) and each not in over))
    )
    places = _places(stores, days, over)
    found = [*_found(evidence, changed, places, down), *((None, HOURS, each, OUTAGE) for each in outages)]
    _record(evidence, known, found, _Judged(days, places, over, refuted), run.now)
    return taken_back


def _is_outage(each: SuspicionRecord) -> bool:
    return each.pair is None and each.state in (SuspicionState.UNPROVEN, SuspicionState.EXCHANGE_DOWN)


def _days(changed: Mapping[Series, Spans]) -> dict[str, Spans]:
    """Return the days that have changed in any interval, by pair."""
    spans: dict[str, list[Span]] = {}
    for series, found in changed.items():
        spans.setdefault(series.pair, []).extend(found)
    return {pair: touched_candles(normalise(each), Interval.D1) for pair, each in sorted(spans.items())}


def _places(stores: Stores, days: Mapping[str, Spans], over: Iterable[SuspicionRecord]) -> dict[str, Spans]:
    """Return where to look for long quiet time, by pair: around changed days and in former outages."""
    places = {
        pair: normalise(Span(each.start - MARGIN, each.end + MARGIN) for each in spans) for pair, spans in days.items()
    }
    if ended := normalise(each.span for each in over):
        with stores.catalog.read() as connection:
            pairs = {series.pair for series in evidence_records.coverage_of(connection, [HOURS])}
        places |= {pair: union(places.get(pair, ()), ended) for pair in pairs}
    return places


_Found = tuple[str | None, Interval, Span, str]


@dataclass(frozen=True, slots=True)
class _Judged:
    """The ranges in which suspicions were looked for again.

    Attributes:
        days: The changed days, by pair.
        places: The ranges that were searched for long quiet time, by pair.
        over: The recorded outages that no longer are outages.
        refuted: Those of them that trades have disproved.
    """

    days: Mapping[str, Spans]
    places: Mapping[str, Spans]
    over: Sequence[SuspicionRecord]
    refuted: Collection[SuspicionRecord]

    def is_touched(self, each: SuspicionRecord) -> bool:
        """Return whether anything has changed on the days of a suspicion."""
        days = self.days.values() if each.pair is None else [self.days.get(each.pair, ())]
        return any(clip(spans, each.span) for spans in days)

    def was_looked_for(self, each: SuspicionRecord) -> bool:
        """Return whether the search for long quiet time covered a suspicion of that kind."""
        return each.pair is not None and each.reason == LONG and bool(clip(self.places.get(each.pair, ()), each.span))


def _record(
    evidence: _Evidence, known: Sequence[SuspicionRecord], found: Sequence[_Found], judged: _Judged, now: int
) -> None:
    on_record = {(each.pair, each.interval, each.span) for each in known}
    new = [
        SuspicionRecord(pair, interval, span, reason, SuspicionState.UNPROVEN, now, now)
        for pair, interval, span, reason in found
        if (pair, interval, span) not in on_record
    ]
    again = {(pair, interval, span) for pair, interval, span, _ in found}
    gone = [each for each in judged.over if each not in judged.refuted]
    states: dict[SuspicionState, list[int]] = {}
    for each in known:
        if each in judged.over:
            state = SuspicionState.TRADED
        elif judged.is_touched(each) or judged.was_looked_for(each):
            state = evidence.state(each)
        else:
            continue
        is_found = (each.pair, each.interval, each.span) in again
        if state is SuspicionState.UNPROVEN and judged.was_looked_for(each) and not is_found:
            gone.append(each)
        elif state is not each.state:
            states.setdefault(state, []).append(each.id)
    with evidence.stores.catalog.write() as connection:
        coverage = evidence_records.coverage_of(connection, pairs=sorted({each.pair for each in gone if each.pair}))
        # A span that was refuted meanwhile is judged once a source has answered for it.
        dispelled = [each.id for each in gone if each.pair is None or _is_covered(coverage, each)]
        proof_records.dispel(connection, dispelled)
        for state, ids in states.items():
            proof_records.judge(connection, ids, state, now)
        proof_records.suspect(connection, [replace(each, state=evidence.state(each)) for each in new])


def _is_covered(coverage: Mapping[Series, Sequence[CoverageRecord]], each: SuspicionRecord) -> bool:
    records = coverage.get(Series(each.pair, each.interval), ()) if each.pair is not None else ()
    return clip(tuple(record.span for record in records), each.span) == (each.span,)


@dataclass(slots=True)
class _Evidence:
    """The evidence for quiet time beyond the absence of candles.

    Attributes:
        stores: The stores.
        proofs: Series → the spans in which intervals agree.
        down: The spans without trading, according to the incidents of the exchange.
    """

    stores: Stores
    proofs: Mapping[Series, Spans]
    down: Spans = ()
    _trades: dict[str, Spans] = field(default_factory=dict)
    _candles: dict[tuple[Series, int, int], Spans] = field(default_factory=dict)

    def trades(self, pair: str) -> Spans:
        """Return the spans in which the trades of a pair were paged through or read from an archive."""
        if pair not in self._trades:
            minutes = Series(pair, Interval.M1)
            with self.stores.catalog.read() as connection:
                grants = evidence_records.grants_of(connection, [minutes]).get(minutes, [])
            self._trades[pair] = normalise(grant.span for grant in grants if grant.source == Source.TRADES)
        return self._trades[pair]

    def unbacked(self, series: Series, spans: Spans) -> Spans:
        """Return the parts of some spans that have no evidence except the absence of candles.

        Trades are evidence. So is an existing coarser candle that was not resampled and whose trade count adds up. Two
        intervals that both lack a candle are no evidence, because files lack several at once.
        """
        rest = subtract(spans, self.trades(series.pair))
        for coarse in sorted(Interval, reverse=True):
            if series.interval not in coarse.finer or not rest:
                continue
            coarser = Series(series.pair, coarse)
            agreed = intersect(self.proofs.get(coarser, ()), self.proofs.get(series, ()))
            agreed = intersect(agreed, touched_candles(rest, coarse))
            if agreed:
                days = Interval.D1.floor(agreed[0].start), Interval.D1.ceil(agreed[-1].end)
                rest = subtract(rest, intersect(agreed, self._own(coarser, *days)))
        return rest

    def _own(self, series: Series, start: int, end: int) -> Spans:
        """Return the spans of stored candles that were not resampled; cached, as every finer interval asks for them."""
        key = series, start, end
        if key not in self._candles:
            candles = self.stores.lake.read(series, start, end)
            own = candles.filter(pl.col("source") != Source.RESAMPLED.value).select(seconds_of(pl.col("time")))
            self._candles[key] = of_candles(own.to_series(), series.interval)
        return self._candles[key]

    def is_quiet(self, series: Series, span: Span) -> bool:
        """Return whether a span has no candle and independent evidence that nobody traded."""
        is_proven = clip(self.proofs.get(series, ()), span) == (span,)
        return is_proven and not self.unbacked(series, (span,)) and not self.has_candles(series, span)

    def has_candles(self, series: Series, span: Span) -> bool:
        """Return whether the lake has a candle that starts in a span."""
        return not self.stores.lake.times(series, start=span.start, end=span.end).is_empty()

    def state(self, each: SuspicionRecord) -> SuspicionState:
        """Return the current state of a suspicion; one that trades have disproved stays disproved."""
        if each.pair is not None:
            series = Series(each.pair, each.interval)
            if self.has_candles(series, each.span):
                return SuspicionState.TRADED
            return SuspicionState.PROVEN_QUIET if self.is_quiet(series, each.span) else SuspicionState.UNPROVEN
        if not subtract((each.span,), self.down):
            return SuspicionState.EXCHANGE_DOWN
        quiet = 0
        for series in self.proofs:
            quiet += series.interval is each.interval and self.is_quiet(series, each.span)
            if quiet == 2:
                return SuspicionState.EXCHANGE_DOWN
        return each.state if each.state is SuspicionState.TRADED else SuspicionState.UNPROVEN


# --- quiet time of one pair


def _found(
    evidence: _Evidence, changed: Mapping[Series, Spans], places: Mapping[str, Spans], down: Spans
) -> Iterator[_Found]:
    """Yield the suspicious quiet time of each pair, without outages: two pairs answer for those on behalf of all."""
    with evidence.stores.catalog.read() as connection:
        extents = evidence_records.extents(connection, sorted(places))
        coverage = {
            series: intersect(tuple(record.span for record in records), (Span(extents[series].first_time, _EVER),))
            for series, records in evidence_records.coverage_of(connection, pairs=sorted(places)).items()
            if series in extents
        }
        grants = evidence_records.grants_of(connection, coverage)
    for series, covered in sorted(coverage.items()):
        answers = grants.get(series, ())
        lone = tuple(
            each
            for each in _lone(evidence, series, changed.get(series, ()), answers)
            if subtract((each,), evidence.down)  # and not explained by an incident of the exchange
        )
        yield from ((series.pair, series.interval, each, LONE) for each in lone)
        if series.interval <= Interval.D1:
            own = normalise(grant.span for grant in answers if grant.source != Source.RESAMPLED)
            doubtful = subtract(intersect(covered, own), union(down, lone))
            long = _long(evidence, series, covered, doubtful, places[series.pair])
            yield from ((series.pair, series.interval, each, LONG) for each in long)


def _lone(evidence: _Evidence, series: Series, spans: Spans, grants: Sequence[Grant]) -> Spans:
    """Return the lone quiet candles that only OHLC has answered for."""
    replies = normalise(grant.span for grant in grants if grant.source == Source.OHLC)
    others = normalise(grant.span for grant in grants if grant.source not in (Source.OHLC, Source.RESAMPLED))
    answered = subtract(intersect(replies, spans), others)
    margin = (NEIGHBOURS + 2) * series.interval.seconds
    found: list[Span] = []
    for each in normalise(Span(span.start - margin, span.end + margin) for span in answered):
        found += lone_quiet(*_trades(evidence.stores, series, (each,)), answered, series.interval)
    return tuple(each for each in normalise(found) if evidence.unbacked(series, (each,)))


def _long(evidence: _Evidence, series: Series, covered: Spans, doubtful: Spans, places: Spans) -> Spans:
    """Return the quiet time that a series' own activity makes hard to believe, at its full length beyond `places`."""
    near = evidence.unbacked(series, intersect(doubtful, places))
    near = tuple(silence for each in near for silence in _silences(evidence.stores, series, each))
    if not near:
        return ()
    edges = {edge for place in places for edge in (place.start, place.end)}
    whole = list(near)
    for part in doubtful:
        for each in clip(near, part):
            start = _silent_since(
                evidence.stores, series, each.start, part.start if each.start in edges else each.start
            )
            end = _silent_until(evidence.stores, series, each.end, part.end if each.end in edges else each.end)
            whole.append(Span(start, end))
    doubtful = evidence.unbacked(series, intersect(doubtful, normalise(whole)))
    reach = normalise(Span(each.start - MARGIN, each.end + MARGIN) for each in doubtful)
    return long_quiet(*_trades(evidence.stores, series, reach), covered, doubtful, series.interval)


def _silences(stores: Stores, series: Series, span: Span) -> Spans:
    """Return the parts of a span, an hour or longer, without a candle. Most spans have none and need no more work."""
    if span.seconds < HOURS.seconds:
        return ()
    times = stores.lake.times(series, start=span.start, end=span.end)
    silent = subtract((span,), of_candles(times, series.interval))
    return tuple(each for each in silent if each.seconds >= HOURS.seconds)


def _silent_since(stores: Stores, series: Series, time: int, earliest: int) -> int:
    """Return the start of the last candle before a moment, in seconds; `earliest` if there is none since then."""
    step = MARGIN
    while time > earliest:
        start = max(earliest, time - step)
        times = stores.lake.times(series, start=start, end=time)
        if len(times):
            return int(times[-1])
        time, step = start, 2 * step
    return earliest


def _silent_until(stores: Stores, series: Series, time: int, latest: int) -> int:
    """Return the start of the first candle from a moment on, in seconds; `latest` if there is none until then."""
    step = MARGIN
    while time < latest:
        end = min(latest, time + step)
        times = stores.lake.times(series, start=time, end=end)
        if len(times):
            return int(times[0])
        time, step = end, 2 * step
    return latest


def _trades(stores: Stores, series: Series, spans: Spans) -> tuple[pl.Series, pl.Series]:
    """Return the start of every candle in some spans, in seconds since the epoch, and its trade count."""
    columns = (seconds_of(pl.col("time")).alias("time"), "trade_count")
    frames = [batch.select(*columns) for batch in stores.lake.batches(series, spans, series.interval)]
    candles = pl.concat(frames) if frames else pl.DataFrame(schema={"time": pl.Int64(), "trade_count": pl.Int32()})
    return candles["time"], candles["trade_count"]


# --- outages


def _refuted(
    evidence: _Evidence, over: Iterable[SuspicionRecord], outages: Spans, run: RunContext
) -> tuple[int, list[SuspicionRecord]]:
    """Refute the quiet time of every pair in outages that the trades of some pair have disproved.

    Returns:
        The number of refuted spans, and the disproved outages.
    """
    refuted = [each for each in over if _has_traded(evidence, each.span)]
    spans = subtract(normalise(each.span for each in refuted), outages)
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
        times = pl.concat([evidence.stores.lake.times(series, start=each.start, end=each.end) for each in spans])
        absent = subtract(whole_candles(spans, series.interval), of_candles(times, series.interval))
        unbacked = evidence.unbacked(series, intersect(absent, tuple(record.span for record in records)))
        count += take_back(evidence.stores, series, unbacked, NO_OUTAGE, run)
    return count, refuted


def _has_traded(evidence: _Evidence, span: Span) -> bool:
    """Return whether the trades of any pair, where they were read for a span, include one in it."""
    with evidence.stores.catalog.read() as connection:
        pairs = [series.pair for series in evidence_records.coverage_of(connection, [HOURS])]
    return any(
        evidence.has_candles(Series(pair, Interval.M1), part)
        for pair in pairs
        for part in clip(evidence.trades(pair), span)
    )


def take_back(stores: Stores, series: Series, spans: Spans, reason: str, run: RunContext) -> int:
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
                (series, each, one_candle(stores.lake.read(series, each.start, each.end)), reason) for each in rest
            ]
            times = {series: stores.lake.times(series)}
            with stores.catalog.write() as connection:
                refutations.refute(connection, found, run.now)
                evidence_records.renew(connection, times)
    return len(rest)


def _outages(stores: Stores, changed: Spans) -> Iterator[Span]:
    """Yield the spans in which all pairs are quiet at once and that overlap changed days."""
    days = touched_candles(changed, Interval.D1)
    if not days:
        return
    with stores.catalog.read() as connection:
        extents = evidence_records.extents(connection)
        coverage = {
            # A release covers its whole quarter: the time before a pair was listed is not quiet time.
            series: intersect(tuple(record.span for record in records), (Span(extents[series].first_time, _EVER),))
            for series, records in evidence_records.coverage_of(connection, [HOURS]).items()
            if series in extents
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
    """Return the spans whose trades would prove or disprove a suspicion: pair, span and reason, the newest first.

    Spans that trades have already answered for are left out. An outage stays unproven until a second pair is asked.

    Args:
        stores: The stores.
        pairs: The pairs to consider; for an outage, the two busiest of them answer for all.
        rates: The number of trades per second of each pair.
        since: Spans that end at or before this moment are skipped, in seconds since the epoch.
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
