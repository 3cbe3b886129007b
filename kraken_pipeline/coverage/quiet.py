"""Suspicions: quiet time that is too short or too long for one market, or common to all markets."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kraken_pipeline.coverage.ranges import EVER, Span, Spans, clip, intersect, lies_in, normalise, whole_candles
from kraken_pipeline.market.interval import Interval

NEIGHBOURS = 12
"""The number of candles with trades on either side between which one without a trade is a suspicion."""
_LONE = 2  # candles in a row that still count as lone
LONE_TRADES = 5
"""The least trade count of each neighbour with which a candle without a trade is more than a lull."""
USUAL_TRADES = 20.0
"""The usual number of trades with which silence is a suspicion: it has a chance of 1 in 500 million."""
_DAYS = 7
MARGIN = (_DAYS + 2) * 86_400
"""The time around a quiet time in which a market's activity is examined, in seconds."""
_BURST = 2
"""The most trades of an hour that count where hours without trades are usual; the others belong to the same burst."""
_LOW = 5
"""One in this many of the compared days may be quieter than usual: weekends, holidays, other holes."""
_BESIDE = 6
"""The time before and after a compared hour that shows whether the market has lulls: a day divided by this number.

Where one hour in ten has no trade, fourteen compared hours all have some once in five times. Measured over 300 made
markets of a year that trade in bursts: without the time beside, 28 had more than one false suspicion and one lull in
500; with it, none of 3,000 had."""
_DAY = 86_400


