from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.kraken.archive import ArchiveFile
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.kraken.rows import Reject
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import FileStatus
from kraken_pipeline.storage.records import candle_records, dead_letters, evidence_records, file_records
from kraken_pipeline.storage.stores import Stores

HOUR = 3_600
T = 1_704_067_200
HOURS, OTHER = Series("XBTUSD", Interval.H1), Series("ADAEUR", Interval.H1)
CANDLE = Span(T, T + HOUR)


@pytest.fixture
def connection(stores: Stores) -> Iterator[sa.Connection]:
    with stores.catalog.write() as connection:
        yield connection


def file(connection: sa.Connection, pair: str = "XBTUSD", status: FileStatus = FileStatus.COMPLETED) -> int:
    given = ArchiveFile(Path(f"/drop/{status}/{pair}_60.csv"), None, Kind.OHLCVT, parse_pair(pair), Interval.H1, 9)
    (file_id,) = file_records.enlist(connection, [(given, None, "stamp")], "one", 1).values()
    file_records.finish(connection, [{"id": file_id, "status": status, "first_time": T - HOUR, "last_time": T}])
    return file_id


def test_what_answered_for_a_candle_is_told_in_order_of_time_with_its_files(connection: sa.Connection) -> None:
    file_id = file(connection)
    wide, beside = Span(T - 9 * HOUR, T + 9 * HOUR), Span(T + HOUR, T + 2 * HOUR)
    evidence_records.grant(connection, [(HOURS, [Grant(wide, "CSV", 20)], file_id)])
    evidence_records.grant(
        connection, [(HOURS, [Grant(CANDLE, "OHLC", 10), Grant(beside, "OHLC", 10)], None), (OTHER, [], None)]
    )
    found = candle_records.grants_over(connection, HOURS, CANDLE)
    assert [(each.source, each.file_id, each.verified_at) for each in found] == [
        ("OHLC", None, 10),
        ("CSV", file_id, 20),
    ]
    assert candle_records.grants_over(connection, OTHER, CANDLE) == []
    assert candle_records.files_of(connection, {file_id})[file_id].name == "XBTUSD_60.csv"


def test_files_whose_rows_reach_over_a_candle_are_found_if_they_were_ingested(connection: sa.Connection) -> None:
    ids = [file(connection), file(connection, "ADAEUR"), file(connection, status=FileStatus.WITHDRAWN)]
    assert [each.id for each in candle_records.files_over(connection, HOURS, CANDLE)] == ids[:1]
    assert candle_records.files_over(connection, HOURS, Span(T + HOUR, T + 2 * HOUR)) == []


def test_conflicts_over_a_candle_are_told(connection: sa.Connection) -> None:
    for start in (T, T + HOUR):
        span = Span(start, start + HOUR)
        evidence_records.record_conflict(
            connection, HOURS, span, candles=1, reason="it says so", file_id=None, now=start
        )
    (found,) = candle_records.conflicts_over(connection, HOURS, CANDLE)
    assert (found.span, found.candles, found.reason, found.made_at) == (CANDLE, 1, "it says so", T)


def test_rejected_rows_are_told_of_a_time_that_their_text_names(connection: sa.Connection) -> None:
    texts = (f"{T},1,1,1,1,-1,1", f"[{T}, 'x']", iso(T), f"{T + HOUR},1")
    rejects = [Reject(number + 1, text, "no candle", None) for number, text in enumerate(texts)]
    dead_letters.add(connection, file(connection), "/drop/XBTUSD_60.csv", rejects, run_id="one", now=5)
    dead_letters.add_of_reply(connection, HOURS, "OHLC of XBTUSD 60", rejects[1:2], run_id="one", now=6)
    dead_letters.add_of_reply(connection, OTHER, "OHLC of ADAEUR 60", rejects[1:2], run_id="one", now=6)
    dead_letters.give_up(connection, HOURS, CANDLE, "OHLC", "refused", run_id="one", now=7)
    found = candle_records.letters_about(connection, HOURS, T)
    assert [(each["location"], each["line"], each["text"]) for each in found] == [
        *(("/drop/XBTUSD_60.csv", number + 1, text) for number, text in enumerate(texts[:3])),
        ("OHLC of XBTUSD 60", None, texts[1]),
    ]
