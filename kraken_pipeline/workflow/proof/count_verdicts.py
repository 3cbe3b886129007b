"""Verdicts on counts: compares the trade counts of candles with the ids of trades, and records the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kraken_pipeline.coverage.anchors import (
    CountVerdict,
    Spacing,
    Stretch,
    is_sparse,
)
from kraken_pipeline.coverage.density import SPARSE
from kraken_pipeline.coverage.equality import differences
from kraken_pipeline.coverage.ranges import (
    Span,
    intersect,
    lies_in,
    normalise,
    of_candles,
    subtract,
    whole_candles,
)
from kraken_pipeline.market.candle import seconds_in
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.resample import resample
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.records import trade_counts
from kraken_pipeline.storage.records.trade_counts import TradeCount
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.proof.counting import (
    CandleCounts,
    PairTrades,
    in_order,
    look_up,
)
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec


def verdicts(stores: Stores, spec: RunSpec, spacing: Spacing, run: RunContext) -> tuple[TradeCount, ...]:
    """Return the recorded verdicts on all selected spans and the differences a run found, by pair and time."""
    with stores.catalog.read() as connection:
        of_run = trade_counts.of_run(connection, run.run_id)
    found: list[TradeCount] = []
    for name in in_order(stores, spec):
        known = look_up(stores, name, spec, spacing, run.now)
        wanted = {
            (Series(name, interval), stretch.span) for stretch in known.stretches for interval in stretch.intervals
        }
        wanted |= {(Series(name, Interval.M1), absent.minutes) for absent in known.absent}
        shown = {key: known.counts[key] for key in wanted & known.counts.keys()}
        differing = (count for count in of_run if count.verdict in (CountVerdict.SHORT, CountVerdict.OVER))
        shown |= {(count.series, count.span): count for count in differing if count.series.pair == name}
        found += [shown[key] for key in sorted(shown, key=lambda key: (key[1].start, -key[1].end, key[0].interval))]
    return tuple(found)


def record_verdicts(stores: Stores, known: PairTrades, run: RunContext) -> None:
    """Record the verdict on each span of a pair; the caller holds the locks of its series.

    Args:
        stores: The stores.
        known: The current knowledge of the pair's trades.
        run: The context of the run.

    Raises:
        DamagedFile: A file of the lake is not the one that was written.
    """
    found = list(_Judging(stores, known, run).counts())
    fresh = [count for count in found if not _is_same(known.counts.get((count.series, count.span)), count)]
    if fresh:
        with stores.catalog.write() as connection:
            trade_counts.record(connection, fresh, run.now)


@dataclass(frozen=True, slots=True)
class _Judging:
    """The judging of one pair."""

    stores: Stores
    known: PairTrades
    run: RunContext

    def counts(self) -> Iterator[TradeCount]:
        """Yield the verdict on each span of the pair."""
        found = [*self._of_absent()]
        for stretch in self.known.stretches:
            found += self._of_stretch(stretch)
        yield from found
        yield from self._of_longer(found)

    def _of_absent(self) -> Iterator[TradeCount]:
        for absence in self.known.absences:
            absent = absence.absent
            if absent.parts >= SPARSE:  # the verdict on the whole span says so
                continue
            next_step = "the request is repeated in an hour"
            if absence.confirmed_at is not None:
                next_step = "its ids are not consecutive there"
            action = f"none of the exchange's pages has {absent} of its trades: {next_step}"
            yield self._count(Interval.M1, absent.minutes, CountVerdict.UNANCHORED, action)

    def _of_stretch(self, stretch: Stretch) -> Iterator[TradeCount]:
        reason = self._unanchored(stretch)
        if reason is not None:
            for interval in stretch.intervals:
                yield self._count(interval, stretch.span, CountVerdict.UNANCHORED, reason)
            return
        left = [interval for interval in stretch.intervals if not self.known.is_proven(stretch, interval)]
        if not left or self.known.needs(stretch):
            return
        counted = CandleCounts(self.stores, self.known, stretch.span)
        by_ids = self.known.ids[stretch.span.end] - self.known.ids[stretch.span.start]
        for interval in left:
            count = counted(interval, stretch.span)
            if count is not None:
                verdict = _compared(by_ids, count)
                action = self._action(interval, stretch.span, verdict)
                yield replace(self._count(interval, stretch.span, verdict, action), by_ids=by_ids, counted=count)

    def _of_longer(self, fresh: Sequence[TradeCount]) -> Iterator[TradeCount]:
        """Yield proven counts of candles longer than a day, which cross the calendar's spans: their days add up."""
        counts = [*self.known.counts.values(), *fresh]
        days = normalise(
            count.span
            for count in counts
            if count.verdict is CountVerdict.PROVEN and count.series.interval is Interval.D1
        )
        for interval in (interval for interval in self.known.coverage if interval > Interval.D1):
            series = Series(self.known.pair, interval)
            for span in whole_candles(intersect(days, self.known.coverage[interval]), interval):
                if (series, span) not in self.known.counts:
                    yield from self._adding_up(series, span)

    def _adding_up(self, series: Series, span: Span) -> Iterator[TradeCount]:
        days = self.stores.lake.read(Series(series.pair, Interval.D1), span.start, span.end)
        longer = self.stores.lake.read(series, span.start, span.end)
        different = seconds_in(differences(resample(days, series.interval), longer))
        times = seconds_in(longer)
        for alike in subtract((span,), of_candles(different, series.interval)):
            count = int(longer.filter(lies_in((alike,), times))["trade_count"].sum())
            yield TradeCount(series, alike, count, count, CountVerdict.PROVEN, "", self.run.run_id)

    def _count(self, interval: Interval, span: Span, verdict: CountVerdict, action: str) -> TradeCount:
        return TradeCount(Series(self.known.pair, interval), span, None, None, verdict, action, self.run.run_id)

    def _unanchored(self, stretch: Stretch) -> str | None:
        if self.known.is_delisted:
            return f"{self.known.pair} is delisted: the exchange has no trades of it"
        if is_sparse(stretch.span, self.known.absent):
            return "the ids of its trades are not consecutive"
        edges = [self.known.ids.get(edge) for edge in (stretch.span.start, stretch.span.end)]
        if None not in edges and sorted(edges, key=int) != edges:  # type: ignore[arg-type]
            return "the ids of its trades do not rise with time"
        return None

    def _action(self, interval: Interval, span: Span, verdict: CountVerdict) -> str:
        if verdict is CountVerdict.PROVEN:
            return ""
        if verdict is CountVerdict.SHORT:
            only_it = run_spec(pairs=[self.known.pair], start=span.start, end=span.end)
            return f"trades are missing: {only_it.as_command('prove')} finds and fills them"
        return f"find out which candles are wrong, then run {resolving(Series(self.known.pair, interval), span)}"


def _is_same(before: TradeCount | None, count: TradeCount) -> bool:
    """Return whether a count is on record unchanged, regardless of the run that found it."""
    return before is not None and replace(before, run_id=count.run_id) == count


def _compared(by_ids: int, counted: int) -> CountVerdict:
    if by_ids == counted:
        return CountVerdict.PROVEN
    return CountVerdict.SHORT if counted < by_ids else CountVerdict.OVER


def resolving(series: Series, span: Span) -> str:
    """Return the command that withdraws the candles of a span."""
    return (
        f"kraken-pipeline resolve --span --pair {series.pair} --interval {series.interval.value} "
        f"--start {iso(span.start)} --end {iso(span.end)} --reason …"
    )
