"""What the bare library needs for the same work, written as one would without this project."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
import zipfile
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime

import numpy as np
import polars as pl
import psycopg
from questdb import Sender

from benchmarks.catalogs import INTERVALS, MONTHS, REPORTED
from benchmarks.questdb import warmed
from benchmarks.side import LAKE_CANDLES, RANGES, WEEK, Given, Measurement, frames, run, sent
from benchmarks.startup import start_bare
from kraken_pipeline.market.interval import Interval
from kraken_pipeline_tests.support.servers import USER


def copy_csv(given: Given) -> Measurement:
    """A CSV file to a Parquet file."""
    began = time.perf_counter()
    rows = pl.read_csv(given.source, has_header=False)
    rows.write_parquet(given.scratch / "bare.parquet")
    return Measurement(rows.height, time.perf_counter() - began)


def copy_zip(given: Given) -> Measurement:
    """Every member of a ZIP to a Parquet file of its own, one after the other."""
    began = time.perf_counter()
    height = 0
    with zipfile.ZipFile(given.source) as archive:
        for name in archive.namelist():
            rows = pl.read_csv(archive.read(name), has_header=False)
            rows.write_parquet(given.scratch / f"{name}.parquet")
            height += rows.height
    return Measurement(height, time.perf_counter() - began)


def fold_csv(given: Given) -> Measurement:
    """A CSV file of trades to a Parquet file of one-minute candles, all of it in memory."""
    began = time.perf_counter()
    trades = pl.read_csv(given.source, has_header=False, new_columns=["time", "price", "volume"])
    _minutes(trades, pl.col("time") // 60).write_parquet(given.scratch / "bare.parquet")
    return Measurement(trades.height, time.perf_counter() - began)


def fold_frame(given: Given) -> Measurement:
    """Trades in one frame to one-minute candles, and no further."""
    trades = pl.concat(frames(given), rechunk=True)
    began = time.perf_counter()
    minutes = _minutes(trades, pl.col("time").dt.truncate("1m"))
    seconds = time.perf_counter() - began
    assert minutes["trades"].sum() == trades.height == given.size
    return Measurement(trades.height, seconds)


def _minutes(trades: pl.DataFrame, minute: pl.Expr) -> pl.DataFrame:
    price = pl.col("price")
    return trades.group_by(minute, maintain_order=True).agg(
        price.first().alias("open"),
        price.max().alias("high"),
        price.min().alias("low"),
        price.last().alias("close"),
        pl.col("volume").sum(),
        pl.len().alias("trades"),
    )


def send_frame(given: Given) -> Measurement:
    """Candles in one frame of pandas, in order of time, to QuestDB's client, until they are applied."""
    rows = sent(given.source)
    frame, symbols = rows.to_pandas(), ["quote_currency", "source", "pair"]

    def send(sender: Sender) -> None:
        sender.dataframe(frame, table_name="candles_1h", symbols=symbols, at="time")

    return _sent(given, rows, send)


def send_rows(given: Given) -> Measurement:
    """The same one by one, as earlier systems do it; the rows lie in memory as Python has them."""
    rows = sent(given.source)
    names = [name for name in rows.columns if name not in ("time", "quote_currency", "source", "pair")]
    listed = [
        (
            {each: row.pop(each) for each in ("quote_currency", "source", "pair")},
            {name: row[name] for name in names},
            at,
        )
        for row, at in zip(rows.to_dicts(), rows["time"].to_list(), strict=True)
    ]

    def send(sender: Sender) -> None:
        for names, columns, at in listed:
            sender.row("candles_1h", symbols=names, columns=columns, at=at)

    return _sent(given, rows, send)


def _sent(given: Given, rows: pl.DataFrame, send: Callable[[Sender], None]) -> Measurement:
    with warmed(given.scratch, rows.head(LAKE_CANDLES)) as (server, _), psycopg.connect(server.pg_url) as connection:
        connection.autocommit = True
        conf = (
            f"http::addr=127.0.0.1:{server.port(0)};username={USER};password={server.password};auto_flush_rows=100000;"
        )
        began = time.perf_counter()
        with Sender.from_conf(conf) as sender:
            send(sender)
        log = "SELECT writerTxn, sequencerTxn FROM wal_tables() WHERE name = 'candles_1h'"
        while len(set(connection.execute(log).fetchall()[0])) > 1:
            time.sleep(0.002)
        seconds = time.perf_counter() - began
        assert connection.execute("SELECT count() FROM candles_1h").fetchall() == [(rows.height,)]
    return Measurement(rows.height, seconds)


