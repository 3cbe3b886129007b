from __future__ import annotations

from pathlib import Path

import pytest

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.errors import UnreadableArchive
from kraken_pipeline.kraken import rows as rows_module
from kraken_pipeline.kraken.archive import ArchiveReader
from kraken_pipeline.kraken.discovery import discover
from kraken_pipeline.kraken.lines import MOST, Lines, find_lines
from kraken_pipeline_tests.support.samples import csv_row, write_zip

T = 1_704_067_200
HOUR = 3_600


def found(path: Path, start: int = T, length: int = HOUR) -> Lines:
    (file,) = discover([path]).files
    with ArchiveReader() as reader:
        return find_lines(file, Span(start, start + length), reader)


def told(path: Path, start: int = T, length: int = HOUR) -> list[tuple[int, str]]:
    return [(line.number, line.text) for line in found(path, start, length).first]


def test_a_candles_line_is_found_however_its_time_is_written(tmp_path: Path) -> None:
    path = tmp_path / "XBTUSD_60.csv"
    for time in (f"{T}", f"{T}.0", f" {T}"):
        path.write_text(csv_row(T - HOUR) + csv_row(time) + csv_row(T + HOUR))
        assert told(path) == [(2, csv_row(time).strip("\n"))]
    assert told(path, T + HOUR) == [(3, csv_row(T + HOUR).strip())]
    assert told(path, T + 2 * HOUR) == []


def test_what_looks_like_the_time_elsewhere_in_a_line_is_not_taken_for_it(tmp_path: Path) -> None:
    path = tmp_path / "XBTUSD_60.csv"
    path.write_text(f"{T - HOUR},{T},{T},{T},{T},{T},{T}\n1{T},1,1,1,1,1,1\n{T}1,1,1,1,1,1,1\n")
    assert told(path) == []


def test_every_line_of_a_repeated_time_is_told_also_the_last_without_a_line_feed(tmp_path: Path) -> None:
    path = tmp_path / "XBTUSD_60.csv"
    path.write_bytes(f"{T},1,1,1,1,1,1\r\n\n{T},2,2,2,2,2,2".encode())
    assert told(path) == [(1, f"{T},1,1,1,1,1,1"), (3, f"{T},2,2,2,2,2,2")]
    assert found(path).count == 2


def test_numbers_go_on_from_block_to_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 100)
    path = tmp_path / "XBTUSD_60.csv"
    path.write_text("".join(csv_row(T + hour * HOUR) for hour in range(200)))
    for hour in (0, 1, 57, 199):
        assert told(path, T + hour * HOUR) == [(hour + 1, csv_row(T + hour * HOUR).strip())]


def test_a_manifest_says_in_which_field_the_time_is(tmp_path: Path) -> None:
    manifest = '{"columns": ["open", "high", "low", "close", "volume", "trades", "timestamp"]}'
    path = write_zip(
        tmp_path / "Kraken_OHLCVT_2026Q2.zip",
        {"MANIFEST.json": manifest, "XBTUSD_60.csv": f"1,2,1,2,3,4,{T - HOUR}\n1,2,1,2,3,4,{T}\n"},
    )
    assert told(path) == [(2, f"1,2,1,2,3,4,{T}")]


def test_of_trades_those_within_the_minute_are_told_and_the_first_of_many_shown(tmp_path: Path) -> None:
    path = tmp_path / "XBTUSD.csv"
    path.write_text(f"{T - 1}.9999,5,1\n{T},5,1\n{T + 59}.99,6,1\n{T + 60},7,1\n")
    assert told(path, T, 60) == [(2, f"{T},5,1"), (3, f"{T + 59}.99,6,1")]
    header = "Price,Volume,Timestamp,Type,OrderType,Misc\n"
    path.write_text(header + "".join(f"5,1,{T + 30}.5,b,l,,{number}\n" for number in range(MOST + 5)))
    many = found(path, T, 60)
    assert (many.count, len(many.first), many.first[0].number) == (MOST + 5, MOST, 2)


def test_bytes_that_are_no_text_are_spelled_out(tmp_path: Path) -> None:
    path = tmp_path / "XBTUSD_60.csv"
    path.write_bytes(b"%d,\xff\x00\x1b[2J,1\n" % T)
    assert told(path) == [(1, f"{T},\\xff\\x00\\x1b[2J,1")]


def test_an_archive_that_is_damaged_by_now_cannot_be_read(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"XBTUSD_60.csv": csv_row(T) * 2_000})
    (file,) = discover([path]).files
    path.write_bytes(path.read_bytes()[:60])
    with ArchiveReader() as reader, pytest.raises(UnreadableArchive):
        find_lines(file, Span(T, T + HOUR), reader)
