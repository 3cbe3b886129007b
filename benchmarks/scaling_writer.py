"""A process that does the catalog's part of the work of groups of pairs, and nothing else of it.

The statements are those of a step: the functions that it calls are called here, with stand-ins for what costs a step
most, the files. A file is not read, a Parquet file neither written nor read; a series has a candle a day since it was
listed. So a writer keeps a database as busy as many machines would whose processors are taken by files.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.archives import INTERVALS as ARCHIVED
from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.ranges import Span, Spans
from kraken_pipeline.kraken.archive import ArchiveFile, ArchiveReader
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.kraken.rows import Facts
from kraken_pipeline.market.candle import CANDLE_SCHEMA, Source, finished, time_from_seconds
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import Pair
from kraken_pipeline.market.resample import resample
from kraken_pipeline.market.series import Series
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.lake import last_write
from kraken_pipeline.storage.lake.files import LocalFiles, Put
from kraken_pipeline.storage.lake.lake import Lake
from kraken_pipeline.storage.lake.staged import Move, Staged
from kraken_pipeline.storage.paths import candles_path
from kraken_pipeline.storage.records.file_records import ContainerRecord
from kraken_pipeline.storage.records.manifest import LakeFile
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.backfill.work import of_pairs
from kraken_pipeline.workflow.gaps.open_gaps import OpenGaps
from kraken_pipeline.workflow.ingest import ingest as ingesting
from kraken_pipeline.workflow.ingest.read_file import Reading
from kraken_pipeline.workflow.ingest.scan import Task
from kraken_pipeline.workflow.lake_write import LakeWrite, commit
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile import reconcile
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec

PAIRS = 8
"""The pairs of a group: 64 files, as a batch has."""
FILES = PAIRS * len(ARCHIVED)
_NOW = 1_700_000_000
_DAY = 86_400
_LISTED, _LAST = 1_527_811_200, 1_672_531_200  # 2018-06-01, as the mean pair of `benchmarks.whole`, and 2023-01-01
_DERIVED = (Interval.W1, Interval.D15)


@dataclass(frozen=True, slots=True)
class Written:
    """The work of a writer.

    Attributes:
        seconds: The time that it took, in seconds.
        cpu: The seconds of CPU that it took this process.
    """

    seconds: float
    cpu: float


class _NoFiles(LocalFiles):
    """A lake whose files of candles are never written; the ids of pairs are."""

    def sync(self, written: Path) -> None:
        """Sync a file that there is."""
        if written.exists():
            super().sync(written)

    def put(self, groups: Iterable[Sequence[Put]]) -> None:
        """Move the files that there are."""
        super().put([[put for put in group if put.written.exists()] for group in groups])


class _Candles:
    """The candles of a pair for a comparison, in the place of `StoredCandles`."""

    def __init__(self, stores: Stores, pair: str, compared: Spans) -> None:
        del stores, pair, compared

    def read(self, interval: Interval, start: int, end: int) -> pl.DataFrame:
        """Return the candles of an interval that start in `[start, end)`."""
        at, past = _times(interval).searchsorted((start, end))
        return _candles(interval).slice(int(at), int(past - at))

    def times(self, series: Series, start: int, end: int) -> NDArray[np.int64]:
        """Return the start of every candle of a series in `[start, end)`, in seconds."""
        at, past = _times(series.interval).searchsorted((start, end))
        return _times(series.interval)[at:past]

    def most(self, interval: Interval, start: int, end: int) -> int:
        """Return the number of candles of an interval in `[start, end)`."""
        return len(self.times(Series("", interval), start, end))


@cache
def _candles(interval: Interval) -> pl.DataFrame:
    times = np.arange(_LISTED, _LAST, _DAY) + _DAY // 2
    ones = np.ones(len(times))
    minutes = pl.DataFrame(
        {
            "time": times,
            **dict.fromkeys(("open", "high", "low", "close", "volume"), ones),
            "trade_count": np.ones(len(times), dtype=np.int32),
        }
    ).with_columns(time_from_seconds(pl.col("time")).alias("time"))
    return finished(minutes if interval is Interval.M1 else resample(minutes, interval), Source.CSV).select(
        CANDLE_SCHEMA.names()
    )


@cache
def _times(interval: Interval) -> NDArray[np.int64]:
    return _candles(interval)["time"].dt.epoch("s").to_numpy()


def write(settings: Settings, number: int, groups: int, barrier: Any) -> Written:
    """Do the catalog's part of some groups once all writers have come so far.

    Args:
        settings: The settings of the home.
        number: The number of this writer, which its pairs are named after.
        groups: The number of groups.
        barrier: What all writers wait at.
    """
    _stand_in()
    for interval in Interval:
        _times(interval)
    with opened(settings) as found:
        stores = replace(found, lake=Lake(settings.home, found.catalog, _NoFiles(settings.home)))
        run = RunContext(f"writer {number}", _NOW)
        barrier.wait()
        began, cpu = time.perf_counter(), time.process_time()
        pairs = list(pairs_of(number, groups))
        for first in range(0, len(pairs), PAIRS):
            _work(stores, run_spec(api_backfill=False), list(_tasks(pairs[first : first + PAIRS])), run)
        return Written(time.perf_counter() - began, time.process_time() - cpu)


def _stand_in() -> None:
    """Put the stand-ins into the places of what reads and writes files."""
    setattr(ingesting, "read_file", _read)  # noqa: B010
    setattr(reconcile, "StoredCandles", _Candles)  # noqa: B010
    setattr(last_write, "note", lambda *_: None)  # noqa: B010


def _work(stores: Stores, spec: RunSpec, tasks: Sequence[Task], run: RunContext) -> None:
    """Do the catalog's part of one group, as `pipeline.ingest_group` does it."""
    ingesting.ingest(stores, spec, tasks, run)
    pairs = sorted({task.file.pair.name for task in tasks})
    assert OpenGaps(stores, of_pairs(spec, pairs), run.now).gaps
    for interval in _DERIVED:
        series = [Series(pair, interval) for pair in pairs]
        with stores.locks.series(series):
            writes = [LakeWrite(_staged(each, run.now), (_grant(each, Source.RESAMPLED, run.now),)) for each in series]
            commit(stores, writes, run.now)
    assert len(reconcile.compare_changes(stores, pairs, run).pairs) == len(pairs)


