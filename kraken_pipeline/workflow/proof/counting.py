"""Counting trades by ids: the known anchors and counts of a pair, and the requests that a proof still needs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import polars as pl

from kraken_pipeline.coverage.anchors import (
    Anchor,
    CountVerdict,
    Spacing,
    Stretch,
    is_sparse,
    probes,
    stretches,
)
from kraken_pipeline.coverage.density import Absence, AbsentIds, by_page
from kraken_pipeline.coverage.ranges import (
    Span,
    Spans,
    clip,
    intersect,
)
from kraken_pipeline.kraken.trades import FULL_PAGE
from kraken_pipeline.market.candle import seconds_in
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import duration
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.exchange_state import listings
from kraken_pipeline.storage.records import anchors as anchor_records
from kraken_pipeline.storage.records import density_records, evidence_records, trade_counts
from kraken_pipeline.storage.records.trade_counts import TradeCount
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.gaps.snapshot import selected_pairs
from kraken_pipeline.workflow.heed import heeding
from kraken_pipeline.workflow.run_spec import RunSpec

SETTLING_SECONDS = 60
"""The minimum age of a moment before it is asked about: a trade may take seconds to be listed."""


@dataclass(frozen=True, slots=True)
class ProofCost:
    """The first requests of a proof.

    Attributes:
        requests: The number of anchors and pages it requests in any case.
        spans: The number of spans these requests are for.
        searches: The number of spans in which known anchors and candles differ. Each needs a search of about twenty
            requests.
    """

    requests: int
    spans: int
    searches: int


@dataclass(frozen=True, slots=True)
class PairTrades:
    """The catalog's knowledge of a pair's trades at one moment."""

    pair: str
    coverage: Mapping[Interval, Spans]
    anchors: dict[int, Anchor]
    absences: Sequence[Absence]
    counts: Mapping[tuple[Series, Span], TradeCount]
    stretches: tuple[Stretch, ...]
    is_delisted: bool
    now: int
    until: int  # the last moment that can be requested

    def is_proven(self, stretch: Stretch, interval: Interval) -> bool:
        """Return whether the trade counts of an interval are proven for a stretch."""
        count = self.counts.get((Series(self.pair, interval), stretch.span))
        return count is not None and count.verdict is CountVerdict.PROVEN

    @property
    def open(self) -> Iterator[Stretch]:
        """The stretches that are not proven yet and not known to have sparse ids; none of a delisted pair."""
        for stretch in () if self.is_delisted else self.stretches:
            is_done = all(self.is_proven(stretch, interval) for interval in stretch.intervals)
            if not is_done and not is_sparse(stretch.span, self.absent):
                yield stretch

    @property
    def absent(self) -> list[AbsentIds]:
        """The absent ids."""
        return [absence.absent for absence in self.absences]

    @property
    def due(self) -> list[list[AbsentIds]]:
        """The absent ids that are due to be requested again, grouped by the page that shows them."""
        due = [absence.absent for absence in self.absences if absence.is_due(self.now)]
        return [] if self.is_delisted else by_page(due, FULL_PAGE)

    def needs(self, stretch: Stretch) -> dict[int, bool]:
        """Return the requests that a stretch needs first: moment → whether a full page is requested there."""
        pages = [moment for moment in probes(stretch.span, self.until) if not self.is_probed(moment)]
        edges = [edge for edge in (stretch.span.start, stretch.span.end) if edge not in self.anchors]
        return dict.fromkeys(edges, False) | dict.fromkeys(pages, True)

    def is_probed(self, moment: int) -> bool:
        """Return whether a full page from a moment on has been examined."""
        return moment in self.anchors and self.anchors[moment].is_probed

    @property
    def ids(self) -> Mapping[int, int]:
        """Moment → the id of the first trade at or after it."""
        return {moment: anchor.trade_id for moment, anchor in self.anchors.items()}


def cost(stores: Stores, spec: RunSpec, spacing: Spacing, now: int) -> ProofCost:
    """Return the first requests of a proof as things stand, without making requests or writing.

    Raises:
        InvalidRequest: The catalog knows nothing of the selection.
    """
    requests = spans = searches = 0
    for name in in_order(stores, spec):
        known = look_up(stores, name, spec, spacing, now)
        asked: dict[int, bool] = {}
        for stretch in known.open:
            needs = known.needs(stretch)
            spans += bool(needs)
            searches += not needs and not agrees(stores, known, stretch)
            asked |= {moment: is_page or asked.get(moment, False) for moment, is_page in needs.items()}
        requests += len(asked) + len(known.due)
    return ProofCost(requests, spans, searches)


def in_order(stores: Stores, spec: RunSpec) -> list[str]:
    """Return the names of the selected pairs, sorted by tier and name."""
    pairs = selected_pairs(stores, spec)
    return sorted(pairs, key=lambda name: (stores.tiers.tier_of(pairs[name]), name))


def look_up(
    stores: Stores, name: str, spec: RunSpec, spacing: Spacing, now: int, exchange_now: int | None = None
) -> PairTrades:
    """Read the catalog's knowledge of a pair's trades.

    Args:
        stores: The stores to read from.
        name: The pair.
        spec: The selected intervals and time.
        spacing: The calendar of the first anchors.
        now: The moment of the run, in seconds since the epoch.
        exchange_now: The same by the exchange's clock, if that is known and behind.
    """
    until = Interval.M1.floor((now if exchange_now is None else exchange_now) - SETTLING_SECONDS)
    with stores.catalog.read() as connection:
        records = evidence_records.coverage_of(connection, pairs=[name])
        found = anchor_records.anchors_of(connection, name)
        absences = density_records.absences_of(connection, name)
        counts = trade_counts.of_pair(connection, name)
        listing = listings.listings_of(connection, [name]).get(name)
    settled = (Span(0, until),)
    coverage = {
        series.interval: intersect(tuple(record.span for record in ranges), settled)
        for series, ranges in records.items()
        if series.interval in spec.intervals
    }
    is_delisted = listing is not None and listing.delisted_at is not None
    parts = stretches(coverage, spec.window, spacing, [absence.absent for absence in absences])
    return PairTrades(name, coverage, found, absences, counts, parts, is_delisted, now, until)


class CandleCounts:
    """The trade counts of a stretch's candles, for any part of it."""

    def __init__(self, stores: Stores, known: PairTrades, span: Span) -> None:
        self.intervals = tuple(sorted(interval for interval in known.coverage if interval <= Interval.D1))
        self._covered = {interval: clip(known.coverage[interval], span) for interval in self.intervals}
        self._sums = {interval: _sums(stores, Series(known.pair, interval), span) for interval in self.intervals}
        self._known: dict[tuple[Interval, Span], int | None] = {}

    def __call__(self, interval: Interval, span: Span) -> int | None:
        """Return the trade count of an interval in a span; None if the span is off its grid or not fully covered."""
        key = interval, span
        if key not in self._known:
            self._known[key] = self._counted(interval, span)
        return self._known[key]

    def _counted(self, interval: Interval, span: Span) -> int | None:
        if span.start % interval.seconds or span.end % interval.seconds:
            return None
        if clip(self._covered[interval], span) != (span,):
            return None
        times, sums = self._sums[interval]
        return sums[bisect_left(times, span.end)] - sums[bisect_left(times, span.start)]


