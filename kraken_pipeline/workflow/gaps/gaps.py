"""Gaps: the missing spans of the selected series, their routes, and earlier attempts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from typing import Protocol, TypeVar

from kraken_pipeline.coverage.completeness import SeriesCompleteness
from kraken_pipeline.coverage.gaps import (
    ATTEMPTS,
    GapStatus,
    expected_span,
    missing,
    next_try,
    overflow,
)
from kraken_pipeline.coverage.overlaps import Overlaps
from kraken_pipeline.coverage.proof import NOTHING_PROVEN, Proven
from kraken_pipeline.coverage.ranges import Span, Spans, intersect, normalise, slots, split, subtract
from kraken_pipeline.coverage.routing import Knowledge, Leg, Offer, Route, Router
from kraken_pipeline.market.interval import INTERVALS, Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.records import gap_records
from kraken_pipeline.storage.records.gap_records import Attempt, GapRow
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.gaps.filling import Archives, Filling, out_of_reach
from kraken_pipeline.workflow.gaps.snapshot import DEFAULT_TRADES_A_SECOND, CatalogSnapshot
from kraken_pipeline.workflow.run_spec import RunSpec

_DAY = 86_400
AnyGap = TypeVar("AnyGap", "Gap", GapRow)


@dataclass(frozen=True, slots=True)
class Gap:
    """A gap with its legs and its attempts.

    Attributes:
        series: The series.
        span: The missing span.
        overflow_candles: The number of its candles before the newest 720.
        legs: Its legs, in order of time.
        required_csv_file: The archive that would fill it, `RELEASE.zip:PAIR_MINUTES.csv`; several joined by a comma.
        status: Its status.
        attempts: The number of attempts at any part of it.
        error: The error of the last attempt.
        failures: The number of most recent attempts that failed in a row.
        next_try: The earliest time of the next try, in seconds since the epoch.
        wanted: The published archives that would fill it and are not at hand.
        awaited: The archives of ended quarters that would fill it and are not published yet.
    """

    series: Series
    span: Span
    overflow_candles: int
    legs: tuple[Leg, ...]
    required_csv_file: str | None
    status: GapStatus
    attempts: int
    error: str | None
    failures: int = 0
    next_try: int = 0
    wanted: tuple[str, ...] = ()
    awaited: tuple[str, ...] = ()

    @property
    def missing_candles(self) -> int:
        """The number of candles in the gap."""
        return self.span.seconds // self.series.interval.seconds

    @property
    def route(self) -> Route:
        """The route of its first leg."""
        return self.legs[0].route if self.legs else Route.NONE

    @property
    def is_api_fillable(self) -> bool:
        """Whether all of it lies within the newest 720 candles."""
        return self.overflow_candles == 0

    def as_json(self) -> dict[str, str | int | None]:
        """Return the JSON of `gaps --json`."""
        return gap_json(self.row())

    def row(self, detected_at: int = 0) -> GapRow:
        """Return the gap as a record of the catalog.

        Args:
            detected_at: The time when any part of it was first found missing, in seconds since the epoch; 0 where that
                does not matter.
        """
        return GapRow(
            self.series,
            self.span,
            self.missing_candles,
            self.overflow_candles,
            self.route,
            self.required_csv_file,
            self.status,
            self.attempts,
            self.error,
            detected_at,
        )


def gap_json(row: GapRow) -> dict[str, str | int | None]:
    """Return the JSON of a gap's record, as `gaps --json` shows it."""
    return {
        "pair": row.series.pair,
        "interval": row.series.interval.value,
        "start": iso(row.span.start),
        "end": iso(row.span.end),
        "missing_candles": row.missing_candles,
        "route": str(row.route),
        "is_api_fillable": row.overflow_candles == 0,
        "overflow_candles": row.overflow_candles,
        "required_csv_file": row.required_csv_file,
        "status": str(row.status),
        "attempts": row.attempts,
    }


