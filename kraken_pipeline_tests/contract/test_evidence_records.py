from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.evidence import MIXED, Grant, coverage
from kraken_pipeline.coverage.ranges import Span, Spans
from kraken_pipeline.kraken.archive import ArchiveFile
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.database import Catalog, open_catalog
from kraken_pipeline.storage.records import evidence_records, file_records, refutations
from kraken_pipeline.storage.records.evidence_records import CoverageRecord, Extent
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline_tests.contract.conftest import Backend
from kraken_pipeline_tests.coverage.models import LOOSE_SPANS, SETS

pytestmark = pytest.mark.slow

HOURS = Series("XBTUSD", Interval.H1)
DAYS = Series("XBTUSD", Interval.D1)
OTHER = Series("ADAEUR", Interval.H1)


@pytest.fixture
def connection(stores: Stores) -> Iterator[sa.Connection]:
    with stores.catalog.write() as connection:
        yield connection


def times(*values: int) -> pl.Series:
    return pl.Series("time", values, pl.Int64())


def refute(connection: sa.Connection, series: Series, span: Span, ended_at: int | None = None) -> None:
    before = {each.id for each in refutations.active(connection).get(series, ())}
    refutations.refute(connection, [(series, span, None, "a test")], 1)
    if ended_at is not None:
        new = [each.id for each in refutations.active(connection)[series] if each.id not in before]
        refutations.end(connection, new, ended_at)


def grant(connection: sa.Connection, series: Series, grants: Sequence[Grant], file_id: int | None) -> None:
    evidence_records.grant(connection, [(series, grants, file_id)])


def renew(connection: sa.Connection, series: Series, lake_times: pl.Series) -> None:
    evidence_records.renew(connection, {series: lake_times})


def covered(connection: sa.Connection, series: Series = HOURS) -> list[CoverageRecord]:
    return evidence_records.coverage_of(connection).get(series, [])


def test_grants_become_coverage_with_the_candles_that_lie_in_it(connection: sa.Connection) -> None:
    grant(connection, HOURS, [Grant(Span(0, 100), "CSV", 7, 12)], None)
    assert covered(connection) == [], "only renewing makes coverage"
    renew(connection, HOURS, times(-5, 0, 50, 99, 100, 300))
    assert covered(connection) == [CoverageRecord(Span(0, 100), "CSV", 3, 7)]
    assert evidence_records.extents(connection) == {HOURS: Extent(6, -5, 300)}
    assert evidence_records.grants_of(connection, [HOURS, DAYS]) == {HOURS: [Grant(Span(0, 100), "CSV", 7, 12)]}


def test_grants_of_several_sources_that_touch_are_one_mixed_range(connection: sa.Connection) -> None:
    grant(connection, HOURS, [Grant(Span(0, 100), "CSV", 9)], None)
    grant(connection, HOURS, [Grant(Span(100, 200), "RESAMPLED", 8), Grant(Span(300, 400), "OHLC", 5)], None)
    renew(connection, HOURS, times(0, 150, 350))
    assert covered(connection) == [
        CoverageRecord(Span(0, 200), MIXED, 2, 9),
        CoverageRecord(Span(300, 400), "OHLC", 1, 5),
    ]


def test_what_is_refuted_is_not_covered_until_the_refutation_ends(connection: sa.Connection) -> None:
    grant(connection, HOURS, [Grant(Span(0, 100), "CSV", 9)], None)
    refute(connection, HOURS, Span(40, 60))
    refute(connection, HOURS, Span(10, 20), ended_at=5)
    refute(connection, DAYS, Span(70, 80))
    assert evidence_records.refuted(connection, [HOURS], {}) == {HOURS: (Span(40, 60),)}
    renew(connection, HOURS, times(0, 45, 50, 60))
    assert covered(connection) == [CoverageRecord(Span(0, 40), "CSV", 1, 9), CoverageRecord(Span(60, 100), "CSV", 1, 9)]


