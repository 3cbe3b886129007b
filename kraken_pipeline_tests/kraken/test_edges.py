from __future__ import annotations

from pathlib import Path

import pytest

from kraken_pipeline.kraken.archive import ArchiveFile, ArchiveReader
from kraken_pipeline.kraken.discovery import discover
from kraken_pipeline.kraken.edges import first_time, last_time, release_end
from kraken_pipeline_tests.support.samples import at, csv_row, write_zip

NOW = at("2026-12-01")
T = at("2024-01-01")
HOUR = 3600


def loose(folder: Path, content: str | bytes, name: str = "XBTUSD_60.csv") -> ArchiveFile:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return discover([path]).files[0]


def edges(file: ArchiveFile) -> tuple[int | None, int | None]:
    with ArchiveReader() as reader:
        return first_time(file, reader, NOW), last_time(file, reader, NOW)


def test_the_edges_of_a_file_are_its_first_and_its_last_time(tmp_path: Path) -> None:
    content = "".join(csv_row(T + hour * HOUR) for hour in range(5_000))
    assert edges(loose(tmp_path, content)) == (T, T + 4_999 * HOUR)
    write_zip(tmp_path / "Kraken_OHLCVT_Q1_2024.zip", {"XBTUSD_60.csv": content})
    assert edges(discover([tmp_path / "Kraken_OHLCVT_Q1_2024.zip"]).files[0]) == (T, T + 4_999 * HOUR)


def test_lines_that_have_no_believable_time_are_passed_over(tmp_path: Path) -> None:
    content = f"a word\n\n5,1\n{csv_row(T)}{csv_row(T + HOUR)}nan,1\n99999999999,1\n17040,1\nx".encode() + b"\xff\x00"
    assert edges(loose(tmp_path, content)) == (T, T + HOUR)


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x00" * 100_000, b"9" * 400 + b"\n"])
def test_a_file_without_a_time_has_no_edges(tmp_path: Path, content: bytes) -> None:
    assert edges(loose(tmp_path, content)) == (None, None)


def test_a_trades_archive_of_2026_has_its_time_in_the_third_field(tmp_path: Path) -> None:
    content = f"Price,Volume,Timestamp,Type,OrderType,Misc\n90.5,1,{T}.25,b,l,,1\n90.5,1,{T + 70}.5,b,l,,2\n"
    assert edges(loose(tmp_path, content, "XBTUSD.csv")) == (T, T + 70)


def test_rows_without_a_trade_are_no_edges_however_many_there_are(tmp_path: Path) -> None:
    quiet = "{},1,1,1,1,0,0\n"
    for count in (3, 20_000):
        before = "".join(quiet.format(T - hour * HOUR) for hour in range(count, 0, -1))
        after = "".join(quiet.format(T + hour * HOUR) for hour in range(3, count))
        content = f"{before}{csv_row(T)}{quiet.format(T + HOUR)}{csv_row(T + 2 * HOUR)}{after}"
        assert edges(loose(tmp_path, content)) == (T, T + 2 * HOUR)
        assert edges(loose(tmp_path, content.rstrip("\n"))) == (T, T + 2 * HOUR)
    assert edges(loose(tmp_path, quiet.format(T) * 3)) == (None, None)


def test_the_time_stands_where_a_header_says_so(tmp_path: Path) -> None:
    content = (
        f"open,high,low,close,volume,count,time\n1,1,1,1,0,0,{T - HOUR}\n1,1,1,1,2,3,{T}\n1,1,1,1,2,3,{T + HOUR}\n"
    )
    assert edges(loose(tmp_path, content)) == (T, T + HOUR)
    assert edges(loose(tmp_path, content.replace(str(T), f'"{T}"'))) == (T, T + HOUR)


def end_of(folder: Path, members: dict[str, str], nominal: int | None) -> int | None:
    write_zip(folder / "Kraken_OHLCVT_Q1_2024.zip", members)
    with ArchiveReader() as reader:
        files = discover([folder]).files
        alone, together = (release_end(files, reader, NOW, nominal, threads=threads) for threads in (1, 3))
    assert alone == together
    return alone


def test_a_release_ends_with_the_latest_candle_of_its_finest_interval(tmp_path: Path) -> None:
    members = {
        "XBTUSD_1.csv": csv_row(T),
        "ADAUSD_1.csv": csv_row(T) + csv_row(T + 23 * HOUR),
        "ADAUSD_1440.csv": csv_row(T),
    }
    assert end_of(tmp_path, members, at("2024-04-01")) == T + 23 * HOUR + 60
    assert end_of(tmp_path, members, None) == T + 23 * HOUR + 60


def test_a_release_never_ends_after_its_name_says(tmp_path: Path) -> None:
    assert end_of(tmp_path, {"XBTUSD_1.csv": csv_row(at("2024-04-02"))}, at("2024-04-01")) == at("2024-04-01")


def test_a_release_without_a_candle_has_no_end(tmp_path: Path) -> None:
    assert end_of(tmp_path, {"XBTUSD_1.csv": "", "ADAUSD_1.csv": "x\n"}, at("2024-04-01")) is None
    assert end_of(tmp_path, {"notes.txt": "x"}, at("2024-04-01")) is None


def test_a_damaged_member_is_left_out_of_the_judgement(tmp_path: Path) -> None:
    members = {"ADAUSD_1.csv": csv_row(T + 60) * 5_000, "XBTUSD_1.csv": csv_row(T)}
    path = write_zip(tmp_path / "Kraken_OHLCVT_Q1_2024.zip", members)
    content = bytearray(path.read_bytes())
    for offset in range(60, 70):
        content[offset] ^= 0xFF
    path.write_bytes(content)
    with ArchiveReader() as reader:
        assert release_end(discover([tmp_path]).files, reader, NOW, at("2024-04-01"), threads=1) == T + 60
