"""The flow: vwap, quote volume and the volume that takers bought, from trades to merged candles."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from fractions import Fraction

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kraken_pipeline.market.candle import CANDLE_SCHEMA, Source, finished, merge, time_from_seconds
from kraken_pipeline.market.flow import FLOW, has_flow, without_empty_flow
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.resample import fold_trades, resample
from kraken_pipeline_tests.support.samples import at, candle, frame

T = at("2024-05-01")
Told = tuple[float | None, float | None, float | None]
"""vwap, quote volume, buy volume"""
Sided = tuple[int, int, int, str]
"""second since T, price in hundredths, lots, side"""


def sided(trades: Sequence[Sided]) -> pl.DataFrame:
    schema = {"s": pl.Int64(), **dict.fromkeys(("price", "volume", "buy_volume"), pl.Float64())}
    bought = {"b": 1.0, "s": 0.0}
    rows = [
        (T + second, ticks / 100, lots / 10**8, lots / 10**8 * bought[side] if side in bought else None)
        for second, ticks, lots, side in trades
    ]
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(time_from_seconds(pl.col("s")).alias("time"))


def true_flow(trades: Sequence[Sided], interval: Interval) -> dict[int, tuple[Fraction, Fraction, Fraction | None]]:
    """The flow of each candle in exact arithmetic: vwap, quote volume, buy volume."""
    found: dict[int, list[Sided]] = {}
    for trade in trades:
        found.setdefault(interval.floor(T + trade[0]), []).append(trade)
    return {
        time: (
            Fraction(sum(ticks * lots for _, ticks, lots, _ in some), 100 * sum(lots for _, _, lots, _ in some)),
            Fraction(sum(ticks * lots for _, ticks, lots, _ in some), 100 * 10**8),
            Fraction(sum(lots for _, _, lots, side in some if side == "b"), 10**8)
            if all(side in "bs" for *_, side in some)
            else None,
        )
        for time, some in found.items()
    }


def flow_of(candles: pl.DataFrame) -> dict[int, Told]:
    return {time: tuple(values) for time, *values in candles.select(pl.col("time").dt.epoch("s"), *FLOW).iter_rows()}


def assert_is_flow(found: dict[int, Told], wanted: dict[int, tuple[Fraction, Fraction, Fraction | None]]) -> None:
    assert found.keys() == wanted.keys()
    for time, values in found.items():
        for value, true in zip(values, wanted[time], strict=True):
            assert (value is None) == (true is None), time
            if value is not None and true is not None:
                assert abs(Fraction(value) - true) <= abs(true) * Fraction(1, 10**11), time


TRADES = st.lists(
    st.tuples(
        st.integers(0, 400), st.integers(1, 10**7), st.integers(1, 10**12), st.sampled_from(["b", "s", "b", "s", "?"])
    ),
    min_size=1,
    max_size=30,
).map(lambda trades: sorted(trades, key=lambda trade: trade[0]))


@settings(max_examples=40)
@given(TRADES, st.lists(st.integers(0, 30), max_size=3))
def test_the_flow_of_minutes_is_that_of_their_trades_however_these_are_cut(
    trades: list[Sided], cuts: list[int]
) -> None:
    edges = [0, *sorted(cuts), len(trades)]
    minutes = pl.concat(fold_trades(sided(trades[start:end]) for start, end in itertools.pairwise(edges)))
    assert_is_flow(flow_of(minutes), true_flow(trades, Interval.M1))
    assert (minutes["vwap"].is_between(minutes["low"], minutes["high"])).all()
    assert (minutes["buy_volume"].fill_null(0) <= minutes["volume"]).all()
    assert_is_flow(flow_of(resample(minutes, Interval.M5)), true_flow(trades, Interval.M5))


def test_trades_without_sides_have_no_buy_volume() -> None:
    minutes = pl.concat(fold_trades([sided([(0, 100, 10**8, "b"), (61, 300, 10**8, "s")]).drop("buy_volume")]))
    assert flow_of(minutes) == {T: (1.0, 1.0, None), T + 60: (3.0, 3.0, None)}


def test_a_sum_is_null_where_a_part_of_it_is_and_the_average_follows_from_the_sums() -> None:
    def minutes(*told: Told) -> pl.DataFrame:
        candles = frame(candle(T + 60 * number, 2.0 + number) for number in range(len(told)))
        return candles.with_columns(
            pl.Series(name, values, pl.Float64()) for name, values in zip(FLOW, zip(*told, strict=True), strict=True)
        )

    whole = resample(minutes((2.0, 2.0, 0.5), (3.0, 3.0, 0.0)), Interval.M5)
    assert flow_of(whole) == {T: (2.5, 5.0, 0.5)}
    assert flow_of(resample(minutes((2.0, 2.0, 0.5), (3.0, 3.0, None)), Interval.M5)) == {T: (2.5, 5.0, None)}
    assert flow_of(resample(minutes((2.0, 2.0, 0.5), (None, None, None)), Interval.M5)) == {T: (None, None, None)}
    assert flow_of(resample(minutes((2.0, None, None), (3.0, None, None)), Interval.M5)) == {T: (None, None, None)}
    assert flow_of(resample(minutes((2.0, None, None)).drop(FLOW), Interval.M5)) == {T: (None, None, None)}


def test_without_a_volume_there_is_no_average() -> None:
    empty = frame([candle(T, volume=0.0)]).with_columns(quote_volume=pl.lit(0.0), buy_volume=pl.lit(0.0))
    assert flow_of(resample(empty, Interval.M5)) == {T: (None, 0.0, 0.0)}


# --- merging

BARE: Told = (None, None, None)
PAGED: Told = (10.0, 10.0, 0.25)
FROM_FILE: Told = (10.0, 10.0, None)
CUT: Told = (9.9, None, None)


def told(flow: Told, **more: object) -> pl.DataFrame:
    """A candle with a flow."""
    given = frame([candle(T, **more)])  # type: ignore[arg-type]
    return given.with_columns(
        pl.lit(value, pl.Float64()).alias(name) for name, value in zip(FLOW, flow, strict=True)
    ).select(CANDLE_SCHEMA.names())


def kept(*frames: pl.DataFrame) -> tuple[str, Told]:
    """The source and the flow of the candle that is left, which has to be the same in all orders."""
    found = set()
    for order in itertools.permutations(frames):
        merged = order[0]
        for other in order[1:]:
            merged = merge(merged, other)
        assert merged.height == 1
        assert merged.schema == CANDLE_SCHEMA
        found.add((merged["source"][0], flow_of(merged)[T]))
    assert len(found) == 1
    return found.pop()


def test_a_candle_without_a_flow_gets_that_of_a_candle_that_agrees_with_it() -> None:
    archive, paged = told(BARE), told(PAGED, source=Source.TRADES)
    assert kept(archive, paged) == ("CSV", PAGED)
    assert kept(archive, paged, told(FROM_FILE, source=Source.TRADES), told(CUT, source=Source.OHLC)) == ("CSV", PAGED)
    assert kept(archive, told(CUT, source=Source.OHLC)) == ("CSV", CUT)
    noisy = told(PAGED, source=Source.TRADES, volume=1.0 + 1e-12)
    assert kept(archive, noisy) == ("CSV", PAGED)


@pytest.mark.parametrize(
    "other",
    [{"trades": 4}, {"price": 10.5}, {"volume": 1.001}, {"volume": 1.0 + 1e-6}],
    ids=["fewer trades", "another price", "another volume", "a volume a little apart"],
)
def test_a_candle_that_differs_gives_its_flow_to_none(other: dict[str, float]) -> None:
    decimals = {} if "price" not in other else {"price": 10.25}  # else the decimals of the price would decide
    archive = told(BARE, **decimals, release=20_000)
    assert kept(archive, told(PAGED, source=Source.TRADES, **{**decimals, **other})) == ("CSV", BARE)


def test_resampled_candles_neither_give_a_flow_nor_get_one() -> None:
    made = told(FROM_FILE, source=Source.RESAMPLED)
    assert kept(made, told(BARE)) == ("CSV", BARE)
    assert kept(made, told(CUT, source=Source.OHLC)) == ("RESAMPLED", FROM_FILE)


def test_the_flow_decides_nothing_between_two_candles() -> None:
    early, late = told(PAGED, release=19_000, volume=9.0), told(BARE, release=19_090, volume=1.0)
    assert kept(early, late) == ("CSV", BARE)


@pytest.mark.parametrize("seed", range(3))
def test_candles_of_many_minutes_get_each_its_own_flow(seed: int) -> None:
    chance = random.Random(seed)
    trades = [
        (chance.randrange(6_000), chance.randrange(1, 10**5), chance.randrange(1, 10**10), "b") for _ in range(500)
    ]
    minutes = pl.concat(fold_trades([sided(sorted(trades, key=lambda trade: trade[0]))]))
    paged = finished(minutes, Source.TRADES)
    archive = finished(minutes.drop(FLOW).gather_every(2), Source.CSV)
    merged = merge(archive, paged)
    assert flow_of(merged) == flow_of(paged)
    assert merged["source"].cast(pl.String).to_list() == ["CSV", "TRADES"] * (minutes.height // 2) + ["CSV"] * (
        minutes.height % 2
    )
    assert merge(merged, archive).equals(merge(paged, merged))


def test_columns_without_a_value_are_left_out_of_an_export_together_or_not_at_all() -> None:
    assert without_empty_flow(told(BARE)).columns == CANDLE_SCHEMA.names()[:9]
    assert without_empty_flow(told(CUT)).columns == CANDLE_SCHEMA.names()
    assert not has_flow(told(BARE))
    assert has_flow(told(CUT))
