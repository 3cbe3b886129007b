from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
from pathlib import Path

import polars as pl
import pytest

from kraken_pipeline.demo.archives import (
    COLUMNS,
    PARTS_SUMS,
    SIX_NAMES,
    candles_name,
    trades_name,
    write_complete_zip,
    write_csv,
    write_full_parts,
    write_quarterly_trades_zip,
    write_quarterly_zip,
    write_trades_csv,
    write_trades_zip,
)
from kraken_pipeline.demo.listing import DAY, demo_listings
from kraken_pipeline.demo.world import SECOND_NS, World
from kraken_pipeline.market.candle import seconds_of
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.quarter import Quarter

pytestmark = pytest.mark.slow

Q1, Q2 = Quarter(2026, 1), Quarter(2026, 2)
START = Q1.end - 12 * DAY
NOW = Q2.end + 5 * DAY + 4_321
INTERVALS = (Interval.H1, Interval.H12, Interval.D1)
PAIRS = ("XBTUSD", "XDGUSD")


@pytest.fixture(scope="module")
def world() -> World:
    return World(11, demo_listings(START), NOW)


def numbers(content: bytes) -> list[tuple[float, ...]]:
    """The rows of a file of candles as floats."""
    return [tuple(map(float, row)) for row in csv.reader(io.StringIO(content.decode("ascii"), newline=""))]


def oracle(world: World, pair: str, interval: Interval, start: int, end: int) -> list[tuple[float, ...]]:
    """What such a file should hold."""
    return world.candles(pair, interval, start, end).with_columns(seconds_of(pl.col("time"))).rows()


@pytest.mark.parametrize("interval", [interval for interval in Interval if interval.in_archives])
def test_a_loose_file_equals_the_oracle_row_by_row(tmp_path: Path, world: World, interval: Interval) -> None:
    start, end = Q1.end - 5 * DAY, Q1.end + 5 * DAY
    path = write_csv(tmp_path, world, "XDGUSD", interval, start=start, end=end)
    assert path == tmp_path / f"XDGUSD_{interval}.csv"
    assert numbers(path.read_bytes()) == oracle(world, "XDGUSD", interval, start, end)


def test_rows_are_plain_decimals_without_a_header_and_lines_end_as_on_unix(tmp_path: Path, world: World) -> None:
    path = write_csv(tmp_path, world, "XBTUSD", Interval.M1, start=START, end=START + DAY)
    lines = path.read_bytes().decode("ascii")
    assert lines.endswith("\n")
    assert "\r" not in lines
    for line in lines.splitlines():
        time, *decimals, count = line.split(",")
        assert time.isdigit()
        assert count.isdigit()
        assert all(number.replace(".", "", 1).isdigit() and "." in number for number in decimals)
        assert not any(number.endswith("0") and not number.endswith(".0") for number in decimals)


def test_an_archive_is_sparse(tmp_path: Path, world: World) -> None:
    path = write_csv(tmp_path, world, "AAPLxUSD", Interval.H1, start=START, end=NOW)
    hours = len(numbers(path.read_bytes()))
    assert 0 < hours < (NOW - world.listing("AAPLxUSD").first_trade) // 3_600


