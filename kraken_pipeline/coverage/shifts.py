"""Detection of shifted files: candles that agree once their times are moved by whole hours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from kraken_pipeline.coverage.contradictions import Contradiction
from kraken_pipeline.coverage.equality import Read, Rounding, differences
from kraken_pipeline.coverage.ranges import (
    Span,
    Spans,
    intersect,
    lies_in,
    touched_candles,
    whole_candles,
)
from kraken_pipeline.market.candle import seconds_in, seconds_of
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.resample import resample

_DAY = 86_400
SHIFTED_BUCKETS = 12
"""The least number of nearby contradictions that may come from one shifted file; fewer are treated one by one."""
_EXPLAINED = 6  # candles; fewer may agree by chance once times are moved
_APART = 50  # candles; contradictions further apart do not come from one file
_HOURS = 24
_SAMPLE_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Sides:
    """Two intervals, one of which may have shifted times, with the coverage of each."""

    read: Read
    fine: Interval
    coarse: Interval
    fine_covered: Spans
    coarse_covered: Spans

    def explained(self, times: pl.Series, shift: int) -> tuple[pl.Series, int, int]:
        """Move the finer times and compare some coarser candles again.

        Args:
            times: The starts of the coarser candles, sorted.
            shift: The seconds by which the finer times are moved.

        Returns:
            The starts that no longer differ; the number of these for which both sides have a candle; and the number
            of the others that both sides cover. A start at which neither side has a candle is in neither number.
        """
        start, end = int(times[0]), int(times[-1]) + self.coarse.seconds
        moved = self.read(self.fine, start - shift, end - shift)
        finer = resample(moved.with_columns(pl.col("time") + pl.duration(seconds=shift)), self.coarse)
        candles = self.read(self.coarse, start, end)
        apart = Rounding(self.read, self.fine, self.coarse).apart(differences(finer, candles))
        different = seconds_in(apart)
        there = seconds_in(finer.join(candles, on="time", how="semi"))
        covered = tuple(Span(span.start + shift, span.end + shift) for span in self.fine_covered)
        both = intersect(whole_candles(covered, self.coarse), self.coarse_covered)
        is_different = times.is_in(different.implode())
        agreeing = times.is_in(there.implode()) & ~is_different
        return times.filter(~is_different), int(agreeing.sum()), int((is_different & lies_in(both, times)).sum())


def shifted_runs(sides: Sides, different: pl.DataFrame) -> list[Contradiction]:
    """Return one contradiction for each cluster that vanishes when the times of one side are moved by some hours."""
    fine, coarse = sides.fine, sides.coarse
    runs: list[Contradiction] = []
    for cluster in _clusters(different, coarse.seconds):
        if (shift := _shift(sides, cluster)) is not None:
            alike, *_ = sides.explained(cluster["time"], shift)
            # At its ends a shifted file lacks some hours and has some that belong to other files.
            span = Span(int(alike[0]) - abs(shift), int(alike[-1]) + coarse.seconds + abs(shift))
            span = touched_candles((span,), coarse)[0]
            counts = [
                int(sides.read(interval, span.start, span.end)["trade_count"].sum()) for interval in (fine, coarse)
            ]
            runs.append(Contradiction(fine, coarse, span, None, None, counts[0], counts[1], shifted=shift))
    return runs


def _clusters(different: pl.DataFrame, length: int) -> Iterator[pl.DataFrame]:
    """Yield clusters of nearby contradictions: the start of each in seconds, and which sides have a candle."""
    if different.height < SHIFTED_BUCKETS:
        return
    rows = different.select(
        seconds_of(pl.col("time")).alias("time"),
        pl.col("open").is_not_null().alias("has_fine"),
        pl.col("open_right").is_not_null().alias("has_coarse"),
    )
    is_apart = (pl.col("time").diff() > _APART * length).fill_null(value=False)
    for _, cluster in rows.group_by(is_apart.cast(pl.Int64).cum_sum().alias("number"), maintain_order=True):
        if cluster.height >= SHIFTED_BUCKETS:
            yield cluster


def _shift(sides: Sides, cluster: pl.DataFrame) -> int | None:
    """Return the seconds by which the finer times must be moved so that contradicting candles agree; None if no shift.

    A shift loses no candle: a side with less than half as many candles as the other has a hole, which no shift
    explains, even if the candles around it happen to equal the missing ones. A shift must explain more candles than it
    leaves, each of them with values on both sides.
    """
    fine, coarse = sides.fine, sides.coarse
    longest = max(4 * _DAY, coarse.seconds * max(48, _SAMPLE_ROWS * fine.seconds // coarse.seconds))
    sample = cluster.filter(pl.col("time") < int(cluster["time"][0]) + longest)
    fewer, more = sorted((int(sample["has_fine"].sum()), int(sample["has_coarse"].sum())))
    if 2 * fewer < more:
        return None
    for hour in [sign * hour for hour in range(1, _HOURS + 1) for sign in (1, -1) if hour * 3_600 % fine.seconds == 0]:
        _, explained, left = sides.explained(sample["time"], hour * 3_600)
        if explained >= _EXPLAINED and explained > left:
            return hour * 3_600
    return None