def expected(snapshot: CatalogSnapshot, spec: RunSpec, series: Series) -> Spans:
    """Return the time that a series is expected to cover; empty if its pair is unknown and no start is given.

    For a delisted pair, nothing is expected after its last evidence.
    """
    first = snapshot.first_known.get(series.pair)
    if first is None and spec.start is None:
        return ()
    end = spec.end
    if snapshot.is_delisted(series.pair):
        last = snapshot.last_evidence(series.pair)
        end = last if end is None else min(end, last)
    return expected_span(first or 0, snapshot.now, series.interval, spec.start, end)


def find_gaps(
    stores: Stores,
    spec: RunSpec,
    snapshot: CatalogSnapshot,
    offers: Mapping[Series, Sequence[Offer]] | None = None,
    *,
    with_api: bool = True,
) -> list[Gap]:
    """Return the gaps of the selected series with their routes, by pair, interval and time.

    Args:
        stores: The stores, for their settings.
        spec: The selection, and whether limits apply.
        snapshot: The snapshot of the pairs.
        offers: The archives at hand that have not been ingested.
        with_api: Whether a route may cost requests.
    """
    limit = None if spec.complete else stores.settings.kraken_max_requests_per_gap
    router = Router(now=snapshot.now, max_requests_per_gap=limit)
    archives = Archives(snapshot)
    found: list[Gap] = []
    for pair in snapshot.pairs:
        if gaps := _missing(pair, spec, snapshot, offers or {}):
            known = _knowledge(pair, _priced(gaps, spec, snapshot.now), snapshot, offers or {})
            # The exchange answers nothing for a delisted pair, whatever the time.
            may_ask = with_api and not snapshot.is_delisted(pair)
            routes = router.route(known, with_api=may_ask)
            unreached = out_of_reach(routes)
            for interval in sorted(gaps):
                series = Series(pair, interval)
                if not snapshot.is_wanted(spec, series):
                    continue
                legs = Overlaps(routes[interval], _span_of)
                attempts = Overlaps(snapshot.attempts.get(series, ()), _span_of)
                for span in gaps[interval]:
                    own = tuple(legs.over(span))
                    filling = archives.filling(series, own, unreached[interval])
                    found.append(_gap(series, span, own, filling, attempts.over(span), snapshot.now))
    return found


def without_limits(gaps: Iterable[Gap], snapshot: CatalogSnapshot) -> list[Gap]:
    """Return gaps with the routes of a run that has no limits; all else of them stays as it was found.

    Args:
        gaps: All gaps of some pairs in the selected intervals and time, by pair, found without offers.
        snapshot: The snapshot in which they were found.
    """
    router = Router(now=snapshot.now, max_requests_per_gap=None)
    rerouted: list[Gap] = []
    for pair, of_pair in groupby(gaps, attrgetter("series.pair")):
        found = {interval: list(of_series) for interval, of_series in groupby(of_pair, attrgetter("series.interval"))}
        spans = {interval: tuple(gap.span for gap in own) for interval, own in found.items()}
        known = _knowledge(pair, spans, snapshot, {})
        routes = router.route(known, with_api=not snapshot.is_delisted(pair))
        for interval, own in found.items():
            legs = Overlaps(routes[interval], _span_of)
            rerouted += [_rerouted(gap, tuple(legs.over(gap.span))) for gap in own]
    return rerouted


def _rerouted(gap: Gap, legs: tuple[Leg, ...]) -> Gap:
    return gap if legs == gap.legs else replace(gap, legs=legs)  # to compare takes a fifth of the time


class _Spanned(Protocol):
    @property
    def span(self) -> Span: ...


def _span_of(item: _Spanned) -> Span:
    return item.span


def _itself(span: Span) -> Span:
    return span


def _missing(
    pair: str, spec: RunSpec, snapshot: CatalogSnapshot, offers: Mapping[Series, Sequence[Offer]]
) -> dict[Interval, Spans]:
    """Return the missing spans of a pair: all in the wanted intervals, in others those that archives at hand fill.

    Archives of trades, for example, fill one-minute candles.
    """
    gaps: dict[Interval, Spans] = {}
    for interval in INTERVALS:
        series = Series(pair, interval)
        is_wanted = snapshot.is_wanted(spec, series)
        if is_wanted or series in offers:
            spans = missing(expected(snapshot, spec, series), snapshot.covered(series))
            if not is_wanted:
                spans = intersect(spans, normalise(offer.span for offer in offers[series]))
            if spans:
                gaps[interval] = spans
    return gaps


