from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.gaps import (
    ATTEMPTS,
    LONGEST_RETRY_SECONDS,
    OHLC_CANDLES,
    RETRY_SECONDS,
    GapRecord,
    GapStatus,
    Revision,
    expected_span,
    missing,
    next_try,
    overflow,
    revise,
)
from kraken_pipeline.coverage.ranges import Span, Spans, subtract
from kraken_pipeline.market.interval import Interval
from kraken_pipeline_tests.coverage.models import LOOSE_SPANS, SETS, instants, is_a_set, model
from kraken_pipeline_tests.support.samples import at, between

NOW = at("2024-06-01T12:34:56")


def test_a_series_is_expected_from_the_first_known_candle_to_the_last_closed_one() -> None:
    first = at("2024-01-03T05:00")
    assert expected_span(first, NOW, Interval.H1, None, None) == (between("2024-01-03T05:00", "2024-06-01T12:00"),)
    assert expected_span(first, NOW, Interval.D1, None, None) == (between("2024-01-03", "2024-06-01"),)


def test_a_start_and_an_end_take_whole_candles_alone() -> None:
    start, end = at("2024-02-01T00:30"), at("2024-03-01T00:30")
    assert expected_span(0, NOW, Interval.H1, start, end) == (between("2024-02-01T01:00", "2024-03-01T00:00"),)
    assert expected_span(0, NOW, Interval.D1, start, end) == (between("2024-02-02", "2024-03-01"),)


def test_an_end_in_the_future_is_the_last_closed_candle() -> None:
    start = at("2024-06-01")
    found = expected_span(0, NOW, Interval.H1, start, at("2025-01-01"))
    assert found == (between("2024-06-01", "2024-06-01T12:00"),)


@pytest.mark.parametrize(
    ("start", "end"), [("2024-06-01", "2024-06-01"), ("2024-07-01", None), ("2024-03-01", "2024-02-01")]
)
def test_where_nothing_lies_between_nothing_is_expected(start: str, end: str | None) -> None:
    assert expected_span(0, NOW, Interval.H1, at(start), at(end) if end else None) == ()


def test_the_candle_that_is_still_open_is_not_expected() -> None:
    assert expected_span(NOW, NOW, Interval.H1, None, None) == ()


@given(SETS, SETS)
def test_gaps_are_what_is_expected_and_not_covered(expected: Spans, covered: Spans) -> None:
    assert missing(expected, covered) == model(instants(expected) - instants(covered))


@given(st.integers(0, 2_000), st.integers(1, 2_000), st.integers(0, 59))
def test_overflow_counts_the_candles_that_lie_before_the_newest_720(age: int, length: int, odd_minutes: int) -> None:
    interval = Interval.H1
    now = at("2024-06-01") + odd_minutes * 60
    start = at("2024-06-01") - (age + length) * interval.seconds
    gap = Span(start, start + length * interval.seconds)
    starts = range(gap.start, gap.end, interval.seconds)
    reached = {at("2024-06-01") - number * interval.seconds for number in range(1, OHLC_CANDLES + 1)}
    assert overflow(gap, interval, now) == sum(each not in reached for each in starts)


def test_a_gap_of_exactly_the_newest_720_does_not_overflow() -> None:
    closed = Interval.M1.floor(NOW)
    assert overflow(Span(closed - 720 * 60, closed), Interval.M1, NOW) == 0
    assert overflow(Span(closed - 721 * 60, closed), Interval.M1, NOW) == 1
    assert overflow(Span(closed - 721 * 60, closed), Interval.M1, NOW + 60) == 2


# --- when to try again


@pytest.mark.parametrize("failures", range(ATTEMPTS))
def test_a_gap_is_tried_again_at_once_until_it_counts_as_failed(failures: int) -> None:
    assert next_try(failures, NOW) == NOW


@pytest.mark.parametrize(
    ("more", "minutes"), [(0, 15), (1, 30), (2, 60), (3, 120), (6, 960), (7, 1_440), (8, 1_440), (10_000, 1_440)]
)
def test_a_failed_gap_is_tried_again_after_a_time_that_doubles_up_to_a_day(more: int, minutes: int) -> None:
    assert next_try(ATTEMPTS + more, NOW) == NOW + minutes * 60


