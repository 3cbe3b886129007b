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
    """What the size of a bar counts."""

    TIME = "time"
    TICKS = "ticks"  # trades
    VOLUME = "volume"  # in units of the base asset
    DOLLARS = "dollars"  # in units of the quote currency


@dataclass(frozen=True, slots=True)
class BarSize:
    """The size of bars.

    Attributes:
        by: What it counts.
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


@dataclass(slots=True)
class _Open:
    """A bar that is not full yet.

    Attributes:
        start: Its start, in microseconds since the epoch.
        first: The time of its first trade, likewise.
        last: The time of its last trade, likewise.
        prices: Open, high, low and close.
        count: The number of its trades.
        sums: Its volume, its volume in the quote currency, and the volume that takers bought (NaN if not known).
    """

    start: int
    first: int
    last: int
    prices: tuple[float, float, float, float]
    count: int
    sums: NDArray[np.float64]

    def row(self) -> tuple[object, ...]:
        volume, quote_volume, bought = (float(value) for value in self.sums)
        buy_volume = None if np.isnan(bought) else bought
        return self.start, self.first, self.last, *self.prices, volume, self.count, None, quote_volume, buy_volume


_FIRST_LOOK = 64
"""The number of trades that are first looked through for the end of a bar; then twice as many, and so on."""
_NOTHING = np.zeros(3)


class BarFold:
    """A fold of a stream of trades to bars; it holds one open bar, as sums.

    Args:
        size: The size of the bars.
    """

    def __init__(self, size: BarSize) -> None:
        self._size = size
        self._open: _Open | None = None
        self._look = _FIRST_LOOK

    def add(self, trades: pl.DataFrame) -> pl.DataFrame:
        """Add trades and return the bars that they fill, with the columns of `BAR_SCHEMA`.

        Args:
            trades: The columns `BAR_COLUMNS`, in the order of trading, none earlier than those added before.
        """
        times = trades["time"].cast(pl.Int64).to_numpy()
        prices, volumes = (trades[name].to_numpy() for name in ("price", "volume"))
        is_bought = trades["side"].cast(pl.String).replace_strict({"buy": 1.0, "sell": 0.0}, default=None)
        bought = volumes * is_bought.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        parts = np.stack([volumes, prices * volumes, bought])
        rows: list[tuple[object, ...]] = []
        at = 0
        while at < len(times):
            if self._is_over(int(times[at])):
                rows.append(self._closed())
            end, is_full = self._end(times, parts, at)
            self._take(times, prices, parts, at, end)
            at = end
            if is_full:
                rows.append(self._closed())
        return _finished(rows)

    def finish(self) -> pl.DataFrame:
        """Return the open bar, which is not full; no bar if there is none."""
        return _finished([] if self._open is None else [self._closed()])

    def _closed(self) -> tuple[object, ...]:
        assert self._open is not None  # noqa: S101 - callers have seen a trade in it
        row, self._open = self._open.row(), None
        return row

    def _start(self, time: int) -> int:
        """Return the start of the bar whose first trade is at a time (microseconds)."""
        if self._size.by is not Measure.TIME:
            return time
        return time - time % (int(self._size.size) * 1_000_000)

    def _is_over(self, time: int) -> bool:
        """Return whether a trade lies after the open bar, whose time is over."""
        return self._size.by is Measure.TIME and self._open is not None and self._start(time) > self._open.start

    def _end(self, times: NDArray[np.int64], parts: NDArray[np.float64], at: int) -> tuple[int, bool]:
        """Return where the bar of the trade at a place ends among these trades, and whether it is full."""
        if self._size.by is Measure.TIME:
            # Whether it is full shows when a later trade comes.
            over = self._start(int(times[at])) + int(self._size.size) * 1_000_000
            return int(times.searchsorted(over)), False
        if self._size.by is Measure.TICKS:
            wanted = int(self._size.size) - (self._open.count if self._open is not None else 0)
            return min(at + wanted, len(times)), at + wanted <= len(times)
        counted = parts[0 if self._size.by is Measure.VOLUME else 1]
        begun = _NOTHING if self._open is None else self._open.sums
        carried = begun[0 if self._size.by is Measure.VOLUME else 1]
        look = self._look
        while True:
            sums = np.cumsum(np.concatenate(([carried], counted[at : at + look])))[1:]
            place = int(sums.searchsorted(self._size.threshold))
            if place < len(sums):
                self._look = max(_FIRST_LOOK, 2 * place)
                return at + place + 1, True
            if at + look >= len(counted):
                return len(counted), False
            look *= 2

    def _take(
        self,
        times: NDArray[np.int64],
        prices: NDArray[np.float64],
        parts: NDArray[np.float64],
        at: int,
        end: int,
    ) -> None:
        """Add the trades between two places to the open bar, or open one."""
        before = self._open
        carried = _NOTHING if before is None else before.sums
        sums = np.cumsum(np.concatenate((carried[:, None], parts[:, at:end]), axis=1), axis=1)[:, -1]
        own = prices[at:end]
        first, high, low, last = float(own[0]), float(own.max()), float(own.min()), float(own[-1])
        if before is None:
            start, begin = self._start(int(times[at])), int(times[at])
            self._open = _Open(start, begin, int(times[end - 1]), (first, high, low, last), end - at, sums)
            return
        of_bar = before.prices[0], max(before.prices[1], high), min(before.prices[2], low), last
        count = before.count + end - at
        self._open = _Open(before.start, before.first, int(times[end - 1]), of_bar, count, sums)


def _finished(rows: list[tuple[object, ...]]) -> pl.DataFrame:
    """Return bars without the noise of addition, with the average price that follows from their sums."""
    if not rows:
        return NO_BARS
    moments = ("time", "first_trade", "last_trade")
    schema = {name: pl.Int64() if name in moments else kind for name, kind in BAR_SCHEMA.items()}
    bars = pl.DataFrame(rows, schema=schema, orient="row")
    rounded = bars.with_columns(pl.col(*moments).cast(TIME), pl.col("volume", "buy_volume").round(LOT_DECIMALS))
    return rounded.with_columns(average()).select(BAR_SCHEMA.names())
