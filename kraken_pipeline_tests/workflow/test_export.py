"""Candles in the files of other programs, read as these read them, and by their own loaders."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from zipfile import ZipFile

import polars as pl
import pyarrow.feather
import pyarrow.parquet
import pytest

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.bars import Bars
from kraken_pipeline.market.candle import TIME
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow.reading import freqtrade, lean, nautilus
from kraken_pipeline.workflow.reading.candles import read_candles
from kraken_pipeline.workflow.reading.export import ExportFormat, export_pairs
from kraken_pipeline.workflow.reading.request import ReadRequest
from kraken_pipeline_tests.support.homes import Shelf, run, settings_of
from kraken_pipeline_tests.support.tools import loaded

XBTUSD = parse_pair("XBTUSD")
HOUR = 3_600
START = int(datetime(2024, 1, 1, 22, tzinfo=UTC).timestamp())
ROWS = [
    (START, 42_000.1, 42_000.9, 41_999.0, 42_000.0, 0.12345678, 3),
    (START + HOUR, 42_000.0, 99_999.9, 41_000.0, 99_999.9, 1.0, 1),
    (START + 3 * HOUR, 0.00001234, 100_000.1, 0.00001234, 3.25, 1_000_000.5, 2),
]


def candles(rows: Sequence[tuple[float, ...]] = ROWS) -> pl.DataFrame:
    names = ["time", "open", "high", "low", "close", "volume", "trade_count"]
    frame = pl.DataFrame([list(map(float, row)) for row in rows], schema=names, orient="row")
    return frame.with_columns((pl.col("time").cast(pl.Int64) * 1_000_000).cast(TIME), pl.lit("CSV").alias("source"))


# --- freqtrade


def test_freqtrade_has_a_feather_file_for_each_pair_and_timeframe(tmp_path: Path) -> None:
    path = freqtrade.write(candles(), XBTUSD, Bars.parse("1h"), tmp_path)
    assert path == tmp_path / "BTC_USD-1h.feather"
    table = pyarrow.feather.read_table(path)
    assert table.column_names == ["date", "open", "high", "low", "close", "volume"]
    assert [row["date"].timestamp() for row in table.to_pylist()] == [row[0] for row in ROWS]
    assert [tuple(row.values())[1:] for row in table.to_pylist()] == [row[1:6] for row in ROWS]


@pytest.mark.parametrize(
    ("pair", "width", "name"),
    [
        ("XDGUSD", "1m", "DOGE_USD-1m"),
        ("ETHXBT", 240, "ETH_BTC-4h"),
        ("ADAEUR", "7d", "ADA_EUR-1w"),
        ("ADAEUR", 21_600, "ADA_EUR-15d"),
        ("AAPLxUSD", "90m", "AAPLx_USD-90m"),
        ("ETH2.SUSD", "1d", "ETH2_S_USD-1d"),
    ],
)
def test_freqtrade_names_pairs_and_timeframes_its_own_way(pair: str, width: str, name: str, tmp_path: Path) -> None:
    assert freqtrade.write(candles(), parse_pair(pair), Bars.parse(width), tmp_path).stem == name


_FREQTRADE = """
import json, sys
from pathlib import Path
from freqtrade.data.history.datahandlers.featherdatahandler import FeatherDataHandler
from freqtrade.enums import CandleType
folder = Path(sys.argv[1])
known = [(pair, timeframe) for pair, timeframe, _ in FeatherDataHandler.ohlcv_get_available_data(folder, "spot")]
frame = FeatherDataHandler(folder).ohlcv_load(
    "BTC/USD", "1h", CandleType.SPOT, fill_missing=False, drop_incomplete=False
)
rows = [[row.date.timestamp(), row.open, row.high, row.low, row.close, row.volume] for row in frame.itertuples()]
print(json.dumps([known, rows]))
"""


@pytest.mark.slow
def test_freqtrade_loads_what_was_written_for_it(tmp_path: Path) -> None:
    freqtrade.write(candles(), XBTUSD, Bars.parse("1h"), tmp_path)
    known, rows = loaded("KRAKEN_TEST_FREQTRADE", _FREQTRADE, tmp_path)
    assert known == [["BTC/USD", "1h"]]
    assert [tuple(row) for row in rows] == [row[:6] for row in ROWS]


# --- NautilusTrader


def test_nautilus_has_bars_with_the_time_of_their_end(tmp_path: Path) -> None:
    nautilus.write(candles(), XBTUSD, Bars.parse("1h"), tmp_path)
    (path,) = (tmp_path / "data" / "bar" / "BTCUSD.KRAKEN-1-HOUR-LAST-EXTERNAL").iterdir()
    assert path.name == "2024-01-01T23-00-00-000000000Z_2024-01-02T02-00-00-000000000Z.parquet"
    table = pyarrow.parquet.read_table(path)
    assert table.schema.metadata[b"price_precision"] == b"8"
    found = table.to_pylist()
    assert [row["ts_event"] for row in found] == [(row[0] + HOUR) * 10**9 for row in ROWS]
    for name, index, decimals in [("open", 1, 8), ("high", 2, 8), ("low", 3, 8), ("close", 4, 8), ("volume", 5, 8)]:
        whole = [int.from_bytes(row[name], "little", signed=True) for row in found]
        assert whole == [round(row[index] * 10**decimals) * 10 ** (16 - decimals) for row in ROWS]


def test_a_volume_of_coins_that_cost_next_to_nothing_is_exact_for_nautilus(tmp_path: Path) -> None:
    """SHIB and PEPE trade by the billion: at eight decimals such a volume does not fit into 64 bits."""
    volumes = [2_345_678_901_234.5, 92_233_720_368.54775807, 0.00000001, 0.0]
    rows = [(START + n * HOUR, 0.00000731, 0.00000731, 0.00000731, 0.00000731, its, 1) for n, its in enumerate(volumes)]
    nautilus.write(candles(rows), parse_pair("SHIBUSD"), Bars.parse("1h"), tmp_path)
    (path,) = (tmp_path / "data" / "bar").rglob("*.parquet")
    found = pyarrow.parquet.read_table(path)["volume"].to_pylist()
    whole = [int.from_bytes(value, "little", signed=True) for value in found]
    assert whole == [round(Decimal(its), 8) * 10**16 for its in volumes]


def test_nautilus_has_the_bars_of_a_pair_and_width_once(tmp_path: Path) -> None:
    nautilus.write(candles(), XBTUSD, Bars.parse("1h"), tmp_path)
    nautilus.write(candles(ROWS[1:]), XBTUSD, Bars.parse("1h"), tmp_path)
    assert len(list(tmp_path.rglob("*.parquet"))) == 2, "one of bars and one with the instrument"


_NAUTILUS = """
import json, sys
from nautilus_trader.persistence.catalog import ParquetDataCatalog
catalog = ParquetDataCatalog(sys.argv[1])
(instrument,) = catalog.instruments()
bars = [
    [bar.ts_event, *(float(str(its)) for its in (bar.open, bar.high, bar.low, bar.close, bar.volume))]
    for bar in catalog.bars(["BTC/USD.KRAKEN-1-HOUR-LAST-EXTERNAL"])
]
print(json.dumps([str(instrument.id), str(instrument.raw_symbol), str(instrument.price_increment), bars]))
"""


@pytest.mark.slow
def test_nautilus_loads_what_was_written_for_it(tmp_path: Path) -> None:
    nautilus.write(candles(), XBTUSD, Bars.parse("1h"), tmp_path)
    name, symbol, increment, bars = loaded("KRAKEN_TEST_NAUTILUS", _NAUTILUS, tmp_path)
    assert (name, symbol, increment) == ("BTC/USD.KRAKEN", "XBTUSD", "0.00000001")
    assert [tuple(bar) for bar in bars] == [((row[0] + HOUR) * 10**9, *row[1:6]) for row in ROWS]


# --- LEAN


def test_lean_has_hours_and_days_in_one_file(tmp_path: Path) -> None:
    path = lean.write(candles(), XBTUSD, Bars.parse(60), tmp_path)
    assert path == tmp_path / "crypto" / "kraken" / "hour" / "btcusd_trade.zip"
    assert ZipFile(path).namelist() == ["btcusd.csv"]
    assert ZipFile(path).read("btcusd.csv").decode().splitlines() == [
        "20240101 22:00,42000.1,42000.9,41999,42000,0.12345678",
        "20240101 23:00,42000,99999.9,41000,99999.9,1",
        "20240102 01:00,0.00001234,100000.1,0.00001234,3.25,1000000.5",
    ]
    assert lean.write(candles(), XBTUSD, Bars.parse("1d"), tmp_path).parent.name == "daily"


def test_lean_has_a_file_for_each_day_of_minutes(tmp_path: Path) -> None:
    folder = lean.write(candles(), XBTUSD, Bars.parse(1), tmp_path)
    assert folder == tmp_path / "crypto" / "kraken" / "minute" / "btcusd"
    assert sorted(path.name for path in folder.iterdir()) == ["20240101_trade.zip", "20240102_trade.zip"]
    archive = ZipFile(folder / "20240101_trade.zip")
    assert archive.namelist() == ["20240101_btcusd_minute_trade.csv"]
    text = archive.read("20240101_btcusd_minute_trade.csv").decode()
    assert [int(line.split(",")[0]) for line in text.splitlines()] == [22 * HOUR * 1000, 23 * HOUR * 1000]


# --- all


@pytest.mark.parametrize("program", [freqtrade, nautilus, lean])
def test_a_program_that_counts_from_midnight_in_utc_gets_no_others(program: object, tmp_path: Path) -> None:
    for bars in (Bars.parse("1h", "30m"), Bars.parse("1d", timezone="Europe/Berlin")):
        with pytest.raises(InvalidRequest, match="from midnight in UTC"):
            program.write(candles(), XBTUSD, bars, tmp_path)  # type: ignore[attr-defined]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("program", [freqtrade, nautilus, lean])
def test_a_row_that_is_there_for_its_state_alone_is_left_out(program: object, tmp_path: Path) -> None:
    gap = pl.DataFrame({"time": candles()["time"][:1]}).join(candles(ROWS[1:]), on="time", how="full", coalesce=True)
    program.write(gap.sort("time"), XBTUSD, Bars.parse("1h"), tmp_path / "one")  # type: ignore[attr-defined]
    program.write(candles(ROWS[1:]), XBTUSD, Bars.parse("1h"), tmp_path / "other")  # type: ignore[attr-defined]
    one, other = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("one", "other")
    )
    assert one == other


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Settings:
    settings = settings_of(tmp_path_factory.mktemp("exported"))
    with opened(settings) as stores:
        run(stores, shelf.q1, resampling=False)
    return settings


@pytest.mark.slow
@pytest.mark.parametrize("how", list(ExportFormat))
def test_a_selection_is_written_to_one_folder(how: ExportFormat, settings: Settings, tmp_path: Path) -> None:
    requests = [ReadRequest(Bars.parse("1h")), ReadRequest(Bars.parse("1d"))]
    with opened(settings) as stores:
        done = list(export_pairs(stores, ["XBTUSD", "ADAEUR"], requests, tmp_path, how))
    assert [(its.pair, its.bars.minutes) for its in done] == [
        ("XBTUSD", 60),
        ("ADAEUR", 60),
        ("XBTUSD", 1440),
        ("ADAEUR", 1440),
    ]
    for its in done:
        assert its.candles == read_candles(its.pair, its.bars.minutes, settings=settings).height > 0
        assert its.path.exists()
    if how is ExportFormat.CSV:
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "ADAEUR_1440.csv",
            "ADAEUR_60.csv",
            "XBTUSD_1440.csv",
            "XBTUSD_60.csv",
        ]


@pytest.mark.slow
def test_several_pairs_in_one_file_have_a_column_with_the_pair(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "both.feather"
    request = ReadRequest(Bars.parse("1d"))
    with opened(settings) as stores:
        done = list(export_pairs(stores, ["XBTUSD", "ADAEUR"], [request], path))
        written = pl.read_ipc(path).with_columns(pl.col("source").cast(pl.String()))
        expected = read_candles(["XBTUSD", "ADAEUR"], "1d", settings=settings)
        assert written.equals(expected.with_columns(pl.col("source").cast(pl.String())))
        assert sum(its.candles for its in done) == written.height
        with pytest.raises(InvalidRequest, match="one file has candles of one interval"):
            list(export_pairs(stores, ["XBTUSD"], [request, ReadRequest(Bars.parse("1h"))], path))
        with pytest.raises(InvalidRequest, match="does not fit --format csv"):
            list(export_pairs(stores, ["XBTUSD"], [request], path, ExportFormat.CSV))
        with pytest.raises(InvalidRequest, match=r"must end in \.csv, \.parquet or \.feather, or be a folder"):
            list(export_pairs(stores, ["XBTUSD"], [request], tmp_path / "folder"))
