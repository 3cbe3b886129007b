"""Half-open ranges of time and their algebra.

A *set of ranges* is a tuple of `Span` that is sorted, disjoint and not adjacent. This form is unique, so that equal
sets of instants compare equal. `normalise` makes one; all functions here accept and return such tuples.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

import polars as pl

from kraken_pipeline.market.interval import Interval


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """The instants `start <= t < end`, in seconds since the epoch; never empty."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise ValueError(f"a span needs start < end, not [{self.start}, {self.end})")

    @property
    def seconds(self) -> int:
        """The length in seconds."""
        return self.end - self.start

    def __contains__(self, time: int) -> bool:
        return self.start <= time < self.end

    def overlaps(self, other: Span) -> bool:
        """Return whether the two share an instant."""
        return self.start < other.end and other.start < self.end


_MANY = 16
_start = attrgetter("start")
Spans = tuple[Span, ...]
EVER = Span(0, 1 << 33)
"""All the time in which a candle can lie: until the year 2242."""
ALWAYS = Span(-(1 << 60), 1 << 60)
"""The span without a limit of time."""


def span(start: int, end: int) -> Spans:
    """Return the set of one range, or the empty set if `start` is not before `end`."""
    return (Span(start, end),) if start < end else ()


def normalise(spans: Iterable[Span]) -> Spans:
    """Return the set that holds every instant of the given spans, which may overlap and come in any order."""
    ordered = sorted(spans, key=_start)  # spans themselves compare ten times as slowly
    if len(ordered) < 2:
        return tuple(ordered)
    merged: list[Span] = []
    start = end = 0
    opened = False
    for span in ordered:
        if opened and span.start <= end:
            end = max(end, span.end)
            continue
        if opened:
            merged.append(Span(start, end))
        start, end, opened = span.start, span.end, True
    if opened:
        merged.append(Span(start, end))
    return tuple(merged)


def coarsened(spans: Spans, most: int) -> Spans:
    """Return a set of at most `most` ranges that holds all of a set: the shortest distances are filled."""
    if len(spans) <= most:
        return spans
    ends = range(len(spans) - 1)
    kept = sorted(sorted(ends, key=lambda place: spans[place].end - spans[place + 1].start)[: most - 1])
    starts = [0, *(place + 1 for place in kept)]
    return tuple(Span(spans[start].start, spans[end].end) for start, end in zip(starts, [*kept, -1], strict=True))


def union(*sets: Spans) -> Spans:
    """Return the instants that lie in any of the sets."""
    return normalise(span for spans in sets for span in spans)


def subtract(minuend: Spans, subtrahend: Spans) -> Spans:
    """Return the instants that lie in the first set and not in the second."""
    if not minuend or not subtrahend:
        return minuend
    rest: list[Span] = []
    first = bisect_right(subtrahend, minuend[0].start, key=lambda span: span.end)
    for span in minuend:
        at = span.start
        while first < len(subtrahend) and subtrahend[first].end <= at:
            first += 1
        index = first
        while index < len(subtrahend) and subtrahend[index].start < span.end:
            cut = subtrahend[index]
            if cut.start > at:
                rest.append(Span(at, cut.start))
            at = max(at, cut.end)
            index += 1
        if at < span.end:
            rest.append(span if at == span.start else Span(at, span.end))
    return tuple(rest)


def intersect(left: Spans, right: Spans) -> Spans:
    """Return the instants that lie in both sets."""
    if not left or not right:
        return ()
    if len(left) > len(right):
        left, right = right, left
    if len(left) * _MANY < len(right):  # to look up a few ranges among many takes less time than to walk through all
        return tuple(part for span in left for part in clip(right, span))
    shared: list[Span] = []
    i = j = 0
    while i < len(left) and j < len(right):
        one, other = left[i], right[j]
        # A span that is whole is kept as it is: a new one takes longer, as does `max`.
        start = max(other.start, one.start)
        if one.end <= other.end:
            i += 1
            if start < one.end:
                shared.append(one if start == one.start else Span(start, one.end))
        else:
            j += 1
            if start < other.end:
                shared.append(other if start == other.start else Span(start, other.end))
    return tuple(shared)


def clip(spans: Spans, span: Span) -> Spans:
    """Return the part of the set within one range; it uses bisection, for callers that clip to many ranges in turn."""
    index = bisect_right(spans, span.start, key=lambda span: span.end)
    parts: list[Span] = []
    while index < len(spans) and spans[index].start < span.end:
        parts.append(Span(max(spans[index].start, span.start), min(spans[index].end, span.end)))
        index += 1
    return tuple(parts)


def seconds(spans: Spans) -> int:
    """Return the total length of the set in seconds."""
    return sum([span.end - span.start for span in spans])  # most sets have one range: a generator takes longer


def whole_candles(spans: Spans, interval: Interval) -> Spans:
    """Return the part of the set that is made of whole candles: each range shrunk to the interval's grid."""
    length = interval.seconds
    whole: list[Span] = []
    for span in spans:
        start, end = -(-span.start // length) * length, span.end // length * length
        if start == span.start and end == span.end:
            whole.append(span)
        elif start < end:
            whole.append(Span(start, end))
    return tuple(whole)


def split(spans: Spans, at: int) -> Spans:
    """Return the ranges with the one that holds a moment split there; unlike in a set, the two parts are adjacent."""
    parts: list[Span] = []
    for span in spans:
        parts += (Span(span.start, at), Span(at, span.end)) if span.start < at < span.end else (span,)
    return tuple(parts)


def touched_candles(spans: Spans, interval: Interval) -> Spans:
    """Return the candles that hold any instant of the set: each range grown to the interval's grid."""
    grown: list[Span] = []
    for span in spans:
        start, end = interval.floor(span.start), interval.ceil(span.end)
        if grown and start <= grown[-1].end:
            if end > grown[-1].end:
                grown[-1] = Span(grown[-1].start, end)
        else:
            grown.append(Span(start, end))
    return tuple(grown)


def of_candles(times: pl.Series, interval: Interval) -> Spans:
    """Return the set that some candles cover.

    Args:
        times: The starts of the candles (Int64, seconds since the epoch), sorted and unique.
        interval: The interval of the candles.
    """
    if times.is_empty():
        return ()
    is_start = (times.diff() != interval.seconds).fill_null(value=True)  # the first has no difference
    is_last = is_start.shift(-1, fill_value=True)
    return tuple(map(Span, times.filter(is_start), times.filter(is_last) + interval.seconds))


def slots(spans: Spans, interval: Interval) -> int:
    """Return the number of candles that fit in a set whose ranges lie on the interval's grid."""
    return seconds(spans) // interval.seconds


def lies_in(spans: Spans, times: pl.Series) -> pl.Series:
    """Return whether each time (Int64, seconds since the epoch) lies in the set (Boolean)."""
    edges = pl.Series("edges", [edge for span in spans for edge in (span.start, span.end)], dtype=pl.Int64())
    return edges.search_sorted(times, side="right").cast(pl.Int64()) % 2 == 1
