from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.kraken.archive import ArchiveFile, Container
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import FileStatus
from kraken_pipeline.storage.records import evidence_records, file_records
from kraken_pipeline.storage.records.file_records import ContainerRecord
from kraken_pipeline.storage.records.source_records import (
    Answered,
    ArchiveSource,
    Disagreement,
    answered,
    archive_sources,
    disagreements,
)
from kraken_pipeline.storage.stores import Stores

ZIP = Path("/drop/Kraken_OHLCVT_Q2_2023.zip")
HOURS, DAYS, OTHER = Series("XBTUSD", Interval.H1), Series("XBTUSD", Interval.D1), Series("ADAEUR", Interval.H1)


@pytest.fixture
def connection(stores: Stores) -> Iterator[sa.Connection]:
    with stores.catalog.write() as connection:
        yield connection


def took(connection: sa.Connection, path: Path, pair: str, container: str | None = None, **values: Any) -> int:
    """Puts a file on record with what became of it; returns its id."""
    inside = Container(path, (path,), None) if container else None
    member = f"{pair}_60.csv" if container else None
    file = ArchiveFile(path, member, Kind.OHLCVT, parse_pair(pair), Interval.H1, 100, inside)
    (number,) = file_records.enlist(connection, [(file, container, None)], "one", now=1).values()
    file_records.finish(connection, [{"id": number, **values}])
    return number


def test_archives_are_summed_and_loose_files_stand_by_themselves(connection: sa.Connection) -> None:
    release = ContainerRecord("ab", ZIP.name, "OHLCVT", 0, 100, "2023Q2", ("XBTUSD_60", "ADAEUR_60"))
    file_records.keep_container(connection, release, "stamp", 1)
    done: dict[str, Any] = {"status": FileStatus.COMPLETED, "first_time": 50, "last_time": 90}
    took(connection, ZIP, "XBTUSD", "ab", **{**done, "rows": 7, "rows_rejected": 2})
    took(connection, ZIP, "ADAEUR", "ab", **{**done, "rows": 5, "first_time": 40})
    took(connection, ZIP, "ZORKUSD", "ab", status=FileStatus.FAILED)
    took(connection, Path("/drop/XBTUSD_60.csv"), "XBTUSD", **{**done, "rows": 3, "last_time": 95})
    file_records.fail_container(connection, "/drop/broken.zip", "broken.zip", "no ZIP", run_id="one", now=1)
    assert archive_sources(connection, ["ADAEUR", "XBTUSD", "ZORKUSD"]) == [
        ArchiveSource(ZIP.name, "OHLCVT", False, 3, 2, 1, 12, 2, 40, 90),
        ArchiveSource("XBTUSD_60.csv", "OHLCVT", True, 1, 1, 0, 3, 0, 50, 95),
        ArchiveSource("broken.zip", "", True, 1, 0, 1, 0, 0, None, None),
    ]
    assert [each.files for each in archive_sources(connection, ["ADAEUR"])] == [1, 1]


def test_what_answered_is_summed_by_source_and_interval(connection: sa.Connection) -> None:
    given = [
        (HOURS, [Grant(Span(0, 7_200), "CSV", 5, 10), Grant(Span(3_600, 7_200), "CSV", 6, 5)], None),
        (OTHER, [Grant(Span(0, 3_600), "CSV", 4)], None),
        (DAYS, [Grant(Span(0, 86_400), "OHLC", 9)], None),
    ]
    evidence_records.grant(connection, given)
    assert answered(connection, ["XBTUSD", "ADAEUR"]) == [
        Answered("CSV", Interval.H1, 2, 14_400, 15, 6),
        Answered("OHLC", Interval.D1, 1, 86_400, 0, 9),
    ]
    assert [each.series for each in answered(connection, ["ADAEUR"])] == [1]
    assert answered(connection, []) == []


def test_of_the_sources_that_disagree_those_with_the_most_candles_come_first(connection: sa.Connection) -> None:
    number = took(connection, Path("/drop/XBTUSD_60.csv"), "XBTUSD", status=FileStatus.COMPLETED)
    for series, candles, file_id in ((HOURS, 3, number), (DAYS, 9, None), (OTHER, 5, None)):
        evidence_records.record_conflict(
            connection, series, Span(0, 10), candles=candles, reason="fewer", file_id=file_id, now=7
        )
    found, count = disagreements(connection, ["XBTUSD"], 5)
    assert found == [
        Disagreement(DAYS, Span(0, 10), 9, "fewer", None, 7),
        Disagreement(HOURS, Span(0, 10), 3, "fewer", "XBTUSD_60.csv", 7),
    ]
    assert count == 2
    assert disagreements(connection, ["XBTUSD", "ADAEUR"], 1)[1] == 3
