from __future__ import annotations

from collections.abc import Iterator

import polars as pl
import pytest
import sqlalchemy as sa

from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.gaps import GapStatus
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.records import evidence_records, gap_records
from kraken_pipeline.storage.records.gap_records import Attempt, GapRow
from kraken_pipeline.storage.stores import Stores

HOURS = Series("XBTUSD", Interval.H1)
DAYS = Series("XBTUSD", Interval.D1)
OTHER = Series("ADAEUR", Interval.H1)


@pytest.fixture
def connection(stores: Stores) -> Iterator[sa.Connection]:
    with stores.catalog.write() as connection:
        yield connection


def gap(series: Series, start: int, end: int, closed_at: int | None = None) -> GapRow:
    status = GapStatus.FILLED if closed_at else GapStatus.DETECTED
    return GapRow(series, Span(start, end), 3, 1, "ARCHIVE", "a.zip:b.csv", status, 2, "no answer", 77, closed_at)


def test_gaps_come_back_as_they_were_put_and_in_order_of_time(connection: sa.Connection) -> None:
    rows = [gap(HOURS, 50, 60), gap(HOURS, 0, 10), gap(OTHER, 0, 10)]
    gap_records.replace_open(connection, [HOURS, OTHER], rows)
    assert gap_records.open_gaps(connection, None) == {OTHER: [rows[2]], HOURS: [rows[1], rows[0]]}
    assert gap_records.open_gaps(connection, ["ADAEUR"]) == {OTHER: [rows[2]]}
    assert gap_records.open_gaps(connection, []) == {}


def test_the_open_records_of_a_series_are_replaced_and_no_others(connection: sa.Connection) -> None:
    gap_records.replace_open(connection, [HOURS, DAYS], [gap(HOURS, 0, 10), gap(DAYS, 0, 10)])
    gap_records.replace_open(connection, [HOURS], [gap(HOURS, 5, 10), gap(HOURS, 0, 5, closed_at=99)])
    assert gap_records.open_gaps(connection, None) == {HOURS: [gap(HOURS, 5, 10)], DAYS: [gap(DAYS, 0, 10)]}
    assert gap_records.closed_gaps(connection, None) == {HOURS: [gap(HOURS, 0, 5, closed_at=99)]}
    gap_records.replace_open(connection, [HOURS], [])
    assert set(gap_records.open_gaps(connection, None)) == {DAYS}
    assert set(gap_records.closed_gaps(connection, None)) == {HOURS}
    gap_records.replace_open(connection, [], [])


def test_attempts_outlive_the_gaps_they_were_made_for(connection: sa.Connection) -> None:
    made = [Attempt(Span(0, 10), "ARCHIVE", "a.csv", None, 5), Attempt(Span(0, 10), "OHLC", None, "time-out", 6)]
    gap_records.replace_open(connection, [HOURS], [gap(HOURS, 0, 10)])
    gap_records.add_attempts(connection, {HOURS: made, OTHER: made[:1], DAYS: []}, "one")
    gap_records.replace_open(connection, [HOURS], [])
    assert gap_records.attempts_of(connection, None) == {HOURS: made, OTHER: made[:1]}
    assert gap_records.attempts_of(connection, ["XBTUSD"]) == {HOURS: made}


def answer(start: int, end: int, made_at: int, route: str = "TRADES", origin: str | None = "1") -> Attempt:
    return Attempt(Span(start, end), route, origin, None, made_at)


def failure(start: int, end: int, made_at: int) -> Attempt:
    return Attempt(Span(start, end), "TRADES", None, "time-out", made_at)


def attempts(connection: sa.Connection, *made: Attempt, series: Series = HOURS) -> list[Attempt]:
    """What is on record of attempts that were made one after another."""
    for each in made:
        gap_records.add_attempts(connection, {series: [each]}, "one")
    return gap_records.attempts_of(connection, None)[series]


def test_an_answer_that_goes_on_where_one_ended_prolongs_it(connection: sa.Connection) -> None:
    made = [answer(number * 10, number * 10 + 10, number) for number in range(3)]
    assert attempts(connection, *made) == [answer(0, 30, 2)]
    assert attempts(connection, answer(30, 40, 9, origin=None), answer(40, 50, 10, origin=None)) == [
        answer(0, 30, 2),
        answer(30, 50, 10, origin=None),
    ]


def test_answers_of_one_call_prolong_one_after_another(connection: sa.Connection) -> None:
    gap_records.add_attempts(connection, {HOURS: [answer(0, 10, 1)]}, "one")
    gap_records.add_attempts(connection, {HOURS: [answer(10, 20, 2), answer(20, 30, 2)]}, "one")
    assert gap_records.attempts_of(connection, None)[HOURS] == [answer(0, 30, 2)]


