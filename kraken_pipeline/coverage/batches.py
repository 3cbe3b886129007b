"""Batches: the division of a set of time into parts, such that the candles of each part are read at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import polars as pl

from kraken_pipeline.coverage.equality import Read
from kraken_pipeline.coverage.ranges import Span, Spans, lies_in
from kraken_pipeline.market.candle import seconds_in
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import year_after

BATCH_CANDLES = 366 * 1_440
"""The most candles of one read, a year of minutes."""
READ_PER_WANTED = 8
"""The most candles that are read for one that is wanted, where ranges lie apart."""
ROW_GROUP = 20_000
"""The number of candles that are read at least, wherever a file of the lake is opened."""
_YEAR = 365 * 86_400


Count = Callable[[Interval, int, int], int]
"""A function that returns an upper bound of the number of candles of an interval that start in `[start, end)`."""


def most_candles(interval: Interval, start: int, end: int) -> int:
    """Return the number of candles of an interval that start in `[start, end)` if a market never rests."""
    return -(-(end - start) // interval.seconds)


def read_within(read: Read, interval: Interval, spans: Spans) -> pl.DataFrame:
    """Return the candles that start in a set of at least one range, read from its first start to its last end."""
    candles = read(interval, spans[0].start, spans[-1].end)
    return candles if len(spans) == 1 else candles.filter(lies_in(spans, seconds_in(candles)))


def batches(domain: Spans, fine: Interval, grid: Interval, count: Count = most_candles) -> Iterator[Spans]:
    """Yield a set in parts, each to be read at once, without splitting a candle of `grid`.

    A part has at most `BATCH_CANDLES`, or those of one year. Ranges that are far apart are parts of their own: at most
    seven candles are read and left out for one that is wanted. Parts end with years where they can, as the files of
    the finer intervals do.

    Args:
        domain: The set, on the grid of `grid`.
        fine: The interval of which most candles are read.
        grid: The interval whose candles are not split.
        count: Bounds the number of candles, so that the years of a quiet market are read together.
    """
    part: list[Span] = []
    wanted = 0
    for span in _by_year(domain, grid):
        candles = most_candles(fine, span.start, span.end)
        if part:
            wanted += candles
            reached = min(most_candles(fine, part[0].start, span.end), count(fine, part[0].start, span.end))
            if reached > min(BATCH_CANDLES, max(READ_PER_WANTED * wanted, ROW_GROUP)):
                yield tuple(part)
                part = []
        if not part:
            wanted = candles
        # Years of one range that are in one part are one range again.
        if part and part[-1].end == span.start:
            part[-1] = Span(part[-1].start, span.end)
        else:
            part.append(span)
    if part:
        yield tuple(part)


def _by_year(domain: Spans, grid: Interval) -> Iterator[Span]:
    for span in domain:
        at = span.start
        while at < span.end:
            new_year = grid.floor(year_after(at))
            until = min(span.end, new_year if new_year > at else grid.floor(at + _YEAR))
            yield Span(at, until)
            at = until
