"""Reconciliation: a check that independent candles of two intervals add up.

Open, high, low, close and trade count of a coarser candle follow exactly from the finer ones, volume to 1e-6, and
prices to the rounding of either side (`coverage.equality`). Where the two agree, the coarser candle is verified, since
all its values were compared, and the finer ones are reconciled: none of their trades is missing, but their prices could
still be wrong. Where they differ, one of the two is short or wrong. Resampled candles are no evidence of their own:
they are proven as far as the candles that they were made of, and where they differ from those they are out of date.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from kraken_pipeline.coverage.batches import Count, batches, most_candles, read_within
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
from kraken_pipeline.market.candle import Source, Values, seconds_in, seconds_of
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.resample import resample


def reconcile(
    known: Mapping[Interval, IntervalEvidence],
    read: Read,
    marked: Spans,
    tried: Mapping[tuple[Interval, Interval, int], tuple[Span, Values | None, Values | None, int, int]],
    proven: Mapping[Interval, Proven],
    count: Count = most_candles,
) -> Findings:
    """Compare each candle of a pair with the coarsest finer ones that cover it whole, the finest intervals first.

    Refuted spans are skipped in the comparison of coarser intervals, which would find the same contradiction again.

    Args:
        known: The evidence for each interval.
        read: Returns candles.
        marked: The time marked for reconciliation, grown to whole candles of each interval.
        tried: The values of contradictions whose healing was tried or given up before, by finer interval, coarser
            interval and start. A contradiction that recurs with the same values is a conflict.
        proven: The proven time before this reconciliation.
        count: Bounds the number of candles, so that the years of a quiet market are compared together.
    """
    found = Findings()
    work = _Reconciling(dict(known), read, count, tried, found)
    for coarse in sorted(known):
        rest = intersect(known[coarse].covered, touched_candles(marked, coarse))
        for fine in coarse.finer:
            if fine not in known or not rest:
                continue
            within = intersect(rest, whole_candles(known[fine].covered, coarse))
            work.compare(fine, coarse, work.judgeable(fine, coarse, within))
            rest = subtract(rest, within)
    work.blame()
    kept = {
        interval: proven.get(interval, NOTHING_PROVEN).without(touched_candles(marked, interval)) for interval in known
    }
    found.proven = _proven(work, kept, marked)
    return found


@dataclass(slots=True)
class _Reconciling:
    """A reconciliation in progress, from finer to coarser intervals."""

    known: dict[Interval, IntervalEvidence]
    read: Read
    count: Count
    tried: Mapping[tuple[Interval, Interval, int], object]
    found: Findings
    equal: dict[tuple[Interval, Interval], Spans] = field(default_factory=dict)
    unequal: dict[tuple[Interval, Interval], Spans] = field(default_factory=dict)
    refuted: dict[Interval, Spans] = field(default_factory=dict)
    open: dict[Interval, Spans] = field(
        default_factory=dict
    )  # refuted, or to be compared once finer candles are filled
    doubtful: dict[Interval, Spans] = field(default_factory=dict)  # the time of conflicts
    shifted: dict[Interval, Spans] = field(default_factory=dict)  # of that, the time in which one side is shifted

    def judgeable(self, fine: Interval, coarse: Interval, spans: Spans) -> Spans:
        """Return the coarser candles without a refuted finer one; the others are compared once that one is filled."""
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
        """Compare two intervals where both are covered, and decide on the differences."""
        if not domain:
            return
        evidence = self.known[coarse]
        parts = batches(domain, fine, coarse, self.count)
        different, resampled = _differences(self.read, fine, coarse, parts, evidence.independent)
        self.known[coarse] = replace(evidence, independent=subtract(evidence.independent, resampled))
        times = seconds_in(different)
        self.unequal[fine, coarse] = of_candles(times, coarse)
        self.equal[fine, coarse] = subtract(domain, self.unequal[fine, coarse])
        self.found.tested[coarse] = union(self.found.tested.get(coarse, ()), domain)
        if different.is_empty():
            return
        # A row that was not resampled is evidence even where only resampling has answered for its time.
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
        """Refute contradictions or record conflicts; each concerns other candles, so none depends on another."""
        conflicts = list(runs)
        refuted: dict[Interval, list[Span]] = {}
        for single in singles:
            if spans := self._to_refute(single):
                self.found.refuted.append((single, spans))
                for interval, span in spans:
                    refuted.setdefault(interval, []).append(span)
            else:
                conflicts.append(single)
        for interval, parts in refuted.items():
            self._refute(interval, normalise(parts))
        self.found.conflicts += conflicts
        for interval in (fine, coarse):
            for collected, found in ((self.doubtful, conflicts), (self.shifted, runs)):
                collected[interval] = union(
                    collected.get(interval, ()), normalise(contradiction.span for contradiction in found)
                )

    def _to_refute(self, contradiction: Contradiction) -> tuple[tuple[Interval, Span], ...]:
        if clip(self.shifted.get(contradiction.fine, ()), contradiction.span):
            return ()
        was_tried = (
            self.tried.get((contradiction.fine, contradiction.coarse, contradiction.span.start)) == contradiction.values
        )
        # A side without any candle is no account for a person to choose: it is a gap until a source fills it.
        if not contradiction.is_hole and (
            was_tried or clip(self.doubtful.get(contradiction.fine, ()), contradiction.span)
        ):
            return ()
        return self._short_spans(contradiction)

    def _short_spans(self, contradiction: Contradiction) -> tuple[tuple[Interval, Span], ...]:
        """Return the spans to refute: the coarser candle, or all finer ones below it, as any of them may be short.

        Minutes of paged trades are the reference for everything else and are never refuted.
        """
        if contradiction.short is None:
            return ()
        if contradiction.short is Side.COARSE:
            return ((contradiction.coarse, contradiction.span),)
        by_trades = clip(self.known.get(Interval.M1, IntervalEvidence()).by_trades, contradiction.span)
        if by_trades == (contradiction.span,):
            return ()
        return tuple(
            (interval, part)
            for interval in sorted(self.known)
            if interval <= contradiction.fine
            for part in subtract(
                subtract(
                    clip(self.known[interval].covered, contradiction.span),
                    clip(self.refuted.get(interval, ()), contradiction.span),
                ),
                by_trades if interval is Interval.M1 else (),
            )
        )

    def blame(self) -> None:
        """Set the outlier of each conflict."""
        self.found.conflicts = [replace(conflict, outlier=self._outlier(conflict)) for conflict in self.found.conflicts]

    def _outlier(self, contradiction: Contradiction) -> Interval | None:
        """Return the interval that the others outvote: alone in its camp, or contradicted from both sides."""
        camps = [
            self._camp(contradiction.span, contradiction.fine, upwards=False),
            self._camp(contradiction.span, contradiction.coarse, upwards=True),
        ]
        ranks = [(len(sides), not is_surrounded) for sides, is_surrounded in camps]
        if ranks[0] == ranks[1]:
            return None
        sides, _ = camps[ranks.index(min(ranks))]
        return sides[0] if len(sides) == 1 else None

    def _camp(self, span: Span, first: Interval, *, upwards: bool) -> tuple[list[Interval], bool]:
        """Return the independent intervals on one side, and whether intervals beyond them contradict them."""
        beyond = [interval for interval in self.known if (interval >= first if upwards else interval <= first)]
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
    read: Read, fine: Interval, coarse: Interval, parts: Iterable[Spans], independent: Spans
) -> tuple[pl.DataFrame, Spans]:
    """Return the differences of two intervals, and the coarser time that is resampled but counts as independent.

    In addition to the columns of `differences`, `is_own` is whether the coarser candle exists and was not resampled.
    """
    found: list[pl.DataFrame] = []
    resampled: list[pl.Series] = []
    rounding = Rounding(read, fine, coarse)
    for spans in parts:
        finer, candles = read_within(read, fine, spans), read_within(read, coarse, spans)
        different = rounding.apart(differences(resample(finer, coarse), candles))
        is_made = candles["source"] == Source.RESAMPLED.value
        if different.height or not found:
            own = candles["time"].filter(~is_made) if different.height else candles["time"].clear()
            found.append(different.with_columns(pl.col("time").is_in(own.implode()).alias("is_own")))
        if independent and is_made.any():
            times = seconds_in(candles.filter(is_made))
            resampled.append(times.filter(lies_in(independent, times)))
    times = pl.concat(resampled) if resampled else pl.Series([], dtype=pl.Int64())
    return pl.concat(found), of_candles(times, coarse)


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


# --- proof


def _proven(work: _Reconciling, kept: Mapping[Interval, Proven], marked: Spans) -> dict[Interval, Proven]:
    """Return what the successful comparisons prove, with the earlier proof that was not compared again.

    These are verified: a coarser candle with evidence of its own that the finer ones add up to, a minute that was made
    of its trades, and a candle that a second source confirms and no other interval contradicts. The finer ones below a
    candle that they add up to are only reconciled: their sum was compared, to which a low that is not the lowest does
    not contribute. Quiet ones below a quiet candle would be verified too; to distinguish them would cost a record for
    each quiet time.

    A resampled candle is proven as far as all the candles that it was made of. It is verified where these are
    verified. Where they are only reconciled, so is it: its open, high, low and close are prices of theirs that were
    not compared, and a still coarser candle that agrees compares only its sum with the others.
    """
    known, equal, proven = work.known, work.equal, dict(kept)
    for interval, evidence in known.items():
        within = intersect(evidence.covered, touched_candles(marked, max(interval, Interval.D1)))
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
    """Return the minutes that trades answered for, without those whose candle comes from another source."""
    others = [
        seconds_in(candles.filter(pl.col("source") != Source.TRADES.value))
        for candles in (read_within(read, Interval.M1, spans) for spans in batches(paged, Interval.M1, Interval.M1))
    ]
    return subtract(paged, normalise(part for times in others for part in of_candles(times, Interval.M1)))
