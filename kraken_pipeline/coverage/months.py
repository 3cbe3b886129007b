"""A series by month: expected, covered, reconciled, verified, quiet, suspicious, missing by route, in conflict.

It is vectorised over the months: a map of 200 pairs by six intervals by ten years, 144,000 cells, takes a second.
A candle belongs to the UTC month in which it starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from kraken_pipeline.coverage.proof import Proven
from kraken_pipeline.coverage.ranges import Span, Spans
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.market.interval import Interval

Counts = npt.NDArray[np.int64]
ROUTES: tuple[Route, ...] = tuple(Route)
"""The order of the routes in `Breakdown.missing`."""
MOST_MONTHS = 600
"""The largest number of months: a report that is requested from the year 1 on has the last fifty years."""
_YEAR_0 = -1970


class State(IntEnum):
    """The state of a series in a month; if several apply, the one that matters most."""

    NOTHING = 0  # nothing is expected
    COVERED = 1  # not all of it is reconciled
    RECONCILED = 2  # not all of it is verified
    VERIFIED = 3
    QUIET = 4  # covered, and without any trade
    SUSPICIOUS = 5  # covered, and some of its quiet time is a suspicion
    ARCHIVE = 6  # from here to NONE: something is missing, most of it with this route
    RESAMPLE = 7
    OHLC = 8
    TRADES = 9
    NONE = 10
    CONFLICT = 11


_GAP = np.array([State[route.name] for route in ROUTES], dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Months:
    """Consecutive UTC months.

    Attributes:
        first: The first month, counted from January of the year 0.
        count: The number of months.
    """

    first: int
    count: int

    @property
    def edges(self) -> Counts:
        """The start of each month and the end of the last one, in seconds since the epoch; `count` + 1 values."""
        months = np.arange(self.first, self.first + self.count + 1) + _YEAR_0 * 12
        return months.astype("datetime64[M]").astype("datetime64[s]").astype(np.int64)

    @property
    def years(self) -> tuple[tuple[int, int, int], ...]:
        """Each year, with the index of its first month among these and the number of its months among them."""
        found = []
        for year in range(self.first // 12, (self.first + self.count - 1) // 12 + 1):
            start, end = max(year * 12, self.first), min(year * 12 + 12, self.first + self.count)
            found.append((year, start - self.first, end - start))
        return tuple(found)


def months_of(sets: Iterable[Spans]) -> Months:
    """Return the months from the first instant of some sets to their last; none if all sets are empty."""
    filled = [spans for spans in sets if spans]
    if not filled:
        return Months(0, 0)
    bounds = np.array([min(spans[0].start for spans in filled), max(spans[-1].end for spans in filled) - 1])
    months = bounds.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64)
    first, last = (int(month) - _YEAR_0 * 12 for month in months)
    first = max(first, last + 1 - MOST_MONTHS)
    return Months(first, last + 1 - first)


@dataclass(frozen=True, slots=True, eq=False)
class Breakdown:
    """The numbers of a series by month.

    Every array is of Int64, with one number per month; all but `conflicts` count candles.

    Attributes:
        expected: The expected candles.
        covered: The expected candles that are covered.
        proven: The covered candles that are at least reconciled.
        verified: The covered candles that are verified.
        candles: The candles with trades in the covered time; -1 if they have not been counted yet.
        missing: The candles that are not covered, one row for each of `ROUTES`.
        conflicts: The number of contradictions that touch the month.
        suspicious: The covered candles in quiet time that is a suspicion and was not checked.
    """

    expected: Counts
    covered: Counts
    proven: Counts
    verified: Counts
    candles: Counts
    missing: Counts
    conflicts: Counts
    suspicious: Counts

    @property
    def quiet(self) -> Counts:
        """The covered candles without a trade; -1 where candles have not been counted."""
        return np.where(self.candles < 0, -1, self.covered - self.candles)

    @property
    def states(self) -> npt.NDArray[np.uint8]:
        """The `State` of each month."""
        return np.select(
            [
                self.expected == 0,
                self.conflicts > 0,
                self.missing.any(axis=0),
                self.suspicious > 0,
                self.candles == 0,
                self.verified >= self.expected,
                self.proven >= self.expected,
            ],
            [
                np.uint8(State.NOTHING),
                np.uint8(State.CONFLICT),
                _GAP[self.missing.argmax(axis=0)],
                np.uint8(State.SUSPICIOUS),
                np.uint8(State.QUIET),
                np.uint8(State.VERIFIED),
                np.uint8(State.RECONCILED),
            ],
            np.uint8(State.COVERED),
        )


def breakdown(
    interval: Interval,
    months: Months,
    *,
    expected: Spans,
    covered: Spans,
    proven: Proven,
    legs: Mapping[Route, Spans],
    conflicts: Sequence[Span],
    candles: Mapping[int, Sequence[int]] | None,
    suspicious: Spans = (),
) -> Breakdown:
    """Return the numbers of a series for each of some months.

    Args:
        interval: The series' interval; all sets but the conflicts are on its grid.
        months: The months.
        expected: The expected time.
        covered: The covered time, within the expected.
        proven: The proven part of the covered time.
        legs: Route → the missing time that it fills.
        conflicts: The spans of the contradictions, which may overlap.
        candles: Year → the number of candles in the lake for each of its twelve months; None if not counted yet.
        suspicious: The covered quiet time that is a suspicion.
    """
    edges = months.edges
    # A candle counts in the month in which it starts, so a month begins with the first candle that starts in it.
    starts = -(-edges // interval.seconds) * interval.seconds

    def slots(spans: Spans) -> Counts:
        return seconds_between(spans, starts) // interval.seconds

    has = slots(covered)
    return Breakdown(
        expected=slots(expected),
        covered=has,
        proven=slots(proven.reconciled),
        verified=slots(proven.verified),
        candles=np.full(months.count, -1) if candles is None else np.minimum(_counted(candles, months), has),
        missing=np.array([slots(legs.get(route, ())) for route in ROUTES]).reshape(len(ROUTES), months.count),
        conflicts=_touching(conflicts, edges),
        suspicious=slots(suspicious),
    )


def seconds_between(spans: Spans, edges: Counts) -> Counts:
    """Return the seconds of a set between each two neighbours of some ascending edges."""
    starts = np.fromiter((span.start for span in spans), np.int64, len(spans))
    ends = np.fromiter((span.end for span in spans), np.int64, len(spans))
    before = np.concatenate(([0], np.cumsum(ends - starts)))
    index = np.searchsorted(starts, edges, side="right")
    # Of the range that an edge lies in, the part after the edge is subtracted.
    reach = np.concatenate((edges[:1], ends))[index]
    return np.diff(before[index] - np.where(index > 0, np.maximum(reach - edges, 0), 0))


def _counted(candles: Mapping[int, Sequence[int]], months: Months) -> Counts:
    counts = np.zeros(months.count, dtype=np.int64)
    for year, place, length in months.years:
        if year in candles:
            skipped = months.first + place - year * 12
            counts[place : place + length] = candles[year][skipped : skipped + length]
    return counts


def _touching(spans: Sequence[Span], edges: Counts) -> Counts:
    """Return the number of spans that share an instant with each month."""
    if not spans or len(edges) < 2:
        return np.zeros(len(edges) - 1, dtype=np.int64)
    started = np.searchsorted(np.sort([span.start for span in spans]), edges[1:], side="left")
    ended = np.searchsorted(np.sort([span.end for span in spans]), edges[:-1], side="right")
    return (started - ended).astype(np.int64)
