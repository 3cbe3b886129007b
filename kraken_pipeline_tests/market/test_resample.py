from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kraken_pipeline.market.candle import TIME, seconds_of, time_from_seconds
from kraken_pipeline.market.flow import FLOW
from kraken_pipeline.market.interval import INTERVALS, Interval
from kraken_pipeline.market.resample import NO_CANDLES, TradeFold, fold_trades, resample
from kraken_pipeline_tests.support.samples import at

T = at("2024-02-28T23:50")
Trade = tuple[int, float, float]
"""time in microseconds, price, volume"""
Folded = tuple[int, float, float, float, float, float, int]
"""time in seconds, open, high, low, close, volume, trade count"""
DIVISORS = [(finer, coarser) for coarser in INTERVALS for finer in coarser.finer]


def oracle(candles: Iterable[Folded], interval: Interval) -> list[Folded]:
    """Coarser candles in plain Python, from finer ones in order."""
    found: dict[int, Folded] = {}
    for time, open_, high, low, close, volume, count in candles:
        start = time // interval.seconds * interval.seconds
        if start not in found:
            found[start] = (start, open_, high, low, close, volume, count)
        else:
            _, first, highest, lowest, _, total, number = found[start]
            found[start] = (start, first, max(highest, high), min(lowest, low), close, total + volume, number + count)
    return list(found.values())


def as_candles(trades: Sequence[Trade]) -> list[Folded]:
    """A trade is a candle of one trade; its time in whole seconds is enough for a minute."""
    return [(time // 1_000_000, price, price, price, price, volume, 1) for time, price, volume in trades]


def rows_of(frames: Iterable[pl.DataFrame]) -> list[Folded]:
    return [row for each in frames for row in each.drop(FLOW).with_columns(seconds_of(pl.col("time"))).rows()]


def assert_same(found: list[Folded], wanted: list[Folded]) -> None:
    assert [row[:5] + row[6:] for row in found] == [row[:5] + row[6:] for row in wanted]
    assert [row[5] for row in found] == pytest.approx([row[5] for row in wanted], abs=1e-6, rel=0)


def trades_frame(trades: Sequence[Trade]) -> pl.DataFrame:
    schema = {"time": pl.Int64(), "price": pl.Float64(), "volume": pl.Float64()}
    return pl.DataFrame(list(trades), schema=schema, orient="row").with_columns(pl.col("time").cast(TIME))


def candles_frame(candles: Sequence[Folded]) -> pl.DataFrame:
    names = ("open", "high", "low", "close", "volume")
    schema = {"time": pl.Int64(), **dict.fromkeys(names, pl.Float64()), "trade_count": pl.Int32()}
    return pl.DataFrame(list(candles), schema=schema, orient="row").with_columns(time_from_seconds(pl.col("time")))


PRICES = st.integers(1, 10**9).map(lambda ticks: ticks / 10_000)
VOLUMES = st.integers(1, 10**13).map(lambda lots: lots / 10**8)
# Steps of nothing are common: on Kraken many trades share a timestamp. Others end minutes, hours and a month.
STEPS = st.sampled_from([0, 0, 0, 1, 999_999, 1_000_000, 59_999_999, 60_000_000, 600_000_000, 86_400_000_000])


@st.composite
def trading(draw: st.DrawFn) -> list[Trade]:
    time = T * 1_000_000 + draw(st.integers(0, 120_000_000))
    trades = []
    for step, price, volume in draw(st.lists(st.tuples(STEPS, PRICES, VOLUMES), max_size=40)):
        time += step
        trades.append((time, price, volume))
    return trades


@given(trading(), st.lists(st.integers(0, 40), max_size=6))
def test_trades_fold_to_the_same_minutes_however_they_are_cut_into_chunks(trades: list[Trade], cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(trades)]
    chunks = [trades_frame(trades[start:end]) for start, end in itertools.pairwise(edges)]
    frames = list(fold_trades(chunks))
    assert_same(rows_of(frames), oracle(as_candles(trades), Interval.M1))
    assert all(each.height for each in frames)


def test_every_trade_in_a_chunk_of_its_own_gives_the_same_minutes() -> None:
    trades = [(T * 1_000_000 + 7_000_000 * index, 10.0 + index % 3, 0.1) for index in range(200)]
    assert_same(
        rows_of(fold_trades(trades_frame([trade]) for trade in trades)), oracle(as_candles(trades), Interval.M1)
    )


def test_equal_trades_are_separate_fills() -> None:
    trades = [(T * 1_000_000, 10.0, 0.5)] * 3
    assert rows_of(fold_trades([trades_frame(trades)])) == [(T, 10.0, 10.0, 10.0, 10.0, 1.5, 3)]


def test_no_trades_give_no_candles() -> None:
    assert list(fold_trades([])) == []
    assert list(fold_trades([trades_frame([]), trades_frame([])])) == []


def test_the_open_minute_is_held_back_until_it_is_over() -> None:
    chunks = [trades_frame([(T * 1_000_000 + 60_000_000 * minute, 1.0, 1.0)]) for minute in (0, 0, 1, 1, 2)]
    assert [row[0] for row in rows_of(fold_trades(chunks[:3]))] == [T, T + 60]
    counts = [[row[6] for row in rows_of([each])] for each in fold_trades(chunks)]
    assert counts == [[2], [2], [1]]


def test_the_noise_of_adding_volumes_is_rounded_away() -> None:
    trades = [(T * 1_000_000 + index, 1.0, 0.1) for index in range(10)]
    assert rows_of(fold_trades([trades_frame(trades)]))[0][5] == 1.0


@given(trading(), st.lists(st.integers(0, 40), max_size=6))
def test_what_is_added_closes_every_minute_but_that_of_the_last_trade(trades: list[Trade], cuts: list[int]) -> None:
    fold = TradeFold()
    closed: list[Folded] = []
    edges = [0, *sorted(cuts), len(trades)]
    for start, end in itertools.pairwise(edges):
        closed += rows_of([fold.add(trades_frame(trades[start:end]))])
        wanted = oracle(as_candles(trades[:end]), Interval.M1)
        assert_same(closed, wanted[:-1])
        assert_same(rows_of([fold.finish()]), wanted[-1:])


def test_looking_at_the_open_minute_does_not_end_it() -> None:
    fold = TradeFold()
    fold.add(trades_frame([(T * 1_000_000, 10.0, 0.1)]))
    assert rows_of([fold.finish()]) == rows_of([fold.finish()]) == [(T, 10.0, 10.0, 10.0, 10.0, 0.1, 1)]
    fold.add(trades_frame([(T * 1_000_000, 12.0, 0.2)]))
    assert rows_of([fold.finish()]) == [(T, 10.0, 12.0, 10.0, 12.0, 0.3, 2)]
    assert rows_of([fold.add(trades_frame([(T * 1_000_000 + 60_000_000, 9.0, 1.0)]))]) == [
        (T, 10.0, 12.0, 10.0, 12.0, 0.3, 2)
    ]


def test_a_fold_of_nothing_has_no_minute_and_every_frame_has_all_columns() -> None:
    fold = TradeFold()
    nothing = [fold.finish(), fold.add(trades_frame([])), fold.finish()]
    first = fold.add(trades_frame([(T * 1_000_000, 1.0, 1.0)]))
    second = fold.add(trades_frame([(T * 1_000_000 + 60_000_000, 1.0, 1.0)]))
    assert [each.height for each in (*nothing, first, second, fold.finish())] == [0, 0, 0, 0, 1, 1]
    assert {each.schema == NO_CANDLES.schema for each in (*nothing, first, second, fold.finish())} == {True}


def random_candles(interval: Interval, seed: int, count: int) -> list[Folded]:
    """Sparse candles of an interval, starting anywhere on its grid."""
    chance = random.Random(seed)
    start = interval.floor(T) // interval.seconds + chance.randrange(0, 50)
    times = sorted(chance.sample(range(start, start + 4 * count), count))
    candles = []
    for time in times:
        ticks = [chance.randrange(1, 10**6) / 100 for _ in range(4)]
        volume = chance.randrange(1, 10**12) / 10**8
        trades = chance.randrange(1, 1_000)
        candles.append((time * interval.seconds, ticks[0], max(ticks), min(ticks), ticks[3], volume, trades))
    return candles


@pytest.mark.parametrize(("finer", "coarser"), DIVISORS, ids=lambda interval: str(interval.value))
@settings(max_examples=6)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 60))
def test_finer_candles_give_the_coarser_ones(finer: Interval, coarser: Interval, seed: int, count: int) -> None:
    candles = random_candles(finer, seed, count)
    assert_same(rows_of([resample(candles_frame(candles), coarser)]), oracle(candles, coarser))