def lookback_start(spec: RunSpec, interval: Interval, now: int) -> int:
    """Return the start of the first candle that a run fills through the API, in seconds since the epoch."""
    return 0 if spec.complete else interval.floor(now - spec.lookback_days * _DAY)


def _priced(gaps: Mapping[Interval, Spans], spec: RunSpec, now: int) -> dict[Interval, Spans]:
    """Split the gaps at the start of the lookback, so that the part within it is priced by itself."""
    return {interval: split(spans, lookback_start(spec, interval, now)) for interval, spans in gaps.items()}


def _knowledge(
    pair: str, gaps: Mapping[Interval, Spans], snapshot: CatalogSnapshot, offers: Mapping[Series, Sequence[Offer]]
) -> Knowledge:
    every = {interval: Series(pair, interval) for interval in INTERVALS}
    return Knowledge(
        gaps=gaps,
        covered={interval: spans for interval, series in every.items() if (spans := snapshot.covered(series))},
        offers={interval: offers[series] for interval, series in every.items() if series in offers},
        exhausted={
            (interval, by): normalise(spans)
            for interval, series in every.items()
            if series in snapshot.attempts
            for by, spans in _answered(series, snapshot).items()
        },
        trades_a_second=snapshot.rates.get(pair, DEFAULT_TRADES_A_SECOND),
    )


def _answered(series: Series, snapshot: CatalogSnapshot) -> dict[Route, list[Span]]:
    """Return the spans of a series that each route has answered for."""
    answered: dict[Route, list[Span]] = {}
    for attempt in snapshot.attempts[series]:
        if attempt.error is None:
            # A source that answered before the refutation may answer differently by now.
            refuted = (
                refutation
                for refutation in snapshot.refutations.get(series, ())
                if attempt.id <= refutation.after_attempt
            )
            spans = subtract((attempt.span,), normalise(refutation.span for refutation in refuted))
            answered.setdefault(Route(attempt.route), []).extend(spans)
    return answered


def _gap(
    series: Series,
    span: Span,
    own: tuple[Leg, ...],
    filling: Filling,
    tried: Sequence[Attempt],
    now: int,
) -> Gap:
    failures = failures_at(tried, span) if tried else 0
    return Gap(
        series=series,
        span=span,
        overflow_candles=overflow(span, series.interval, now),
        legs=own,
        required_csv_file=filling.files or None,
        status=_status(own, failures),
        attempts=len(tried),
        error=tried[-1].error if tried else None,
        failures=failures,
        next_try=retry_at(tried, span) if failures else 0,
        wanted=filling.wanted,
        awaited=filling.awaited,
    )


def retry_at(attempts: Sequence[Attempt], span: Span) -> int:
    """Return the time when a span may be retried, in seconds since the epoch; 0 if the last attempt did not fail."""
    failures = failures_at(attempts, span)
    if not failures:
        return 0
    return next_try(failures, max(attempt.made_at for attempt in attempts if attempt.span.overlaps(span)))


def failures_at(attempts: Sequence[Attempt], span: Span) -> int:
    """Return the number of most recent attempts at a span that failed in a row."""
    count = 0
    for attempt in reversed([attempt for attempt in attempts if attempt.span.overlaps(span)]):
        if attempt.error is None:
            break
        count += 1
    return count


def _status(legs: Sequence[Leg], failures: int) -> GapStatus:
    if all([leg.route is Route.NONE for leg in legs]):  # noqa: C419 - most gaps have one leg, a generator takes longer
        return GapStatus.UNFILLABLE
    return GapStatus.FAILED if failures >= ATTEMPTS else GapStatus.DETECTED


def shown(stores: Stores, gaps: Iterable[Gap], snapshot: CatalogSnapshot) -> list[GapRow]:
    """Return the gaps as records; those that a run is filling now have the status BACKFILLING.

    A killed run leaves its marks behind; they are ignored while no run is active.
    """
    rows = [gap.row() for gap in gaps]
    if not stores.locks.is_any_running():
        return rows
    with stores.catalog.read() as connection:
        filling = gap_records.open_spans(connection, sorted(snapshot.pairs), GapStatus.BACKFILLING)
    marked = {series: Overlaps(spans, _itself) for series, spans in filling.items()}
    return [
        replace(row, status=GapStatus.BACKFILLING)
        if row.series in marked and marked[row.series].over(row.span)
        else row
        for row in rows
    ]