def test_renewing_takes_the_place_of_what_was_known_of_the_series_alone(connection: sa.Connection) -> None:
    for series in (HOURS, DAYS, OTHER):
        grant(connection, series, [Grant(Span(0, 100), "CSV", 1)], None)
        renew(connection, series, times(0))
    grant(connection, HOURS, [Grant(Span(50, 150), "CSV", 2)], None)
    renew(connection, HOURS, times(0, 120))
    assert evidence_records.coverage_of(connection) == {
        OTHER: [CoverageRecord(Span(0, 100), "CSV", 1, 1)],
        HOURS: [CoverageRecord(Span(0, 150), "CSV", 2, 2)],
        DAYS: [CoverageRecord(Span(0, 100), "CSV", 1, 1)],
    }


def test_many_series_are_renewed_at_once_each_from_its_own_evidence(
    connection: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence_records, "_SERIES", 2)
    series = [Series(f"COIN{number}USD", interval) for number in range(3) for interval in (Interval.H1, Interval.D1)]
    given = [(each, [Grant(Span(0, 10 + index), "CSV", index)], None) for index, each in enumerate(series)]
    evidence_records.grant(connection, given)
    refute(connection, series[3], Span(0, 5))
    evidence_records.renew(connection, {})
    evidence_records.renew(connection, {each: times(*range(index)) for index, each in enumerate(series)})
    expected = {each: [CoverageRecord(Span(0, 10 + n), "CSV", n, n)] for n, each in enumerate(series)}
    expected[series[3]] = [CoverageRecord(Span(5, 13), "CSV", 0, 3)]
    assert evidence_records.coverage_of(connection) == expected
    assert set(evidence_records.extents(connection)) == set(series[1:])
    assert evidence_records.refuted(connection, series, {}) == {series[3]: (Span(0, 5),)}


def test_candles_without_a_grant_are_an_extent_and_no_coverage(connection: sa.Connection) -> None:
    renew(connection, HOURS, times(10, 20))
    assert covered(connection) == []
    assert evidence_records.extents(connection) == {HOURS: Extent(2, 10, 20)}
    renew(connection, HOURS, times())
    assert evidence_records.extents(connection) == {}


def test_coverage_and_extents_can_be_asked_of_some_series(connection: sa.Connection) -> None:
    for series in (HOURS, DAYS, OTHER):
        grant(connection, series, [Grant(Span(0, 100), "CSV", 1)], None)
        renew(connection, series, times(0))
    assert set(evidence_records.coverage_of(connection, [Interval.H1])) == {HOURS, OTHER}
    assert set(evidence_records.coverage_of(connection, None, ["XBTUSD"])) == {HOURS, DAYS}
    assert set(evidence_records.coverage_of(connection, [Interval.H1], ["XBTUSD"])) == {HOURS}
    assert evidence_records.coverage_of(connection, [], None) == {}
    assert set(evidence_records.extents(connection, ["ADAEUR"])) == {OTHER}


def test_trade_rates_are_those_of_all_that_was_granted(connection: sa.Connection) -> None:
    grant(connection, HOURS, [Grant(Span(0, 100), "CSV", 1, 50)], None)
    grant(connection, DAYS, [Grant(Span(0, 300), "CSV", 1, 150)], None)
    grant(connection, OTHER, [Grant(Span(0, 100), "CSV", 1)], None)
    assert evidence_records.trade_rates(connection) == {"XBTUSD": 0.5, "ADAEUR": 0.0}


DAY = 86_400


def granted(connection: sa.Connection, series: Series = HOURS) -> list[Grant]:
    return evidence_records.grants_of(connection, [series]).get(series, [])


def test_answers_of_a_day_that_touch_are_one_grant(connection: sa.Connection) -> None:
    for number in range(3):
        grant(connection, HOURS, [Grant(Span(number * 10, number * 10 + 10), "TRADES", DAY + number, 5)], None)
    assert granted(connection) == [Grant(Span(0, 30), "TRADES", DAY + 2, 15)]
    renew(connection, HOURS, times())
    assert covered(connection) == [CoverageRecord(Span(0, 30), "TRADES", 0, DAY + 2)]


def test_the_last_second_of_a_day_belongs_to_it_and_the_next_one_does_not(connection: sa.Connection) -> None:
    given = [Grant(Span(at, at + 10), "OHLC", DAY + second) for at, second in ((0, 0), (10, DAY - 1), (20, DAY))]
    for each in given:
        grant(connection, HOURS, [each], None)
    assert granted(connection) == [Grant(Span(0, 20), "OHLC", 2 * DAY - 1), given[2]]


