from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.kraken.archive import ArchiveFile
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.kraken.rows import Reject
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.records import dead_letters, file_records
from kraken_pipeline.storage.records.dead_letters import Operation
from kraken_pipeline.storage.stores import Stores

HOURS = Series("XBTUSD", Interval.H1)
DAYS = Series("XBTUSD", Interval.D1)
OTHER = Series("ADAEUR", Interval.H1)


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
            "id": 1,
            "pair": "XBTUSD",
            "interval": 60,
            "location": f"/drop/{file_id}.csv",
            "line": 7,
            "text": "1,2",
            "reason": "time is not a number",
            "rows": None,
            "operation": None,
            "run_id": "one",
            "made_at": 86_400,
        }
    ]
    assert dead_letters.count(connection) == 1


def test_rows_that_are_not_kept_are_one_letter_that_counts_them(connection: sa.Connection, tmp_path: Path) -> None:
    file_id, other = enlisted(connection, "XBTUSD"), enlisted(connection, "ADAEUR")
    kept = [reject(line) for line in range(1, 1_001)]
    dead_letters.add(connection, file_id, "/drop/1.csv", kept, run_id="one", now=0, unkept=299_010)
    dead_letters.add(connection, other, "/drop/2.csv", [], run_id="one", now=0, unkept=1)
    assert dead_letters.count(connection) == 300_011
    assert dead_letters.count(connection, ["XBTUSD"]) == 300_010
    assert dead_letters.count_unkept(connection) == 299_011
    assert dead_letters.count_unkept(connection, ["ADAEUR"]) == 1
    rows = [dead_letters.as_json(row) for row in dead_letters.listed(connection, ["XBTUSD"], None)]
    assert sum(row["rows"] for row in rows) == 300_010
    assert (rows[0]["line"], rows[0]["text"]) == (None, "299,010 more rejected rows")
    assert rows[0]["reason"] == ("counted, but not kept: the dead letters of a file are its first 1,000 rejected rows")
    assert dead_letters.export(connection, ["XBTUSD"], tmp_path / "letters.csv") == 1_001
    with (tmp_path / "letters.csv").open(encoding="utf-8", newline="") as stream:
        assert sum(int(row["rows"]) for row in csv.DictReader(stream)) == 300_010
    dead_letters.forget(connection, [file_id])
    assert (dead_letters.count(connection), dead_letters.count_unkept(connection)) == (1, 1)


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


class TestReplies:
    def add(self, connection: sa.Connection, series: Series, *rejects: Reject, run_id: str = "one") -> None:
        dead_letters.add_of_reply(connection, series, f"OHLC of {series}", rejects, run_id=run_id, now=86_400)

    def texts(self, connection: sa.Connection) -> list[tuple[str, int, str, str]]:
        rows = dead_letters.listed(connection, None, None)
        return [(row["pair"], row["interval"], row["text"], row["run_id"]) for row in rows]

    def test_a_row_of_a_reply_says_of_which_series_it_was_and_has_no_line(self, connection: sa.Connection) -> None:
        self.add(connection, HOURS, reject(3, "[1, 2]"))
        assert dead_letters.listed(connection, ["XBTUSD"], None) == [
            {
                "id": 1,
                "pair": "XBTUSD",
                "interval": 60,
                "location": "OHLC of XBTUSD 60",
                "line": None,
                "text": "[1, 2]",
                "reason": "time is not a number",
                "rows": None,
                "operation": None,
                "run_id": "one",
                "made_at": 86_400,
            }
        ]
        assert dead_letters.listed(connection, ["ADAEUR"], None) == []
        assert dead_letters.operations(connection, None) == []

    def test_a_row_that_comes_again_is_not_added_again(self, connection: sa.Connection) -> None:
        self.add(connection, HOURS, reject(1, "a"), reject(2, "b"))
        self.add(connection, HOURS, reject(1, "b"), reject(2, "c"), run_id="two")
        self.add(connection, HOURS, run_id="three")
        assert self.texts(connection) == [
            ("XBTUSD", 60, "a", "one"),
            ("XBTUSD", 60, "b", "one"),
            ("XBTUSD", 60, "c", "two"),
        ]

    def test_the_same_row_of_another_series_or_for_another_reason_is_another(self, connection: sa.Connection) -> None:
        self.add(connection, HOURS, reject(1, "a"))
        for series in (DAYS, OTHER):
            self.add(connection, series, reject(1, "a"))
        self.add(connection, HOURS, Reject(1, "a", "the price is negative", None))
        assert dead_letters.count(connection) == 4
        assert dead_letters.count(connection, ["XBTUSD"]) == 3

    def test_any_text_of_a_reply_can_be_kept_and_is_known_again(self, connection: sa.Connection) -> None:
        for _ in range(2):
            self.add(connection, HOURS, reject(1, "a\x00b"))
        assert [text for _, _, text, _ in self.texts(connection)] == ["a\\x00b"]


