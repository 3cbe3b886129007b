"""Files that are made to exhaust memory: what is read of them, what they do not answer for, and what it takes."""

from __future__ import annotations

import bz2
import io
import lzma
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.coverage.ranges import Span, coarsened, subtract
from kraken_pipeline.errors import UnreadableArchive
from kraken_pipeline.kraken import discovery, ohlcvt, packing, rows
from kraken_pipeline.kraken.archive import ArchiveReader
from kraken_pipeline.kraken.discovery import Discovery, discover
from kraken_pipeline.kraken.edges import first_time, last_time
from kraken_pipeline.kraken.manifest import parse_manifest
from kraken_pipeline.kraken.ohlcvt import CandleReader, OutOfOrder
from kraken_pipeline.kraken.packing import UnpackedLimits
from kraken_pipeline.kraken.rows import Facts, Reject
from kraken_pipeline.kraken.time_and_sales import TradesReader
from kraken_pipeline.market.interval import Interval
from kraken_pipeline_tests.support.samples import at, csv_row

T = at("2023-04-01")
NOW = at("2024-01-01")
HOUR = 3_600
LONG = "the line is longer than 4,096 bytes"


class Repeated(io.RawIOBase):
    """A stream of a piece again and again, between a beginning and an end, which nobody has to hold in memory."""

    def __init__(self, begin: bytes, piece: bytes, times: int, end: bytes = b"") -> None:
        self._pieces = self._all(begin, piece, times, end)
        self._left = b""

    @staticmethod
    def _all(begin: bytes, piece: bytes, times: int, end: bytes) -> Iterator[bytes]:
        yield begin
        for _ in range(times):
            yield piece
        yield end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left and (piece := next(self._pieces, None)) is not None:
            self._left = piece
        read, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(read)] = read
        return len(read)


def read(stream: io.RawIOBase, *, is_trades: bool = False, sort_in: Path | None = None) -> tuple[list[Reject], Facts]:
    reader = (
        TradesReader(io.BufferedReader(stream), NOW, edges_are_whole=True)
        if is_trades
        else CandleReader(io.BufferedReader(stream), Interval.H1, NOW, sort_in=sort_in)
    )
    return [reject for block in reader.blocks() for reject in block.rejects], reader.facts


def rows_of(hours: Iterable[int]) -> bytes:
    return "".join(csv_row(T + hour * HOUR) for hour in hours).encode()


# --- lines


@pytest.mark.parametrize("length", [4_097, 5_000, 3 << 20])
def test_a_line_that_is_too_long_is_rejected_and_nothing_is_covered_where_it_stands(length: int) -> None:
    before, after = rows_of(range(3)), rows_of(range(10, 13))
    rejects, facts = read(io.BytesIO(before + b"1" * length + b"\n" + after))  # type: ignore[arg-type]
    assert rejects == [Reject(4, "1" * 500, LONG, None)]
    assert (facts.rows, facts.lines) == (6, 7)
    assert facts.unanswered == (Span(T + 3 * HOUR, T + 10 * HOUR),)


def test_a_line_of_the_greatest_length_is_read() -> None:
    row = csv_row(T).rstrip("\n")
    padded = row + "0" * (4_096 - len(row))  # the trade count is the last field
    assert len(padded) == 4_096
    rejects, _ = read(io.BytesIO(f"{padded}\n".encode() + rows_of([1])))  # type: ignore[arg-type]
    assert not any(reject.reason == LONG for reject in rejects)


@pytest.mark.parametrize("quote", [b"", b'"'])
def test_a_long_line_is_never_read_as_the_row_that_its_beginning_looks_like(
    quote: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "BLOCK_BYTES", 600)
    first = b",".join(quote + field.encode() + quote for field in csv_row(T).strip().split(","))
    row = csv_row(T + HOUR).strip().encode()
    long = row + b" " * 4_000 + (quote or b" ") * 4_000 + b"\n"
    rejects, facts = read(io.BytesIO(first + b"\n" + long + rows_of([2])))  # type: ignore[arg-type]
    assert [(reject.line, reject.reason) for reject in rejects] == [(2, LONG)]
    assert (facts.rows, facts.unanswered) == (2, (Span(T + HOUR, T + 2 * HOUR),))


