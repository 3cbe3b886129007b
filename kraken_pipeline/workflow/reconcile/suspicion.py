"""Suspicions: detects and records quiet time that is hard to believe, and judges it later.

OHLC replies without a trade in a busy market have been wrong before, and files lack days. When all pairs are quiet at
once, the exchange was down or data is missing everywhere. Such quiet time is covered, because a source answered for it.
It is marked and counts for no proof until trades, or a coarser candle that adds up, confirm it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import polars as pl

from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.quiet import (
    MARGIN,
    NEIGHBOURS,
    lone_quiet,
    long_quiet,
    quiet_candidates,
)
from kraken_pipeline.coverage.ranges import (
    Span,
    Spans,
    clip,
    intersect,
    normalise,
    subtract,
    touched_candles,
    union,
    whole_candles,
)
from kraken_pipeline.market.candle import Source
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import SuspicionState
from kraken_pipeline.storage.exchange_state import incident_records
from kraken_pipeline.storage.records import evidence_records, proof_records
from kraken_pipeline.storage.records.evidence_records import CoverageRecord
from kraken_pipeline.storage.records.proof_records import SuspicionRecord
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import costs
from kraken_pipeline.workflow.pair_groups import changes_of, pair_groups
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile.activity import Activity
from kraken_pipeline.workflow.reconcile.outages import HOURS, coverage_since_listing, find_outages, refute_outages
from kraken_pipeline.workflow.reconcile.quiet_evidence import QuietEvidence
from kraken_pipeline.workflow.side_by_side import side_by_side

LONE = "OHLC says that nobody traded, between candles that all have trades"
LONG = "nobody traded, though many trades of this pair are usual at that time"
OUTAGE = "no pair traded, though many trades are usual at that time"
REASONS = (LONE, LONG, OUTAGE)


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
        activity = Activity(stores.lake, evidence_records.extents(connection))
        evidence = QuietEvidence(stores, activity, proven, incident_records.down_times(connection))
    run.report(phase="reconciling")
    outages = list(find_outages(stores, hours))
    looked_at = touched_candles(hours, Interval.D1)
    over = [
        suspicion
        for suspicion in known
        if _is_outage(suspicion) and suspicion.span not in outages and clip(looked_at, suspicion.span)
    ]
    unproven_outages = [suspicion for suspicion in over if suspicion.state is SuspicionState.UNPROVEN]
    refuted_spans, refuted = refute_outages(evidence, unproven_outages, normalise(outages), run)
    down = normalise(
        (
            *evidence.down,
            *outages,
            *(suspicion.span for suspicion in known if _is_outage(suspicion) and suspicion not in over),
        )
    )
    places = _places(stores, days, over)
    found: list[_Found] = [(None, HOURS, outage, OUTAGE) for outage in outages]
    pairs, processes = pair_groups(stores, places.keys())
    groups = [_Group({pair: places[pair] for pair in group}, _of_pairs(changed, group)) for group in pairs]
    changes = dict.fromkeys(places, costs.Change()) | changes_of(stores, changed)
    run.did("reconciling", costs.comparing_markets(changes.values()))
    run.expect("reconciling", costs.searching(changes.values(), processes))
    with closing(side_by_side(stores, partial(_searched, down=down), groups, processes)) as results:
        for searched, some in results:
            run.did("reconciling", costs.searching([changes[pair] for pair in searched], processes))
            run.report(phase="reconciling")
            found += some
    _record(evidence, known, found, _Judged(days, places, over, refuted), run.now)
    return refuted_spans


def _is_outage(suspicion: SuspicionRecord) -> bool:
    return suspicion.pair is None and suspicion.state in (SuspicionState.UNPROVEN, SuspicionState.EXCHANGE_DOWN)


def _days(changed: Mapping[Series, Spans]) -> dict[str, Spans]:
    """Return the days that have changed in any interval, by pair."""
    spans: dict[str, list[Span]] = {}
    for series, found in changed.items():
        spans.setdefault(series.pair, []).extend(found)
    return {pair: touched_candles(normalise(silent), Interval.D1) for pair, silent in sorted(spans.items())}


def _places(stores: Stores, days: Mapping[str, Spans], over: Iterable[SuspicionRecord]) -> dict[str, Spans]:
    """Return where to look for long quiet time, by pair: around changed days and in former outages."""
    places = {
        pair: normalise(Span(span.start - MARGIN, span.end + MARGIN) for span in spans) for pair, spans in days.items()
    }
    if ended := normalise(suspicion.span for suspicion in over):
        with stores.catalog.read() as connection:
            pairs = {series.pair for series in evidence_records.coverage_of(connection, [HOURS])}
        places |= {pair: union(places.get(pair, ()), ended) for pair in pairs}
    return places


def _of_pairs(changed: Mapping[Series, Spans], pairs: Collection[str]) -> dict[Series, Spans]:
    return {series: spans for series, spans in changed.items() if series.pair in pairs}


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

    def is_touched(self, suspicion: SuspicionRecord) -> bool:
        """Return whether anything has changed on the days of a suspicion."""
        days = self.days.values() if suspicion.pair is None else [self.days.get(suspicion.pair, ())]
        return any(clip(spans, suspicion.span) for spans in days)

    def was_looked_for(self, suspicion: SuspicionRecord) -> bool:
        """Return whether the search for long quiet time covered a suspicion of that kind."""
        return (
            suspicion.pair is not None
            and suspicion.reason == LONG
            and bool(clip(self.places.get(suspicion.pair, ()), suspicion.span))
        )


def _record(
    evidence: QuietEvidence, known: Sequence[SuspicionRecord], found: Sequence[_Found], judged: _Judged, now: int
) -> None:
    on_record = {(suspicion.pair, suspicion.interval, suspicion.span) for suspicion in known}
    new = [
        SuspicionRecord(pair, interval, span, reason, SuspicionState.UNPROVEN, now, now)
        for pair, interval, span, reason in found
        if (pair, interval, span) not in on_record
    ]
    again = {(pair, interval, span) for pair, interval, span, _ in found}
    gone = [suspicion for suspicion in judged.over if suspicion not in judged.refuted]
    states: dict[SuspicionState, list[int]] = {}
    for suspicion in known:
        if suspicion in judged.over:
            state = SuspicionState.TRADED
        elif judged.is_touched(suspicion) or judged.was_looked_for(suspicion):
            state = evidence.state(suspicion)
        else:
            continue
        is_found = (suspicion.pair, suspicion.interval, suspicion.span) in again
        if state is SuspicionState.UNPROVEN and judged.was_looked_for(suspicion) and not is_found:
            gone.append(suspicion)
        elif state is not suspicion.state:
            states.setdefault(state, []).append(suspicion.id)
    with evidence.stores.catalog.write() as connection:
        coverage = evidence_records.coverage_of(
            connection, pairs=sorted({suspicion.pair for suspicion in gone if suspicion.pair})
        )
        # A span that was refuted meanwhile is judged once a source has answered for it.
        dispelled = [suspicion.id for suspicion in gone if suspicion.pair is None or _is_covered(coverage, suspicion)]
        proof_records.dispel(connection, dispelled)
        for state, ids in states.items():
            proof_records.judge(connection, ids, state, now)
        if new:  # another run may have searched the same ranges meanwhile
            there = {(one.pair, one.interval, one.span) for one in proof_records.suspicions_of(connection)}
            new = [one for one in new if (one.pair, one.interval, one.span) not in there]
        # Silence of one pair that has evidence is not found at all.
        proof_records.suspect(
            connection,
            [
                replace(suspicion, state=evidence.state(suspicion)) if suspicion.pair is None else suspicion
                for suspicion in new
            ],
        )


def _is_covered(coverage: Mapping[Series, Sequence[CoverageRecord]], suspicion: SuspicionRecord) -> bool:
    records = coverage.get(Series(suspicion.pair, suspicion.interval), ()) if suspicion.pair is not None else ()
    return clip(tuple(record.span for record in records), suspicion.span) == (suspicion.span,)


# --- quiet time of one pair


@dataclass(frozen=True, slots=True)
class _Group:
    """Some pairs to be searched: the places to search, by pair, and the changed ranges of their series."""

    places: Mapping[str, Spans]
    changed: Mapping[Series, Spans]


def _searched(stores: Stores, group: _Group, down: Spans) -> tuple[Sequence[str], list[_Found]]:
    """Return some pairs, and their suspicious quiet time without outages."""
    pairs = sorted(group.places)
    with stores.catalog.read() as connection:
        proven = {series: found.reconciled for series, found in proof_records.added_up(connection, pairs).items()}
        activity = Activity(stores.lake, evidence_records.extents(connection, pairs))
        evidence = QuietEvidence(stores, activity, proven, incident_records.down_times(connection))
    stores.lake.manifest.reread_all(activity.extents)  # together, which takes a tenth of the time
    return pairs, list(_found(evidence, group.changed, group.places, down))


def _found(
    evidence: QuietEvidence, changed: Mapping[Series, Spans], places: Mapping[str, Spans], down: Spans
) -> Iterator[_Found]:
    """Yield the suspicious quiet time of each pair, without outages: two pairs answer for those on behalf of all."""
    with evidence.stores.catalog.read() as connection:
        coverage = coverage_since_listing(connection, pairs=sorted(places))
        grants = evidence_records.grants_of(connection, coverage)
    unsuspicious: dict[str, _Hours | None] = {}  # by pair, where its hours have no suspicious quiet time
    for series, covered in sorted(coverage.items(), key=lambda item: (item[0].interval < HOURS, item[0])):
        answers = grants.get(series, ())
        lone = tuple(
            span
            for span in _lone(evidence, series, changed.get(series, ()), answers)
            if subtract((span,), evidence.down)  # and not explained by an incident of the exchange
        )
        yield from ((series.pair, series.interval, span, LONE) for span in lone)
        if series.interval <= Interval.D1:
            own = normalise(grant.span for grant in answers if grant.source != Source.RESAMPLED)
            doubtful = subtract(intersect(covered, own), union(down, lone))
            hours = _hours(evidence, series, covered, doubtful)
            if hours is not None and hours == unsuspicious.get(series.pair):
                continue
            long = _long(evidence, series, covered, doubtful, places[series.pair])
            if series.interval is HOURS and not long:
                unsuspicious[series.pair] = hours
            yield from ((series.pair, series.interval, span, LONG) for span in long)


_Hours = tuple[Spans, Spans]
"""The whole hours of a series that are covered, and those in which the absence of candles rests on one source alone."""


def _hours(evidence: QuietEvidence, series: Series, covered: Spans, doubtful: Spans) -> _Hours | None:
    """Return the hours that decide whether a series of at most an hour has long quiet time; None if others decide too.

    Candles below an hour are examined by the hour. Where they agree with the hourly candles they have the same trades
    in each hour, so both have suspicious quiet time or neither has.
    """
    if series.interval > HOURS or subtract(covered, evidence.proofs.get(series, ())):
        return None
    return whole_candles(covered, HOURS), whole_candles(doubtful, HOURS)


def _lone(evidence: QuietEvidence, series: Series, spans: Spans, grants: Sequence[Grant]) -> Spans:
    """Return the lone quiet candles that only OHLC has answered for."""
    replies = normalise(grant.span for grant in grants if grant.source == Source.OHLC)
    others = normalise(grant.span for grant in grants if grant.source not in (Source.OHLC, Source.RESAMPLED))
    answered = subtract(intersect(replies, spans), others)
    margin = (NEIGHBOURS + 2) * series.interval.seconds
    found: list[Span] = []
    for part in normalise(Span(span.start - margin, span.end + margin) for span in answered):
        found += lone_quiet(*_trades(evidence, series, (part,)), answered, series.interval)
    return tuple(span for span in normalise(found) if evidence.unbacked(series, (span,)))


def _long(evidence: QuietEvidence, series: Series, covered: Spans, doubtful: Spans, places: Spans) -> Spans:
    """Return the quiet time that a series' own activity makes hard to believe, at its full length beyond `places`."""
    if not intersect(doubtful, places):
        return ()
    stretches, silent = _candidates(evidence, series, places)
    near = evidence.unbacked(series, intersect(intersect(doubtful, places), silent))
    near = tuple(span for span in near if span.seconds >= HOURS.seconds)
    if not near:
        return ()
    doubtful = intersect(doubtful, stretches)
    edges = {edge for place in places for edge in (place.start, place.end)}
    whole = list(near)
    for part in doubtful:
        for span in clip(near, part):
            start = _silent_since(evidence, series, span.start, part.start if span.start in edges else span.start)
            end = _silent_until(evidence, series, span.end, part.end if span.end in edges else span.end)
            whole.append(Span(start, end))
    doubtful = evidence.unbacked(series, intersect(doubtful, normalise(whole)))
    reach = normalise(Span(span.start - MARGIN, span.end + MARGIN) for span in doubtful)
    return long_quiet(*_trades(evidence, series, reach), covered, doubtful, series.interval)


