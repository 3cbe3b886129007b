from __future__ import annotations

import itertools
from collections.abc import Iterable

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from kraken_pipeline.market.candle import (
    CANDLE_SCHEMA,
    EARLIEST_TIME,
    Source,
    broken_rules,
    is_sound,
    merge,
    outvoted,
    seconds_of,
    time_from_seconds,
)
from kraken_pipeline.market.flow import FLOW
from kraken_pipeline.market.interval import Interval
from kraken_pipeline_tests.support.samples import CandleRow, at, candle, frame

NOW = at("2024-06-01T12:30")
T = at("2024-05-01")
GOOD: dict[str, float | int] = {
    "time": T,
    "open": 2.0,
    "high": 3.0,
    "low": 1.0,
    "close": 2.5,
    "volume": 4.0,
    "trades": 7.0,
}
ROW = pl.Schema({name: pl.Int64() if name == "time" else pl.Float64() for name in GOOD})
NAN, INF = float("nan"), float("inf")


def reasons(changes: dict[str, float | int | None], interval: Interval = Interval.H1) -> list[str]:
    row = pl.DataFrame([{**GOOD, **changes}], schema=ROW)
    rules = broken_rules(interval, NOW)
    return [reason for reason, rule in rules.items() if row.select(rule.fill_null(value=True)).item()]


ODD = st.sampled_from([0.0, -0.0, 0.5, 1.0, 2.0, 2.5, 3.0, 2**31 - 1, 2.0**31, -1.0, 1e-300, NAN, INF, -INF])
ODD_TIME = st.sampled_from(
    [0, T - 1, T, T + 1800, EARLIEST_TIME - 3600, EARLIEST_TIME, NOW, NOW + 1800, -(2**62), 2**62]
)


@given(
    st.lists(
        st.fixed_dictionaries({}, optional={name: ODD_TIME if name == "time" else ODD for name in GOOD}), max_size=3
    )
)
def test_rows_are_sound_where_no_rule_applies_to_any(changes: list[dict[str, float | int | None]]) -> None:
    rows = pl.DataFrame([{**GOOD, **each} for each in changes], schema=ROW)
    assert is_sound(rows, Interval.H1, NOW) == (not any(reasons(each) for each in changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"volume": 0.0, "trades": 0.0},
        {"trades": 2**31 - 1},
        {"open": 1e-12, "high": 1e-12, "low": 1e-12, "close": 1e-12},
        {"open": 3.0, "close": 1.0},
        {"time": Interval.H1.floor(NOW)},
        {"time": EARLIEST_TIME},
    ],
)
def test_a_row_that_keeps_every_rule_is_a_candle(changes: dict[str, float | int | None]) -> None:
    assert reasons(changes) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        *(({name: NAN}, "a price is not a finite number") for name in ("open", "high", "low", "close")),
        ({"high": INF}, "a price is not a finite number"),
        ({"low": -INF}, "a price is not a finite number"),
        *(({name: 0.0}, "a price is not positive") for name in ("open", "high", "low", "close")),
        ({"low": -1.0}, "a price is not positive"),
        ({"volume": NAN}, "volume is not a finite number"),
        ({"volume": INF}, "volume is not a finite number"),
        ({"volume": -1e-9}, "volume is negative"),
        *(
            ({"trades": trades}, "trade count is not a whole number from 0 to 2147483647")
            for trades in (-1.0, 0.5, 2.0**31, NAN, INF)
        ),
        ({"low": 2.1}, "low is above open, high or close"),
        ({"low": 2.6, "open": 3.0}, "low is above open, high or close"),
        ({"high": 2.4}, "high is below open or close"),
        ({"open": 3.5}, "high is below open or close"),
        ({"time": T + 60}, "time is not a multiple of 3600 s"),
        ({"time": T + 1}, "time is not a multiple of 3600 s"),
        ({"time": EARLIEST_TIME - 3600}, "time is before 2011"),
        ({"time": 0}, "time is before 2011"),
        ({"time": -3600}, "time is before 2011"),
        ({"time": Interval.H1.floor(NOW) + 3600}, "time is in the future"),
    ],
)
def test_a_broken_rule_is_the_first_reason_given(changes: dict[str, float | int | None], reason: str) -> None:
    assert reasons(changes)[0] == reason


@pytest.mark.parametrize("name", GOOD)
def test_a_field_that_could_not_be_read_breaks_some_rule(name: str) -> None:
    assert reasons({name: None})


@pytest.mark.parametrize("interval", Interval)
def test_times_must_lie_on_the_intervals_own_grid(interval: Interval) -> None:
    on_grid = interval.floor(T)
    assert reasons({"time": on_grid}, interval) == []
    assert reasons({"time": on_grid - 30}, interval) == [f"time is not a multiple of {interval.seconds} s"]


@given(st.integers(-(1 << 33), 1 << 40))
def test_seconds_become_times_and_seconds_again(seconds: int) -> None:
    times = pl.DataFrame({"s": [seconds]}).select(time_from_seconds(pl.col("s")).alias("t"))
    assert times.schema["t"] == CANDLE_SCHEMA["time"]
    assert times.select(seconds_of(pl.col("t"))).item() == seconds


# --- merging