@given(st.integers(ATTEMPTS, 200))
def test_every_further_failure_puts_the_next_try_off_but_never_for_more_than_a_day(failures: int) -> None:
    wait, longer = next_try(failures, 0), next_try(failures + 1, 0)
    assert RETRY_SECONDS <= wait <= longer <= min(2 * wait, LONGEST_RETRY_SECONDS)


# --- records of gaps

RECORDS = SETS.flatmap(
    lambda spans: st.tuples(*(st.integers(1, 9) for _ in spans)).map(
        lambda ages: [GapRecord(each, age, GapStatus.DETECTED) for each, age in zip(spans, ages, strict=True)]
    )
)


def record(start: int, end: int, detected_at: int = 1) -> GapRecord:
    return GapRecord(Span(start, end), detected_at, GapStatus.DETECTED)


def filled(start: int, end: int, detected_at: int = 1) -> GapRecord:
    return GapRecord(Span(start, end), detected_at, GapStatus.FILLED)


EVERYTHING = (Span(-100, 1_000),)


def test_a_new_gap_is_as_old_as_the_moment_it_was_found() -> None:
    assert revise([], (Span(10, 20),), EVERYTHING, 99) == Revision((record(10, 20, 99),), ())


def test_a_gap_found_again_keeps_its_age() -> None:
    once = revise([], (Span(10, 20),), EVERYTHING, 5)
    assert revise(once.open, (Span(10, 20),), EVERYTHING, 99) == Revision((record(10, 20, 5),), ())


def test_a_gap_that_grows_keeps_its_age() -> None:
    assert revise([record(10, 20, 5)], (Span(10, 30),), EVERYTHING, 99) == Revision((record(10, 30, 5),), ())


def test_a_gap_that_splits_leaves_its_age_to_both_parts_and_is_filled_between() -> None:
    found = revise([record(10, 40, 5)], (Span(10, 20), Span(30, 40)), EVERYTHING, 99)
    assert found == Revision((record(10, 20, 5), record(30, 40, 5)), (filled(20, 30, 5),))


def test_gaps_that_grow_together_are_as_old_as_the_oldest() -> None:
    found = revise([record(10, 20, 7), record(30, 40, 5)], (Span(10, 40),), EVERYTHING, 99)
    assert found == Revision((record(10, 40, 5),), ())


def test_a_gap_that_is_gone_is_filled() -> None:
    assert revise([record(10, 20, 5)], (), EVERYTHING, 99) == Revision((), (filled(10, 20, 5),))


def test_what_was_not_looked_at_stays_as_it_is() -> None:
    found = revise([record(10, 40, 5)], (), (Span(20, 30),), 99)
    assert found == Revision((record(10, 20, 5), record(30, 40, 5)), (filled(20, 30, 5),))


def test_a_gap_that_goes_on_beyond_what_was_looked_at_is_one_record() -> None:
    found = revise([record(10, 40, 5)], (Span(20, 30),), (Span(20, 30),), 99)
    assert found == Revision((record(10, 40, 5),), ())


@given(RECORDS, LOOSE_SPANS, SETS)
def test_open_and_filled_records_account_for_every_instant(
    records: list[GapRecord], loose: list[Span], judged: Spans
) -> None:
    now = 100
    looked_at = instants(judged)
    gaps = model(instants(loose) & looked_at)
    before = instants(each.span for each in records)
    found = revise(records, gaps, judged, now)

    opened = tuple(each.span for each in found.open)
    assert is_a_set(opened)
    assert opened == model(instants(gaps) | (before - looked_at))
    assert instants(each.span for each in found.filled) == (before & looked_at) - instants(gaps)
    assert subtract(opened, model(instants(each.span for each in found.filled))) == opened

    for each in found.open:
        ages = [old.detected_at for old in records if old.span.overlaps(each.span)]
        assert each.detected_at == min(ages, default=now)
        assert each.status is GapStatus.DETECTED
    for each in found.filled:
        assert each.status is GapStatus.FILLED
        assert each.detected_at in {old.detected_at for old in records if old.span.overlaps(each.span)}


@given(RECORDS, SETS)
def test_looking_twice_changes_nothing(records: list[GapRecord], gaps: Spans) -> None:
    once = revise(records, gaps, EVERYTHING, 100)
    assert revise(once.open, gaps, EVERYTHING, 200) == Revision(once.open, ())
