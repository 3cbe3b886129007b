"""Kept trades in files: all of them, exactly as they are read, a month in memory at a time."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.feather
import pyarrow.parquet
import pytest

from kraken_pipeline import read_trades
from kraken_pipeline.coverage.ranges import EVER, Span
from kraken_pipeline.demo.archives import write_csv, write_quarterly_trades_zip, write_trades_csv
from kraken_pipeline.demo.listing import DAY, Listing
from kraken_pipeline.demo.world import SECOND_NS, World
from kraken_pipeline.errors import DamagedFile
from kraken_pipeline.market.candle import TIME
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.quarter import Quarter
from kraken_pipeline.market.trade import TRADE_SCHEMA
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.progress import Progress, RunContext
from kraken_pipeline.workflow.reading import export_trades as exporting
from kraken_pipeline.workflow.reading.export import ExportFormat
from kraken_pipeline.workflow.reading.trades import trades_within
from kraken_pipeline_tests.support.homes import run, settings_of
from kraken_pipeline_tests.support.shell import shell

pytestmark = pytest.mark.slow

QUARTER = Quarter(2026, 1)
START = QUARTER.end - 36 * DAY
END = QUARTER.end + 2 * DAY
NOW = END + 14 * DAY + 30
WORLD = World(
    17,
    (
        Listing("XBTUSD", "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 61_250.0, 0.006, 60, START),
        Listing("ADAEUR", "ADAEUR", "ADA/EUR", "ADA", "ZEUR", 6, 0.355, 55.0, 30, START),
        Listing("ZORKUSD", "ZORKUSD", "ZORK/USD", "ZORK", "ZUSD", 4, 2.5, 0.35, 40, START),
    ),
    NOW,
)
"""Two pairs whose trades are kept, of TIER1, and one of which there are candles only, of TIER4."""
DAYS = Span(QUARTER.end - 32 * DAY, QUARTER.end - 30 * DAY)
"""The last day of February and the first of March."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A home with trades of three months, with ids until the end of March and without in April; only to read."""

    home: Path
    settings: Settings


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    folder = tmp_path_factory.mktemp("kept")
    archives = folder / "archives"
    write_quarterly_trades_zip(archives, WORLD, QUARTER, pairs=["XBTUSD", "ADAEUR"])
    write_trades_csv(archives, WORLD, "XBTUSD", QUARTER.end - DAY, END)
    write_csv(archives, WORLD, "ZORKUSD", Interval.H1, start=START, end=END)
    settings = settings_of(folder / "home", kraken_keep_trades=True)
    with opened(settings) as stores:
        run(stores, archives, now=NOW, resampling=False)
    return Kept(settings.home, settings)


def export(
    stores: Stores,
    to: Path,
    *pairs: str,
    span: Span = EVER,
    how: ExportFormat | None = None,
    columns: list[str] | None = None,
    seen: list[Progress] | None = None,
) -> dict[str, int]:
    moment = RunContext("export", NOW, (lambda _: None) if seen is None else seen.append)
    done = exporting.export_trades(stores, pairs, span, to, how, columns, moment)
    return {its.pair: its.trades for its in done}


def in_file(path: Path) -> pl.DataFrame:
    """The trades of a file, as `read_trades` returns them."""
    if path.suffix == ".parquet":
        return pl.read_parquet(path)
    if path.suffix == ".feather":
        return pl.read_ipc(path)
    told = pl.read_csv(path, schema_overrides={**TRADE_SCHEMA, "time": pl.Float64(), "source": pl.String()})
    return told.with_columns((pl.col("time") * 1_000_000).round().cast(pl.Int64).cast(TIME))


# --- against what is read


@pytest.mark.parametrize("how", ["csv", "parquet", "feather"])
def test_a_file_has_the_trades_that_are_read_in_their_order(there: Kept, tmp_path: Path, how: str) -> None:
    path = tmp_path / f"trades.{how}"
    said = shell(there.home, "export", "XBT/USD", "--trades", "--to", str(path))
    expected = read_trades("XBTUSD", settings=there.settings)
    assert said.code == 0, said.err
    assert f"{expected.height:,} trades of XBTUSD written to {path}" in said.err
    assert in_file(path).equals(expected)
    assert expected["time"].dt.month().unique().to_list() == [2, 3, 4]
    assert 0 < expected["side"].null_count() < expected.height, "there are trades with sides, and without"
    true = WORLD.trades("XBTUSD", START * SECOND_NS, END * SECOND_NS)
    assert expected["price"].to_list() == true["price"].to_list()[: expected.height]
    assert true.height - expected.height < 5, "but for the cut minute at the end of the loose file"