@pytest.mark.parametrize(("finer", "coarser"), DIVISORS, ids=lambda interval: str(interval.value))
def test_a_step_in_between_changes_nothing(finer: Interval, coarser: Interval) -> None:
    candles = candles_frame(random_candles(finer, seed=7, count=200))
    direct = rows_of([resample(candles, coarser)])
    for between in coarser.finer:
        if finer in between.finer:
            assert_same(rows_of([resample(resample(candles, between), coarser)]), direct)


def test_resampling_gives_seven_columns_and_the_flow_and_drops_the_others() -> None:
    candles = candles_frame(random_candles(Interval.M1, 1, 5)).with_columns(source=pl.lit("CSV"))
    coarser = resample(candles, Interval.M5)
    assert coarser.columns == ["time", "open", "high", "low", "close", "volume", "trade_count", *FLOW]
    assert coarser.schema["trade_count"] == pl.Int32()
    assert coarser.schema["time"] == TIME


def test_no_candles_resample_to_none() -> None:
    assert resample(candles_frame([]), Interval.D1).is_empty()


def test_a_row_without_a_trade_is_left_out() -> None:
    candles = candles_frame([(T, 50.0, 50.0, 50.0, 50.0, 0.0, 0), (T + 60, 100.0, 101.0, 99.0, 100.5, 2.0, 4)])
    assert rows_of([resample(candles, Interval.M5)]) == [(Interval.M5.floor(T), 100.0, 101.0, 99.0, 100.5, 2.0, 4)]
    assert resample(candles.head(1), Interval.M5).is_empty()
