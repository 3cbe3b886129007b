"""Quiet time that is hard to believe: a lone candle without a trade in a busy market, or all markets silent at once."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kraken_pipeline.coverage.ranges import Span, Spans, intersect, normalise
from kraken_pipeline.market.interval import Interval

NEIGHBOURS = 12
"""A candle without a trade is hard to believe between so many with one, before it and after it."""
_LONE = 2  # candles in a row that still count as lone
LONE_TRADES = 5
"""Where each of the neighbours has so many trades, none at all is no mere lull."""
USUAL_TRADES = 20.0
"""All markets are hard to believe silent where so many trades are usual: by chance, once in 500 million times."""
_DAYS = 7
_DAY = 86_400


def lone_quiet(times: pl.Series, trades: pl.Series, answered: Spans, interval: Interval) -> Spans:
    """The candles without a trade amid a market that trades all the time.

    Args:
        times: The start of every candle with a trade, in seconds (Int64), sorted.
        trades: How many trades each of them has.
        answered: Where the absence of a candle is to be believed on the word of one source.
        interval: Of the candles.

    Returns:
        Absent candles within `answered`, at most two in a row, with `NEIGHBOURS` on either side that are there and have
        `LONE_TRADES` at least.
    """
    length = interval.seconds
    suspects: list[Span] = []
    for index in (times.diff() > length).fill_null(value=False).arg_true().to_list():
        if index < NEIGHBOURS or index + NEIGHBOURS > len(times):
            continue
        before, after = int(times[index - 1]), int(times[index])
        is_busy = (
            before - int(times[index - NEIGHBOURS]) == (NEIGHBOURS - 1) * length
            and int(times[index + NEIGHBOURS - 1]) - after == (NEIGHBOURS - 1) * length
        )
        if (
            is_busy
            and after - before <= (_LONE + 1) * length
            and (trades.slice(index - NEIGHBOURS, 2 * NEIGHBOURS) >= LONE_TRADES).all()
        ):
            suspects.append(Span(before + length, after))
    return intersect(normalise(suspects), answered)


def all_quiet(start: int, interval: Interval, markets: Iterable[tuple[NDArray[np.int64], NDArray[np.bool_]]]) -> Spans:
    """The spans in which no market trades, though many trades are usual at that time of the day.

    Args:
        start: The start of the first candle, in seconds since the epoch.
        interval: Of the candles.
        markets: Of each market how many trades each candle has, and whether it is covered; arrays of one length.

    Returns:
        Whole candles in which at least two markets are covered and none has a trade. What is usual is each market's
        mean at the same time of the day, seven days before and after: nights and closed exchanges are no silence.
    """
    rest = iter(markets)
    if (first_market := next(rest, None)) is None:
        return ()
    size = len(first_market[0])
    covered, traded, usual = np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(size)
    for trades, is_covered in chain([first_market], rest):
        covered += is_covered
        traded += trades
        usual += np.where(is_covered, _usual(trades, is_covered, _DAY // interval.seconds), 0.0)
    silent = np.concatenate([[False], (covered >= 2) & (traded == 0), [False]])
    edges = np.flatnonzero(silent[1:] != silent[:-1])
    sums = np.concatenate([[0.0], np.cumsum(usual)])
    return tuple(
        Span(start + int(first) * interval.seconds, start + int(last) * interval.seconds)
        for first, last in zip(edges[::2], edges[1::2], strict=True)
        if sums[last] - sums[first] >= USUAL_TRADES
    )


def _usual(trades: NDArray[np.int64], is_covered: NDArray[np.bool_], a_day: int) -> NDArray[np.float64]:
    """The mean of each candle's trades on the days before and after, at the same time."""
    total, days = np.zeros(len(trades)), np.zeros(len(trades))
    counted = np.where(is_covered, trades, 0)
    for shift in (day * a_day for day in range(1, _DAYS + 1) if day * a_day < len(trades)):
        total[shift:] += counted[:-shift]
        days[shift:] += is_covered[:-shift]
        total[:-shift] += counted[shift:]
        days[:-shift] += is_covered[shift:]
    return np.divide(total, days, out=np.zeros(len(trades)), where=days > 0)
