from __future__ import annotations

from kraken_pipeline.coverage.density import DENSE_SINCE, AbsentIds, Density, by_page
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline_tests.support.samples import at, between

HOLE = AbsentIds(101, 140, at("2025-03-01T00:10"), at("2025-03-01T00:12"))
OLD = AbsentIds(7, 7, at("2014-06-01"), at("2014-06-02"))


def test_ids_are_consecutive_since_2021_and_before_it_where_that_was_tested() -> None:
    assert at("2021-01-01") == DENSE_SINCE
    plain, tested = Density(), Density(tested=(between("2014-05-01", "2014-07-01"),))
    assert plain.is_held(between("2021-01-01", "2026-01-01"))
    assert not plain.is_held(Span(DENSE_SINCE - 1, DENSE_SINCE + 10))
    assert tested.is_held(between("2014-06-01", "2014-06-30"))
    assert not tested.is_held(between("2014-06-01", "2014-07-02"))


def test_an_absent_id_is_a_trade_where_ids_are_consecutive_and_it_is_not_known_not_to_exist() -> None:
    assert Density().holes([HOLE, OLD]) == [HOLE]
    assert Density(tested=(between("2014-05-01", "2014-07-01"),)).holes([OLD]) == [OLD]
    halves = Density(sparse=(AbsentIds(90, 120, 0, 0), AbsentIds(121, 200, 0, 0)))
    assert halves.holes([HOLE]) == []
    assert Density(sparse=(AbsentIds(90, 120, 0, 0),)).holes([HOLE]) == [HOLE]


def test_absent_ids_are_named_and_counted() -> None:
    assert (str(HOLE), HOLE.count, HOLE.span) == ("ids 101 to 140", 40, Span(HOLE.start, HOLE.end + 1))
    assert (str(OLD), OLD.count) == ("id 7", 1)
    assert AbsentIds(1, 2, 50, 40).span == Span(50, 51), "where times do not rise with ids"


def test_the_minutes_around_absent_ids_are_whole() -> None:
    assert AbsentIds(1, 2, 61, 179).minutes == Span(60, 180)
    assert AbsentIds(1, 2, 60, 180).minutes == Span(60, 240)


def test_absent_ids_that_one_page_shows_are_one_group() -> None:
    gaps = [
        AbsentIds(first, last, first, last) for first, last in ((10, 10), (500, 600), (1_009, 1_009), (1_010, 1_012))
    ]
    assert by_page(gaps, 1_000) == [gaps[:3], gaps[3:]]
    assert by_page([AbsentIds(1, 5_000, 0, 9)], 1_000) == [[AbsentIds(1, 5_000, 0, 9)]], "more ids than a page has"
    assert by_page([], 1_000) == []
