"""Equality of two accounts of a candle: exact, except for the noise of summed volumes and for rounded prices.

Old eras are rounded: trades may have one decimal where archives of the same days have five. A side counts as rounded
against the other in a month if two conditions hold. It has several prices, and none has more than a certain number of
decimals, except for one in a hundred that may be wrong itself; and the other side has several prices with more. Then
prices are equal if they differ by at most one unit of the last decimal of the rounded side. If both sides have the same
number of decimals, nothing was rounded between them, and prices must be equal exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import polars as pl

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.candle import VOLUME_TOLERANCE, Source, seconds_in, seconds_of
from kraken_pipeline.market.decimals import MOST_DECIMALS, PRICES, decimals, most_decimals
from kraken_pipeline.market.flow import FLOW
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import as_datetime

SEEN_PRICES = 8
"""The least number of prices that show how many decimals a source has, that of a month of fifteen-day candles.

Among fewer, a price that happens to be round has too much weight.
"""
_ODD = 0.01
"""The share of prices that may exceed a source's decimals; else one spike would cause a month of contradictions."""
_LOT = 1e-8
_NOISE = 1e-9  # relative to a price: the difference of two floats is not an exact decimal
_EXACT = (*PRICES, "trade_count")
_VALUES = (*PRICES, "volume", "trade_count")
_DAY = 86_400

Read = Callable[[Interval, int, int], pl.DataFrame]
"""A function that returns the candles of an interval that start in `[start, end)`, sorted by time, as CANDLE_SCHEMA."""


