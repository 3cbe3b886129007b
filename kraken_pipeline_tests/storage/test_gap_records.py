from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from kraken_pipeline.coverage.gaps import GapStatus
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage import gap_records
from kraken_pipeline.storage.gap_records import Attempt, GapRow
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
    gap_records.add_attempts(connection, HOURS, made, "one")
    gap_records.add_attempts(connection, OTHER, made[:1], "one")
    gap_records.add_attempts(connection, DAYS, [], "one")
    gap_records.replace_open(connection, [HOURS], [])
    assert gap_records.attempts_of(connection, None) == {HOURS: made, OTHER: made[:1]}
    assert gap_records.attempts_of(connection, ["XBTUSD"]) == {HOURS: made}