class TestOperations:
    def give_up(self, connection: sa.Connection, series: Series, start: int, end: int, **more: Any) -> None:
        given = {"route": Route.OHLC, "error": "time-out", "run_id": "one", "now": 7, **more}
        dead_letters.give_up(connection, series, Span(start, end), **given)

    def test_an_operation_says_what_to_do_again(self, connection: sa.Connection) -> None:
        self.give_up(connection, HOURS, 0, 7_200)
        assert dead_letters.operations(connection, None) == [
            Operation(1, HOURS, Span(0, 7_200), Route.OHLC, "time-out", 7)
        ]
        (row,) = dead_letters.listed(connection, None, None)
        assert row == {
            "id": 1,
            "pair": "XBTUSD",
            "interval": 60,
            "location": "OHLC of XBTUSD 60",
            "line": None,
            "text": "1970-01-01T00:00:00Z to 1970-01-01T02:00:00Z",
            "reason": "time-out",
            "rows": None,
            "operation": {"route": "OHLC", "start": 0, "end": 7_200},
            "run_id": "one",
            "made_at": 7,
        }
        assert dead_letters.as_json(row)["operation"] == {
            "route": "OHLC",
            "start": "1970-01-01T00:00:00Z",
            "end": "1970-01-01T02:00:00Z",
        }

    def test_what_fails_again_takes_the_place_of_what_was_known(self, connection: sa.Connection) -> None:
        self.give_up(connection, HOURS, 0, 10)
        self.give_up(connection, HOURS, 20, 30)
        self.give_up(connection, HOURS, 5, 25, error="HTTP 503", run_id="two", now=8)
        (left,) = dead_letters.operations(connection, None)
        assert left == Operation(left.id, HOURS, Span(5, 25), Route.OHLC, "HTTP 503", 8)

    def test_others_stay(self, connection: sa.Connection) -> None:
        self.give_up(connection, HOURS, 0, 10)
        self.give_up(connection, HOURS, 10, 20)
        self.give_up(connection, HOURS, 0, 10, route=Route.TRADES)
        self.give_up(connection, DAYS, 0, 10)
        self.give_up(connection, OTHER, 0, 10)
        TestReplies().add(connection, HOURS, reject(1))
        self.give_up(connection, HOURS, 0, 10)
        assert [(each.id, each.series, each.route) for each in dead_letters.operations(connection, None)] == [
            (2, HOURS, Route.OHLC),
            (3, HOURS, Route.TRADES),
            (4, DAYS, Route.OHLC),
            (5, OTHER, Route.OHLC),
            (7, HOURS, Route.OHLC),
        ]
        assert [each.id for each in dead_letters.operations(connection, ["ADAEUR"])] == [5]
        assert dead_letters.operations(connection, []) == []
        assert dead_letters.count(connection) == 6

    def test_what_succeeded_after_all_is_shown_no_more(self, connection: sa.Connection) -> None:
        self.give_up(connection, HOURS, 0, 10)
        self.give_up(connection, OTHER, 0, 10)
        dead_letters.settle(connection, [1], 9)
        dead_letters.settle(connection, [], 9)
        assert [each.id for each in dead_letters.operations(connection, None)] == [2]
        assert [row["id"] for row in dead_letters.listed(connection, None, None)] == [2]
        assert dead_letters.count(connection) == 1

    def test_what_fails_after_it_succeeded_is_told_of_anew(self, connection: sa.Connection) -> None:
        self.give_up(connection, HOURS, 0, 10)
        dead_letters.settle(connection, [1], 9)
        self.give_up(connection, HOURS, 0, 10, now=11)
        assert [(each.id, each.made_at) for each in dead_letters.operations(connection, None)] == [(2, 11)]

    def test_they_come_after_the_rows_of_files(self, connection: sa.Connection) -> None:
        self.give_up(connection, HOURS, 0, 10)
        TestReplies().add(connection, HOURS, reject(0, "of a reply"))
        add(connection, enlisted(connection, "XBTUSD"), reject(5), reject(4))
        assert [row["id"] for row in dead_letters.listed(connection, None, None)] == [4, 3, 1, 2]

    def test_an_export_names_their_route(self, connection: sa.Connection, tmp_path: Path) -> None:
        self.give_up(connection, HOURS, 0, 10)
        add(connection, enlisted(connection, "ADAEUR"), reject(1))
        path = tmp_path / "letters.csv"
        assert dead_letters.export(connection, None, path) == 2
        with path.open(encoding="utf-8", newline="") as stream:
            assert [(row["pair"], row["operation"]) for row in csv.DictReader(stream)] == [
                ("ADAEUR", ""),
                ("XBTUSD", "OHLC"),
            ]
