from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.anchors import (
    Counted,
    Depth,
    Discrepancy,
    Spacing,
    is_sparse,
    probes,
    search,
    stretches,
)
from kraken_pipeline.coverage.density import SPARSE, Absence, AbsentIds
from kraken_pipeline.coverage.ranges import Span, Spans
from kraken_pipeline.market.interval import Interval
from kraken_pipeline_tests.support.homes import spans

DAY, YEAR = 86_400, 365 * 86_400
M1, M5, H1, D1 = Interval.M1, Interval.M5, Interval.H1, Interval.D1


def at(year: int, month: int = 1, day: int = 1) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp())


EVER = Span(0, at(2030))


def counting(trades: Sequence[int], intervals: Sequence[Interval], within: Span) -> Counted:
    """Candles of these trades (when each was made, sorted) that cover a span."""

    def counted(interval: Interval, span: Span) -> int | None:
        is_whole = within.start <= span.start and span.end <= within.end
        if interval not in intervals or not is_whole or span.start % interval.seconds or span.end % interval.seconds:
            return None
        return bisect_left(trades, span.end) - bisect_left(trades, span.start)

    return counted


def searched(
    span: Span, made: Sequence[int], counted: Counted, intervals: Sequence[Interval] = (M1,), depth: int = 60
) -> tuple[list[Discrepancy], list[int]]:
    """What a search finds whose questions are answered one after another, and what it asked."""
    ids: dict[int, int] = {}
    asked: list[int] = []
    while (done := search(span, intervals, ids, counted, depth)).needs:
        moment = done.needs[0]
        asked.append(moment)
        ids[moment] = bisect_left(made, moment)
    return done.found, asked


# --- searching


def test_a_trade_that_is_missing_in_a_year_takes_about_twenty_requests() -> None:
    year = Span(at(2023), at(2024))
    made = list(range(year.start, year.end, 997))
    lost = made[20_011]
    found, asked = searched(year, made, counting([each for each in made if each != lost], [M1], year))
    minute = M1.floor(lost)
    assert found == [Discrepancy(M1, Span(minute, minute + 60), 1, 0)]
    assert len(asked) <= 2 + 20
    assert len(set(asked)) == len(asked)


@given(
    st.sets(st.integers(0, 40 * 1_440 - 1), max_size=12),
    st.lists(st.integers(0, 40 * DAY - 1), max_size=300),
    st.integers(0, 3 * 1_440),
)
def test_a_search_finds_each_minute_that_is_short_and_nothing_else(
    lost: set[int], others: list[int], offset: int
) -> None:
    span = Span(60 * offset, 40 * DAY)
    lost = {minute for minute in lost if minute >= offset}
    made = sorted([*(60 * minute + 7 for minute in lost), *others])
    found, asked = searched(span, made, counting(sorted(others), [M1, M5, D1], span), (M1, M5, D1))
    assert [each.span for each in found] == [Span(60 * minute, 60 * minute + 60) for minute in sorted(lost)]
    assert all(each.interval is M1 and each.by_ids - each.counted == 1 for each in found)
    assert len(set(asked)) == len(asked), "nothing is asked twice"
    assert len(asked) <= 2 + len(lost) * 18, "forty days have 57,600 minutes; halves are a little uneven"
    assert all(span.start <= moment <= span.end and moment % 60 == 0 for moment in asked)


def test_a_search_ends_at_the_candles_of_the_finest_interval_or_at_days() -> None:
    span = Span(0, 30 * DAY)
    made = list(range(5, span.end, 600))
    told = [each for each in made if each != made[2_000]]
    (hour,), _ = searched(span, made, counting(told, [H1, D1], span), (H1, D1))
    assert (hour.interval, hour.span.seconds) == (H1, 3_600)
    assert made[2_000] in hour.span
    (day,), asked = searched(span, made, counting(told, [M1], span), depth=Depth.DAY.seconds)
    assert (day.interval, day.span.seconds) == (M1, DAY)
    assert len(asked) <= 2 + 6


def test_a_coarser_interval_that_alone_is_short_is_searched_down_to_its_own_candle() -> None:
    span = Span(0, 8 * DAY)
    made = list(range(5, span.end, 600))
    whole, short = counting(made, [M1], span), counting(made[:700] + made[701:], [H1], span)
    found, _ = searched(span, made, lambda each, within: (whole if each is M1 else short)(each, within), (M1, H1))
    assert [(each.interval, each.span.seconds) for each in found] == [(H1, 3_600)]


def test_candles_that_count_more_trades_than_there_are_ids_are_found_as_well() -> None:
    span = Span(0, 8 * DAY)
    made = list(range(5, span.end, 600))
    (over,), _ = searched(span, made, counting(sorted([*made, 65]), [M1], span))
    assert (over.span, over.by_ids, over.counted, over.is_short) == (Span(60, 120), 0, 1, False)


def test_where_all_agree_the_edges_are_all_that_is_asked() -> None:
    span = Span(0, 90 * DAY)
    made = list(range(5, span.end, 6_000))
    assert searched(span, made, counting(made, [M1, D1], span), (M1, D1)) == ([], [0, 90 * DAY])


# --- what can be counted


def found(
    coverage: Mapping[Interval, Spans],
    within: Span = EVER,
    spacing: Spacing = Spacing.QUARTER,
    absent: Sequence[AbsentIds] = (),
) -> list[tuple[Span, tuple[Interval, ...]]]:
    return [(each.span, each.intervals) for each in stretches(coverage, within, spacing, absent)]