def lone_quiet(times: pl.Series, trades: pl.Series, answered: Spans, interval: Interval) -> Spans:
    """Return the lone candles without a trade in a market that otherwise trades all the time.

    Args:
        times: The start of every candle with a trade, in seconds (Int64), sorted.
        trades: The trade count of each of them.
        answered: The time in which the absence of a candle rests on one source alone.
        interval: The interval of the candles.

    Returns:
        Absent candles within `answered`, at most two in a row, with `NEIGHBOURS` existing candles on either side that
        have at least `LONE_TRADES` trades each.
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


def long_quiet(times: pl.Series, trades: pl.Series, covered: Spans, doubtful: Spans, interval: Interval) -> Spans:
    """Return the hours in which a market has no trade, although its own recent activity makes many usual.

    A Poisson process with E expected trades has none with a probability of e^-E. At `USUAL_TRADES` = 20 that is 2e-9:
    once in 500 million spans, and a century has less than a million hours. Real trades come in bursts, at some hours
    and on some days, so a mean would expect too many. E is therefore the least number of trades at the same time of
    day among the seven days before and the seven days after, without the quietest fifth of these days. An hour counts
    for at most two trades, unless each compared hour has `LONE_TRADES` and the hours beside it have trades, too, on all
    but the quietest fifth of the days: then none of them is a lull. A span that is longer than a day is compared with
    the days before its start and after its end, and E grows with its length. This
    finds half a day of a market that trades every hour, and single hours of one that is always busy. A market that
    rests at weekends is never suspicious.

    Args:
        times: The start of every candle, in seconds (Int64), sorted; including `MARGIN` around `doubtful`.
        trades: The trade count of each of them.
        covered: The coverage; a week is ignored if one of its days is not covered whole at that time of day.
        doubtful: The time in which the absence of a candle rests on one source alone.
        interval: The interval of the candles, a day at most. Below an hour, candles are examined by the hour.

    Returns:
        Absent candles within `doubtful`, later than the first candle of all.
    """
    grid = max(interval, Interval.H1)
    hours = whole_candles(doubtful, grid)
    if times.is_empty() or not hours:
        return ()
    origin = grid.floor(min(int(times[0]), hours[0].start))
    starts = pl.int_range(origin, grid.ceil(max(int(times[-1]) + 1, hours[-1].end)), grid.seconds, eager=True)
    places = (times.to_numpy() - origin) // grid.seconds
    counts = np.bincount(places, trades.to_numpy(), len(starts)).astype(np.float64)
    is_silent = (counts == 0) & lies_in(hours, starts).to_numpy() & (starts > times[0]).to_numpy()
    edges = np.flatnonzero(np.diff(is_silent, prepend=False, append=False))
    firsts, ends = edges[::2], edges[1::2]
    is_known = lies_in(whole_candles(covered, grid), starts).to_numpy()
    is_found = _usual_of_spans(counts, is_known, firsts, ends, _DAY // grid.seconds) >= USUAL_TRADES
    return normalise(
        _silence(times, origin + int(first) * grid.seconds, doubtful, interval) for first in firsts[is_found]
    )


def quiet_candidates(times: pl.Series, trades: pl.Series, reach: Span, interval: Interval) -> Spans:
    """Return the stretches without a candle in which `long_quiet` could find anything, whatever is covered.

    The evidence for quiet time takes long to look up. Most markets have no stretch that is long for their activity, and
    need no evidence. The function computes an upper bound of the usual number of trades. For a stretch of at most a
    day, the bound comes from the same hours of the seven days before and after: a part of the stretch has at most as
    many trades there as the whole. For a longer stretch, at least six of the compared days have the usual number of
    trades, so a sixth of all trades around it is the bound for a day.

    Args:
        times: The start of every candle in `reach`, in seconds (Int64), sorted.
        trades: The trade count of each of them.
        reach: The time for which the candles are given. A stretch at its start or end may go on outside, so the
            returned range has no bound on that side.
        interval: The interval of the candles, a day at most.
    """
    grid = max(interval, Interval.H1)
    origin, a_day = grid.floor(reach.start), _DAY // grid.seconds
    starts = times.to_numpy()
    size = (grid.ceil(reach.end) - origin) // grid.seconds
    counts = np.bincount((starts - origin) // grid.seconds, trades.to_numpy(), size)
    edges = np.flatnonzero(np.diff(counts == 0, prepend=False, append=False))
    firsts, ends = edges[::2], edges[1::2]
    sums = np.concatenate([[0.0], np.cumsum(counts)])
    days = np.arange(1, _DAYS + 1)[:, np.newaxis] * a_day
    begins, pasts = (np.concatenate([edge - days, edge + days]) for edge in (firsts, ends))  # a row a day
    compared = sums[np.clip(pasts, 0, size)] - sums[np.clip(begins, 0, size)]
    one, both = _DAYS // _LOW, 2 * _DAYS // _LOW  # the quieter days that are left out
    of_weeks = (np.sort(compared[:_DAYS], axis=0), np.sort(compared[_DAYS:], axis=0), np.sort(compared, axis=0))
    usual = np.maximum.reduce([of_weeks[0][one], of_weeks[1][one], of_weeks[2][both]])
    around = (_DAYS + 1) * a_day
    near = sums[np.clip(ends + around, 0, size)] - sums[np.clip(firsts - around, 0, size)]
    longer = near / (_DAYS - one) * (ends - firsts) / a_day
    is_open = (firsts < around) | (ends > size - around)
    chosen = is_open | (np.where(ends - firsts > a_day, longer, usual) >= USUAL_TRADES)
    places = np.searchsorted(starts, origin + firsts[chosen] * grid.seconds).tolist()
    return normalise(
        Span(
            int(starts[place - 1]) + interval.seconds if place else EVER.start,
            int(starts[place]) if place < len(starts) else EVER.end,
        )
        for place in places
    )


def _silence(times: pl.Series, moment: int, doubtful: Spans, interval: Interval) -> Span:
    """Return the whole span without a candle that holds a moment after the first candle, within `doubtful`."""
    place = int(times.search_sorted(moment))
    end = int(times[place]) if place < len(times) else doubtful[-1].end
    return next(span for span in clip(doubtful, Span(int(times[place - 1]) + interval.seconds, end)) if moment in span)


def _usual_of_spans(
    counts: NDArray[np.float64],
    is_known: NDArray[np.bool_],
    firsts: NDArray[np.int64],
    ends: NDArray[np.int64],
    a_day: int,
) -> NDArray[np.float64]:
    """Return the usual number of trades in each span of candles, as in `long_quiet`; 0 if no week can be compared."""
    lengths = ends - firsts
    compared = np.minimum(lengths, a_day)
    few_trades = np.minimum(counts, _BURST)
    kinds = np.array([is_known, counts, few_trades, counts >= LONE_TRADES, counts == 0], dtype=np.float64)
    before = np.concatenate([np.zeros((len(kinds), 1)), np.cumsum(kinds, axis=1)], axis=1)
    days = np.arange(1, _DAYS + 1)[:, np.newaxis] * a_day
    starts = np.concatenate([firsts - days, ends - compared + days])  # a row a day, a column a span
    beside = a_day // _BESIDE
    edges = (starts, starts + compared, starts - beside, starts + compared + beside)
    begin, end, begin_beside, end_beside = (np.clip(edge, 0, len(counts)) for edge in edges)  # nothing is known outside
    known, trades, few, busy, _ = before[:, end] - before[:, begin]
    silent_beside = before[-1, end_beside] - before[-1, begin_beside]
    # A week is compared only if each of its days is known.
    weeks = (known == compared).reshape(2, _DAYS, -1).all(axis=1)
    is_compared = np.repeat(weeks, _DAYS, axis=0)
    lowest = weeks.sum(axis=0) * _DAYS // _LOW, np.arange(len(firsts))
    low_trades, low_few = (np.sort(np.where(is_compared, values, np.inf), axis=0)[lowest] for values in (trades, few))
    has_lulls = ((silent_beside > 0) & is_compared).sum(axis=0) > lowest[0]
    is_always_busy = (busy == compared).all(axis=0, where=is_compared) & ~has_lulls
    return np.where(weeks.any(axis=0), np.where(is_always_busy, low_trades, low_few) * lengths / compared, 0.0)


def all_quiet(start: int, interval: Interval, markets: Iterable[tuple[NDArray[np.int64], NDArray[np.bool_]]]) -> Spans:
    """Return the spans in which no market trades, although many trades are usual at that time of day.

    Args:
        start: The start of the first candle, in seconds since the epoch.
        interval: The interval of the candles.
        markets: For each market the trade count of each candle and whether it is covered; arrays of equal length.

    Returns:
        Whole candles in which at least two markets are covered and none has a trade. The usual number of trades is each
        market's mean at the same time of day, seven days before and after: nights and closed exchanges do not count as
        silence.
    """
    rest = iter(markets)
    if (first_market := next(rest, None)) is None:
        return ()
    size = len(first_market[0])
    covered, traded, usual = np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(size)
    for trades, is_covered in chain([first_market], rest):
        covered += is_covered
        traded += trades
        (known,) = np.nonzero(is_covered)
        if len(known):  # no other candle counts as usual, and many markets are young
            part = slice(known[0], known[-1] + 1)
            usual[part] += _usual(trades[part], is_covered[part], _DAY // interval.seconds) * is_covered[part]
    silent = np.concatenate([[False], (covered >= 2) & (traded == 0), [False]])
    edges = np.flatnonzero(silent[1:] != silent[:-1])
    sums = np.concatenate([[0.0], np.cumsum(usual)])
    return tuple(
        Span(start + int(first) * interval.seconds, start + int(last) * interval.seconds)
        for first, last in zip(edges[::2], edges[1::2], strict=True)
        if sums[last] - sums[first] >= USUAL_TRADES
    )


def _usual(trades: NDArray[np.int64], is_covered: NDArray[np.bool_], a_day: int) -> NDArray[np.float64]:
    """Return the mean trade count of each candle on the days before and after, at the same time of day."""
    days = _around(is_covered.astype(np.int64), a_day)
    usual: NDArray[np.float64] = _around(trades * is_covered, a_day) / np.maximum(days, 1)
    return usual


def _around(values: NDArray[np.int64], a_day: int) -> NDArray[np.int64]:
    """Return for each value the sum of those at the same time of day, on the `_DAYS` days before and after it."""
    days = -(-len(values) // a_day)
    by_day = np.zeros((1 + _DAYS + days + _DAYS, a_day), np.int64)  # the first row stays zero, for the sums
    by_day[1 + _DAYS : 1 + _DAYS + days].flat[: len(values)] = values
    sums = np.cumsum(by_day, axis=0)
    window = sums[2 * _DAYS + 1 :] - sums[:days]
    return window.ravel()[: len(values)] - values
