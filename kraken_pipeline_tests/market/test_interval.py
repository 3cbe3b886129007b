from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.interval import INTERVALS, Interval
from kraken_pipeline_tests.support.samples import DAY, at

TIMES = st.integers(0, 1 << 33)


def test_there_are_ten_intervals_in_minutes() -> None:
    assert [interval.value for interval in INTERVALS] == [1, 5, 15, 30, 60, 240, 720, 1440, 10080, 21600]


def test_only_archives_have_twelve_hours_and_only_the_api_has_weeks() -> None:
    assert [interval for interval in INTERVALS if not interval.in_rest] == [Interval.H12]
    assert [interval for interval in INTERVALS if not interval.in_archives] == [Interval.W1, Interval.D15]


@given(st.sampled_from(INTERVALS), TIMES)
def test_a_time_lies_in_the_candle_that_its_floor_starts(interval: Interval, time: int) -> None:
    start = interval.floor(time)
    assert start <= time < start + interval.seconds
    assert start % interval.seconds == 0


@given(st.sampled_from(INTERVALS), TIMES)
def test_ceil_is_the_first_candle_start_not_before_a_time(interval: Interval, time: int) -> None:
    start = interval.ceil(time)
    assert start - interval.seconds < time <= start
    assert start % interval.seconds == 0


@pytest.mark.parametrize("day", range(7))
def test_weeks_start_on_thursday(day: int) -> None:
    start = Interval.W1.floor(at("2024-02-26") + day * DAY)
    assert datetime.fromtimestamp(start, UTC).strftime("%A") == "Thursday"


def test_fifteen_days_start_on_multiples_of_their_length_since_the_epoch() -> None:
    assert Interval.D15.floor(1_296_000 * 1_300 + 5 * DAY) == 1_296_000 * 1_300


@pytest.mark.parametrize("interval", INTERVALS)
def test_finer_intervals_divide_and_come_coarsest_first(interval: Interval) -> None:
    assert list(interval.finer) == sorted(interval.finer, reverse=True)
    assert set(interval.finer) == {each for each in INTERVALS if each < interval and interval.value % each.value == 0}


def test_weeks_are_not_made_of_whole_fifteen_days_nor_the_other_way_round() -> None:
    assert Interval.W1 not in Interval.D15.finer
    assert Interval.W1.finer[0] is Interval.D1


@pytest.mark.parametrize("value", [60, "60", " 60 ", "1h", "60m", " 1 h "])
def test_an_interval_is_read_from_a_number_or_its_text(value: int | str) -> None:
    assert Interval.parse(value) is Interval.H1


@pytest.mark.parametrize("value", [0, 2, -60, "61", "2h", "1H", "1 y", "", "60.0"])
def test_an_unknown_interval_is_refused_with_those_that_are_allowed(value: int | str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        Interval.parse(value)
    assert str(refusal.value) == (
        f"interval {value!r} does not exist; allowed are 1, 5, 15, 30, 60, 240, 720, 1440, 10080, 21600 (minutes)"
    )