def test_the_sum_and_the_lines_of_a_file_with_long_lines_are_those_of_all_its_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows, "BLOCK_BYTES", 1_000)
    data = rows_of([0]) + b"x" * 9_000 + b"\n" + rows_of([1]) + b"y" * 20_000 + b"\n" + rows_of([2]) + b"z" * 7_000
    digest = rows.StreamDigest()
    blocks = b"".join(rows.line_blocks(io.BytesIO(data), digest))
    assert blocks.count(b"\n") == 6
    assert (digest.size, len(digest.hexdigest())) == (len(data), 64)
    assert max(map(len, blocks.split(b"\n"))) <= 1_000 + rows.LINE_BYTES + 1


PIECE = 1 << 20
BOMBS = {
    "no line feed": (b"12," * (PIECE // 3), b""),
    "zeros": (b"\0" * PIECE, b""),
    "a line feed at the end": (b"1" * PIECE, b"\n"),
    "lines of 5 KiB": ((b"1," * 2_560 + b"\n") * 200, b""),
    "empty lines": (b"\n" * PIECE, b""),
    "short lines": (b"x\n" * (PIECE // 2), b""),
    "rows that break a rule": (b"1,2,3\n" * (PIECE // 6), b""),
    "line feeds in quotation marks": (b'"1\n2",3\n' * (PIECE // 8), b""),
}


@pytest.mark.slow
@pytest.mark.parametrize("is_trades", [False, True], ids=["candles", "trades"])
@pytest.mark.parametrize("bomb", list(BOMBS))
def test_no_content_takes_more_memory_than_some_blocks(
    bomb: str, is_trades: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MOST_REJECTS", 50_000)  # to trace memory is slow
    monkeypatch.setattr(rows, "_SLICE_LINES", 1 << 14)
    monkeypatch.setattr(rows, "BLOCK_BYTES", 4 << 20)
    piece, end = BOMBS[bomb]
    begin = f"{T},1,1\n".encode() if is_trades else rows_of(range(3))
    stream = io.BufferedReader(Repeated(begin, piece, 24, end))
    reader = TradesReader(stream, NOW, edges_are_whole=True) if is_trades else CandleReader(stream, Interval.H1, NOW)
    refused = ""
    tracemalloc.start()
    try:
        for block in reader.blocks():
            assert len(block.rejects) < rows.REJECTS_TOGETHER + rows._SLICE_LINES
    except UnreadableArchive as error:
        refused = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert reader.facts.rejected
    assert bool(refused) == (reader.facts.rejected > 50_000)
    assert not refused or " lines were rejected, so nothing of it is stored; see its dead letters" in refused
    assert refused or not subtract((Span(T + 3 * HOUR, T + 4 * HOUR),), reader.facts.unanswered)
    assert peak < 80 << 20  # of Python's memory; that of Polars is bounded by the pieces that it is given


def test_a_file_is_refused_once_most_of_very_many_rows_were_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MOST_REJECTS", 10)
    with pytest.raises(UnreadableArchive, match=r"11 of its first 14 lines were rejected"):
        read(io.BytesIO(rows_of(range(3)) + b"x\n" * 11))  # type: ignore[arg-type]
    rejects, _ = read(io.BytesIO(rows_of(range(30)) + b"x\n" * 11))  # type: ignore[arg-type]
    assert len(rejects) == 11


def test_rejected_rows_come_in_pieces_that_together_are_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"".join(rows_of([hour]) + b"x\n" for hour in range(50)) + b"\n" * 30
    whole = read(io.BytesIO(data))  # type: ignore[arg-type]
    monkeypatch.setattr(rows, "REJECTS_TOGETHER", 3)
    monkeypatch.setattr(rows, "_SLICE_BYTES", 200)
    monkeypatch.setattr(rows, "_SLICE_LINES", 2)
    assert read(io.BytesIO(data)) == whole  # type: ignore[arg-type]
    assert len(whole[0]) == 80


def test_trades_that_run_backwards_come_in_pieces_that_together_are_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = [f"{T + 60 * (index if index % 3 else -index)},1,1" for index in range(1, 60)] + ["x"] * 5
    data = "".join(f"{line}\n" for line in lines).encode()
    whole = read(io.BytesIO(data), is_trades=True)  # type: ignore[arg-type]
    monkeypatch.setattr("kraken_pipeline.kraken.time_and_sales.REJECTS_TOGETHER", 4)
    assert read(io.BytesIO(data), is_trades=True) == whole  # type: ignore[arg-type]
    assert [reject.line for reject in whole[0]] == sorted(reject.line for reject in whole[0])


def test_spans_beyond_the_most_are_joined_where_they_are_nearest() -> None:
    spans = (Span(0, 1), Span(2, 3), Span(10, 11), Span(12, 13), Span(100, 101))
    assert coarsened(spans, 5) == spans
    assert coarsened(spans, 3) == (Span(0, 3), Span(10, 13), Span(100, 101))
    assert coarsened(spans, 1) == (Span(0, 101),)


def test_a_file_with_very_many_spans_without_an_answer_answers_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"".join(rows_of([hour]) if hour % 2 else b"%d,1,2,9,1,10,3\n" % (T + hour * HOUR) for hour in range(40))
    data += rows_of(range(40, 100))
    _, exact = read(io.BytesIO(data))  # type: ignore[arg-type]
    monkeypatch.setattr(rows, "MOST_SPANS", 6)
    _, facts = read(io.BytesIO(data))  # type: ignore[arg-type]
    assert len(exact.unanswered) == 20
    assert len(facts.unanswered) <= 6
    assert not subtract(exact.unanswered, facts.unanswered)
    assert not any(found.overlaps(Span(T + 40 * HOUR, T + 99 * HOUR)) for found in facts.unanswered)


# --- files out of order


def test_a_file_out_of_order_with_too_many_rows_of_a_year_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ohlcvt, "MOST_OF_YEAR", 50)
    data = rows_of(range(40)) * 2
    with pytest.raises(OutOfOrder):
        read(io.BytesIO(data))  # type: ignore[arg-type]
    with pytest.raises(UnreadableArchive, match=r"out of order, and more than 50 of them are in 2023"):
        read(io.BytesIO(data), sort_in=tmp_path)  # type: ignore[arg-type]
    monkeypatch.setattr(ohlcvt, "MOST_OF_YEAR", 100)
    monkeypatch.setattr(ohlcvt, "MOST_UNPLACED", 3)
    with pytest.raises(UnreadableArchive, match=r"out of order, and more than 3 of them were rejected"):
        read(io.BytesIO(data + b"x\n" * 4), sort_in=tmp_path)  # type: ignore[arg-type]


def test_a_file_that_contradicts_itself_about_too_many_candles_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = rows_of(range(0, 40, 2)) + "".join(csv_row(T + hour * HOUR, trades=99) for hour in range(0, 40, 2)).encode()
    _, facts = read(io.BytesIO(data), sort_in=tmp_path)  # type: ignore[arg-type]
    assert len(facts.contradicted) == 20
    monkeypatch.setattr(ohlcvt, "MOST_SPANS", 10)
    with pytest.raises(UnreadableArchive, match="contradicts itself about more than 10 candles"):
        read(io.BytesIO(data), sort_in=tmp_path)  # type: ignore[arg-type]


# --- archives

ROWS = rows_of(range(3)).decode()


def packed(members: Iterable[tuple[str, bytes, bytes, int]], sizes: dict[str, int] | None = None) -> bytes:
    """A ZIP of members as name, content, packed content and method; `sizes` are lies about the size of the content."""
    out, directory = io.BytesIO(), b""
    names = list(members)
    for name, content, data, method in names:
        place, size = out.tell(), (sizes or {}).get(name, len(content))
        fields = (method, 0, 0x21, zlib.crc32(content[:size]), len(data), size, len(name), 0)
        out.write(struct.pack("<4sHHHHHLLLHH", b"PK\3\4", 63, 0, *fields) + name.encode() + data)
        entry = struct.pack("<4sHHHHHHLLLHHHHHLL", b"PK\1\2", 63, 63, 0, *fields, 0, 0, 0, 0, place)
        directory += entry + name.encode()
    start = out.tell()
    count = len(names)
    out.write(directory + struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, count, count, len(directory), start, 0))
    return out.getvalue()


def lzma_of(content: bytes, dictionary: int = 1 << 16) -> bytes:
    coder = {"id": lzma.FILTER_LZMA1, "dict_size": dictionary, "lc": 3, "lp": 0, "pb": 2}
    return struct.pack("<BBHBI", 9, 4, 5, 93, dictionary) + lzma.compress(content, lzma.FORMAT_RAW, filters=[coder])


def contents(found: Discovery) -> dict[str, bytes | str]:
    told: dict[str, bytes | str] = {}
    with ArchiveReader() as reader:
        for file in found.files:
            try:
                with reader.open(file) as stream:
                    told[file.name] = stream.read()
            except UnreadableArchive as error:
                told[file.name] = str(error)
    return told


def reasons(found: Discovery) -> dict[str, str]:
    return {skipped.name: skipped.reason for skipped in found.broken}


@pytest.mark.parametrize(("method", "pack"), [(12, bz2.compress), (14, lzma_of)], ids=["bzip2", "LZMA"])
def test_a_member_that_lies_about_its_size_is_not_unpacked_beyond_it(tmp_path: Path, method: int, pack: object) -> None:
    bomb = b"\0" * (48 << 20)
    data = pack(bomb)  # type: ignore[operator]
    members = [("XBTUSD_60.csv", bomb, data, method), ("ADAUSD_60.csv", ROWS.encode(), ROWS.encode(), 0)]
    (tmp_path / "x.zip").write_bytes(packed(members, {"XBTUSD_60.csv": 1_000}))
    tracemalloc.start()
    told = contents(discover([tmp_path]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert told == {"x.zip:XBTUSD_60.csv": b"\0" * 1_000, "x.zip:ADAUSD_60.csv": ROWS.encode()}
    assert peak < 16 << 20


@pytest.mark.parametrize(("method", "pack"), [(12, bz2.compress), (14, lzma_of)], ids=["bzip2", "LZMA"])
def test_members_in_bzip2_and_lzma_are_read_and_checked(tmp_path: Path, method: int, pack: object) -> None:
    content = rows_of(range(5_000))
    data = pack(content)  # type: ignore[operator]
    zlibs = {12: zipfile.ZIP_BZIP2, 14: zipfile.ZIP_LZMA}
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zlibs[method]) as archive:
        archive.writestr("ADAUSD_60.csv", content)
        archive.writestr("EMPTYUSD_60.csv", b"")
    members = [
        ("XBTUSD_60.csv", content, data, method),
        ("CUTUSD_60.csv", content, data[: len(data) // 2], method),
        ("BADUSD_60.csv", content[::-1], data, method),
    ]
    (tmp_path / "b.zip").write_bytes(packed(members))
    told = contents(discover([tmp_path]))
    assert told["a.zip:ADAUSD_60.csv"] == told["b.zip:XBTUSD_60.csv"] == content
    assert told["a.zip:EMPTYUSD_60.csv"] == b""
    assert "CUTUSD_60.csv cannot be read (it ends" in str(told["b.zip:CUTUSD_60.csv"])
    assert "BADUSD_60.csv cannot be read (Bad CRC-32" in str(told["b.zip:BADUSD_60.csv"])


def test_a_dictionary_that_does_not_fit_into_memory_is_not_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_DICTIONARY_BYTES", 1 << 16)
    small, large = rows_of(range(100)), rows_of(range(3_000))
    members = [
        ("XBTUSD_60.csv", large, lzma_of(large, 1 << 20), 14),
        ("ADAUSD_60.csv", small, lzma_of(small, 1 << 30), 14),
    ]
    (tmp_path / "x.zip").write_bytes(packed(members))
    told = contents(discover([tmp_path]))
    assert "a dictionary of" in str(told["x.zip:XBTUSD_60.csv"])
    assert told["x.zip:ADAUSD_60.csv"] == small, "no dictionary is larger than what is unpacked"


def test_a_directory_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for number in range(100):
            archive.writestr(f"N{number:03}USD_60.csv", ROWS)
    (tmp_path / "y.zip").write_bytes(packed([("y/x.zip", b"", (tmp_path / "x.zip").read_bytes(), 0)]))
    assert len(discover([tmp_path / "x.zip"]).files) == 100
    monkeypatch.setattr(packing, "DIRECTORY_BYTES", 4_000)
    assert reasons(discover([tmp_path / "x.zip"]))["x.zip"].startswith("its directory has more than 4,000 bytes")


def test_the_files_of_a_zip_and_of_those_in_it_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = packed([(f"N{number}USD_60.csv", b"x", b"x", 0) for number in range(6)])
    members = [(f"{number}.zip", inner, inner, 0) for number in range(3)]
    (tmp_path / "all.zip").write_bytes(packed(members))
    monkeypatch.setattr(discovery, "MOST_MEMBERS", 13)
    found = discover([tmp_path])
    assert len(found.files) == 12
    assert reasons(found)["2.zip"].startswith("it and the ZIPs beside it have more than 13 files")


def test_files_of_one_name_are_none_of_them_read(tmp_path: Path) -> None:
    other = ROWS.replace(",1\n", ",2\n").encode()
    twice = [("XBTUSD_60.csv", ROWS.encode(), ROWS.encode(), 0), ("XBTUSD_60.csv", other, other, 0)]
    members = [*twice, ("ADAUSD_60.csv", ROWS.encode(), ROWS.encode(), 0)]
    (tmp_path / "x.zip").write_bytes(packed(members))
    found = discover([tmp_path])
    assert [file.name for file in found.files] == ["x.zip:ADAUSD_60.csv"]
    assert reasons(found) == {
        "x.zip:XBTUSD_60.csv": "the archive has 2 files named XBTUSD_60.csv, of which only one could be read; "
        "download it again"
    }


def test_long_names_are_cut_and_not_stored(tmp_path: Path) -> None:
    names = ["A" * 30_000 + "USD_60.csv", "a/" * 10_000 + "XBTUSD_60.csv", "\x01" * 300 + "/XBTUSD_60.csv"]
    members = [(name, ROWS.encode(), ROWS.encode(), 0) for name in [*names, "ADAUSD_60.csv"]]
    (tmp_path / "x.zip").write_bytes(packed(members))
    found = discover([tmp_path])
    assert [file.name for file in found.files] == ["x.zip:ADAUSD_60.csv"]
    told = [*found.broken, *found.skipped]
    assert len(told) == 3
    assert all(len(skipped.name) <= 500 and len(skipped.reason) <= 2_000 for skipped in told)
    assert any("20,013 characters; unpack it under a shorter one" in skipped.reason for skipped in found.broken)


def test_very_many_members_that_cannot_be_read_are_named_up_to_a_thousand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "_MOST_FAULTS", 5)
    members = [(f"N{number}USD_60.csv", b"x", b"x", 97) for number in range(20)]
    (tmp_path / "x.zip").write_bytes(packed([*members, ("ADAUSD_60.csv", b"x", b"x", 0)]))
    found = discover([tmp_path])
    assert len(found.broken) == 6
    assert found.broken[-1].reason.startswith("15 more of its files cannot be read either; the first of them: it is")


def test_the_limits_of_unpacking_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "FREE_BYTES", 1_000)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("XBTUSD_60.csv", b"\0" * 100_000)
        archive.writestr("ADAUSD_60.csv", ROWS)
    for limits, setting in [
        (UnpackedLimits(1 << 30, 20), "KRAKEN_UNPACKED_RATIO"),
        (UnpackedLimits(50_000, 2_000), "KRAKEN_UNPACKED_GIB"),
    ]:
        found = discover([tmp_path], limits=limits)
        assert [file.name for file in found.files] == ["x.zip:ADAUSD_60.csv"]
        assert setting in reasons(found)["x.zip:XBTUSD_60.csv"]
    assert len(discover([tmp_path], limits=UnpackedLimits(1 << 30, 2_000)).files) == 2


def test_a_manifest_that_is_too_large_is_not_parsed() -> None:
    with pytest.raises(UnreadableArchive, match=r"its MANIFEST\.json has more than 8,388,608 bytes"):
        parse_manifest(io.BytesIO(b"[" * (9 << 20)), "Kraken_OHLCVT_Q2_2023.zip")


def test_the_edges_of_a_file_without_line_feeds_take_no_memory_and_are_none(tmp_path: Path) -> None:
    quiet = "".join(f"{T + hour * HOUR},1,1,1,1,0,0\n" for hour in range(3_000))
    members = {"XBTUSD_60.csv": f"{T}," * (2 << 20) + "\n" + quiet, "ADAUSD_60.csv": quiet + f"{T}," * (2 << 20)}
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    found = discover([tmp_path], limits=UnpackedLimits(1 << 30, 1_100))
    tracemalloc.start()
    with ArchiveReader() as reader:
        edges = [(first_time(file, reader, NOW), last_time(file, reader, NOW)) for file in found.files]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert edges == [(None, None)] * 2
    assert peak < 24 << 20
