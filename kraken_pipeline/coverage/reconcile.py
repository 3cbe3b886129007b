"""Reconciliation: the candles of two intervals that knew of each other only by the trades must add up.

Open, high, low, close and trade count of a coarser candle follow exactly from the finer ones, volume to 1e-6, and
prices to what one of the two was rounded to (`coverage.equality`). Where the two agree, the coarser candle is verified,
all its values having been compared, and the finer ones are reconciled: no trade of them is missing, while prices within
them could still be wrong. Where not, one of the two is short or wrong. What was resampled says nothing of its own: it
is proven as far as what it was made of is, and where it differs from that it is merely out of date.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import polars as pl

from kraken_pipeline.coverage.contradictions import Contradiction, Findings, IntervalEvidence, Side
from kraken_pipeline.coverage.equality import Read, Rounding, differences
from kraken_pipeline.coverage.proof import NOTHING_PROVEN, Proven
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
from kraken_pipeline.coverage.shifts import Sides, shifted_runs
from kraken_pipeline.market.candle import Source, Values, seconds_of
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import as_datetime
from kraken_pipeline.market.resample import resample

_YEAR = 365 * 86_400
_DAY = 86_400


def reconcile(
    known: Mapping[Interval, IntervalEvidence],
    read: Read,
    doubted: Spans,
    tried: Mapping[tuple[Interval, Interval, int], tuple[Span, Values | None, Values | None, int, int]],
    proven: Mapping[Interval, Proven],
) -> Findings:
    """Compares each candle of a pair with the coarsest finer ones that cover it whole, the finest intervals first.

    What is refuted on the way is left out of the comparison of coarser intervals: they would tell the same again.

    Args:
        known: What is known of each interval.
        read: Gives candles.
        doubted: What is to be compared, grown to whole candles of each interval.
        tried: Contradictions that were tried to be healed or given up before, with their values: the same again is a
            conflict.
        proven: What was proven before.
    """
    found = Findings()
    work = _Reconciling(dict(known), read, tried, found)
    for coarse in sorted(known):
        rest = intersect(known[coarse].covered, touched_candles(doubted, coarse))
        for fine in coarse.finer:
            if fine not in known or not rest:
                continue
            within = intersect(rest, whole_candles(known[fine].covered, coarse))
            work.compare(fine, coarse, work.judgeable(fine, coarse, within))
            rest = subtract(rest, within)
    work.blame()
    kept = {each: proven.get(each, NOTHING_PROVEN).without(touched_candles(doubted, each)) for each in known}
    found.proven = _proven(work, kept, doubted)
    return found


@dataclass(slots=True)
class _Reconciling:
    """A reconciliation on its way up the intervals."""

    known: dict[Interval, IntervalEvidence]
    read: Read
    tried: Mapping[tuple[Interval, Interval, int], object]
    found: Findings
    equal: dict[tuple[Interval, Interval], Spans] = field(default_factory=dict)
    unequal: dict[tuple[Interval, Interval], Spans] = field(default_factory=dict)
    refuted: dict[Interval, Spans] = field(default_factory=dict)
    open: dict[Interval, Spans] = field(default_factory=dict)  # refuted, or to be judged once something finer is healed
    doubtful: dict[Interval, Spans] = field(default_factory=dict)  # what a conflict leaves open
    shifted: dict[Interval, Spans] = field(default_factory=dict)  # of that, where the times of one side are shifted

    def judgeable(self, fine: Interval, coarse: Interval, spans: Spans) -> Spans:
        """Some coarser candles without those below which anything was refuted: they are judged when that is healed."""
        waiting = intersect(spans, touched_candles(self.open.get(fine, ()), coarse))
        self._leave_open(coarse, waiting)
        return subtract(spans, waiting)

    def _leave_open(self, interval: Interval, spans: Spans) -> None:
        if spans:
            self.open[interval] = union(self.open.get(interval, ()), spans)

    def _refute(self, interval: Interval, spans: Spans) -> None:
        self.refuted[interval] = union(self.refuted.get(interval, ()), spans)
        self._leave_open(interval, spans)

    def compare(self, fine: Interval, coarse: Interval, domain: Spans) -> None:
        """Compares two intervals where both are covered, and decides about what differs."""
        if not domain:
            return
        different, resampled = _differences(self.read, fine, coarse, domain, self.known[coarse].independent)
        evidence = self.known[coarse]
        self.known[coarse] = replace(evidence, independent=subtract(evidence.independent, resampled))
        times = different.select(seconds_of(pl.col("time"))).to_series()
        self.unequal[fine, coarse] = of_candles(times, coarse)
        self.equal[fine, coarse] = subtract(domain, self.unequal[fine, coarse])
        self.found.tested[coarse] = union(self.found.tested.get(coarse, ()), domain)
        if different.is_empty():
            return
        # A row that was not resampled has a say also where nothing but resampling has answered for its time.
        is_own = lies_in(self.known[coarse].independent, times) | different["is_own"]
        self._outdate(coarse, of_candles(times.filter(~is_own), coarse))
        runs = self._shifted(fine, coarse, different.filter(is_own))
        is_single = is_own & ~lies_in(touched_candles(normalise(run.span for run in runs), coarse), times)
        self._decide(fine, coarse, runs, list(_contradictions(different.filter(is_single), fine, coarse)))

    def _shifted(self, fine: Interval, coarse: Interval, different: pl.DataFrame) -> list[Contradiction]:
        covered = self.known[fine].covered, self.known[coarse].covered
        return shifted_runs(Sides(self.read, fine, coarse, *covered), different)

    def _outdate(self, coarse: Interval, spans: Spans) -> None:
        if spans:
            self.found.stale[coarse] = union(self.found.stale.get(coarse, ()), spans)
            self._refute(coarse, spans)

    def _decide(
        self, fine: Interval, coarse: Interval, runs: Sequence[Contradiction], singles: Sequence[Contradiction]
    ) -> None:
        """Refutes, or gives up; of two intervals the candles are different ones, so that none depends on another."""
        conflicts = list(runs)
        refuted: dict[Interval, list[Span]] = {}
        for each in singles:
            if spans := self._to_refute(each):
                self.found.refuted.append((each, spans))
                for interval, span in spans:
                    refuted.setdefault(interval, []).append(span)
            else:
                conflicts.append(each)
        for interval, parts in refuted.items():
            self._refute(interval, normalise(parts))
        self.found.conflicts += conflicts
        for interval in (fine, coarse):
            for doubts, found in ((self.doubtful, conflicts), (self.shifted, runs)):
                doubts[interval] = union(doubts.get(interval, ()), normalise(each.span for each in found))

    def _to_refute(self, each: Contradiction) -> tuple[tuple[Interval, Span], ...]:
        if clip(self.shifted.get(each.fine, ()), each.span):
            return ()
        was_tried = self.tried.get((each.fine, each.coarse, each.span.start)) == each.values
        # A side without any candle is no account that a person could believe: it is a gap until something fills it.
        if not each.is_hole and (was_tried or clip(self.doubtful.get(each.fine, ()), each.span)):
            return ()
        return self._short_spans(each)

    def _short_spans(self, each: Contradiction) -> tuple[tuple[Interval, Span], ...]:
        """What is refuted: the coarser candle, or all finer ones below it, since nobody knows which of them is short.

        Minutes that trades were paged through for are what all else is measured by, and never refuted.
        """
        if each.short is None:
            return ()
        if each.short is Side.COARSE:
            return ((each.coarse, each.span),)
        by_trades = clip(self.known.get(Interval.M1, IntervalEvidence()).by_trades, each.span)
        if by_trades == (each.span,):
            return ()
        return tuple(
            (interval, part)
            for interval in sorted(self.known)
            if interval <= each.fine
            for part in subtract(
                subtract(
                    clip(self.known[interval].covered, each.span), clip(self.refuted.get(interval, ()), each.span)
                ),
                by_trades if interval is Interval.M1 else (),
            )
        )

    def blame(self) -> None:
        """Says of each conflict which interval is outvoted."""
        self.found.conflicts = [replace(each, outlier=self._outlier(each)) for each in self.found.conflicts]

    def _outlier(self, each: Contradiction) -> Interval | None:
        """Return the interval that the others outvote: a camp of one, or the one contradicted from both sides."""
        camps = [self._camp(each.span, each.fine, upwards=False), self._camp(each.span, each.coarse, upwards=True)]
        ranks = [(len(sides), not is_surrounded) for sides, is_surrounded in camps]
        if ranks[0] == ranks[1]:
            return None
        sides, _ = camps[ranks.index(min(ranks))]
        return sides[0] if len(sides) == 1 else None

    def _camp(self, span: Span, first: Interval, *, upwards: bool) -> tuple[list[Interval], bool]:
        """Return the independent intervals on one side, and whether others contradict them from behind."""
        beyond = [each for each in self.known if (each >= first if upwards else each <= first)]
        camp: list[Interval] = []
        before: Interval | None = None
        for interval in sorted(beyond, reverse=not upwards):
            if before is not None:
                pair = (before, interval) if upwards else (interval, before)
                if clip(self.unequal.get(pair, ()), span):
                    return camp, True
            evidence = self.known[interval]
            if interval is Interval.M1 or not subtract(clip(evidence.covered, span), clip(evidence.independent, span)):
                camp.append(interval)
            before = interval
        return camp, False


def _differences(
    read: Read, fine: Interval, coarse: Interval, domain: Spans, independent: Spans
) -> tuple[pl.DataFrame, Spans]:
    """Where two intervals differ, and what of the coarser was resampled although something else answered for it.

    Beside the columns of `differences`, `is_own` says whether the coarser candle is there and was not resampled.
    """
    found: list[pl.DataFrame] = []
    resampled: list[pl.Series] = []
    rounding = Rounding(read, fine, coarse)
    for finer, candles in _both(read, fine, coarse, domain):
        different = rounding.apart(differences(resample(finer, coarse), candles))
        is_made = candles["source"] == Source.RESAMPLED.value
        if different.height or not found:
            own = candles.filter(~is_made)["time"]
            found.append(different.with_columns(pl.col("time").is_in(own.implode()).alias("is_own")))
        made = candles.filter(is_made)
        if made.height and independent:
            times = made.select(seconds_of(pl.col("time"))).to_series()
            resampled.append(times.filter(lies_in(independent, times)))
    times = pl.concat(resampled) if resampled else pl.Series([], dtype=pl.Int64())
    return pl.concat(found), of_candles(times, coarse)


def _both(read: Read, fine: Interval, coarse: Interval, domain: Spans) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """The candles of both, batch after batch; the next is read beside the work on one, which takes as long as that."""

    def batch(start: int, end: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        return read(fine, start, end), read(coarse, start, end)

    with ThreadPoolExecutor(1) as beside:
        coming: Future[tuple[pl.DataFrame, pl.DataFrame]] | None = None
        for bounds in _batches(domain, coarse):
            reading = beside.submit(batch, *bounds)
            if coming is not None:
                yield coming.result()
            coming = reading
        if coming is not None:
            yield coming.result()


def _batches(domain: Spans, grid: Interval) -> Iterator[tuple[int, int]]:
    """The set year by year, as the finer intervals lie in files, never cut within a candle of `grid`."""
    for each in domain:
        at = each.start
        while at < each.end:
            new_year = grid.floor(int(datetime(as_datetime(at).year + 1, 1, 1, tzinfo=UTC).timestamp()))
            until = min(each.end, new_year if new_year > at else grid.floor(at + _YEAR))
            yield at, until
            at = until


def _contradictions(different: pl.DataFrame, fine: Interval, coarse: Interval) -> Iterator[Contradiction]:
    rows = different.drop("is_own").with_columns(seconds_of(pl.col("time")).alias("time"))
    for time, *values in rows.iter_rows():
        finer, candle = _candle(values[:6]), _candle(values[6:])
        yield Contradiction(
            fine,
            coarse,
            Span(time, time + coarse.seconds),
            finer,
            candle,
            finer[5] if finer else 0,
            candle[5] if candle else 0,
        )


def _candle(values: Sequence[float | None]) -> Values | None:
    opened, high, low, close, volume, trades = values
    if opened is None or high is None or low is None or close is None or volume is None or trades is None:
        return None
    return opened, high, low, close, volume, int(trades)


# --- files whose times are shifted


# --- what is proven


def _proven(work: _Reconciling, kept: Mapping[Interval, Proven], doubted: Spans) -> dict[Interval, Proven]:
    """What follows from the comparisons that held, with what was proven before and was not compared again.

    Verified is a coarser candle with a evidence of its own that the finer ones add up to, a minute that was made of its
    trades, and what a second source said the same of and no other interval contradicts. The finer ones below a candle
    that they add up to are reconciled with it and no more: only their sum was compared, in which a low that is not the
    lowest takes no part. Quiet ones below a quiet candle would be verified too; to tell them apart would cost a record
    a spell.

    What was resampled holds what it was made of, and is proven as far as all of that is. So it is verified where the
    finer candles are; where they are reconciled only, so is it: its open, high, low and close are prices of theirs that
    nothing compared, and a still coarser candle that agrees compares its sum with the others again.
    """
    known, equal, proven = work.known, work.equal, dict(kept)
    for interval, evidence in known.items():
        within = intersect(evidence.covered, touched_candles(doubted, max(interval, Interval.D1)))
        contradicted = union(*(spans for pair, spans in work.unequal.items() if interval in pair))
        confirmed = subtract(intersect(evidence.confirmed, within), contradicted)
        proven[interval] = proven[interval].and_verified(confirmed)
        if interval is Interval.M1:
            paged = intersect(evidence.by_trades, within)
            proven[interval] = proven[interval].and_reconciled(paged).and_verified(_made_of_trades(work.read, paged))
    for (fine, coarse), spans in equal.items():
        both = whole_candles(intersect(spans, known[coarse].independent), coarse)
        proven[coarse] = proven[coarse].and_verified(both)
        proven[fine] = proven[fine].and_reconciled(both)
    upwards = sorted(equal, key=lambda pair: pair[1])
    for order, is_up in ((upwards, True), (upwards[::-1], False), (upwards, True)):
        for fine, coarse in order:
            spans = equal[fine, coarse]
            if is_up:
                finer = proven[fine].within(spans)
                proven[coarse] = proven[coarse].and_reconciled(whole_candles(finer.reconciled, coarse))
                proven[coarse] = proven[coarse].and_verified(whole_candles(finer.verified, coarse))
            else:
                proven[fine] = proven[fine].and_reconciled(proven[coarse].within(spans).reconciled)
    return proven


def _made_of_trades(read: Read, paged: Spans) -> Spans:
    """The minutes that trades answered for, without those whose candle another source brought."""
    others = [
        candles.filter(pl.col("source") != Source.TRADES.value).select(seconds_of(pl.col("time"))).to_series()
        for candles in (read(Interval.M1, *bounds) for bounds in _batches(paged, Interval.M1))
    ]
    return subtract(paged, normalise(part for times in others for part in of_candles(times, Interval.M1)))