@pytest.mark.parametrize(
    "second",
    [
        answer(11, 20, 8),
        answer(9, 20, 8),
        answer(-10, 0, 8),
        answer(10, 20, 8, route="OHLC"),
        answer(10, 20, 8, origin="5"),
        answer(10, 20, 8, origin=None),
        failure(10, 20, 8),
    ],
    ids=["apart", "overlapping", "before", "another route", "another origin", "no origin", "a failure"],
)
def test_any_other_attempt_is_one_of_its_own(connection: sa.Connection, second: Attempt) -> None:
    first = answer(0, 10, 7)
    assert attempts(connection, first, second) == [first, second]


def test_a_failure_is_never_prolonged(connection: sa.Connection) -> None:
    made = [failure(0, 10, 7), failure(10, 20, 8), answer(10, 20, 9, origin=None)]
    assert attempts(connection, *made) == made


def test_the_attempts_of_another_series_are_not_prolonged(connection: sa.Connection) -> None:
    for series in (DAYS, OTHER):
        attempts(connection, answer(0, 10, 7), series=series)
    assert attempts(connection, answer(10, 20, 8)) == [answer(10, 20, 8)]
    assert gap_records.attempts_of(connection, None)[DAYS] == [answer(0, 10, 7)]


def test_an_answer_after_a_failure_comes_after_it(connection: sa.Connection) -> None:
    made = [answer(0, 10, 7), failure(10, 20, 8), answer(10, 20, 9)]
    assert attempts(connection, *made) == made
    assert attempts(connection, answer(20, 30, 10)) == [*made[:2], answer(10, 30, 10)]


def test_a_failure_elsewhere_is_no_reason_against_prolonging(connection: sa.Connection) -> None:
    made = [answer(0, 10, 7), failure(0, 10, 8), failure(20, 30, 8), answer(10, 20, 9)]
    assert attempts(connection, *made) == [answer(0, 20, 9), *made[1:3]]


def statuses(connection: sa.Connection, series: Series = HOURS) -> list[GapStatus]:
    return [row.status for row in gap_records.open_gaps(connection, None)[series]]


def test_open_records_that_overlap_are_marked_and_no_others(connection: sa.Connection) -> None:
    rows = [gap(HOURS, start, start + 10) for start in (0, 10, 20, 30)]
    gap_records.replace_open(connection, [HOURS, DAYS], [*rows, gap(DAYS, 0, 40), gap(HOURS, 0, 40, closed_at=9)])
    gap_records.mark(connection, HOURS, [Span(9, 10), Span(20, 21)], GapStatus.BACKFILLING)
    found, filling = GapStatus.DETECTED, GapStatus.BACKFILLING
    assert statuses(connection) == [filling, found, filling, found]
    assert statuses(connection, DAYS) == [found]
    assert gap_records.closed_gaps(connection, None)[HOURS][0].status is GapStatus.FILLED
    gap_records.mark(connection, HOURS, [], GapStatus.FAILED)
    gap_records.mark(connection, HOURS, [Span(0, 10)], GapStatus.DETECTED)
    assert statuses(connection) == [found, found, filling, found]


def test_records_of_gaps_that_were_filled_long_ago_are_forgotten(connection: sa.Connection) -> None:
    rows = [gap(HOURS, 0, 10, closed_at=99), gap(HOURS, 10, 20, closed_at=100), gap(HOURS, 20, 30)]
    gap_records.replace_open(connection, [HOURS], rows)
    assert gap_records.forget_closed(connection, 100) == 1
    assert gap_records.forget_closed(connection, 100) == 0
    assert gap_records.closed_gaps(connection, None) == {HOURS: [rows[1]]}
    assert gap_records.open_gaps(connection, None) == {HOURS: [rows[2]]}


def test_old_attempts_are_forgotten_where_everything_is_covered_by_now(connection: sa.Connection) -> None:
    evidence_records.grant(connection, [(HOURS, [Grant(Span(100, 200), "CSV", 1)], None)])
    evidence_records.renew(connection, {HOURS: pl.Series("time", [], pl.Int64())})
    covered = [failure(100, 200, 5), answer(120, 130, 5)]
    kept = [failure(99, 200, 5), failure(100, 201, 5), failure(0, 10, 5), failure(100, 200, 10)]
    attempts(connection, *covered, *kept)
    attempts(connection, failure(100, 200, 5), series=DAYS)
    assert gap_records.forget_attempts(connection, 10) == len(covered)
    assert gap_records.forget_attempts(connection, 10) == 0
    assert gap_records.attempts_of(connection, None) == {HOURS: kept, DAYS: [failure(100, 200, 5)]}
