"""Batches: the division of a set of time into parts, such that the candles of each part are read at once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import polars as pl

from kraken_pipeline.coverage.equality import Read
from kraken_pipeline.coverage.ranges import Span, Spans, lies_in
from kraken_pipeline.market.candle import seconds_in
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import as_datetime

BATCH_CANDLES = 366 * 1_440
"""The most candles between the bounds of one read."""
READ_PER_WANTED = 8
"""The most candles that are read for one that is wanted, where ranges lie apart."""
_ROW_GROUP = 20_000  # candles; of a file of the lake at least as many are read anyway
_YEAR = 365 * 86_400


def read_within(read: Read, interval: Interval, spans: Spans) -> pl.DataFrame:
    """Return the candles that start in a set of at least one range, read from its first start to its last end."""
    candles = read(interval, spans[0].start, spans[-1].end)
    return candles if len(spans) == 1 else candles.filter(lies_in(spans, seconds_in(candles)))


def batches(domain: Spans, fine: Interval, grid: Interval) -> Iterator[Spans]:
    """Yield a set in parts, each to be read at once, without splitting a candle of `grid`.

    A part reaches over at most a year of minutes, or as many candles of a coarser interval. Ranges that are far apart
    are parts of their own: at most seven candles are read and left out for one that is wanted. Parts end with years
    where they can, as the files of the finer intervals do.

    Args:
        domain: The set, on the grid of `grid`.
        fine: The interval of which most candles are read.
        grid: The interval whose candles are not split.
    """
    part: list[Span] = []
    wanted = 0
    for span in _by_year(domain, grid):
        if part:
            reached, wanted = span.end - part[0].start, wanted + span.seconds
            if reached > min(BATCH_CANDLES * fine.seconds, max(READ_PER_WANTED * wanted, _ROW_GROUP * fine.seconds)):
                yield tuple(part)
                part = []
        if not part:
            wanted = span.seconds
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
            new_year = grid.floor(int(datetime(as_datetime(at).year + 1, 1, 1, tzinfo=UTC).timestamp()))
            until = min(span.end, new_year if new_year > at else grid.floor(at + _YEAR))
            yield Span(at, until)
            at = until