@pytest.mark.parametrize(
    "second",
    [
        Grant(Span(11, 20), "OHLC", 8),
        Grant(Span(9, 20), "OHLC", 8),
        Grant(Span(-10, 0), "OHLC", 8),
        Grant(Span(0, 10), "OHLC", 8),
        Grant(Span(10, 20), "TRADES", 8),
        Grant(Span(10, 20), "OHLC", 8 + DAY),
        Grant(Span(10, 20), "OHLC", 6),
    ],
    ids=["apart", "overlapping", "before", "the same", "another source", "another day", "an earlier answer"],
)
def test_what_does_not_go_on_where_an_answer_ended_is_a_grant_of_its_own(
    connection: sa.Connection, second: Grant
) -> None:
    first = Grant(Span(0, 10), "OHLC", 7)
    grant(connection, HOURS, [first], None)
    grant(connection, HOURS, [second], None)
    assert granted(connection) == [first, second]


def test_neither_another_series_nor_a_file_is_prolonged(connection: sa.Connection) -> None:
    file = ArchiveFile(Path("/drop/XBTUSD_60.csv"), None, Kind.OHLCVT, parse_pair("XBTUSD"), Interval.H1, 1)
    file_id = file_records.enlist(connection, [(file, None, None)], "one", 0)[file.location]
    grant(connection, HOURS, [Grant(Span(0, 10), "CSV", 7)], file_id)
    grant(connection, DAYS, [Grant(Span(0, 10), "CSV", 7)], None)
    grant(connection, OTHER, [Grant(Span(0, 10), "CSV", 7)], None)
    grant(connection, HOURS, [Grant(Span(10, 20), "CSV", 7)], None)
    grant(connection, HOURS, [Grant(Span(20, 30), "CSV", 7)], file_id)
    assert [each.span for each in granted(connection)] == [Span(0, 10), Span(10, 20), Span(20, 30)]
    assert [granted(connection, each) for each in (DAYS, OTHER)] == [[Grant(Span(0, 10), "CSV", 7)]] * 2


def test_only_the_last_of_several_that_end_there_is_prolonged(connection: sa.Connection) -> None:
    for start in (0, 5):
        grant(connection, HOURS, [Grant(Span(start, 10), "OHLC", 7)], None)
    grant(connection, HOURS, [Grant(Span(10, 20), "OHLC", 7)], None)
    assert [each.span for each in granted(connection)] == [Span(0, 10), Span(5, 20)]


def test_what_contradicts_is_on_record(connection: sa.Connection) -> None:
    grant(connection, HOURS, [], None)
    evidence_records.record_conflict(
        connection, HOURS, Span(0, 10), candles=3, reason="fewer trades", file_id=None, now=7
    )
    (conflict,) = connection.execute(sa.select(schema.conflicts)).mappings()
    assert (conflict["candles"], conflict["reason"], conflict["start"], conflict["end"]) == (3, "fewer trades", 0, 10)


@pytest.fixture(scope="module")
def catalog(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    with backend.migrated(tmp_path_factory.mktemp("evidence")) as url, closing(open_catalog(url)) as catalog:
        yield catalog


NUMBERS = itertools.count()


@given(LOOSE_SPANS, SETS, st.sets(st.integers(0, 60)))
def test_coverage_on_record_is_what_its_evidence_says(
    catalog: Catalog, granted: list[Span], refuted: Spans, candles: set[int]
) -> None:
    series = Series(f"COIN{next(NUMBERS)}USD", Interval.H1)
    grants = [Grant(each, "CSV" if index % 2 else "OHLC", index) for index, each in enumerate(granted)]
    with catalog.write() as connection:
        grant(connection, series, grants, None)
        for span in refuted:
            refute(connection, series, span)
        renew(connection, series, times(*sorted(candles)))
    with catalog.read() as connection:
        found = covered(connection, series)
    assert [(each.span, each.source, each.verified_at) for each in found] == [
        (each.span, each.source, each.verified_at) for each in coverage(grants, refuted)
    ]
    assert [each.candles for each in found] == [sum(time in each.span for time in candles) for each in found]