def walk_ranges(given: Given) -> Measurement:
    """A loop that only looks at every range of every series."""
    series = [
        tuple((first, first + 50) for first in range(number % 40, number % 40 + 100 * RANGES, 100))
        for number in range(10 * given.size)
    ]
    began = time.perf_counter()
    covered = 0
    for ranges in series:
        for start, end in ranges:
            covered += end - start
    seconds = time.perf_counter() - began
    assert covered == 50 * RANGES * len(series)
    return Measurement(len(series), seconds)


def read_lake(given: Given) -> Measurement:
    """The same candles read by Polars alone, a file after the other."""
    paths = sorted((given.source / "lake").glob("interval=*/**/*.parquet"))
    began = time.perf_counter()
    rows = sum(pl.read_parquet(path, hive_partitioning=False).height for path in paths)
    seconds = time.perf_counter() - began
    assert rows
    return Measurement(given.size, seconds)


def scan_files(given: Given) -> Measurement:
    """The same week by Polars alone, from the paths of the files."""
    paths = sorted((given.source / "lake").glob("interval=60/pair=*/*.parquet"))
    begin, end = (datetime.fromtimestamp(moment, UTC) for moment in WEEK)
    began = time.perf_counter()
    candles = pl.scan_parquet(paths, hive_partitioning=True)
    rows = candles.filter(pl.col("time").is_between(begin, end, closed="left")).collect().height
    seconds = time.perf_counter() - began
    assert rows == 7 * 24 * given.size
    return Measurement(given.size, seconds)


def copy_lake(given: Given) -> Measurement:
    """The same files read and written by Polars alone."""
    paths = sorted((given.source / "lake").glob("interval=60/pair=*/*.parquet"))
    began = time.perf_counter()
    rows = 0
    for number, path in enumerate(paths):
        candles = pl.read_parquet(path, hive_partitioning=False).drop("release")
        candles.write_parquet(given.scratch / f"{number}.parquet")
        rows += candles.height
    return Measurement(rows, time.perf_counter() - began)


def sum_files(given: Given) -> Measurement:
    """The same files through `sha256sum`, on as many processors as there are, two hundred files a process."""
    paths = sorted((given.source / "lake").glob("interval=*/**/*.parquet"))
    names = b"\0".join(os.fsencode(path) for path in paths)
    processes = str(os.cpu_count() or 2)
    began = time.perf_counter()
    done = subprocess.run(
        ["xargs", "-0", "-P", processes, "-n", "200", "sha256sum"], input=names, capture_output=True, check=True
    )
    seconds = time.perf_counter() - began
    assert len(done.stdout.splitlines()) == len(paths)
    return Measurement(len(paths), seconds)


def read_catalog(given: Given) -> Measurement:
    """Every row of the tables that reports read, by the driver alone, in seconds of CPU."""
    began = time.process_time()
    with closing(sqlite3.connect(given.source / "catalog.sqlite")) as connection:
        rows = sum(len(connection.execute(f"SELECT * FROM {table}").fetchall()) for table in REPORTED)
    seconds = time.process_time() - began
    assert rows
    return Measurement(len(Interval) * given.size, seconds)


def draw_cells(given: Given) -> Measurement:
    """The same cells as pictures by Matplotlib alone, each of a random colour: a picture an interval."""
    from matplotlib.colors import ListedColormap  # noqa: PLC0415 - the other figures need none of it
    from matplotlib.image import imsave  # noqa: PLC0415

    states = np.random.default_rng(1).integers(0, 10, (len(INTERVALS), given.size, MONTHS.count), np.uint8)
    colours = ListedColormap([f"C{number}" for number in range(10)])
    began = time.perf_counter()
    for number, each in enumerate(states):
        imsave(given.scratch / f"{number}.png", each, cmap=colours, vmin=0, vmax=9)
    return Measurement(states.size, time.perf_counter() - began)


if __name__ == "__main__":
    run(
        (
            copy_csv,
            copy_zip,
            fold_csv,
            fold_frame,
            walk_ranges,
            read_catalog,
            draw_cells,
            start_bare,
            read_lake,
            sum_files,
            scan_files,
            copy_lake,
            send_frame,
            send_rows,
        )
    )
