from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.ranges import (
    Span,
    Spans,
    clip,
    intersect,
    lies_in,
    normalise,
    of_candles,
    seconds,
    slots,
    span,
    split,
    subtract,
    touched_candles,
    union,
    whole_candles,
)
from kraken_pipeline.market.interval import Interval
from kraken_pipeline_tests.coverage.models import LOOSE_SPANS, SETS, instants, is_a_set, model

pytestmark = pytest.mark.slow

MINUTES = [Interval.M1, Interval.M5]


@pytest.mark.parametrize(("start", "end"), [(1, 1), (2, 1)])
def test_a_span_is_never_empty(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="start < end"):
        Span(start, end)
    assert span(start, end) == ()


@given(LOOSE_SPANS)
def test_a_span_holds_its_start_and_not_its_end(spans: list[Span]) -> None:
    for each in spans:
        assert each.start in each
        assert each.end not in each
        assert each.seconds == len(instants([each]))
        assert span(each.start, each.end) == (each,)


@given(LOOSE_SPANS)
def test_spans_overlap_where_they_share_an_instant(spans: list[Span]) -> None:
    for left in spans:
        for right in spans:
            assert left.overlaps(right) == bool(instants([left]) & instants([right]))


@given(SETS, LOOSE_SPANS)
def test_clipping_is_the_intersection_with_one_range(spans: Spans, ranges: list[Span]) -> None:
    for each in ranges:
        assert clip(spans, each) == intersect(spans, (each,))


@given(LOOSE_SPANS)
def test_normalising_keeps_every_instant_and_gives_a_set(spans: list[Span]) -> None:
    found = normalise(spans)
    assert is_a_set(found)
    assert instants(found) == instants(spans)
    assert found == model(instants(spans))
    assert normalise(found) == found


@given(st.lists(SETS, max_size=4))
def test_a_union_has_what_is_in_any_set(sets: list[Spans]) -> None:
    assert union(*sets) == model(set().union(*(instants(each) for each in sets)))


@given(SETS, SETS)
def test_subtracting_leaves_what_is_in_the_first_set_alone(left: Spans, right: Spans) -> None:
    assert subtract(left, right) == model(instants(left) - instants(right))


@given(SETS, SETS)
def test_an_intersection_has_what_is_in_both_sets(left: Spans, right: Spans) -> None:
    assert intersect(left, right) == model(instants(left) & instants(right))


@given(SETS, SETS)
def test_what_is_shared_and_what_is_not_add_up(left: Spans, right: Spans) -> None:
    assert union(subtract(left, right), intersect(left, right)) == left
    assert intersect(subtract(left, right), right) == ()
    assert seconds(union(left, right)) == seconds(left) + seconds(right) - seconds(intersect(left, right))


@given(SETS)
def test_the_length_is_that_of_the_instants(spans: Spans) -> None:
    assert seconds(spans) == len(instants(spans))


def scaled(spans: Spans) -> Spans:
    """The same set with instants half a minute apart, so that ranges end on and off the grids."""
    return tuple(Span(each.start * 30, each.end * 30) for each in spans)


@pytest.mark.parametrize("interval", MINUTES)
@given(spans=SETS)
def test_whole_candles_are_those_of_which_every_instant_is_held(interval: Interval, spans: Spans) -> None:
    held = instants(spans)
    length = interval.seconds // 30
    whole = {start for start in range(-length, 60, length) if held.issuperset(range(start, start + length))}
    found = whole_candles(scaled(spans), interval)
    assert is_a_set(found)
    assert found == normalise(Span(start * 30, (start + length) * 30) for start in whole)
    assert slots(found, interval) == len(whole)


@pytest.mark.parametrize("interval", MINUTES)
@given(spans=SETS)
def test_touched_candles_are_those_of_which_any_instant_is_held(interval: Interval, spans: Spans) -> None:
    held = instants(spans)
    length = interval.seconds // 30
    touched = {start for start in range(-length, 60, length) if not held.isdisjoint(range(start, start + length))}
    found = touched_candles(scaled(spans), interval)
    assert is_a_set(found)
    assert found == normalise(Span(start * 30, (start + length) * 30) for start in touched)
    assert subtract(whole_candles(scaled(spans), interval), found) == ()


@given(SETS, st.integers(-5, 60))
def test_splitting_cuts_the_range_that_holds_the_moment_and_no_other(spans: Spans, at: int) -> None:
    found = split(spans, at)
    assert normalise(found) == spans
    assert seconds(found) == seconds(spans)
    assert list(found) == sorted(found)
    assert all(each.end <= at or at <= each.start for each in found)
    is_inside = at in instants(spans) and at - 1 in instants(spans)
    assert len(found) == len(spans) + is_inside
    assert split(found, at) == found


@given(SETS, st.integers(-5, 60), SETS)
def test_parts_that_touch_stay_apart_in_what_is_taken_of_them(spans: Spans, at: int, other: Spans) -> None:
    parts = split(spans, at)
    assert subtract(parts, other) == split(subtract(spans, other), at)
    assert intersect(parts, other) == split(intersect(spans, other), at)


@given(SETS, st.lists(st.integers(-5, 60), max_size=40))
def test_each_time_lies_in_the_set_or_not(spans: Spans, times: list[int]) -> None:
    found = lies_in(spans, pl.Series("time", times, pl.Int64()))
    assert found.dtype == pl.Boolean()
    assert found.to_list() == [time in instants(spans) for time in times]


@given(st.sets(st.integers(0, 30)), st.sampled_from(MINUTES))
def test_the_set_of_some_candles_is_where_they_lie(numbers: set[int], interval: Interval) -> None:
    starts = sorted(number * interval.seconds for number in numbers)
    found = of_candles(pl.Series("time", starts, pl.Int64()), interval)
    assert found == normalise(Span(start, start + interval.seconds) for start in starts)
