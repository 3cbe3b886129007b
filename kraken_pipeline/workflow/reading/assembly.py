"""The bars of one pair, assembled from stored candles of whatever intervals have them.

A bar is *whole* where the coverage of one stored interval, whose candles neither the start nor the end of the bar cuts,
holds all of its time. It is then made of the candles of the coarsest such interval. Where bars are candles of a stored
interval, the stored ones are used as they are, and only bars that they lack are made of finer candles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kraken_pipeline.coverage.proof import NOTHING_PROVEN
from kraken_pipeline.coverage.ranges import Span, Spans, intersect, subtract, union, whole_candles
from kraken_pipeline.market.bars import Bars
from kraken_pipeline.market.candle import CANDLE_SCHEMA, Source, finished, merge, seconds_in
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.resample import resample_between
from kraken_pipeline.workflow.reading.evidence import TimeEvidence

Read = Callable[[Interval, int, int], pl.DataFrame]
"""A function that returns the stored candles of an interval that start in `[start, end)`, as `Lake.read` does."""

_AT_ONCE = 600_000
"""The number of stored candles that are read at once; a year has 525,600 minutes."""
_MOST_RUNS = 16
NO_ROWS = pl.DataFrame(schema=CANDLE_SCHEMA)
UNTESTED, RECONCILED, VERIFIED = range(3)


@dataclass(frozen=True, slots=True)
class Assembly:
    """The bars of one pair in some time.

    Attributes:
        edges: The start of each bar and the end of the last one, in seconds since the epoch.
        is_whole: Of each bar, whether all of it is covered.
        proof: Of each bar that is whole, UNTESTED, RECONCILED or VERIFIED.
        candles: The stored candles, if bars of this width are stored, and those made of whole bars. All are sorted and
            unique by time, with the columns of `CANDLE_SCHEMA`.
        partial: The candles of what is known of bars that are not whole; empty where they were not asked for.
    """

    edges: NDArray[np.int64]
    is_whole: NDArray[np.bool_]
    proof: NDArray[np.int8]
    candles: pl.DataFrame
    partial: pl.DataFrame

    @property
    def starts(self) -> NDArray[np.int64]:
        """The start of each bar, in seconds since the epoch."""
        return self.edges[:-1]

    @property
    def known(self) -> pl.DataFrame:
        """All candles, those of bars that are not whole included."""
        return merge(self.candles, self.partial)

    def whole(self) -> Spans:
        """Return the time of the bars that are whole."""
        return self._time(self.is_whole)

    def missing(self) -> Spans:
        """Return the time of the bars that are not whole."""
        return self._time(~self.is_whole)

    def _time(self, mask: NDArray[np.bool_]) -> Spans:
        return tuple(Span(int(self.edges[first]), int(self.edges[last])) for first, last in _runs(mask))


def assemble(
    bars: Bars, edges: NDArray[np.int64], evidence: TimeEvidence, read: Read, *, with_partial: bool = False
) -> Assembly:
    """Return the bars of one pair.

    Args:
        bars: The grid of the bars.
        edges: The edges of the bars that are wanted.
        evidence: The evidence about the pair.
        read: The function that reads its stored candles.
        with_partial: Whether candles of bars that are not whole are wanted as well.
    """
    starts, ends = edges[:-1], edges[1:]
    is_whole = np.zeros(len(starts), np.bool_)
    proof = np.zeros(len(starts), np.int8)
    candles, partial = NO_ROWS, NO_ROWS
    fitting: list[tuple[Interval, NDArray[np.bool_]]] = []
    for interval in sources_of(bars):
        fits = (starts % interval.seconds == 0) & (ends % interval.seconds == 0)
        fitting.append((interval, fits))
        taken = fits & ~is_whole
        taken[taken] = _holds(evidence.covered.get(interval, ()), starts[taken], ends[taken])
        is_whole |= taken
        proven = evidence.proven.get(interval, NOTHING_PROVEN)
        for level, spans in ((RECONCILED, proven.reconciled), (VERIFIED, proven.verified)):
            proof[taken] = np.where(_holds(spans, starts[taken], ends[taken]), level, proof[taken])
        if interval is bars.stored_as:
            found = read(interval, int(edges[0]), int(edges[-1])) if len(starts) else NO_ROWS
        else:
            found = _made(interval, edges, taken, read)
        candles = merge(candles, found)
    for interval, fits in fitting if with_partial else ():
        if interval is not bars.stored_as:
            # Where several intervals know a part of a bar, that with the most trades lacks the fewest.
            partial = merge(partial, _made(interval, edges, fits & ~is_whole, read))
    return Assembly(edges, is_whole, proof, candles, partial)


def judged(bars: Bars, window: Span, evidence: TimeEvidence, now: int) -> Assembly:
    """Return the bars that start in a window and have ended, without their candles."""
    edges = bars.edges(window.start, window.end)
    edges = edges[: int(edges.searchsorted(now, side="right"))]
    return assemble(bars, edges if len(edges) > 1 else edges[:0], evidence, lambda *_: NO_ROWS)


def sources_of(bars: Bars) -> list[Interval]:
    """Return the stored intervals that bars can be made of, coarsest (fewest rows) first."""
    return [interval for interval in reversed(Interval) if interval.seconds <= bars.seconds]


def is_all_stored(bars: Bars, evidence: TimeEvidence, window: Span) -> bool:
    """Return whether no bar in a window, whose candles are stored, can be added from finer candles.

    It saves the grid of the bars, which takes longer than reading them.
    """
    if bars.stored_as is None:
        return False
    finer = [evidence.covered.get(interval, ()) for interval in sources_of(bars)[1:]]
    whole = union(*(whole_candles(spans, bars.stored_as) for spans in finer))
    return not subtract(intersect(whole, (window,)), evidence.covered.get(bars.stored_as, ()))


def known_window(bars: Bars, evidence: TimeEvidence) -> Span | None:
    """Return the time from the first bar with a stored candle to the end of the last one; None if there is none."""
    stored = [evidence.stored[interval] for interval in sources_of(bars) if interval in evidence.stored]
    if not stored:
        return None
    return Span(bars.floor(min(its.start for its in stored)), max(its.end for its in stored))


def _made(interval: Interval, edges: NDArray[np.int64], wanted: NDArray[np.bool_], read: Read) -> pl.DataFrame:
    """Return the candles of some bars, made of those of a stored interval."""
    found: list[pl.DataFrame] = []
    for first, last in _pieces(interval, edges, wanted):
        stored = read(interval, int(edges[first]), int(edges[last]))
        if stored.height:
            found.append(resample_between(stored, edges[first : last + 1]))
    if not found:
        return NO_ROWS
    made = finished(pl.concat(found), Source.RESAMPLED)
    return made.filter(wanted[edges.searchsorted(seconds_in(made).to_numpy())])


def _pieces(interval: Interval, edges: NDArray[np.int64], wanted: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield ranges of bars to read, as (first, last + 1), that together have every wanted bar."""
    runs = _runs(wanted)
    if len(runs) > _MOST_RUNS:
        runs = [(runs[0][0], runs[-1][1])]
    for first, last in runs:
        begin = first
        while begin < last:
            far = int(edges.searchsorted(edges[begin] + _AT_ONCE * interval.seconds, side="right")) - 1
            end = min(last, max(far, begin + 1))
            yield begin, end
            begin = end


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the ranges of positions that are true, each as (first, last + 1)."""
    changes = np.flatnonzero(np.diff(np.concatenate(([0], mask.view(np.int8), [0]))))
    return [(int(first), int(last)) for first, last in changes.reshape(-1, 2)]


def _holds(spans: Spans, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return of each range `[start, end)`, in seconds since the epoch, whether the set holds all of it."""
    if not spans:
        return np.zeros(len(starts), np.bool_)
    opened = np.array([span.start for span in spans], np.int64)
    closed = np.array([span.end for span in spans], np.int64)
    last = opened.searchsorted(starts, side="right") - 1
    return (last >= 0) & (ends <= closed[last])
