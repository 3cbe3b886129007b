"""Bars that are made of trades: of so much time, so many trades, so much volume, or so much money.

A bar of volume, money or trades ends with the trade that fills it. That trade belongs to it as a whole and is not
split, so a bar can hold more than its size, and the next one begins with nothing. A bar of time ends where the clock
shows a multiple of its width since the epoch.

Sums are added up in the order of trading, one trade after another. So the bars do not depend on the parts in which
trades arrive.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from math import inf

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.candle import TIME
from kraken_pipeline.market.flow import average
from kraken_pipeline.market.interval import minutes_of
from kraken_pipeline.market.resample import LOT_DECIMALS

BAR_SCHEMA = pl.Schema(
    {
        "time": TIME,  # the start: of a bar of time on its grid, of any other that of its first trade
        "first_trade": TIME,
        "last_trade": TIME,
        **dict.fromkeys(("open", "high", "low", "close", "volume"), pl.Float64()),
        "trade_count": pl.Int64(),
        "vwap": pl.Float64(),  # the average price, weighted by volume
        "quote_volume": pl.Float64(),
        "buy_volume": pl.Float64(),  # null where the side of a trade is not known
    }
)
NO_BARS = pl.DataFrame(schema=BAR_SCHEMA)

BAR_COLUMNS = ("time", "price", "volume", "side")
"""The columns of trades that bars are made of."""


class Measure(StrEnum):
    """A quantity by which the size of a bar is measured."""

    TIME = "time"
    TICKS = "ticks"  # trades
    VOLUME = "volume"  # in units of the base asset
    DOLLARS = "dollars"  # in units of the quote currency


@dataclass(frozen=True, slots=True)
class BarSize:
    """The size of bars.

    Attributes:
        by: The quantity that is measured.
        size: How much of it, more than 0; time in seconds, as a whole number.
    """

    by: Measure
    size: float

    @classmethod
    def parse(cls, by: str, size: float | str) -> BarSize:
        """Return the size that some values name.

        Args:
            by: `time`, `ticks`, `volume` or `dollars`.
            size: A number. Time may also be a text with a unit, such as `30s`, `5m`, `1h`, `1d`; a number is minutes.

        Raises:
            InvalidRequest: One of them is wrong; the message says which.
        """
        try:
            measure = Measure(by)
        except ValueError:
            raise InvalidRequest(f"bars are made by {', '.join(Measure)}, not by {by!r}") from None
        if measure is Measure.TIME:
            return cls(measure, _seconds(size))
        if isinstance(size, str) or not 0 < size < inf:
            raise InvalidRequest(f"the size of bars by {measure} is a number greater than 0, not {size!r}")
        if measure is Measure.TICKS and size != int(size):
            raise InvalidRequest(f"the size of bars by ticks is a whole number of trades, not {size!r}")
        return cls(measure, size)

    @property
    def threshold(self) -> float:
        """The sum from which on a bar is full, less the noise of the addition of floats.

        Volume has eight decimals, so half of the last one is noise. Money has no fixed number of decimals; there it is
        what lies beyond twelve significant digits.
        """
        if self.by is Measure.VOLUME:
            return self.size - 0.5e-8
        return self.size * (1 - 0.5e-12)


def _seconds(size: float | str) -> int:
    found = re.fullmatch(r"\s*(\d{1,9})\s*s\s*", size) if isinstance(size, str) else None
    if isinstance(size, float):
        raise InvalidRequest(
            f"the width of bars by time is a whole number of minutes, or a text such as 30s, not {size!r}"
        )
    seconds = int(found[1]) if found is not None else minutes_of(size) * 60
    if seconds <= 0:
        raise InvalidRequest(f"the width of bars by time is more than nothing, not {size!r}")
    return seconds


_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Sums:
    """Some bars in order of time, as arrays with one value for each bar.

    Attributes:
        start: The start, in microseconds since the epoch.
        first: The time of the first trade, likewise.
        last: The time of the last trade, likewise.
        prices: An array with four rows: open, high, low, close.
        count: The number of trades.
        parts: An array with three rows: the volume, the volume in the quote currency, and the volume that takers
            bought (NaN if it is not known).
    """

    start: _Ints
    first: _Ints
    last: _Ints
    prices: _Floats
    count: _Ints
    parts: _Floats

    def between(self, first: int, last: int) -> _Sums:
        """Return some of the bars."""
        place = slice(first, last)
        ints = (self.start[place], self.first[place], self.last[place])
        return _Sums(*ints, self.prices[:, place], self.count[place], self.parts[:, place])


_FIRST_LOOK = 64
"""The number of trades that are first looked through for the end of a bar; then twice as many, and so on."""
_MANY = 256
"""The number of trades from which on a bar is added up by itself, and not along with the others."""


class BarFold:
    """A fold of a stream of trades to bars; it holds one open bar, as sums.

    Args:
        size: The size of the bars.
    """

    def __init__(self, size: BarSize) -> None:
        self._size = size
        self._open: _Sums | None = None
        self._look = _FIRST_LOOK

    def add(self, trades: pl.DataFrame) -> pl.DataFrame:
        """Add trades and return the bars that they fill, with the columns of `BAR_SCHEMA`.

        Args:
            trades: The columns `BAR_COLUMNS`, in the order of trading, none earlier than those added before.
        """
        if trades.is_empty():
            return NO_BARS
        times = trades["time"].cast(pl.Int64).to_numpy()
        prices, volumes = (trades[name].to_numpy() for name in ("price", "volume"))
        is_bought = trades["side"].cast(pl.String).replace_strict({"buy": 1.0, "sell": 0.0}, default=None)
        bought = volumes * is_bought.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        parts = np.stack([volumes, prices * volumes, bought])
        before = [self.finish()] if self._is_over(int(times[0])) else []
        ends, is_full = self._ends(times, parts)
        bars = self._added(times, prices, parts, ends)
        full = len(ends) if is_full else len(ends) - 1
        self._open = None if is_full else bars.between(full, full + 1)
        return pl.concat([*before, _finished(bars.between(0, full))])

    def finish(self) -> pl.DataFrame:
        """Return the open bar, which is not full; no bar if there is none."""
        bar, self._open = self._open, None
        return NO_BARS if bar is None else _finished(bar)

    def _is_over(self, time: int) -> bool:
        """Return whether a trade lies after the open bar, whose time is over."""
        if self._size.by is not Measure.TIME or self._open is None:
            return False
        return time >= int(self._open.start[0]) + self._width

    @property
    def _width(self) -> int:
        """The width of bars by time, in microseconds."""
        return int(self._size.size) * 1_000_000

    def _ends(self, times: _Ints, parts: _Floats) -> tuple[_Ints, bool]:
        """Return where each bar ends among these trades, and whether the last one is full."""
        count = len(times)
        if self._size.by is Measure.TIME:
            # Whether the last one is over shows when a later trade comes.
            return np.append(np.flatnonzero(np.diff(times // self._width)) + 1, count), False
        if self._size.by is Measure.TICKS:
            size = int(self._size.size)
            ends = np.arange(size - (int(self._open.count[0]) if self._open is not None else 0), count + 1, size)
        else:
            ends = self._filled(parts)
        is_full = bool(len(ends)) and int(ends[-1]) == count
        return ends if is_full else np.append(ends, count), is_full

    def _filled(self, parts: _Floats) -> _Ints:
        """Return where each bar by volume or money is full."""
        row = 0 if self._size.by is Measure.VOLUME else 1
        counted, threshold = parts[row], self._size.threshold
        carried = 0.0 if self._open is None else float(self._open.parts[row, 0])
        ends: list[int] = []
        at, begin, look = 0, 0, self._look
        while at < len(counted):
            some = counted[at : at + look].copy()
            some[0] += carried
            sums = np.cumsum(some)
            place = int(sums.searchsorted(threshold))
            if place < len(sums):
                at += place + 1
                ends.append(at)
                look, begin, carried = max(_FIRST_LOOK, 2 * (at - begin)), at, 0.0
            else:
                at += len(sums)
                carried = float(sums[-1])
        self._look = look
        return np.array(ends, np.int64)

    def _added(self, times: _Ints, prices: _Floats, parts: _Floats, ends: _Ints) -> _Sums:
        """Return the bars that end at some places of these trades; the first one continues the open bar."""
        starts = np.append(0, ends[:-1])
        before = self._open
        opening, highest, lowest = (
            prices[starts],
            np.maximum.reduceat(prices, starts),
            np.minimum.reduceat(prices, starts),
        )
        first, count = times[starts], ends - starts
        carried = None if before is None else before.parts[:, 0]
        sums = _added_up(parts, starts, count, carried)
        start = first - first % self._width if self._size.by is Measure.TIME else first.copy()
        if before is not None:
            start[0], first[0] = before.start[0], before.first[0]
            opening[0] = before.prices[0, 0]
            highest[0], lowest[0] = max(highest[0], before.prices[1, 0]), min(lowest[0], before.prices[2, 0])
            count[0] += before.count[0]
        prices_of_bars = np.stack([opening, highest, lowest, prices[ends - 1]])
        return _Sums(start, first, times[ends - 1], prices_of_bars, count, sums)


def _added_up(parts: _Floats, starts: _Ints, counts: _Ints, carried: _Floats | None) -> _Floats:
    """Return the sums of each bar, added up one trade after another.

    The n-th trades of all bars are added at once, which takes a twentieth of the time of one bar after another.

    Args:
        parts: An array with a row for each quantity that is added up, and a column for each trade.
        starts: The place of the first trade of each bar.
        counts: The number of its trades.
        carried: The sums that the first bar has already; None where it has none.
    """
    sums = np.zeros((len(parts), len(starts)))
    if carried is not None:
        sums[:, 0] = carried
    for bar in np.flatnonzero(counts >= _MANY):
        its = parts[:, starts[bar] : starts[bar] + counts[bar]]
        sums[:, bar] = np.cumsum(np.concatenate((sums[:, bar : bar + 1], its), axis=1), axis=1)[:, -1]
    left = np.flatnonzero(counts < _MANY)
    at = 0
    while len(left):
        sums[:, left] += parts[:, starts[left] + at]
        at += 1
        left = left[counts[left] > at]
    return sums


def _finished(bars: _Sums) -> pl.DataFrame:
    """Return bars without the noise of addition, with the average price that follows from their sums."""
    names = ("open", "high", "low", "close")
    frame = pl.DataFrame(
        {
            "time": bars.start,
            "first_trade": bars.first,
            "last_trade": bars.last,
            **dict(zip(names, bars.prices, strict=True)),
            "volume": bars.parts[0],
            "trade_count": bars.count,
            "quote_volume": bars.parts[1],
            "buy_volume": bars.parts[2],
        }
    )
    rounded = frame.with_columns(
        pl.col("time", "first_trade", "last_trade").cast(TIME),
        pl.col("volume").round(LOT_DECIMALS),
        pl.col("buy_volume").fill_nan(None).round(LOT_DECIMALS),
    )
    return rounded.with_columns(average()).select(BAR_SCHEMA.names())