def _sums(stores: Stores, series: Series, span: Span) -> tuple[list[int], list[int]]:
    """Return the starts of the candles in a span, and the cumulative trade count before each, plus the total."""
    candles = stores.lake.read(series, span.start, span.end)
    times = seconds_in(candles).to_list()
    return times, [0, *accumulate(candles["trade_count"].cast(pl.Int64).to_list())]


def agrees(stores: Stores, known: PairTrades, stretch: Stretch) -> bool:
    """Return whether every interval that covers a stretch counts as many trades as its anchors do."""
    counted = heeding(lambda: CandleCounts(stores, known, stretch.span))
    by_ids = known.ids[stretch.span.end] - known.ids[stretch.span.start]
    return all(counted(interval, stretch.span) in (None, by_ids) for interval in counted.intervals)


def said(cost_: ProofCost, rate: float) -> str:
    """Return the cost of a proof as a sentence."""
    if not (cost_.requests or cost_.searches):
        return "No requests are needed: every span that can be counted has been counted."
    searches = f" and {cost_.searches:,} searches of spans that differ" if cost_.searches else ""
    return (
        f"{cost_.requests:,} requests for the ids of trades at the edges of {cost_.spans:,} spans{searches} (about "
        f"{duration(cost_.requests / rate)}); each missing trade takes about twenty more."
    )


def closing_cost(stores: Stores, spec: RunSpec, now: int) -> ProofCost:
    """Return the first requests of the proof at the end of a completion, as things stand.

    Raises:
        InvalidRequest: The catalog knows nothing of the selection.
    """
    return cost(stores, of_all_intervals(spec), Spacing.QUARTER, now)


def of_all_intervals(spec: RunSpec) -> RunSpec:
    """Return a spec of the same pairs and time with all intervals: an id counts for a trade in each of them."""
    return RunSpec(tier=spec.tier, pairs=spec.pairs, start=spec.start, end=spec.end)
