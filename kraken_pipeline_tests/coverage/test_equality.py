from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kraken_pipeline.coverage.equality import (
    SEEN_PRICES,
    Precision,
    Rounding,
    differences,
    disagreeing,
    equal_within,
    flow_apart,
    precision_of,
    unit_between,
)
from kraken_pipeline.market.candle import Source
from kraken_pipeline.market.decimals import PRICES
from kraken_pipeline.market.flow import FLOW
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.resample import resample
from kraken_pipeline_tests.support.samples import CandleRow, at, candle, frame

pytestmark = pytest.mark.slow

M30, H1 = Interval.M30, Interval.H1
START = at("2014-01-01")


def half_hours(steps: list[int], source: Source = Source.CSV, start: int = START) -> pl.DataFrame:
    """Candles whose prices have five decimals."""
    rows: list[CandleRow] = []
    for number, step in enumerate(steps):
        low = round(500 + step + (number * 7 + 1) / 97, 5)
        high = round(low + 1 + step / 89, 5)
        rows.append((start + number * 1_800, low, high, low, high, 2.5, 3, source.value, 0))
    return frame(rows)


def rounded(candles: pl.DataFrame, decimals: int) -> pl.DataFrame:
    return candles.with_columns(pl.col(name).round(decimals) for name in PRICES)


def as_hours(candles: pl.DataFrame, source: Source = Source.CSV) -> pl.DataFrame:
    release = pl.lit(0, pl.Int32).alias("release")
    made = resample(candles, H1)
    return made.with_columns(pl.lit(source.value, candles.schema["source"]).alias("source"), release)


def apart(fine: pl.DataFrame, coarse: pl.DataFrame) -> list[int]:
    def read(interval: Interval, start: int, end: int) -> pl.DataFrame:
        candles = {M30: fine, H1: coarse}[interval]
        seconds = candles["time"].dt.epoch("s")
        return candles.filter((seconds >= start) & (seconds < end))

    found = Rounding(read, M30, H1).apart(differences(resample(fine, H1), coarse))
    return found["time"].dt.epoch("s").to_list()


STEPS = st.lists(st.integers(0, 30), min_size=40, max_size=80)


# Rounding brings the two prices of the example within two units of each other, and not within one.
_NEAR = [4, 18, 27, 25, 24, 2, 8, 3, 15, 24, 14, 15, 20, 12, 25, 6, 3, 15, 0, 28]
_NEAR += [26, 12, 13, 19, 24, 24, 0, 22, 14, 8, 23, 25, 7, 18, 30, 3, 28, 10, 0, 0]


@given(STEPS, st.integers(0, 4), st.booleans(), st.integers(0, 19), st.sampled_from([0, 2, 3, 50]))
@example(_NEAR, 0, False, 0, 2)
def test_rounding_of_either_side_contradicts_nothing_and_a_spike_of_two_units_is_found(
    steps: list[int], decimals: int, is_fine: bool, wrong: int, units: int
) -> None:
    exact = half_hours(steps)
    fine, coarse = exact, as_hours(exact)
    fine, coarse = (rounded(fine, decimals), coarse) if is_fine else (fine, rounded(coarse, decimals))
    time = START + wrong * 3_600
    is_wrong = pl.col("time").dt.epoch("s") == time
    high = (pl.col("high") + units * 10.0**-decimals).round(5)
    spoiled = coarse.with_columns(pl.when(is_wrong).then(high).otherwise(pl.col("high")).alias("high"))
    assert apart(fine, spoiled) == ([time] if units else [])


@given(STEPS, st.integers(0, 5), st.integers(0, 19))
def test_where_both_sides_have_as_many_decimals_one_unit_is_a_difference(
    steps: list[int], decimals: int, wrong: int
) -> None:
    fine = rounded(half_hours(steps), decimals)
    coarse = as_hours(fine)
    time = START + wrong * 3_600
    is_wrong = pl.col("time").dt.epoch("s") == time
    low = (pl.col("low") - 10.0**-decimals).round(5)
    assert apart(fine, coarse.with_columns(pl.when(is_wrong).then(low).otherwise(pl.col("low")).alias("low"))) == [time]


def higher(candles: pl.DataFrame, time: int, by: float) -> pl.DataFrame:
    is_one = pl.col("time").dt.epoch("s") == time
    high = (pl.col("high") + by).round(5)
    return candles.with_columns(pl.when(is_one).then(high).otherwise(pl.col("high")).alias("high"))


def test_one_price_with_more_decimals_than_all_others_is_no_precision_of_a_source() -> None:
    fine = rounded(half_hours(list(range(200))), 1)
    wrong = higher(as_hours(fine), START + 7_200, 0.04321)
    assert precision_of(wrong).shown == 1
    assert apart(fine, wrong) == [START + 7_200]


