"""One side of a figure, ours or the bare library's: what it is given, and what it tells.

`python -m benchmarks.ours WORK SIZE SOURCE SCRATCH` and the same with `bare` do one piece of work in a process of its
own and print what it took as JSON. Imports are not timed, nor is the creation of an empty home or the reading of
trades that a side is to have in memory; all else is. A side that does not come to the result that it should come to
raises.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from kraken_pipeline.market.flow import with_flow
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.storage.questdb.values import ROW_SCHEMA

NOW = 1_790_000_000
"""The present of every figure, 2026-09-21: later than all candles and trades of the input."""

LAKE_CANDLES = 100_000
"""Hourly candles of each pair in the lake that is published: eleven years."""

RECONCILED = (Interval.M1, Interval.M5, Interval.M15, Interval.H1, Interval.H4, Interval.D1)
"""The intervals that are reconciled with each other."""

WEEK = (1_488_326_400, 1_488_931_200)
"""A week of March 2017, in the middle of that lake, in seconds since the epoch."""

RANGES = 3
"""How many ranges of each series are covered where gaps are looked for."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a side works on.

    Attributes:
        size: How much it is: rows, pairs.
        source: The archive, where it is one.
        scratch: An empty folder.
    """

    size: int
    source: Path
    scratch: Path


@dataclass(frozen=True, slots=True)
class Measurement:
    """The work of one side and the time that it took.

    Attributes:
        items: The number of rows or series.
        seconds: The time, in seconds.
        told: A further line for people, such as sizes.
    """

    items: int
    seconds: float
    told: str = ""


def frames(given: Given) -> Iterator[pl.DataFrame]:
    """The trades of an archive of frames: `time`, `price` and `volume`, a chunk at a time."""
    return (pl.read_parquet(path) for path in sorted(given.source.iterdir()))


def sent(home: Path, pairs: int | None = None) -> pl.DataFrame:
    """The hourly candles of a lake as QuestDB is sent them: all columns, in order of time across pairs."""
    assets = pl.read_parquet(home / "lake" / "assets.parquet")
    found = []
    for asset in assets.to_dicts()[:pairs]:
        folder = home / "lake" / "interval=60" / f"pair={asset['pair']}"
        candles = with_flow(pl.read_parquet(folder / "*.parquet", hive_partitioning=False))
        found.append(
            candles.drop("release").with_columns(
                pl.lit(asset["asset_id"], dtype=pl.Int32).alias("asset_id"),
                pl.lit(asset["quote"], dtype=pl.Categorical).alias("quote_currency"),
                pl.lit(asset["pair"], dtype=pl.Categorical).alias("pair"),
            )
        )
    return pl.concat(found).sort("time").select(ROW_SCHEMA.names())


def on_disk(folder: Path, pattern: str) -> int:
    """The bytes that the files below some folders really take."""
    files = (file for found in folder.glob(pattern) for file in (found.rglob("*") if found.is_dir() else (found,)))
    return sum(512 * file.stat().st_blocks for file in files if file.is_file())


def run(works: tuple[Callable[[Given], Measurement], ...]) -> None:
    """Does the work that the command line names."""
    name, size, source, scratch = sys.argv[1:]
    work = next(each for each in works if each.__name__ == name)
    taken = work(Given(int(size), Path(source), Path(scratch)))
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10  # macOS tells bytes, Linux KiB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(json.dumps({**asdict(taken), "peak_mib": peak}))