def differences(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    """Return the candles on which two frames differ, or that only one of them has; prices are compared exactly.

    Args:
        left: Columns `time`, `open`, `high`, `low`, `close`, `volume`, `trade_count` at least, sorted, unique by time.
        right: The same columns and order.

    Returns:
        `time`, these columns of the left and, with the suffix `_right`, of the right; nulls where a side has no candle.
    """
    names = ("time", *_VALUES)
    left, right = left.select(names), right.select(names)
    if left.height == right.height and left["time"].equals(right["time"]):
        if _are_equal(left, right):
            return _no_differences(left, right)
        renamed = right.drop("time").rename({name: f"{name}_right" for name in _VALUES})
        both = left.with_columns(renamed.get_columns())
    else:
        both = left.join(right, on="time", how="full", coalesce=True, suffix="_right").sort("time")
    exact = pl.all_horizontal(pl.col(name).eq_missing(pl.col(f"{name}_right")) for name in _EXACT)
    return both.filter(~(exact & is_near_in_volume()).fill_null(value=False))


def _are_equal(left: pl.DataFrame, right: pl.DataFrame) -> bool:
    """Return whether frames of the same times have no difference, as nearly always: a tenth of the work of a join."""
    if any(left[name].null_count() or right[name].null_count() for name in _VALUES):
        return False
    if not all(left[name].equals(right[name]) for name in _EXACT):
        return False
    import numpy as np  # noqa: PLC0415 - takes a tenth of a second, and commands that compare nothing import this module

    volumes = left["volume"].to_numpy(), right["volume"].to_numpy()
    most = np.maximum(*(np.abs(volume) for volume in volumes))
    return bool((np.abs(volumes[0] - volumes[1]) <= VOLUME_TOLERANCE * most + _LOT / 2).all())


def _no_differences(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    names = {name: f"{name}_right" for name in _VALUES}
    return pl.DataFrame(schema={**left.schema, **{names[name]: right.schema[name] for name in _VALUES}})


def is_near_in_volume() -> pl.Expr:
    """Return the expression for volumes that are equal up to the noise of addition, in a frame of `differences`."""
    most = pl.max_horizontal(pl.col("volume").abs(), pl.col("volume_right").abs())
    return (pl.col("volume") - pl.col("volume_right")).abs() <= VOLUME_TOLERANCE * most + _LOT / 2


def are_within(unit: pl.Expr) -> pl.Expr:
    """Return the expression for prices that differ by at most one unit, in a frame of `differences`."""
    return pl.all_horizontal(
        (pl.col(name) - pl.col(f"{name}_right")).abs() <= unit + _NOISE * (pl.col(name).abs() + unit) for name in PRICES
    )


def flow_apart(one: pl.DataFrame, other: pl.DataFrame) -> tuple[str, ...]:
    """Return the columns `FLOW` in which two accounts of one candle differ; none where either does not tell them.

    Such a difference is shown, and refutes nothing: counts, prices and volumes decide.
    """
    if one.height != 1 or other.height != 1:
        return ()
    return tuple(name for name in FLOW if _is_apart(name, one[name][0], other[name][0]))


def _is_apart(name: str, one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return False
    tolerance = VOLUME_TOLERANCE * max(one, other)
    if name == "vwap":  # OHLC cuts it to the decimals of the pair
        tolerance = rounded_to(int(decimals(pl.Series([one, other], dtype=pl.Float64())).to_numpy().min()))
    return abs(one - other) > tolerance + _NOISE * one


def rounded_to(decimals_: int) -> float:
    """Return one unit of the last of some decimals: 0.1 for one decimal."""
    return float(f"1e-{decimals_}")


def equal_within(unit: float) -> str:
    """Return the text of a verdict on prices that rounding explains: equal within 0.1."""
    return f"equal within {f'{unit:.{MOST_DECIMALS}f}'.rstrip('0').rstrip('.')}"


def is_within_own_rounding(both: pl.DataFrame) -> pl.Series:
    """Return, for candles of `differences`, whether the one with fewer decimals may be the other one rounded."""
    left, right = (
        most_decimals(both),
        most_decimals(both.select(pl.col(f"{name}_right").alias(name) for name in PRICES)),
    )
    fewer = pl.select(pl.min_horizontal(left, right)).to_series()
    unit = pl.Series("unit", [rounded_to(count) for count in fewer], pl.Float64())
    return both.select(is_near_in_volume() & are_within(pl.lit(unit))).to_series() & (left != right)


@dataclass(frozen=True, slots=True)
class Precision:
    """The number of decimals of the prices of a source over some time.

    Attributes:
        most: The largest number that is left without the one in a hundred distinct prices with the most decimals.
        shown: The largest number that at least `SEEN_PRICES` distinct prices have; a single one may be wrong.
        prices: The number of prices.
    """

    most: int
    shown: int
    prices: int


def precision_of(prices: pl.DataFrame) -> Precision:
    """Return the precision of the prices of some candles."""
    values = pl.concat([prices[name] for name in PRICES])
    distinct = decimals(values.unique()).sort(descending=True)
    if distinct.is_empty():
        return Precision(0, 0, 0)
    shown = distinct[SEEN_PRICES - 1] if len(distinct) >= SEEN_PRICES else 0
    return Precision(int(distinct[int(len(distinct) * _ODD)]), int(shown), len(values))


def unit_between(one: Precision, other: Precision) -> float:
    """Return the difference of prices of two sources that rounding of one of them explains; 0 if neither is rounded."""
    for rounded, exact in ((one, other), (other, one)):
        if rounded.prices >= SEEN_PRICES and rounded.most < exact.shown:
            return rounded_to(rounded.most)
    return 0.0


def disagreeing(one: pl.DataFrame, other: pl.DataFrame) -> pl.Series:
    """Return the starts of candles of two files that have the same trade count and differ, in seconds (Int64).

    Args:
        one: Candles of one file, with the columns of `differences`.
        other: Candles of the other file, of the same interval.
    """
    different = differences(one, other).filter(pl.col("trade_count") == pl.col("trade_count_right"))
    times = seconds_in(different)
    units: dict[int, float] = {}
    for month, some in _by_month(times.to_list()).items():
        windows = (_precision_within(frame, month) for frame in (one, other))
        units |= dict.fromkeys(some, unit_between(*windows))
    unit = pl.Series("unit", [units[time] for time in times.to_list()], pl.Float64())
    is_equal = different.select(is_near_in_volume() & are_within(pl.lit(unit))).to_series()
    return times.filter(~is_equal)


def _precision_within(candles: pl.DataFrame, month: Span) -> Precision:
    """Return the precision of a file in a month, or of the whole file if it has few prices in that month."""
    seconds = seconds_of(pl.col("time"))
    found = precision_of(candles.filter(seconds >= month.start, seconds < month.end))
    return found if found.prices >= SEEN_PRICES else precision_of(candles)


@dataclass(slots=True)
class Rounding:
    """The rounding of the candles of two intervals, by month and source.

    It is measured only where candles differ, on whole months of both intervals, so that the same lake gives the same
    result whatever part of it is compared. A month with few prices is measured with its year. Resampled candles have
    the decimals of the candles that they were made of, which may change within a month: they are measured by the day.
    """

    read: Read
    fine: Interval
    coarse: Interval
    _known: dict[tuple[Interval, str, Span], Precision] = field(default_factory=dict)
    _held: dict[Interval, tuple[Span, pl.DataFrame]] = field(default_factory=dict)

    def apart(self, different: pl.DataFrame) -> pl.DataFrame:
        """Return the candles of `differences` that differ by more than rounding."""
        if different.is_empty():
            return different
        explained = pl.Series(list(self.within(different)), dtype=pl.Int64())
        return different.filter(~seconds_of(pl.col("time")).is_in(explained.implode()))

    def within(self, different: pl.DataFrame) -> dict[int, float]:
        """Return the candles of `differences` that rounding explains: start in seconds → unit of the rounding."""
        units = self._units(different)
        is_within = different.select(are_within(pl.lit(units)).fill_null(value=False)).to_series() & (units >= 0)
        times = seconds_in(different)
        return dict(zip(times.filter(is_within), units.filter(is_within), strict=True))

    def _units(self, different: pl.DataFrame) -> pl.Series:
        """Return the tolerance of the prices of each candle of `differences`; -1 where more than prices differ.

        A coarser candle that was resampled must equal exactly what it was made of.
        """
        alike = (pl.col("trade_count") == pl.col("trade_count_right")) & is_near_in_volume()
        is_alike = different.select(alike.fill_null(value=False)).to_series()
        times = seconds_in(different)
        units: dict[int, float] = {}
        for month, some in _by_month(times.filter(is_alike).to_list()).items():
            units |= self._units_of_month(month, some)
        return pl.Series("unit", [units.get(time, -1.0) for time in times.to_list()], pl.Float64())

    def _units_of_month(self, month: Span, times: list[int]) -> dict[int, float]:
        length = self.coarse.seconds
        bucket = (seconds_of(pl.col("time")) // length * length).alias("bucket")
        wanted = bucket.is_in(pl.Series(times, dtype=pl.Int64()).implode())
        coarse, finer = (
            self._candles(interval, month).filter(wanted).select(bucket, pl.col("source").cast(pl.String)).unique()
            for interval in (self.coarse, self.fine)
        )
        of_coarse = dict(coarse.iter_rows())
        units = dict.fromkeys(times, 0.0)
        known: dict[tuple[str, str, int], float] = {}
        for time, source in finer.iter_rows():
            # Only resampled candles are measured by the day.
            key = source, of_coarse[time], time // _DAY if source == Source.RESAMPLED.value else 0
            if key not in known:
                known[key] = self._unit(source, of_coarse[time], time, month)
            units[time] = max(units[time], known[key])
        return units

    def _unit(self, of_fine: str, of_coarse: str, time: int, month: Span) -> float:
        if of_coarse == Source.RESAMPLED.value:
            return 0.0
        return unit_between(
            self._precision(self.fine, of_fine, time, month), self._precision(self.coarse, of_coarse, time, month)
        )

    def _precision(self, interval: Interval, source: str, time: int, month: Span) -> Precision:
        found = Precision(0, 0, 0)
        for window in _windows(interval, source, time, month):
            key = interval, source, window
            if key not in self._known:
                self._known[key] = self._measured(interval, source, window, month)
            found = self._known[key]
            if found.prices >= SEEN_PRICES:
                break
        return found

    def _measured(self, interval: Interval, source: str, window: Span, month: Span) -> Precision:
        is_within = window.start >= month.start and window.end <= month.end
        candles = self._candles(interval, month) if is_within else self.read(interval, window.start, window.end)
        seconds = seconds_of(pl.col("time"))
        return precision_of(candles.filter(seconds >= window.start, seconds < window.end, pl.col("source") == source))

    def _candles(self, interval: Interval, month: Span) -> pl.DataFrame:
        """Return the candles of a month and of the coarser candle that reaches over its end."""
        if interval not in self._held or self._held[interval][0] != month:
            self._held[interval] = month, self.read(interval, month.start, month.end + self.coarse.seconds)
        return self._held[interval][1]


def _by_month(times: list[int]) -> dict[Span, list[int]]:
    found: dict[Span, list[int]] = {}
    for time in times:
        found.setdefault(month_of(time), []).append(time)
    return found


def month_of(time: int) -> Span:
    """Return the month (UTC) that holds a moment."""
    moment = as_datetime(time)
    return _months(moment.year, moment.month, 1)


def _months(year: int, month: int, count: int) -> Span:
    last = year * 12 + month - 1 + count
    return Span(_moment(year, month), _moment(last // 12, last % 12 + 1))


def _moment(year: int, month: int) -> int:
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp())


def _windows(interval: Interval, source: str, time: int, month: Span) -> list[Span]:
    """Return the windows to measure the decimals of a source at a time in, the best first."""
    year = _months(as_datetime(month.start).year, 1, 12)
    if source == Source.RESAMPLED.value and interval.seconds * 2 < _DAY:
        day = time // _DAY * _DAY
        return [Span(day, day + _DAY), month, year]
    return [month, year]