def test_quarters_that_are_covered_whole_are_one_stretch_each_for_all_intervals() -> None:
    covered = spans((at(2023, 1), at(2023, 7)))
    quarters = [Span(at(2023, 1), at(2023, 4)), Span(at(2023, 4), at(2023, 7))]
    assert found({M1: covered, D1: covered}) == [(each, (M1, D1)) for each in quarters]


@pytest.mark.parametrize(("spacing", "count"), [(Spacing.DAY, 31), (Spacing.MONTH, 1), (Spacing.QUARTER, 1)])
def test_a_start_within_a_span_of_the_calendar_takes_all_of_it(spacing: Spacing, count: int) -> None:
    covered = spans((at(2023, 1), at(2024, 1)))
    some = found({D1: covered}, Span(at(2023, 5) + 60, at(2023, 6) - 60), spacing)
    assert len(some) == count
    assert set(some) <= set(found({D1: covered}, EVER, spacing))


def test_where_coverage_begins_and_ends_days_are_shared_and_the_finest_interval_goes_to_its_edges() -> None:
    first, last = at(2023, 5, 3) + 754 * 60, at(2023, 6, 9) + 60
    covered = {
        M1: spans((first, last)),
        H1: spans((H1.ceil(first), last - 60)),
        D1: spans((at(2023, 5, 4), at(2023, 6, 9))),
    }
    days = Span(at(2023, 5, 4), at(2023, 6, 9))
    assert found(covered) == [
        (Span(first, days.start), (M1,)),
        (days, (M1, H1, D1)),
        (Span(days.end, last), (M1,)),
    ]


def test_minutes_that_were_paged_here_and_there_are_no_stretch() -> None:
    covered = {M1: spans((at(2023, 5, 3), at(2023, 5, 3) + 60)), H1: spans((at(2023, 4), at(2023, 7)))}
    assert found(covered) == [(Span(at(2023, 4), at(2023, 7)), (H1,))]


def test_candles_longer_than_a_day_lie_across_the_calendar_and_are_left_out() -> None:
    assert found({Interval.W1: spans((at(2023, 1, 5), at(2023, 3, 30)))}) == []
    assert found({}) == []


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 90)), max_size=4), st.sampled_from(Spacing))
def test_a_stretch_is_covered_by_each_of_its_intervals_and_lies_on_their_grids(
    parts: list[tuple[int, int]], spacing: Spacing
) -> None:
    base = at(2023)
    union: list[tuple[int, int]] = []
    day = 0
    for gap, length in parts:
        union.append((base + (day + gap) * DAY + 3_600, base + (day + gap + length) * DAY + 7_200))
        day += gap + length + 1
    covered = {M1: spans(*union), H1: spans(*union)}
    for each in stretches(covered, EVER, spacing):
        for interval in each.intervals:
            assert any(span.start <= each.span.start and each.span.end <= span.end for span in covered[interval])
            assert each.span.start % interval.seconds == each.span.end % interval.seconds == 0
    of_minutes = sum(each.span.seconds for each in stretches(covered, EVER, spacing) if M1 in each.intervals)
    assert of_minutes <= sum(end - start for start, end in union)


# --- whether ids are dense


def hole(start: int, parts: int = 1) -> AbsentIds:
    return AbsentIds(7, 9, start, start + 119, parts)


def test_what_touches_absent_ids_is_cut_out_and_the_rest_can_be_counted() -> None:
    gap = hole(at(2023, 2, 3) + 3_600)
    covered = spans((at(2023, 1), at(2023, 4)))
    some = found({M1: covered}, absent=[gap])
    assert [span for span, _ in some] == [
        Span(at(2023, 1), at(2023, 2, 3)),
        Span(at(2023, 2, 3), gap.minutes.start),
        Span(gap.minutes.end, at(2023, 2, 4)),
        Span(at(2023, 2, 4), at(2023, 4)),
    ]


def test_before_2021_each_year_is_tested_at_both_ends_and_since_then_none() -> None:
    now = at(2023)
    assert probes(Span(at(2019, 4), at(2019, 7)), now) == (at(2019), at(2020))
    assert probes(Span(at(2020, 10), at(2021)), now) == (at(2020), at(2021))
    assert probes(Span(at(2021), at(2021, 4)), now) == ()
    assert probes(Span(at(2019, 4), at(2019, 7)), at(2019, 8)) == (at(2019),)


def test_a_hole_before_2021_speaks_against_its_year_and_later_ones_only_where_there_are_several() -> None:
    old = hole(at(2019, 3))
    assert is_sparse(Span(at(2019, 10), at(2020)), [old])
    assert not is_sparse(Span(at(2020, 1), at(2020, 4)), [old])
    assert not is_sparse(Span(at(2024, 1), at(2024, 4)), [hole(at(2023, 3))])
    assert is_sparse(Span(at(2024, 1), at(2024, 4)), [hole(at(2023, 3), SPARSE)])
    assert not is_sparse(Span(at(2019, 10), at(2020)), [hole(at(2023, 3), SPARSE)])


def test_absent_ids_are_asked_for_again_after_an_hour_until_a_second_run_misses_them() -> None:
    seen = Absence(hole(at(2023)), "one", at(2026))
    assert not seen.is_due(seen.seen_at + 3_599)
    assert seen.is_due(seen.seen_at + 3_600)
    assert not replace(seen, confirmed_at=seen.seen_at + 3_600).is_due(seen.seen_at + 9_999)
