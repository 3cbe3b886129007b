"""Suspicions: detects and records quiet time that is hard to believe, and judges it later.

OHLC replies without a trade in a busy market have been wrong before, and files lack days. When all pairs are quiet at
once, the exchange was down or data is missing everywhere. Such quiet time is covered, because a source answered for it.
It is marked and counts for no proof until trades, or a coarser candle that adds up, confirm it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

from kraken_pipeline.coverage.ranges import (
    Span,
    Spans,
    clip,
    normalise,
    subtract,
    touched_candles,
    union,
)
from kraken_pipeline.market.candle import Source
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import SuspicionState
from kraken_pipeline.storage.exchange_state import incident_records
from kraken_pipeline.storage.records import evidence_records, proof_records, publications
from kraken_pipeline.storage.records.evidence_records import CoverageRecord
from kraken_pipeline.storage.records.proof_records import SuspicionRecord
from kraken_pipeline.storage.records.publications import Publication
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import costs
from kraken_pipeline.workflow.heed import heeding
from kraken_pipeline.workflow.pair_groups import changes_of, pair_groups
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile.activity import Activity
from kraken_pipeline.workflow.reconcile.outages import HOURS, find_outages, refute_outages
from kraken_pipeline.workflow.reconcile.quiet_evidence import QuietEvidence
from kraken_pipeline.workflow.reconcile.quiet_search import (
    LONE,
    LONG,
    Found,
    PairSearch,
    QuietSearch,
    days_of,
    is_outage,
    places_of,
    search,
    still_found,
)
from kraken_pipeline.workflow.side_by_side import side_by_side

OUTAGE = "no pair traded, though many trades are usual at that time"
REASONS = (LONE, LONG, OUTAGE)


def search_for_quiet(stores: Stores, pairs: Collection[str], run: RunContext, searched: Sequence[QuietSearch]) -> int:
    """Search what was reconciled, by this run or by one that was killed before its search, for quiet time.

    Args:
        stores: The stores.
        pairs: The pairs.
        run: The context of the run.
        searched: Earlier searches of pairs, which are not made again.

    Returns:
        The number of refuted spans.

    Raises:
        Busy: Another process has held a series to be refuted for too long.
    """
    with stores.catalog.read() as connection:
        checks = publications.to_search(connection, pairs)
    refuted = heeding(lambda: look(stores, checks, run, searched))
    if checks:
        with stores.catalog.write() as connection:  # last, so that the next run repeats it if this one is killed
            publications.searched(connection, [check for found in checks.values() for check in found])
    return refuted


def look(
    stores: Stores, checks: Mapping[str, Sequence[Publication]], run: RunContext, searched: Sequence[QuietSearch] = ()
) -> int:
    """Record new suspicions in changed ranges, and judge the recorded ones.

    Args:
        stores: The stores.
        checks: Pair → the ranges that have changed and have been reconciled since.
        run: The context of the run.
        searched: Earlier searches of pairs, which are not made again.

    Returns:
        The number of refuted spans: quiet time of all pairs in an outage that trades have disproved.

    Raises:
        Busy: Another process has held a series to be refuted for too long.
    """
    if not checks:
        return 0
    changed = publications.ranges_of(check for found in checks.values() for check in found)
    days = days_of(changed)
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
        if is_outage(suspicion) and suspicion.span not in outages and clip(looked_at, suspicion.span)
    ]
    unproven_outages = [suspicion for suspicion in over if suspicion.state is SuspicionState.UNPROVEN]
    refuted_spans, refuted = refute_outages(evidence, unproven_outages, normalise(outages), run)
    down = normalise(
        (
            *evidence.down,
            *outages,
            *(suspicion.span for suspicion in known if is_outage(suspicion) and suspicion not in over),
        )
    )
    ended = normalise(suspicion.span for suspicion in over)
    places = _places(stores, days, ended)
    found: list[Found] = [(None, HOURS, outage, OUTAGE) for outage in outages]
    still, rest = still_found(searched, checks, places, down, ended)
    found += still
    pairs, processes = pair_groups(stores, rest.keys())
    groups = [PairSearch({pair: rest[pair] for pair in group}, _of_pairs(changed, group)) for group in pairs]
    changes = changes_of(stores, changed)
    to_search = {pair: changes.get(pair, costs.Change()) for pair in rest}
    run.did("reconciling", costs.comparing_markets(changes.values()))
    run.expect("reconciling", costs.searching(to_search.values(), processes))
    with closing(side_by_side(stores, partial(search, down=down), groups, processes)) as results:
        for names, some, _ in results:
            run.did("reconciling", costs.searching([to_search[pair] for pair in names], processes))
            run.report(phase="reconciling")
            found += some
    _record(evidence, known, list(dict.fromkeys(found)), _Judged(days, places, over, refuted), run.now)
    return refuted_spans


def _places(stores: Stores, days: Mapping[str, Spans], ended: Spans) -> dict[str, Spans]:
    """Return where to look for long quiet time, by pair: around changed days and in former outages."""
    places = places_of(days)
    if ended:
        with stores.catalog.read() as connection:
            pairs = {series.pair for series in evidence_records.coverage_of(connection, [HOURS])}
        places |= {pair: union(places.get(pair, ()), ended) for pair in pairs}
    return places


def _of_pairs(changed: Mapping[Series, Spans], pairs: Collection[str]) -> dict[Series, Spans]:
    return {series: spans for series, spans in changed.items() if series.pair in pairs}


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
    evidence: QuietEvidence, known: Sequence[SuspicionRecord], found: Sequence[Found], judged: _Judged, now: int
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