def test_other_programs_read_the_files(there: Kept, tmp_path: Path) -> None:
    with opened(there.settings) as stores:
        for name in ("x.parquet", "x.feather"):
            export(stores, tmp_path / name, "XBTUSD", span=DAYS)
    expected = read_trades("XBTUSD", DAYS.start, DAYS.end, settings=there.settings)
    for table in (
        pyarrow.parquet.read_table(tmp_path / "x.parquet"),
        pyarrow.feather.read_table(tmp_path / "x.feather"),
    ):
        assert table.column_names == list(TRADE_SCHEMA)
        assert table.to_pylist() == expected.to_dicts()


def test_a_folder_has_a_file_for_each_pair_of_a_tier(there: Kept, tmp_path: Path) -> None:
    options = ("--tier", "TIER1", "--trades", "--format", "parquet", "--to", str(tmp_path / "out"))
    said = shell(there.home, "export", "ALL", "--start", "2026-02-27", "--end", "2026-03-02", *options)
    assert said.code == 0, said.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "ADAEUR_trades.parquet",
        "XBTUSD_trades.parquet",
    ]
    total = 0
    for pair in ("ADAEUR", "XBTUSD"):
        expected = read_trades(pair, "2026-02-27", "2026-03-02", settings=there.settings)
        assert pl.read_parquet(tmp_path / "out" / f"{pair}_trades.parquet").equals(expected)
        total += expected.height
    assert f"{total:,} trades of 2 of 2 pairs written to" in said.err


@pytest.mark.parametrize("how", ["csv", "parquet", "feather"])
def test_several_pairs_in_one_file_have_a_column_with_the_pair(there: Kept, tmp_path: Path, how: str) -> None:
    path = tmp_path / f"both.{how}"
    with opened(there.settings) as stores:
        done = export(stores, path, "XBTUSD", "ADAEUR", columns=["pair", "trade_id", "price"])
    parts = [
        read_trades(pair, columns=["trade_id", "price"], settings=there.settings).select(
            pl.lit(pair).alias("pair"), pl.all()
        )
        for pair in ("XBTUSD", "ADAEUR")
    ]
    written = in_file(path) if how != "csv" else pl.read_csv(path, schema_overrides={"trade_id": pl.Int64()})
    assert written.equals(pl.concat(parts))
    assert list(done.values()) == [part.height for part in parts]