def pairs_of(number: int, groups: int) -> Iterator[Pair]:
    """Yield the pairs of a writer. They get their ids before the writers begin: no group waits for another's."""
    for rank in range(groups * PAIRS):
        base = f"Q{number:02}{rank:04}"
        yield Pair(f"{base}USD", base, "USD")


def _tasks(pairs: Iterable[Pair]) -> Iterator[Task]:
    container = ContainerRecord("0" * 64, "Kraken_OHLCVT.zip", Kind.OHLCVT.value, _LISTED, _LAST, None, ())
    for pair in pairs:
        for minutes in ARCHIVED:
            member = f"master_q4/{pair}_{minutes}.csv"
            file = ArchiveFile(Path("/Kraken_OHLCVT.zip"), member, Kind.OHLCVT, pair, Interval(minutes), 100_000)
            yield Task(file, container)


def _read(stores: Stores, spec: RunSpec, task: Task, file_id: int, reader: ArchiveReader, run: RunContext) -> Reading:
    """Return what reading a file would, in the place of `read_file`."""
    del stores, spec, reader
    series = task.file.series
    times = _times(series.interval)
    staged = _staged(series, run.now)
    grant = _grant(series, Source.CSV, run.now)
    facts = Facts(
        lines=len(times),
        rows=len(times),
        first_time=int(times[0]),
        last_time=int(times[-1]),
        sha256=secrets.token_hex(32),
    )
    return Reading(task, file_id, staged, facts, grant.span, (grant,))


def _grant(series: Series, source: Source, now: int) -> Grant:
    return Grant(Span(series.interval.ceil(_LISTED), series.interval.floor(_LAST)), source, now, 1)


def _staged(series: Series, now: int) -> Staged:
    """Return a write of a new series whose file was never made."""
    times = _times(series.interval)
    path = candles_path(series, None)
    file = LakeFile(
        path,
        series,
        None,
        len(times),
        int(times[0]),
        int(times[-1]),
        40_000,
        secrets.token_hex(32),
        secrets.token_hex(32),
        f"{time.time_ns():020d}-{secrets.token_hex(8)}",
        now,
    )
    return Staged(
        series,
        "a benchmark",
        now,
        changed=len(times),
        changed_span=Span(int(times[0]), int(times[-1]) + series.interval.seconds),
        times=pl.Series("time", times, pl.Int64()),
        years=(None,),
        moves=[Move(Put(Path("/nowhere"), path, file.sha256), file)],
    )
