"""Batches of reads: together the set, each worth its read, no candle split."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.batches import BATCH_CANDLES, batches, read_within
from kraken_pipeline.coverage.ranges import Span, Spans, normalise, touched_candles, union
from kraken_pipeline.market.candle import time_from_seconds
from kraken_pipeline.market.interval import Interval
from kraken_pipeline_tests.support.samples import DAY

M1, M5, H1, H4, D1, D15 = (Interval(minutes) for minutes in (1, 5, 60, 240, 1440, 21600))
START = 1_296_000 * 1_060  # a midnight in 2013 on which a candle of every interval begins
YEARS = 13 * 365 * DAY
PAIRS = ((M1, M5), (M1, D15), (M5, H1), (H1, H4), (H4, D1), (D1, D15))
DAYS = st.lists(st.tuples(st.integers(0, 13 * 365), st.integers(1, 700)), min_size=1, max_size=30)


@given(days=DAYS, pair=st.sampled_from(PAIRS))
def test_they_are_the_set_and_each_is_worth_its_read(
    days: list[tuple[int, int]], pair: tuple[Interval, Interval]
) -> None:
    fine, grid = pair
    domain = touched_candles(
        normalise(Span(START + first * DAY, START + (first + count) * DAY) for first, count in days), grid
    )
    parts = list(batches(domain, fine, grid))
    assert union(*parts) == domain
    assert [part[0].start for part in parts] == sorted(part[0].start for part in parts)
    for part in parts:
        assert part == normalise(part)
        assert all(edge % grid.seconds == 0 for span in part for edge in (span.start, span.end))
        reached = part[-1].end - part[0].start
        assert reached <= max(BATCH_CANDLES * fine.seconds, grid.seconds)
        wanted = sum(span.seconds for span in part)
        assert reached <= max(8 * wanted, 20_000 * fine.seconds)


@pytest.mark.parametrize(("fine", "grid", "count"), [(M1, M5, 14), (M5, H1, 3), (H1, H4, 1), (D1, D15, 1)])
def test_thirteen_years_are_read_in_few_parts(fine: Interval, grid: Interval, count: int) -> None:
    (span,) = domain = (Span(START, START + YEARS // D15.seconds * D15.seconds),)
    parts = list(batches(domain, fine, grid))
    assert len(parts) == count
    assert union(*parts) == domain == (span,)


@given(days=DAYS, pair=st.sampled_from(PAIRS), every=st.integers(1, 100_000))
def test_the_candles_of_a_quiet_market_are_read_in_fewer_parts_that_are_not_larger(
    days: list[tuple[int, int]], pair: tuple[Interval, Interval], every: int
) -> None:
    fine, grid = pair

    def count(_: Interval, start: int, end: int) -> int:
        return (end - start) // (fine.seconds * every) + 1

    domain = touched_candles(
        normalise(Span(START + first * DAY, START + (first + number) * DAY) for first, number in days), grid
    )
    parts = list(batches(domain, fine, grid, count))
    assert union(*parts) == domain
    assert len(parts) <= len(list(batches(domain, fine, grid)))
    assert all(count(fine, part[0].start, part[-1].end) <= BATCH_CANDLES + 1 for part in parts)


def test_thirteen_years_of_a_market_with_few_candles_are_one_part() -> None:
    domain = (Span(START, START + YEARS // D15.seconds * D15.seconds),)
    assert list(batches(domain, M1, M5, lambda *_: 20_000)) == [domain]


def test_days_that_are_near_are_read_at_once_and_years_that_are_far_are_not() -> None:
    near = tuple(Span(START + day * DAY, START + (day + 1) * DAY) for day in range(0, 90, 5))
    assert list(batches(near, M1, M5)) == [near]
    far = (Span(START, START + DAY), Span(START + YEARS, START + YEARS + DAY))
    assert list(batches(far, M1, M5)) == [(far[0],), (far[1],)]
    assert list(batches((), M1, M5)) == []


def test_what_lies_between_is_read_and_left_out() -> None:
    reads: list[tuple[int, int]] = []

    def read(_: Interval, start: int, end: int) -> pl.DataFrame:
        reads.append((start, end))
        return pl.DataFrame({"time": range(start, end, H1.seconds)}).select(time_from_seconds(pl.col("time")))

    spans: Spans = (Span(START, START + 7_200), Span(START + 14_400, START + 18_000))
    found = read_within(read, H1, spans)["time"].dt.epoch("s").to_list()
    assert found == [START, START + 3_600, START + 14_400]
    assert reads == [(START, START + 18_000)]
