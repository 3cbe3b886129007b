"""The input: archives like Kraken's, and trades as they stand once read, the same ones from every run.

`python -m benchmarks.archives KIND SIZE FOLDER` makes one, in a process of its own: what starts the measured
processes has to stay small, because the peak memory that Linux reports of a process begins with its parent's.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.catalogs import make_catalog, make_whole_catalog
from benchmarks.side import LAKE_CANDLES, NOW, RECONCILED
from benchmarks.startup import make_small_home
from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.candle import TIME, Source, finished, time_from_seconds
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import Pair
from kraken_pipeline.market.resample import resample
from kraken_pipeline.market.series import Series
from kraken_pipeline.settings import load_settings
from kraken_pipeline.storage.lake.writer import CandleWriter
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.lake_write import LakeWrite, commit

_MINUTE = 60
_CANDLES_FROM = 1_293_840_000  # 2011-01-01, so that 8 million minutes have room
_TOGETHER = 256
"""Series that are brought into a lake together."""
_TRADES_FROM = 1_388_534_400  # 2014-01-01
_QUARTER = (1_680_307_200, 1_688_169_600)  # 2023Q2
INTERVALS = (1, 5, 15, 30, 60, 240, 720, 1440)
"""The intervals of an archive, in minutes."""
_CHUNK = 1_000_000
_FRAME = 100_000  # trades: a million are ten chunks, in which memory settles

Arrays = Mapping[str, np.ndarray[Any, np.dtype[Any]]]


def make_candles(size: int, folder: Path) -> Path:
    """One-minute candles of one pair without a quiet minute; a file of 57 bytes a row."""
    path = folder / "XBTUSD_1.csv"
    rng = np.random.default_rng(1)
    with path.open("wb") as stream:
        for first in range(0, size, _CHUNK):
            minutes = np.arange(first, min(size, first + _CHUNK))
            candles = candles_of(rng, _CANDLES_FROM + _MINUTE * minutes)
            pl.DataFrame(candles).write_csv(stream, include_header=False)
    return path


def make_trades(size: int, folder: Path) -> Path:
    """Trades of one pair, 18 seconds apart on average, many at one second; about 30 bytes a row."""
    path = folder / "XBTUSD.csv"
    with path.open("wb") as stream:
        for trades in _trades(size, _CHUNK):
            seconds = {**trades, "time": trades["time"].astype(np.int64)}
            pl.DataFrame(seconds).write_csv(stream, include_header=False)
    return path


def make_frames(size: int, folder: Path) -> Path:
    """The same kind of trades as `TradeFold` takes them, to the microsecond; a folder of a Parquet file a chunk."""
    path = folder / "XBTUSD"
    path.mkdir()
    for number, trades in enumerate(_trades(size, _FRAME)):
        frame = pl.DataFrame({**trades, "time": (trades["time"] * 1e6).astype(np.int64)})
        frame.with_columns(pl.col("time").cast(TIME)).write_parquet(path / f"{number:03}.parquet")
    return path


def make_release(pairs: int, folder: Path) -> Path:
    """A quarterly release: eight intervals of every pair, of which few are busy and most are quiet, as in Kraken's.

    250 pairs make 2,000 members and about 4 million rows.
    """
    path = folder / "Kraken_OHLCVT_Q2_2023.zip"
    rng = np.random.default_rng(3)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for rank in range(pairs):
            letters = (ord("A") + rank // 26, ord("A") + rank % 26)
            for minutes, candles in _quarter(rng, rank):
                text = io.BytesIO()
                pl.DataFrame(candles).write_csv(text, include_header=False)
                archive.writestr(f"Q{letters[0]:c}{letters[1]:c}USD_{minutes}.csv", text.getvalue())
    return path


def _trades(size: int, chunk: int) -> Iterator[Arrays]:
    rng = np.random.default_rng(2)
    at = float(_TRADES_FROM)
    for first in range(0, size, chunk):
        count = min(size - first, chunk)
        times = at + np.cumsum(rng.exponential(36, count) * rng.integers(0, 2, count))
        at = float(times[-1])
        yield {
            "time": times,
            "price": _walk(rng, count),
            "volume": rng.exponential(1, count).round(8) + 1e-8,
        }


def _quarter(rng: np.random.Generator, rank: int) -> Iterator[tuple[int, Arrays]]:
    times = np.arange(*_QUARTER, _MINUTE)
    busy = rng.random(len(times)) < min(0.97, 2.6 / (rank + 1))
    busy[[0, -1]] = True  # the release ends where its name says
    finest = candles_of(rng, times[busy])
    for minutes in INTERVALS:
        yield minutes, folded(finest, minutes)


def folded(finest: Arrays, minutes: int) -> Arrays:
    """Return the candles of an interval that some one-minute candles add up to."""
    slots, first = np.unique(finest["time"] // (minutes * _MINUTE), return_index=True)
    last = np.append(first[1:], len(finest["time"])) - 1
    return {
        "time": slots * minutes * _MINUTE,
        "open": finest["open"][first],
        "high": np.maximum.reduceat(finest["high"], first),
        "low": np.minimum.reduceat(finest["low"], first),
        "close": finest["close"][last],
        "volume": np.add.reduceat(finest["volume"], first).round(8),
        "trades": np.add.reduceat(finest["trades"], first),
    }


def make_lake(size: int, folder: Path) -> Path:
    """A home with so many pairs of hourly candles in its lake, `LAKE_CANDLES` each."""
    home = folder / "home"
    pairs = [Pair(f"Q{number:03}USD", f"Q{number:03}", "USD") for number in range(size)]
    with opened(load_settings(_env_file=None, kraken_pipeline_home=home)) as stores:
        stores.lake.asset_ids.register(pairs)
        for number, pair in enumerate(pairs):
            candles = candles_of(np.random.default_rng(number), _CANDLES_FROM + 60 * _MINUTE * np.arange(LAKE_CANDLES))
            frame = pl.DataFrame(candles).with_columns(
                time_from_seconds(pl.col("time")), pl.col("trades").cast(pl.Int32).alias("trade_count")
            )
            series = Series(pair.name, Interval.H1)
            writer = CandleWriter(stores.lake, series, origin="a benchmark", now=_CANDLES_FROM)
            writer.add(finished(frame.drop("trades"), Source.CSV))
            with stores.locks.series([series]):
                commit(stores, [LakeWrite(writer.finish(), ())], _CANDLES_FROM)
    return home


def make_files(count: int, folder: Path) -> Path:
    """A home with so many files in its lake, a pair each, of five million candles in all."""
    home = folder / "home"
    pairs = [Pair(f"Q{number:05}USD", f"Q{number:05}", "USD") for number in range(count)]
    times = _CANDLES_FROM + 60 * _MINUTE * np.arange(5_000_000 // count)
    candles = pl.DataFrame(candles_of(np.random.default_rng(1), times)).with_columns(
        time_from_seconds(pl.col("time")), pl.col("trades").cast(pl.Int32).alias("trade_count")
    )
    frame = finished(candles.drop("trades"), Source.CSV)
    with opened(load_settings(_env_file=None, kraken_pipeline_home=home)) as stores:
        stores.lake.asset_ids.register(pairs)
        for start in range(0, count, _TOGETHER):
            series = [Series(pair.name, Interval.H1) for pair in pairs[start : start + _TOGETHER]]
            writers = [CandleWriter(stores.lake, each, origin="a benchmark", now=_CANDLES_FROM) for each in series]
            for writer in writers:
                writer.add(frame)
            with stores.locks.series(series):
                commit(stores, [LakeWrite(writer.finish(), ()) for writer in writers], _CANDLES_FROM)
    return home


def make_history(minutes: int, folder: Path) -> Path:
    """A home with one pair at six intervals that agree, so many minutes of it, covered and not yet reconciled."""
    return _reconcilable(folder / "home", 1, minutes)


def make_histories(series: int, folder: Path) -> Path:
    """The same of so many series: six of each pair, ten days."""
    return _reconcilable(folder / "home", series // len(RECONCILED), 14_400)


def _reconcilable(home: Path, pairs: int, minutes: int) -> Path:
    listed = [Pair(f"Q{number:03}USD", f"Q{number:03}", "USD") for number in range(pairs)]
    with opened(load_settings(_env_file=None, kraken_pipeline_home=home)) as stores:
        stores.lake.asset_ids.register(listed)
        for number, pair in enumerate(listed):
            # From a midnight on which a candle of every interval begins.
            times = 1_296_000 * 1_000 + _MINUTE * np.arange(minutes)
            raw = pl.DataFrame(candles_of(np.random.default_rng(number), times))
            candles = raw.with_columns(
                time_from_seconds(pl.col("time")), pl.col("trades").cast(pl.Int32).alias("trade_count")
            ).drop("trades")
            series = [Series(pair.name, interval) for interval in RECONCILED]
            with stores.locks.series(series):
                commit(stores, [_written(stores, each, candles, minutes) for each in series], NOW)
    return home


def _written(stores: Stores, series: Series, minutes: pl.DataFrame, count: int) -> LakeWrite:
    start = 1_296_000 * 1_000
    end = series.interval.floor(start + _MINUTE * count)
    candles = minutes if series.interval is Interval.M1 else resample(minutes, series.interval)
    writer = CandleWriter(stores.lake, series, origin="a benchmark", now=NOW)
    writer.add(finished(candles.filter(pl.col("time").dt.epoch("s") < end), Source.CSV))
    return LakeWrite(writer.finish(), (Grant(Span(start, end), Source.CSV, NOW),))


def candles_of(rng: np.random.Generator, times: np.ndarray[Any, np.dtype[np.int64]]) -> Arrays:
    """Return a candle at each of some times, in seconds, with prices that wander."""
    opened = _walk(rng, len(times))
    closed = (opened + rng.normal(0, 5, len(times))).round(1)
    return {
        "time": times,
        "open": opened,
        "high": (np.maximum(opened, closed) + 0.5).round(1),
        "low": (np.minimum(opened, closed) - 0.5).round(1),
        "close": closed,
        "volume": rng.exponential(1, len(times)).round(8),
        "trades": rng.integers(1, 200, len(times)),
    }


def _walk(rng: np.random.Generator, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Prices that wander between 10,000 and 50,000."""
    wandered = np.abs(np.cumsum(rng.normal(0, 5, count))) % 80_000
    prices: np.ndarray[Any, np.dtype[np.float64]] = (50_000 - np.abs(wandered - 40_000)).round(1)
    return prices


MAKERS: dict[str, Callable[[int, Path], Path]] = {
    "candles": make_candles,
    "catalog": make_catalog,
    "whole-catalog": make_whole_catalog,
    "small-home": make_small_home,
    "histories": make_histories,
    "files": make_files,
    "history": make_history,
    "trades": make_trades,
    "frames": make_frames,
    "lake": make_lake,
    "release": make_release,
}

if __name__ == "__main__":
    print(MAKERS[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3])))