# Few values, so that sources often agree in all but the last of what decides.
ROWS = st.builds(
    lambda time, prices, volume, trades, source, release: (
        T + 60 * time,
        prices[0],
        max(prices),
        min(prices),
        prices[1],
        volume,
        trades,
        source,
        release,
    ),
    time=st.integers(0, 6),
    prices=st.tuples(st.sampled_from([1.0, 2.0, 1.5]), st.sampled_from([1.0, 1.25]), st.sampled_from([1.0, 3.00001])),
    volume=st.sampled_from([0.0, 1.0, 1.5]),
    trades=st.integers(0, 2),
    source=st.sampled_from([source.value for source in Source]),
    release=st.sampled_from([0, 19_000, 19_090]),
)
SOURCES = st.lists(
    st.lists(ROWS, max_size=6, unique_by=lambda row: row[0]).map(lambda rows: frame(sorted(rows))),
    min_size=1,
    max_size=4,
)


def precedence(row: CandleRow) -> tuple[float, ...]:
    """The order of the design, in plain Python: the greatest wins."""
    _, open_, high, low, close, volume, trades, source, release = row
    written = max(len(f"{price:.12f}".rstrip("0").partition(".")[2]) for price in (open_, high, low, close))
    written = 0 if source == Source.RESAMPLED else written
    return (trades, written, -list(Source).index(Source(source)), release, volume, high, -low, close, open_)


def folded(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    merged = frame([])
    for each in frames:
        merged = merge(merged, each)
    return merged


def plain(candles: pl.DataFrame) -> list[CandleRow]:
    return candles.drop(FLOW).with_columns(seconds_of(pl.col("time"))).rows()


@pytest.mark.slow
@given(SOURCES)
def test_every_order_of_merging_gives_the_same_candles(sources: list[pl.DataFrame]) -> None:
    first, *others = (folded(order) for order in itertools.permutations(sources))
    assert first.schema == CANDLE_SCHEMA
    for other in others:
        assert_frame_equal(first, other)


@given(SOURCES)
def test_merged_candles_are_sorted_unique_and_the_greatest_of_their_time(sources: list[pl.DataFrame]) -> None:
    best: dict[int, CandleRow] = {}
    for row in (row for source in sources for row in plain(source)):
        if row[0] not in best or precedence(row) > precedence(best[row[0]]):
            best[row[0]] = row
    assert plain(folded(sources)) == [best[time] for time in sorted(best)]


@given(SOURCES, st.integers(0, 3))
def test_merging_what_is_there_already_changes_nothing(sources: list[pl.DataFrame], index: int) -> None:
    merged = folded(sources)
    assert_frame_equal(merge(merged, sources[index % len(sources)]), merged)


@pytest.mark.slow
@given(SOURCES)
def test_merging_in_groups_gives_the_same_as_one_by_one(sources: list[pl.DataFrame]) -> None:
    for cut in range(len(sources) + 1):
        assert_frame_equal(merge(folded(sources[:cut]), folded(sources[cut:])), folded(sources))


def winner(*rows: CandleRow) -> CandleRow:
    merged = plain(folded(frame([row]) for row in rows))
    assert len(merged) == 1
    return merged[0]


def test_the_greatest_trade_count_wins_whatever_its_source() -> None:
    few = candle(T, trades=5, source=Source.CSV, release=20_000)
    many = candle(T, trades=6, source=Source.OHLC)
    assert winner(few, many) == winner(many, few) == many


def test_of_equal_counts_the_more_trusted_source_wins() -> None:
    rows = [candle(T, source=source) for source in Source]
    for better, worse in itertools.pairwise(rows):
        assert winner(better, worse) == winner(worse, better) == better


def test_of_equal_counts_the_prices_with_more_decimals_win_whatever_their_source() -> None:
    rounded = candle(T, 1_000.1, source=Source.CSV, release=20_000)
    exact = candle(T, 1_000.12345, source=Source.OHLC)
    assert winner(rounded, exact) == winner(exact, rounded) == exact
    more = candle(T, 1_000.1, trades=6)
    assert winner(more, exact) == winner(exact, more) == more


def test_what_was_resampled_gives_way_to_what_somebody_said_however_many_decimals_it_has() -> None:
    made, said = candle(T, 1_000.12345, source=Source.RESAMPLED), candle(T, 1_000.1)
    assert winner(made, said) == winner(said, made) == said


def test_of_one_source_the_later_release_wins() -> None:
    early, late = candle(T, release=19_000, volume=9.0), candle(T, release=19_090, volume=1.0)
    assert winner(early, late) == winner(late, early) == late


def test_what_lies_wholly_before_or_after_is_put_there() -> None:
    early, late = frame([candle(T), candle(T + 60)]), frame([candle(T + 120)])
    assert_frame_equal(merge(early, late), merge(late, early))
    assert plain(merge(early, late)) == [candle(T), candle(T + 60), candle(T + 120)]


def test_candles_are_outvoted_where_their_trade_count_was_not_kept() -> None:
    stored = frame([candle(T, trades=5), candle(T + 60, trades=5), candle(T + 120, trades=5)])
    offered = frame(
        [
            candle(T, trades=4),
            candle(T + 60, trades=6),
            candle(T + 120, trades=5, volume=0.5, source=Source.OHLC),
            candle(T + 180),
        ]
    )
    merged = merge(stored, offered)
    assert plain(outvoted(merged, offered)) == [candle(T, trades=4)]
    assert plain(outvoted(merged, stored)) == [candle(T + 60, trades=5)]


@given(SOURCES)
def test_nothing_that_was_kept_counts_as_outvoted(sources: list[pl.DataFrame]) -> None:
    merged = folded(sources)
    assert outvoted(merged, merged).is_empty()
    for source in sources:
        lost = plain(outvoted(merged, source))
        kept = {row[0]: row[6] for row in plain(merged)}
        assert lost == [row for row in plain(source) if row[6] < kept[row[0]]]