def test_a_time_in_csv_is_in_seconds_to_the_microsecond(there: Kept, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    words = ("--columns", "time,trade_id", "--start", "2026-03-01", "--end", "2026-03-02")
    assert shell(there.home, "export", "XBTUSD", "--trades", "--to", str(path), *words).code == 0
    header, *rows = path.read_text().splitlines()
    assert header == "time,trade_id"
    expected = read_trades("XBTUSD", "2026-03-01", "2026-03-02", settings=there.settings)
    microseconds = expected["time"].cast(pl.Int64).to_list()
    assert [int(row.split(",")[1]) for row in rows] == expected["trade_id"].to_list()
    for row, exact in zip(rows, microseconds, strict=True):
        seconds, fraction = row.split(",")[0].split(".")
        assert int(seconds) * 1_000_000 + int(fraction.ljust(6, "0")) == exact
        assert len(fraction) <= 6


def test_a_month_of_one_pair_is_read_at_a_time_and_each_is_reported(
    there: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    months: list[tuple[str, int]] = []

    def noted(stores: Stores, pair: str, span: Span, columns: list[str]) -> pl.DataFrame:
        found = trades_within(stores, pair, span, columns)
        assert found["time"].dt.month().n_unique() == 1
        months.append((pair, found["time"].dt.month()[0]))
        return found

    monkeypatch.setattr(exporting, "trades_within", noted)
    seen: list[Progress] = []
    with opened(there.settings) as stores:
        done = export(stores, tmp_path / "x.parquet", "XBTUSD", "ADAEUR", seen=seen)
    assert months == [("XBTUSD", 2), ("XBTUSD", 3), ("XBTUSD", 4), ("ADAEUR", 2), ("ADAEUR", 3)]
    counts = [progress.candles for progress in seen]
    assert counts == sorted(counts)
    assert counts[-1] == sum(done.values())
    assert (seen[0].percent, seen[-1].percent) == (0.0, 99.0)


# --- what cannot be written


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("ZORKUSD --to x.csv", "no trades of ZORKUSD are kept: KRAKEN_KEEP_TRADES keeps those that are paged or read"),
        ("XBTUSD,ZORKUSD --to x.csv", "no trades of ZORKUSD are kept"),
        ("ALL --tier TIER2 --to x.csv", "the lake has no pair of TIER2"),
        ("ALL --tier TIER4 --to x.csv", "no trades of TIER4 are kept"),
        ("XBTUSX --to x.csv", "XBTUSX is unknown"),
        ("XBTUSD 1h --to x.csv", "--trades writes trades as they were made: leave the interval out"),
        ("XBTUSD 1h,1d --offset 5h --fill-quiet --to x.csv", "leave the interval, --offset, --fill-quiet out"),
        ("XBTUSD --as-of 2026-04-01 --to x.csv", "leave --as-of out"),
        ("XBTUSD --format freqtrade --to x", "--format freqtrade has candles only: trades are written as csv, parquet"),
        ("XBTUSD --format lean --to x.csv", "--format lean has candles only"),
        ("XBTUSD --format csv --to x.parquet", "x.parquet does not fit --format csv"),
        (
            "XBTUSD --to x",
            "x must end in .csv, .parquet or .feather, or be a folder with a --format: csv, parquet, fea",
        ),
        ("XBTUSD --columns time,open --to x.csv", "there is no column 'open'; the columns are time, price"),
        ("XBTUSD --start 2026-05-01 --to x.csv", "no kept trade of XBTUSD was made in that time"),
        ("XBTUSD,ADAEUR --start 2026-05-01 --format csv --to x", "no kept trade of 2 pairs was made in that time"),
        ("XBTUSD --start 2026-05-01 --end 2026-04-01 --to x.csv", "end must be later than start"),
    ],
)
def test_what_cannot_be_written_is_a_sentence_and_no_file(
    there: Kept, tmp_path: Path, words: str, sentence: str
) -> None:
    before = {path.name for path in there.home.parent.iterdir()}
    pair, *rest = words.split()
    said = shell(there.home, "export", pair, "--trades", *rest)
    assert said.code == 2, said.err
    assert sentence in " ".join(said.err.split())
    assert {path.name for path in there.home.parent.iterdir()} == before


def test_an_export_of_candles_needs_an_interval(there: Kept) -> None:
    said = shell(there.home, "export", "XBTUSD", "--to", "x.csv")
    assert (said.code, said.out) == (2, "")
    assert "no interval is named: `kraken-pipeline export XBTUSD 1h`, or --trades" in " ".join(said.err.split())


def test_an_export_that_must_be_complete_names_the_missing_time(there: Kept, tmp_path: Path) -> None:
    words = ("export", "XBTUSD", "--trades", "--require-complete", "--start", "2026-03-01")
    assert shell(there.home, *words, "--end", "2026-04-01", "--to", str(tmp_path / "x.csv")).code == 0
    said = shell(there.home, *words, "--end", "2026-05-01", "--to", str(tmp_path / "no.csv"))
    assert said.code == 1
    assert "the trades of XBTUSD are not all kept: 2026-04-02 22:38 to 2026-05-01" in " ".join(said.err.split())
    assert not (tmp_path / "no.csv").exists()


def test_an_export_that_meets_damage_leaves_the_earlier_file(there: Kept, tmp_path: Path) -> None:
    home = Path(shutil.copytree(there.home, tmp_path / "home"))
    settings = settings_of(home, kraken_keep_trades=True)
    path = tmp_path / "x.parquet"
    with opened(settings) as stores:
        export(stores, path, "XBTUSD", span=DAYS)
        before = path.read_bytes()
        (march,) = (home / "trades" / "pair=XBTUSD" / "month=2026-03").iterdir()
        march.write_bytes(march.read_bytes()[:-9])
        with pytest.raises(DamagedFile):
            export(stores, path, "XBTUSD")
        assert path.read_bytes() == before
        assert [its.name for its in tmp_path.iterdir() if "x.parquet" in its.name] == ["x.parquet"]
