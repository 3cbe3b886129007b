from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from kraken_pipeline.kraken.archive import ArchiveFile
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.kraken.rows import Reject
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.storage import dead_letters, file_records
from kraken_pipeline.storage.stores import Stores


@pytest.fixture
def connection(stores: Stores) -> Iterator[sa.Connection]:
    with stores.catalog.write() as connection:
        yield connection


def enlisted(connection: sa.Connection, pair: str) -> int:
    file = ArchiveFile(Path(f"/drop/{pair}_60.csv"), None, Kind.OHLCVT, parse_pair(pair), Interval.H1, 1)
    return file_records.enlist(connection, [(file, None, None)], "one", 0)[file.location]


def add(connection: sa.Connection, file_id: int, *rejects: Reject) -> None:
    dead_letters.add(connection, file_id, f"/drop/{file_id}.csv", rejects, run_id="one", now=86_400)


def reject(line: int, text: str = "x") -> Reject:
    return Reject(line, text, "time is not a number", None)


def lines(connection: sa.Connection, pairs: list[str] | None = None, limit: int | None = None) -> list[int | None]:
    return [row["line"] for row in dead_letters.listed(connection, pairs, limit)]


def test_a_dead_letter_says_where_the_row_stood_and_what_is_wrong(connection: sa.Connection) -> None:
    file_id = enlisted(connection, "XBTUSD")
    add(connection, file_id, reject(7, "1,2"))
    assert dead_letters.listed(connection, None, None) == [
        {
            "pair": "XBTUSD",
            "interval": 60,
            "location": f"/drop/{file_id}.csv",
            "line": 7,
            "text": "1,2",
            "reason": "time is not a number",
            "run_id": "one",
            "made_at": 86_400,
        }
    ]
    assert dead_letters.count(connection) == 1


def test_they_come_the_newest_file_first_and_in_order_of_lines(connection: sa.Connection) -> None:
    older, newer = enlisted(connection, "XBTUSD"), enlisted(connection, "ADAEUR")
    add(connection, newer, reject(22), reject(21))
    add(connection, older, reject(12), reject(11))
    assert lines(connection) == [21, 22, 11, 12]
    assert lines(connection, limit=3) == [21, 22, 11]
    assert lines(connection, pairs=["XBTUSD"]) == [11, 12]
    assert lines(connection, pairs=["ETHUSD"]) == []


def test_those_of_a_file_that_is_read_again_are_forgotten(connection: sa.Connection) -> None:
    first, second = enlisted(connection, "XBTUSD"), enlisted(connection, "ADAEUR")
    add(connection, first, reject(1), reject(2))
    add(connection, second, reject(3))
    dead_letters.forget(connection, [first])
    dead_letters.forget(connection, [])
    assert lines(connection) == [3]


def test_nothing_rejected_adds_nothing(connection: sa.Connection) -> None:
    add(connection, enlisted(connection, "XBTUSD"))
    assert dead_letters.count(connection) == 0


def test_a_file_as_a_whole_has_no_line(connection: sa.Connection) -> None:
    add(connection, enlisted(connection, "XBTUSD"), reject(0))
    assert lines(connection) == [None]


@pytest.mark.parametrize("text", ["a\x00b", "½\u2028\U0001f600", "'; DROP TABLE files; --", "", "\\xff"])
def test_any_text_can_be_kept_even_in_postgresql(connection: sa.Connection, text: str) -> None:
    add(connection, enlisted(connection, "XBTUSD"), reject(1, text))
    (row,) = dead_letters.listed(connection, None, None)
    assert row["text"] == text.replace("\x00", "\\x00")


def test_all_of_them_can_be_exported(connection: sa.Connection, tmp_path: Path) -> None:
    file_id = enlisted(connection, "XBTUSD")
    add(connection, file_id, reject(1, 'a,"b"'), reject(2))
    path = tmp_path / "new" / "letters.csv"
    assert dead_letters.export(connection, None, path) == 2
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["line"], row["text"], row["made_at"]) for row in rows] == [
        ("1", 'a,"b"', "1970-01-02T00:00:00Z"),
        ("2", "x", "1970-01-02T00:00:00Z"),
    ]
    assert tuple(rows[0]) == dead_letters.COLUMNS
    assert dead_letters.export(connection, ["ETHUSD"], path) == 0
