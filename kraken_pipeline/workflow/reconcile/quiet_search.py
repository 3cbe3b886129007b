"""The search of single pairs for quiet time that is hard to believe, and what a search made earlier still says.

The quiet time of one pair depends on its own candles and evidence alone, except that time in which the exchange was
down is left out. So the process that has ingested a pair can search it before the candles of the others are known. If
outages are found afterwards, the pair is searched again around them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

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
from kraken_pipeline.storage.records import evidence_records, proof_records, publications
from kraken_pipeline.storage.records.proof_records import SuspicionRecord
from kraken_pipeline.storage.records.publications import Publication
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.heed import heeding
from kraken_pipeline.workflow.reconcile.activity import Activity
from kraken_pipeline.workflow.reconcile.outages import HOURS, coverage_since_listing
from kraken_pipeline.workflow.reconcile.quiet_evidence import QuietEvidence

LONE = "OHLC says that nobody traded, between candles that all have trades"
LONG = "nobody traded, though many trades of this pair are usual at that time"

Found = tuple[str | None, Interval, Span, str]
"""Suspicious quiet time: the pair, or None for all pairs; the interval; the span; and the reason."""


@dataclass(frozen=True, slots=True)
class QuietSearch:
    """The result of a search of some pairs that knew no more outages than were on record.

    Attributes:
        checks: Pair → the ids of the ranges that had changed. A range that changes again gets a new id.
        found: The suspicious quiet time of the pairs.
        silent: Pair → the stretches without a candle that are long for its activity, suspicious or not.
        down: The outages that the search left out.
    """

    checks: Mapping[str, frozenset[int]] = field(default_factory=dict)
    found: tuple[Found, ...] = ()
    silent: Mapping[str, Spans] = field(default_factory=dict)
    down: Spans = ()


def search_changes(stores: Stores, pairs: Collection[str]) -> QuietSearch:
    """Search what was reconciled of some pairs for quiet time, and leave it marked for the search of all pairs.

    Nothing is recorded: a search that is lost, because its process is killed, is made again.
    """
    return heeding(lambda: _search_changes(stores, pairs))


def _search_changes(stores: Stores, pairs: Collection[str]) -> QuietSearch:
    with stores.catalog.read() as connection:
        checks = publications.to_search(connection, pairs)
        known = proof_records.suspicions_of(connection)
        down = normalise((*incident_records.down_times(connection), *(one.span for one in known if is_outage(one))))
    changed = publications.ranges_of(check for found in checks.values() for check in found)
    if not checks:
        return QuietSearch()
    _, found, silent = search(stores, PairSearch(places_of(days_of(changed)), changed), down)
    return QuietSearch({pair: _ids(some) for pair, some in checks.items()}, tuple(found), silent, down)


def _ids(checks: Iterable[Publication]) -> frozenset[int]:
    return frozenset(check.id for check in checks)


def is_outage(suspicion: SuspicionRecord) -> bool:
    """Return whether a suspicion is an outage that no trade has disproved."""
    return suspicion.pair is None and suspicion.state in (SuspicionState.UNPROVEN, SuspicionState.EXCHANGE_DOWN)


def days_of(changed: Mapping[Series, Spans]) -> dict[str, Spans]:
    """Return the days that have changed in any interval, by pair."""
    spans: dict[str, list[Span]] = {}
    for series, found in changed.items():
        spans.setdefault(series.pair, []).extend(found)
    return {pair: touched_candles(normalise(silent), Interval.D1) for pair, silent in sorted(spans.items())}


def places_of(days: Mapping[str, Spans]) -> dict[str, Spans]:
    """Return where to look for long quiet time around changed days, by pair."""
    return {pair: _around(spans) for pair, spans in days.items()}


def _around(spans: Spans) -> Spans:
    return normalise(Span(span.start - MARGIN, span.end + MARGIN) for span in spans)


def still_found(
    searched: Sequence[QuietSearch],
    checks: Mapping[str, Sequence[Publication]],
    places: Mapping[str, Spans],
    down: Spans,
    ended: Spans,
) -> tuple[list[Found], dict[str, Spans]]:
    """Return what earlier searches have found and is still so, and where to search each pair now.

    Args:
        searched: The earlier searches, in their order.
        checks: Pair → the ranges that have changed. A pair of which other ranges were searched is searched anew.
        places: Pair → where it is to be searched.
        down: The outages, as they are known now.
        ended: The former outages, whose quiet time may have been refuted since.
    """
    newest = {pair: search for search in searched for pair in search.checks}
    found: list[Found] = []
    rest = dict(places)
    for pair in checks.keys() & newest.keys():
        earlier = newest[pair]
        if earlier.checks[pair] != _ids(checks[pair]):
            continue
        over, new = union(subtract(earlier.down, down), ended), subtract(down, earlier.down)
        others = _around(union(over, _touching(new, earlier.silent.get(pair, ()))))
        own = [one for one in earlier.found if one[0] == pair]
        near = normalise(span for _, _, span, _ in own if clip(others, span))
        rest[pair] = intersect(places[pair], union(others, near))
        found += [one for one in own if not clip(others, one[2])]
    return found, {pair: spans for pair, spans in rest.items() if spans}


def _touching(outages: Spans, silent: Spans) -> Spans:
    """Return the outages that touch stretches without a candle; where there is none, an outage leaves nothing out.

    Candles below an hour may have a longer stretch than the hourly candles, by an hour on either side at most.
    """
    reach = normalise(Span(span.start - HOURS.seconds, span.end + HOURS.seconds) for span in silent)
    return tuple(outage for outage in outages if clip(reach, outage))


@dataclass(frozen=True, slots=True)
class PairSearch:
    """Some pairs to be searched: the places to search, by pair, and the changed ranges of their series."""

    places: Mapping[str, Spans]
    changed: Mapping[Series, Spans]


def search(stores: Stores, group: PairSearch, down: Spans) -> tuple[Sequence[str], list[Found], dict[str, Spans]]:
    """Return some pairs, their suspicious quiet time without outages, and their long stretches without a candle."""
    pairs = sorted(group.places)
    with stores.catalog.read() as connection:
        proven = {series: found.reconciled for series, found in proof_records.added_up(connection, pairs).items()}
        activity = Activity(stores.lake, evidence_records.extents(connection, pairs))
        evidence = QuietEvidence(stores, activity, proven, incident_records.down_times(connection))
    stores.lake.manifest.reread_all(activity.extents)  # together, which takes a tenth of the time
    return pairs, *_found(evidence, group.changed, group.places, down)


def _found(
    evidence: QuietEvidence, changed: Mapping[Series, Spans], places: Mapping[str, Spans], down: Spans
) -> tuple[list[Found], dict[str, Spans]]:
    """Return the suspicious quiet time of each pair, without outages, and its long stretches without a candle.

    Two pairs answer for outages on behalf of all.
    """
    found: list[Found] = []
    silent: dict[str, Spans] = {}
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
        found += ((series.pair, series.interval, span, LONE) for span in lone)
        if series.interval <= Interval.D1:
            own = normalise(grant.span for grant in answers if grant.source != Source.RESAMPLED)
            doubtful = subtract(intersect(covered, own), union(down, lone))
            hours = _hours(evidence, series, covered, doubtful)
            if hours is not None and hours == unsuspicious.get(series.pair):
                continue
            long, stretches = _long(evidence, series, covered, doubtful, places[series.pair])
            silent[series.pair] = union(silent.get(series.pair, ()), stretches)
            if series.interval is HOURS and not long:
                unsuspicious[series.pair] = hours
            found += ((series.pair, series.interval, span, LONG) for span in long)
    return found, silent


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


def _long(
    evidence: QuietEvidence, series: Series, covered: Spans, doubtful: Spans, places: Spans
) -> tuple[Spans, Spans]:
    """Return the quiet time that a series' own activity makes hard to believe, at its full length beyond `places`.

    Returns:
        That quiet time, and the stretches without a candle that were examined.
    """
    if not intersect(doubtful, places):
        return (), ()
    stretches, silent = _candidates(evidence, series, places)
    near = evidence.unbacked(series, intersect(intersect(doubtful, places), silent))
    near = tuple(span for span in near if span.seconds >= HOURS.seconds)
    if not near:
        return (), stretches
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
    return long_quiet(*_trades(evidence, series, reach), covered, doubtful, series.interval), stretches


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