def test_a_spike_in_a_rounded_source_makes_no_contradictions_of_its_neighbours() -> None:
    exact = half_hours(list(range(200)))
    wrong = higher(rounded(as_hours(exact), 1), START + 7_200, 33.00001)
    assert precision_of(wrong).most == 1
    assert apart(exact, wrong) == [START + 7_200]


def test_of_few_prices_nothing_is_believed() -> None:
    assert precision_of(frame([])) == Precision(0, 0, 0)
    few, many = Precision(1, 1, SEEN_PRICES - 1), Precision(5, 5, 1_000)
    assert unit_between(few, many) == unit_between(many, few) == 0
    assert unit_between(Precision(1, 1, SEEN_PRICES), many) == pytest.approx(0.1)


def test_what_was_resampled_is_what_it_was_made_of_or_stale() -> None:
    exact = half_hours(list(range(60)))
    assert len(apart(exact, rounded(as_hours(exact, Source.RESAMPLED), 1))) == 30


def test_what_was_resampled_of_two_sources_is_measured_by_the_day() -> None:
    first = rounded(half_hours([1] * 48, Source.RESAMPLED), 1)
    second = half_hours([2] * 48, Source.RESAMPLED, START + 86_400)
    fine = pl.concat([first, second])
    coarse = as_hours(pl.concat([half_hours([1] * 48), half_hours([2] * 48, start=START + 86_400)]))
    assert apart(fine, coarse) == []


def test_a_month_is_measured_by_itself() -> None:
    january, february = half_hours([3] * 60), half_hours([4] * 60, start=at("2014-02-01"))
    fine = pl.concat([rounded(january, 1), february])
    coarse = as_hours(pl.concat([january, rounded(february, 2)]))
    assert apart(fine, coarse) == []
    # In February the rounded side has two decimals: a tenth is too much.
    wrong = higher(coarse, at("2014-02-01T05:00"), 0.1)
    assert apart(fine, wrong) == [at("2014-02-01T05:00")]


@given(STEPS, st.integers(0, 4), st.sets(st.integers(0, 39), max_size=5))
def test_two_files_differ_where_more_than_rounding_tells_them_apart(
    steps: list[int], decimals: int, wrong: set[int]
) -> None:
    exact = half_hours(steps)
    times = sorted(START + number * 1_800 for number in wrong)
    is_wrong = pl.col("time").dt.epoch("s").is_in(times)
    other = rounded(exact, decimals).with_columns(
        pl.when(is_wrong).then(pl.col("high") + 3 * 10.0**-decimals).otherwise(pl.col("high")).round(5).alias("high")
    )
    assert disagreeing(exact, other).to_list() == disagreeing(other, exact).to_list() == times
    fewer = other.with_columns(pl.col("trade_count") + 1)
    assert disagreeing(exact, fewer).is_empty()  # other counts are no tie: the greater one wins


@pytest.mark.parametrize(("unit", "text"), [(1.0, "1"), (0.1, "0.1"), (1e-5, "0.00001"), (1e-10, "0.0000000001")])
def test_a_unit_is_written_as_people_do(unit: float, text: str) -> None:
    assert equal_within(unit) == f"equal within {text}"


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ((10.25, 20.5, 0.5), (10.25, 20.5, 0.5), ()),
        ((10.254321, 20.5, 0.5), (10.2, None, None), ()),  # cut to a decimal
        ((10.354321, 20.5, 0.5), (10.2, None, None), ("vwap",)),
        ((10.25, 20.5, 0.5), (10.25, 20.5 * (1 + 2e-6), 0.0), ("quote_volume", "buy_volume")),
        ((10.25, 20.5, 0.5), (10.25, 20.5 * (1 + 5e-7), 0.5), ()),
        ((10.25, 20.5, 0.5), (None, None, None), ()),
        ((0.00001234, 1e-9, 0.0), (0.00001235, 1e-9, 0.0), ()),
        ((0.00001234, 1e-9, 0.0), (0.00001237, 2e-9, 0.0), ("vwap", "quote_volume")),
    ],
)
def test_flows_differ_beyond_what_cutting_and_adding_up_explain(
    one: Sequence[float | None], other: Sequence[float | None], apart: tuple[str, ...]
) -> None:
    frames = [
        frame([candle(at("2024-05-01"))]).with_columns(
            pl.lit(value, pl.Float64()).alias(name) for name, value in zip(FLOW, flow, strict=True)
        )
        for flow in (one, other)
    ]
    assert flow_apart(*frames) == flow_apart(*reversed(frames)) == apart
    assert flow_apart(frames[0], frames[1].clear()) == ()
