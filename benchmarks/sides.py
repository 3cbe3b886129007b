"""The work of either side: ours, and the bare library's that it is compared with.

`python -m benchmarks.sides WORK SIDE INPUT SCRATCH` does one, in a process of its own, and prints what it took as
JSON. Imports are not timed, nor is creating an empty home; everything after it is. A side that does not bring the
result it should raises.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl

_NOW = 1_790_000_000  # 2026-09-21, later than everything in the input

Side = Callable[[Path, Path], tuple[int, float]]
"""Takes the input and an empty folder; gives the rows worked on and the seconds that it took."""


def ingest(path: Path, scratch: Path) -> tuple[int, float]:
    """Ours: what a run does with a folder of archives: find, hash, parse, validate, store, catalog, coverage."""
    from kraken_pipeline.settings import load_settings
    from kraken_pipeline.storage.schema import FileStatus
    from kraken_pipeline.storage.stores import opened
    from kraken_pipeline.workflow import ingest as workflow
    from kraken_pipeline.workflow.progress import Run
    from kraken_pipeline.workflow.run_spec import run_spec
    from kraken_pipeline.workflow.scan import scan

    settings = load_settings(_env_file=None, kraken_pipeline_home=scratch / "home", kraken_settle_seconds=0)
    spec = run_spec(archive_dirs=[path], api_backfill=False)
    with opened(settings) as stores:
        began = time.perf_counter()
        tasks = scan(stores, spec, _NOW).tasks
        outcomes = workflow.ingest(stores, spec, tasks, Run("benchmark", _NOW))
        seconds = time.perf_counter() - began
    assert outcomes and all(each.status is FileStatus.COMPLETED and not each.rows_rejected for each in outcomes)
    return sum(each.rows for each in outcomes), seconds


def copy_csv(path: Path, scratch: Path) -> tuple[int, float]:
    """Bare: a CSV file to a Parquet file."""
    began = time.perf_counter()
    rows = pl.read_csv(path, has_header=False)
    rows.write_parquet(scratch / "bare.parquet")
    return rows.height, time.perf_counter() - began


def copy_zip(path: Path, scratch: Path) -> tuple[int, float]:
    """Bare: every member of a ZIP to a Parquet file of its own, one after the other."""
    began = time.perf_counter()
    height = 0
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            rows = pl.read_csv(archive.read(name), has_header=False)
            rows.write_parquet(scratch / f"{name}.parquet")
            height += rows.height
    return height, time.perf_counter() - began


def fold_csv(path: Path, scratch: Path) -> tuple[int, float]:
    """Bare: a CSV file of trades to a Parquet file of one-minute candles, all of it in memory."""
    began = time.perf_counter()
    trades = pl.read_csv(path, has_header=False, new_columns=["time", "price", "volume"])
    price = pl.col("price")
    trades.group_by(pl.col("time") // 60, maintain_order=True).agg(
        price.first().alias("open"),
        price.max().alias("high"),
        price.min().alias("low"),
        price.last().alias("close"),
        pl.col("volume").sum(),
        pl.len().alias("trades"),
    ).write_parquet(scratch / "bare.parquet")
    return trades.height, time.perf_counter() - began


def find_gaps(pairs: int) -> tuple[int, float]:
    """Ours: what each series should have and does not, and how much of it OHLC cannot reach."""
    from kraken_pipeline.coverage.gaps import expected_span, missing, overflow

    catalog = _coverage(pairs)
    began = time.perf_counter()
    gaps = 0
    for covered, interval in catalog:
        for gap in missing(expected_span(covered[0].start, _NOW, interval, None, None), covered):
            overflow(gap, interval, _NOW)
            gaps += 1
    seconds = time.perf_counter() - began
    assert gaps == 3 * len(catalog)
    return len(catalog), seconds


def walk_ranges(pairs: int) -> tuple[int, float]:
    """Bare: a loop that only looks at every range of every series."""
    catalog = _coverage(pairs)
    began = time.perf_counter()
    length = 0
    for covered, _ in catalog:
        for each in covered:
            length += each.end - each.start
    assert length
    return len(catalog), time.perf_counter() - began


def _coverage(pairs: int):
    from kraken_pipeline.coverage.ranges import Span
    from kraken_pipeline.market.interval import INTERVALS

    catalog = []
    for pair in range(pairs):
        for interval in INTERVALS:
            length = 50 * interval.seconds
            starts = (interval.floor(1_300_000_000 + (2 * part * 50 + pair % 40) * interval.seconds) for part in range(3))
            catalog.append((tuple(Span(start, start + length) for start in starts), interval))
    return catalog
