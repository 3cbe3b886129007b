from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import isnan
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.candle import TIME
from kraken_pipeline.market.trade import SIDE
from kraken_pipeline.market.trade_bars import BAR_SCHEMA, BarFold, BarSize, Measure

START = 1_704_067_200_000_000


@dataclass(frozen=True)
class Trade:
    """A trade in whole units: its time in microseconds, its price in hundredths, its volume in 1e-8."""

    time: int
    cents: int
    lots: int
    side: str | None = "buy"

    @property
    def price(self) -> float:
        return self.cents / 100

    @property
    def volume(self) -> float:
        return self.lots / 10**8


def frame(trades: list[Trade]) -> pl.DataFrame:
    rows = [(trade.time, trade.price, trade.volume, trade.side) for trade in trades]
    schema = {"time": pl.Int64(), "price": pl.Float64(), "volume": pl.Float64(), "side": SIDE}
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.col("time").cast(TIME))


def bars(trades: list[Trade], by: str, size: float | str, *cuts: int) -> tuple[list[Any], list[Any]]:
    """The full bars and the open one, of trades that come in parts."""
    fold = BarFold(BarSize.parse(by, size))
    edges = [0, *sorted(cuts), len(trades)]
    full = pl.concat([fold.add(frame(trades[start:end])) for start, end in pairwise(edges)])
    rest = fold.finish()
    assert full.schema == rest.schema == BAR_SCHEMA
    return full.rows(), rest.rows()


def expected(trades: list[Trade], by: str, size: Fraction) -> tuple[list[list[Trade]], list[Trade]]:
    """The trades of each full bar and of the open one, counted one by one and exactly."""
    full: list[list[Trade]] = []
    open_: list[Trade] = []
    for trade in trades:
        if by == "time" and open_ and trade.time // (size * 1_000_000) != open_[0].time // (size * 1_000_000):
            full.append(open_)
            open_ = []
        open_ = [*open_, trade]
        counted = {
            "time": Fraction(0),
            "ticks": Fraction(len(open_)),
            "volume": Fraction(sum(each.lots for each in open_), 10**8),
            "dollars": Fraction(sum(each.lots * each.cents for each in open_), 10**10),
        }[by]
        if by != "time" and counted >= size:
            full.append(open_)
            open_ = []
    return full, open_


def assert_bar(bar: tuple[Any, ...], trades: list[Trade], by: str, size: Fraction) -> None:
    found = dict(zip(BAR_SCHEMA, bar, strict=True))
    times = [int(found[name].timestamp() * 1_000_000) for name in ("time", "first_trade", "last_trade")]
    first = trades[0].time
    start = first - first % int(size * 1_000_000) if by == "time" else first
    assert times == [start, first, trades[-1].time]
    prices = [trade.price for trade in trades]
    assert [found[name] for name in ("open", "high", "low", "close")] == [
        prices[0],
        max(prices),
        min(prices),
        prices[-1],
    ]
    volume = Fraction(sum(trade.lots for trade in trades), 10**8)
    money = Fraction(sum(trade.lots * trade.cents for trade in trades), 10**10)
    assert found["trade_count"] == len(trades)
    assert found["volume"] == float(volume)
    assert found["quote_volume"] == pytest.approx(float(money), rel=1e-11)
    if volume:
        assert found["vwap"] == pytest.approx(float(money / volume), rel=1e-11)
    else:
        assert found["vwap"] is None
    if any(trade.side is None for trade in trades):
        assert found["buy_volume"] is None
    else:
        bought = sum(trade.lots for trade in trades if trade.side == "buy")
        assert found["buy_volume"] == float(Fraction(bought, 10**8))


TRADES = st.lists(
    st.builds(
        Trade,
        st.integers(0, 4_000_000_000).map(lambda time: START + time),
        st.integers(1, 10_000_000),
        st.one_of(st.integers(0, 3).map(lambda tenths: tenths * 10**7), st.integers(0, 10**9)),
        st.sampled_from(["buy", "sell", None]),
    ),
    max_size=80,
).map(lambda trades: sorted(trades, key=lambda trade: trade.time))
SIZES = st.one_of(
    st.tuples(st.just("ticks"), st.integers(1, 12).map(Fraction)),
    st.tuples(st.just("volume"), st.integers(1, 50).map(lambda tenths: Fraction(tenths, 10))),
    st.tuples(st.just("dollars"), st.integers(1, 400).map(lambda number: Fraction(number * 500))),
    st.tuples(st.just("time"), st.integers(1, 900).map(Fraction)),
)


@given(trades=TRADES, sized=SIZES, cuts=st.lists(st.integers(0, 80), max_size=4))
def test_bars_are_those_that_are_counted_one_by_one_however_trades_are_cut(
    trades: list[Trade], sized: tuple[str, Fraction], cuts: list[int]
) -> None:
    by, size = sized
    asked = f"{size}s" if by == "time" else float(size)
    whole = bars(trades, by, asked)
    full, open_ = expected(trades, by, size)
    assert [row[8] for row in whole[0]] == [len(bar) for bar in full]
    for row, bar in zip(whole[0], full, strict=True):
        assert_bar(row, bar, by, size)
    assert len(whole[1]) == bool(open_)
    for row in whole[1]:
        assert_bar(row, open_, by, size)
    assert bars(trades, by, asked, *(min(cut, len(trades)) for cut in cuts)) == whole


def test_a_trade_that_is_larger_than_a_bar_fills_it_alone_and_is_not_split() -> None:
    trades = [Trade(START + number, 100, lots) for number, lots in enumerate((10**7, 5 * 10**8, 10**7))]
    full, open_ = bars(trades, "volume", 1)
    assert [(row[7], row[8]) for row in full] == [(5.1, 2)]
    assert [(row[7], row[8]) for row in open_] == [(0.1, 1)]


def test_ten_tenths_are_one_although_their_floats_add_up_to_less() -> None:
    assert sum([0.1] * 10) < 1
    full, open_ = bars([Trade(START + number, 100, 10**7) for number in range(10)], "volume", 1)
    assert [row[7] for row in full] == [1.0]
    assert open_ == []


def test_a_long_bar_is_looked_for_over_many_trades() -> None:
    trades = [Trade(START + number, 100, 1) for number in range(1_000)]
    full, open_ = bars(trades, "volume", 400e-8, 333)
    assert [row[8] for row in full] == [400, 400]
    assert [row[8] for row in open_] == [200]


@pytest.mark.parametrize(
    ("by", "size", "says"),
    [
        ("weight", 1, "by 'weight'"),
        ("volume", 0, "greater than 0"),
        ("volume", -1.0, "greater than 0"),
        ("dollars", float("inf"), "greater than 0"),
        ("volume", float("nan"), "greater than 0"),
        ("volume", "1", "a number greater than 0"),
        ("ticks", 1.5, "a whole number of trades"),
        ("time", 1.5, "a whole number of minutes"),
        ("time", "0s", "more than nothing"),
        ("time", "soon", "not a length of time"),
    ],
)
def test_a_size_that_is_none_is_refused(by: str, size: float | str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        BarSize.parse(by, size)


def test_the_width_of_a_bar_of_time_is_in_minutes_or_has_a_unit() -> None:
    sizes = [BarSize.parse("time", size).size for size in (5, "5", "5m", "30s", "2h")]
    assert sizes == [300, 300, 300, 30, 7_200]
    assert BarSize.parse("dollars", 5) == BarSize(Measure.DOLLARS, 5)
    assert not isnan(BarSize.parse("volume", 5).threshold)