def measure(
    stores: Stores,
    spec: RunSpec,
    snapshot: CatalogSnapshot,
    gaps: Iterable[Gap],
    proven: Mapping[Series, Proven] | None = None,
    conflicts: Mapping[Series, int] | None = None,
) -> list[SeriesCompleteness]:
    """Return the completeness of each selected series.

    Args:
        stores: The stores, for tiers, and for candles where the expected time cuts the coverage.
        spec: The selection.
        snapshot: The snapshot of its pairs.
        gaps: The gaps of the selection.
        proven: What is proven of each series; without it, nothing counts as proven.
        conflicts: The number of conflicts that each series is a side of.
    """
    by_series: dict[Series, list[Gap]] = {}
    for gap in gaps:
        by_series.setdefault(gap.series, []).append(gap)
    measured = []
    for pair in snapshot.pairs.values():
        tier = stores.tiers.tier_of(pair)
        for interval in spec.intervals:
            series = Series(pair.name, interval)
            wanted = expected(snapshot, spec, series)
            own = by_series.get(series, [])
            covered = intersect(snapshot.covered(series), wanted)
            proof = (proven or {}).get(series, NOTHING_PROVEN).within(covered)
            measured.append(
                SeriesCompleteness(
                    series=series,
                    tier=tier,
                    expected=slots(wanted, interval),
                    covered=slots(covered, interval),
                    candles=_candles(stores, snapshot, series, wanted),
                    gaps=len(own),
                    unfillable=sum(gap.status is GapStatus.UNFILLABLE for gap in own),
                    action=_action(own),
                    proven=slots(proof.reconciled, interval),
                    verified=slots(proof.verified, interval),
                    conflicts=(conflicts or {}).get(series, 0),
                )
            )
    return measured


def _candles(stores: Stores, snapshot: CatalogSnapshot, series: Series, wanted: Spans) -> int:
    """Return the number of candles in the covered part of the expected time.

    They are counted in the lake only where the expected time cuts the coverage.
    """
    count = 0
    extent = snapshot.extents.get(series)
    for record in snapshot.coverage.get(series, ()):
        for part in intersect((record.span,), wanted):
            is_cut = extent is not None and (
                extent.first_time < part.start > record.span.start or part.end <= extent.last_time < record.span.end
            )
            count += stores.lake.read(series, part.start, part.end).height if is_cut else record.candles
    return count


def _action(gaps: Sequence[Gap]) -> str:
    """Return what a person has to do for a series: fetch archives without a substitute, or see why it keeps failing."""
    stuck = [gap for gap in gaps if gap.status is GapStatus.UNFILLABLE]
    failed = [gap for gap in gaps if gap.status is GapStatus.FAILED]
    actions = []
    files = sorted({name for gap in stuck for name in (gap.required_csv_file or "").split(",") if name})
    if files:
        actions.append(f"fetch {', '.join(files)}")
    elif awaited := sorted({name for gap in stuck for name in gap.awaited}):
        actions.append(is_awaited(awaited))
    elif stuck:
        actions.append("raise KRAKEN_MAX_REQUESTS_PER_GAP or run with --complete: no archive has it yet")
    if failed:
        actions.append(f"{failed[-1].error}; to retry: kraken-pipeline dead-letters retry")
    return "; ".join(actions)


def is_awaited(archives: Sequence[str]) -> str:
    """Return the sentence for archives that are not published yet, without its full stop."""
    are, appear = ("is", "it appears") if len(archives) == 1 else ("are", "they appear")
    return f"{', '.join(archives)} {are} not published yet; {appear} some days after the quarter's end"


def by_use(gaps: Iterable[AnyGap]) -> list[AnyGap]:
    """Return gaps in the order of display: the longest first, those without a route last."""
    return sorted(gaps, key=lambda gap: (gap.route == Route.NONE, -gap.span.seconds, gap.series, gap.span))
