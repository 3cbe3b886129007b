"""What is known of the trades of a pair by their ids, and what is still to be asked for."""

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
from kraken_pipeline.coverage.density import Absence, AbsentIds
from kraken_pipeline.coverage.ranges import (
    Span,
    Spans,
    clip,
    intersect,
)
from kraken_pipeline.market.candle import seconds_of
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
from kraken_pipeline.workflow.ingest.scan import window
from kraken_pipeline.workflow.run_spec import RunSpec

SETTLING_SECONDS = 60
"""How old a moment must be to be asked about: a trade may take seconds to be listed."""


@dataclass(frozen=True, slots=True)
class ProofCost:
    """What a proof would ask for first.

    Attributes:
        requests: How many anchors and pages it asks for, whatever they say.
        spans: How many spans they are about.
        searches: In how many spans known anchors differ from the candles: a search of about twenty requests each.
    """

    requests: int
    spans: int
    searches: int


@dataclass(frozen=True, slots=True)
class PairTrades:
    """What the catalog knows of a pair at one moment."""

    pair: str
    coverage: Mapping[Interval, Spans]
    anchors: dict[int, Anchor]
    absences: Sequence[Absence]
    counts: Mapping[tuple[Series, Span], TradeCount]
    stretches: tuple[Stretch, ...]
    is_delisted: bool
    now: int
    until: int  # the last moment that can be asked about

    def is_proven(self, stretch: Stretch, interval: Interval) -> bool:
        """Whether the trades of an interval are counted there already."""
        count = self.counts.get((Series(self.pair, interval), stretch.span))
        return count is not None and count.verdict is CountVerdict.PROVEN

    @property
    def open(self) -> Iterator[Stretch]:
        """The spans that are not counted yet and that ids can say something of."""
        for stretch in () if self.is_delisted else self.stretches:
            is_done = all(self.is_proven(stretch, interval) for interval in stretch.intervals)
            if not is_done and not is_sparse(stretch.span, self.absent):
                yield stretch

    @property
    def absent(self) -> list[AbsentIds]:
        """The ids that are absent."""
        return [each.absent for each in self.absences]

    @property
    def due(self) -> list[AbsentIds]:
        """The ids that were absent and are to be asked for again."""
        return [] if self.is_delisted else [each.absent for each in self.absences if each.is_due(self.now)]

    def needs(self, stretch: Stretch) -> dict[int, bool]:
        """What must be known of a span before anything: moment → whether a full page is asked for there."""
        pages = [moment for moment in probes(stretch.span, self.until) if not self.is_probed(moment)]
        edges = [edge for edge in (stretch.span.start, stretch.span.end) if edge not in self.anchors]
        return dict.fromkeys(edges, False) | dict.fromkeys(pages, True)

    def is_probed(self, moment: int) -> bool:
        """Whether a full page was looked at from there."""
        return moment in self.anchors and self.anchors[moment].is_probed

    @property
    def ids(self) -> Mapping[int, int]:
        """Moment → the id of the first trade at or after it."""
        return {moment: anchor.trade_id for moment, anchor in self.anchors.items()}


def cost(stores: Stores, spec: RunSpec, spacing: Spacing, now: int) -> ProofCost:
    """Return what a proof would ask for as things stand; asks for nothing and writes nothing.

    Raises:
        InvalidRequest: Nothing is known of what was asked for.
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
    """The selected pairs, those of the first tier first."""
    pairs = selected_pairs(stores, spec)
    return sorted(pairs, key=lambda name: (stores.tiers.tier_of(pairs[name]), name))


def look_up(
    stores: Stores, name: str, spec: RunSpec, spacing: Spacing, now: int, exchange_now: int | None = None
) -> PairTrades:
    """Read what is known of a pair.

    Args:
        stores: Where from.
        name: The pair.
        spec: Which intervals and which time.
        spacing: The calendar of the first anchors.
        now: The moment of the run, in seconds since the epoch.
        exchange_now: The same by the exchange's clock, where that is known and behind.
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
    parts = stretches(coverage, window(spec), spacing, [each.absent for each in absences])
    return PairTrades(name, coverage, found, absences, counts, parts, is_delisted, now, until)


class CandleCounts:
    """How many trades the candles of a stretch count, in any part of it."""

    def __init__(self, stores: Stores, known: PairTrades, span: Span) -> None:
        self.intervals = tuple(sorted(interval for interval in known.coverage if interval <= Interval.D1))
        self._covered = {interval: clip(known.coverage[interval], span) for interval in self.intervals}
        self._sums = {interval: _sums(stores, Series(known.pair, interval), span) for interval in self.intervals}
        self._known: dict[tuple[Interval, Span], int | None] = {}

    def __call__(self, interval: Interval, span: Span) -> int | None:
        """Return how many trades an interval counts there; None where it does not cover the span whole."""
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
    """When candles start, and how many trades there are before each of them."""
    candles = stores.lake.read(series, span.start, span.end)
    times = candles.select(seconds_of(pl.col("time"))).to_series().to_list()
    return times, [0, *accumulate(candles["trade_count"].cast(pl.Int64).to_list())]


def agrees(stores: Stores, known: PairTrades, stretch: Stretch) -> bool:
    """Whether all candles of a span count as many trades as its anchors do."""
    counted = heeding(lambda: CandleCounts(stores, known, stretch.span))
    by_ids = known.ids[stretch.span.end] - known.ids[stretch.span.start]
    return all(counted(interval, stretch.span) in (None, by_ids) for interval in counted.intervals)


def said(cost_: ProofCost, rate: float) -> str:
    """Return what a proof costs, as a sentence."""
    if not (cost_.requests or cost_.searches):
        return "Nothing is to be asked for: every span that can be counted is."
    searches = f" and {cost_.searches:,} spans that differ to be searched" if cost_.searches else ""
    return (
        f"{cost_.requests:,} requests for the numbers of trades at the edges of {cost_.spans:,} spans{searches} "
        f"(about {duration(cost_.requests / rate)}); each trade that is missing takes about twenty more."
    )