def test_an_archive_knows_nothing_after_the_present(tmp_path: Path, world: World) -> None:
    path = write_csv(tmp_path, world, "XBTUSD", Interval.D1, start=Q2.end, end=NOW + 9 * DAY)
    *whole, last = numbers(path.read_bytes())
    assert whole == oracle(world, "XBTUSD", Interval.D1, Q2.end, NOW - DAY)
    until_now = world.trades("XBTUSD", NOW // DAY * DAY * SECOND_NS, NOW * SECOND_NS)
    assert (last[0], last[-1]) == (NOW // DAY * DAY, until_now.height)


def test_a_quarterly_archive_has_its_files_at_the_root_and_equals_the_oracle(tmp_path: Path, world: World) -> None:
    path = write_quarterly_zip(tmp_path, world, Q1, INTERVALS)
    assert path.name == "Kraken_OHLCVT_Q1_2026.zip"
    with zipfile.ZipFile(path) as archive:
        pairs = [pair for pair in world.listings if world.listing(pair).first_trade < Q1.end]
        assert archive.namelist() == [f"{pair}_{interval}.csv" for pair in pairs for interval in INTERVALS]
        for pair in pairs:
            for interval in INTERVALS:
                content = numbers(archive.read(f"{pair}_{interval}.csv"))
                assert content == oracle(world, pair, interval, Q1.start, Q1.end)


def test_a_pair_that_did_not_trade_in_the_quarter_has_no_file(tmp_path: Path, world: World) -> None:
    assert world.listing("AAPLxUSD").first_trade > Q1.end
    with zipfile.ZipFile(write_quarterly_zip(tmp_path, world, Q1, INTERVALS)) as archive:
        assert not any("AAPLx" in name for name in archive.namelist())


def test_a_release_that_was_cut_knows_no_trade_from_then_on(tmp_path: Path, world: World) -> None:
    cut = Q1.end - 3_600
    path = write_quarterly_zip(tmp_path, world, Q1, [Interval.H1, Interval.D1], pairs=["XBTUSD"], cut=cut)
    with zipfile.ZipFile(path) as archive:
        assert numbers(archive.read("XBTUSD_60.csv")) == oracle(world, "XBTUSD", Interval.H1, START, cut)
        last_day = numbers(archive.read("XBTUSD_1440.csv"))[-1]
    known = world.trades("XBTUSD", (Q1.end - DAY) * SECOND_NS, cut * SECOND_NS)
    assert last_day[0] == Q1.end - DAY
    assert last_day[4] == known["price"][-1]
    assert last_day[-1] == known.height < oracle(world, "XBTUSD", Interval.D1, Q1.end - DAY, Q1.end)[0][-1]


def test_the_complete_archive_lies_in_a_folder_among_litter_and_a_stray(tmp_path: Path, world: World) -> None:
    path = write_complete_zip(tmp_path, world, Q2.end, INTERVALS, pairs=PAIRS)
    assert path.name == "Kraken_OHLCVT.zip"
    files = [f"{pair}_{interval}.csv" for pair in PAIRS for interval in INTERVALS]
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == sorted(
            [
                *(f"master_q4/{name}" for name in files),
                *(f"__MACOSX/master_q4/._{name}" for name in files),
                "master_q4/BTCUSD_Daily_OHLC.csv",
            ]
        )
        assert archive.read("master_q4/BTCUSD_Daily_OHLC.csv").startswith(b"Date,Open,High,Low,Close\n")
        for pair in PAIRS:
            for interval in INTERVALS:
                content = numbers(archive.read(f"master_q4/{pair}_{interval}.csv"))
                assert content == oracle(world, pair, interval, START, Q2.end)


def test_a_release_of_the_new_form_describes_itself_and_its_sums_verify(tmp_path: Path, world: World) -> None:
    path = write_quarterly_zip(tmp_path, world, Q2, INTERVALS)
    assert path.name == "Kraken_OHLCVT_2026Q2.zip"
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("MANIFEST.json"))
        contents = {name: archive.read(name) for name in archive.namelist() if name.endswith(".csv")}
        sums = archive.read("SHA256SUMS").decode().splitlines()
    assert manifest == {
        "product": "ohlcvt",
        "schema_version": 1,
        "release": "r1",
        "columns": list(COLUMNS),
        "has_header": False,
        "coverage": {"start": "2026-04-01", "end": "2026-06-30"},
        "pairs": 5,
        "files": 15,
        "rows": sum(len(numbers(content)) for content in contents.values()),
        "generated": "2026-08-17",
    }
    assert sums == [f"{hashlib.sha256(content).hexdigest()}  {name}" for name, content in contents.items()]
    assert numbers(contents["AAPLxUSD_60.csv"]) == oracle(world, "AAPLxUSD", Interval.H1, Q2.start, Q2.end)


def test_the_parts_of_the_full_release_join_to_a_zip_and_their_sums_verify(tmp_path: Path, world: World) -> None:
    parts = write_full_parts(tmp_path, world, Q2, INTERVALS, part_bytes=50_000, pairs=PAIRS)
    assert [part.name for part in parts[:2]] == [
        "Kraken_OHLCVT_Full_2026Q2.zip.part00",
        "Kraken_OHLCVT_Full_2026Q2.zip.part01",
    ]
    for line, part in zip((tmp_path / PARTS_SUMS).read_text().splitlines(), parts, strict=True):
        assert line == f"{hashlib.sha256(part.read_bytes()).hexdigest()}  {part.name}"
    with zipfile.ZipFile(io.BytesIO(b"".join(part.read_bytes() for part in parts))) as archive:
        assert archive.testzip() is None
        assert json.loads(archive.read("MANIFEST.json"))["coverage"] == {"start": "2026-03-20", "end": "2026-06-30"}
        content = numbers(archive.read("XDGUSD_60.csv"))
    assert content == oracle(world, "XDGUSD", Interval.H1, START, Q2.end)


def test_trades_have_three_fields_and_equal_ones_are_all_there(tmp_path: Path, world: World) -> None:
    path = write_trades_csv(tmp_path, world, "XDGUSD", START, Q1.end)
    assert path == tmp_path / "TimeAndSales_Combined" / "XDGUSD.csv"
    lines = path.read_text().splitlines()
    trades = world.trades("XDGUSD", START * SECOND_NS, Q1.end * SECOND_NS)
    fields = [line.split(",") for line in lines]
    assert [int(time) for time, _, _ in fields] == (trades["time"] // SECOND_NS).to_list()
    assert [float(price) for _, price, _ in fields] == trades["price"].to_list()
    assert [float(volume) for _, _, volume in fields] == trades["volume"].to_list()
    assert {(price[-8], volume[-9]) for _, price, volume in fields} == {(".", ".")}
    assert len(set(lines)) < len(lines)


def test_the_complete_trades_archive_holds_all_pairs_that_traded(tmp_path: Path, world: World) -> None:
    path = write_trades_zip(tmp_path, world, Q1.end)
    assert path.name == "Kraken_Trading_History.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [
            f"TimeAndSales_Combined/{pair}.csv" for pair in ("XBTUSD", "ETHUSD", "XDGUSD", "ADAEUR")
        ]
        first = archive.read("TimeAndSales_Combined/XBTUSD.csv").split(b",", 1)[0]
    assert int(first) == START


def test_quarterly_trades_have_seven_fields_under_six_names_from_2026_on(tmp_path: Path, world: World) -> None:
    path = write_quarterly_trades_zip(tmp_path, world, Q1, pairs=PAIRS)
    assert path.name == "Kraken_Trading_History_Q1_2026.zip"
    with zipfile.ZipFile(path) as archive:
        header, *lines = archive.read("XBTUSD.csv").decode().splitlines()
    assert header == SIX_NAMES
    assert len(header.split(",")) == 6
    trades = world.trades("XBTUSD", Q1.start * SECOND_NS, Q1.end * SECOND_NS)
    fields = [line.split(",") for line in lines]
    assert [int(row[6]) for row in fields] == trades["id"].to_list()
    assert [float(row[0]) for row in fields] == trades["price"].to_list()
    assert [row[3] + row[4] for row in fields] == (trades["side"] + trades["order_type"]).to_list()
    assert {len(row) for row in fields} == {7}


def test_quarterly_trades_of_older_years_have_three_fields(tmp_path: Path) -> None:
    quarter = Quarter(2025, 4)
    world = World(11, demo_listings(quarter.end - 2 * DAY), quarter.end)
    with zipfile.ZipFile(write_quarterly_trades_zip(tmp_path, world, quarter, pairs=["XBTUSD"])) as archive:
        assert {line.count(b",") for line in archive.read("XBTUSD.csv").splitlines()} == {2}


def test_the_same_world_gives_the_same_bytes(tmp_path: Path, world: World) -> None:
    again = World(11, demo_listings(START), NOW)
    one = write_quarterly_zip(tmp_path / "one", world, Q2, INTERVALS)
    other = write_quarterly_zip(tmp_path / "other", again, Q2, INTERVALS)
    assert one.read_bytes() == other.read_bytes()


def test_quarters_follow_each_other_and_are_named_as_in_their_time() -> None:
    assert Quarter.of(Q2.start) == Quarter.of(Q2.end - 1) == Q2
    assert Q1.previous == Quarter(2025, 4)
    assert Quarter(2025, 4).end == Q1.start
    assert candles_name(Quarter(2023, 2)) == "Kraken_OHLCVT_Q2_2023.zip"
    assert trades_name(Quarter(2025, 4)) == "Kraken_Trading_History_Q4_2025.zip"