def _candidates(evidence: QuietEvidence, series: Series, places: Spans) -> tuple[Spans, Spans]:
    """Return the stretches without a candle that are long enough for the activity of their market to be examined.

    Returns:
        The stretches, of which those at an edge of the examined time have no bound there; and their parts within it.
    """
    stretches: list[Span] = []
    within: list[Span] = []
    for part in normalise(Span(max(0, place.start - 2 * MARGIN), place.end + 2 * MARGIN) for place in places):
        found = quiet_candidates(*_trades(evidence, series, (part,)), part, series.interval)
        stretches += found
        within += clip(found, part)
    return normalise(stretches), normalise(within)


def _silent_since(evidence: QuietEvidence, series: Series, time: int, earliest: int) -> int:
    """Return the start of the last candle before a moment, in seconds; `earliest` if there is none since then."""
    step = MARGIN
    while time > earliest:
        start = max(earliest, time - step)
        times = evidence.activity.times(series, start, time)
        if len(times):
            return int(times[-1])
        time, step = start, 2 * step
    return earliest


def _silent_until(evidence: QuietEvidence, series: Series, time: int, latest: int) -> int:
    """Return the start of the first candle from a moment on, in seconds; `latest` if there is none until then."""
    step = MARGIN
    while time < latest:
        end = min(latest, time + step)
        times = evidence.activity.times(series, time, end)
        if len(times):
            return int(times[0])
        time, step = end, 2 * step
    return latest


