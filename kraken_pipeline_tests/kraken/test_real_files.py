"""Kraken's own files, as published; none of them is part of the project."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from kraken_pipeline.kraken.discovery import discover
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.market.candle import time_from_seconds
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.resample import resample
from kraken_pipeline_tests.kraken.reading import BLOCK_SIZES, Reading, read_candles, read_trades
from kraken_pipeline_tests.support.samples import real_file

pytestmark = pytest.mark.real_files

CANDLES = [
    ("STORJUSD_60.csv", Interval.H1, 1_508),
    ("ADAUSD_1440.csv", Interval.D1, 916),
    ("XBTCAD_720.csv", Interval.H12, 6_937),
    ("XBTCAD_1440.csv", Interval.D1, 3_509),
]


def values(path: Path) -> list[tuple[float, ...]]:
    """A file's rows, as Python reads them."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [tuple(float(field) for field in row) for row in csv.reader(stream)]


def as_frame(reading: Reading) -> pl.DataFrame:
    names = ("time", "open", "high", "low", "close", "volume", "trade_count")
    frame = pl.DataFrame(reading.candles, schema=names, orient="row")
    return frame.with_columns(time_from_seconds(pl.col("time").cast(pl.Int64)), pl.col("trade_count").cast(pl.Int32))


@pytest.mark.parametrize(("name", "interval", "rows"), CANDLES)
def test_every_value_of_a_published_file_becomes_a_candle(name: str, interval: Interval, rows: int) -> None:
    path = real_file(name)
    reading = read_candles(path.read_bytes(), interval)
    assert len(reading.candles) == rows
    assert reading.candles == values(path)
    assert reading.rejects == []
    assert reading.facts.unanswered == ()


def test_small_blocks_give_the_same_candles() -> None:
    data = real_file("STORJUSD_60.csv").read_bytes()
    assert read_candles(data, block_bytes=1_000).candles == read_candles(data).candles


def test_twelve_hours_of_xbtcad_resample_to_its_days() -> None:
    halves = read_candles(real_file("XBTCAD_720.csv").read_bytes(), Interval.H12)
    days = read_candles(real_file("XBTCAD_1440.csv").read_bytes(), Interval.D1)
    made, published = resample(as_frame(halves), Interval.D1), as_frame(days)
    exact = ["time", "open", "high", "low", "close", "trade_count"]
    assert made[exact].equals(published[exact])
    assert (made["volume"] - published["volume"]).abs().max() < 1e-6  # type: ignore[operator]


def test_the_minutes_of_bcheur_count_every_trade_but_those_of_its_two_cut_minutes() -> None:
    path = real_file("BCHEUR.csv")
    trades = Counter(int(row[0]) // 60 * 60 for row in values(path))
    assert sum(trades.values()) == 148
    for block_bytes in BLOCK_SIZES:
        reading = read_trades(path.read_bytes(), edges_are_whole=False, block_bytes=block_bytes)
        whole = {minute: count for minute, count in trades.items() if minute not in (min(trades), max(trades))}
        assert {int(candle[0]): candle[6] for candle in reading.candles} == whole
        assert reading.rejects == []
        assert reading.facts.trades == sum(whole.values())
        assert [span.start for span in reading.facts.unanswered] == [min(trades), max(trades)]


def test_the_repeated_fill_of_bcheur_is_counted_twice() -> None:
    path = real_file("BCHEUR.csv")
    (repeated,) = [row for row, count in Counter(values(path)).items() if count == 2]
    minute = int(repeated[0]) // 60 * 60
    wanted = [row for row in values(path) if int(row[0]) // 60 * 60 == minute]
    (candle,) = [candle for candle in read_trades(path.read_bytes()).candles if candle[0] == minute]
    assert candle[6] == len(wanted)
    assert candle[5] == pytest.approx(sum(row[2] for row in wanted), abs=1e-8)


def test_coarser_candles_of_bcheur_follow_from_its_minutes() -> None:
    data = real_file("BCHEUR.csv").read_bytes()
    minutes = as_frame(read_trades(data))
    for interval in (Interval.M5, Interval.M15, Interval.H1):
        assert resample(minutes, interval)["trade_count"].sum() == 148


def test_the_folder_of_recordings_holds_five_archives_and_the_rest_is_passed_over_with_a_reason() -> None:
    folder = real_file("FACTS.md").parent
    found = discover([folder])
    assert [(file.name, file.kind) for file in found.files] == [
        ("ADAUSD_1440.csv", Kind.OHLCVT),
        ("BCHEUR.csv", Kind.TRADES),
        ("STORJUSD_60.csv", Kind.OHLCVT),
        ("XBTCAD_1440.csv", Kind.OHLCVT),
        ("XBTCAD_720.csv", Kind.OHLCVT),
    ]
    assert {each.name.rsplit(".", 1)[-1] for each in found.skipped} == {"md", "json"}
    assert {each.reason for each in found.skipped} == {"not a CSV file"}
    assert not found.broken
