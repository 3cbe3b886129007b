"""What the bare library needs for the same work, written as one would without this project."""

from __future__ import annotations

import time
import zipfile

import polars as pl

from benchmarks.side import RANGES, Given, Taken, frames, run


def copy_csv(given: Given) -> Taken:
    """A CSV file to a Parquet file."""
    began = time.perf_counter()
    rows = pl.read_csv(given.source, has_header=False)
    rows.write_parquet(given.scratch / "bare.parquet")
    return Taken(rows.height, time.perf_counter() - began)


def copy_zip(given: Given) -> Taken:
    """Every member of a ZIP to a Parquet file of its own, one after the other."""
    began = time.perf_counter()
    height = 0
    with zipfile.ZipFile(given.source) as archive:
        for name in archive.namelist():
            rows = pl.read_csv(archive.read(name), has_header=False)
            rows.write_parquet(given.scratch / f"{name}.parquet")
            height += rows.height
    return Taken(height, time.perf_counter() - began)


def fold_csv(given: Given) -> Taken:
    """A CSV file of trades to a Parquet file of one-minute candles, all of it in memory."""
    began = time.perf_counter()
    trades = pl.read_csv(given.source, has_header=False, new_columns=["time", "price", "volume"])
    _minutes(trades, pl.col("time") // 60).write_parquet(given.scratch / "bare.parquet")
    return Taken(trades.height, time.perf_counter() - began)


def fold_frame(given: Given) -> Taken:
    """Trades in one frame to one-minute candles, and no further."""
    trades = pl.concat(frames(given), rechunk=True)
    began = time.perf_counter()
    minutes = _minutes(trades, pl.col("time").dt.truncate("1m"))
    seconds = time.perf_counter() - began
    assert minutes["trades"].sum() == trades.height == given.size
    return Taken(trades.height, seconds)


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


def walk_ranges(given: Given) -> Taken:
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
    return Taken(len(series), seconds)


if __name__ == "__main__":
    run((copy_csv, copy_zip, fold_csv, fold_frame, walk_ranges))