def _trades(evidence: QuietEvidence, series: Series, spans: Spans) -> tuple[pl.Series, pl.Series]:
    """Return the start of every candle in some spans, in seconds since the epoch, and its trade count."""
    trading = evidence.activity.of(series, spans)
    return pl.Series(trading.times), pl.Series(trading.trades)


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
            suspicion
            for suspicion in proof_records.suspicions_of(connection, sorted(names))
            if suspicion.state is SuspicionState.UNPROVEN and suspicion.span.end > since
        ]
        hours = evidence_records.coverage_of(connection, [HOURS], sorted(names)) if found else {}
        grants = evidence_records.grants_of(connection, [Series(name, Interval.M1) for name in names] if found else ())
    answered = {
        series.pair: normalise(grant.span for grant in some if grant.source == Source.TRADES)
        for series, some in grants.items()
    }
    wanted: list[tuple[str, Span, str]] = []
    for suspicion in sorted(found, key=lambda record: record.span, reverse=True):
        if suspicion.pair is not None:
            wanted.append((suspicion.pair, suspicion.span, suspicion.reason))
            continue
        covered = [
            series.pair
            for series, records in hours.items()
            if not subtract((suspicion.span,), tuple(record.span for record in records))
        ]
        busiest = sorted(covered, key=lambda pair: rates.get(pair, 0.0), reverse=True)[:2]
        wanted += [(pair, suspicion.span, suspicion.reason) for pair in busiest]
    return [check for check in wanted if clip(answered.get(check[0], ()), check[1]) != (check[1],)]
