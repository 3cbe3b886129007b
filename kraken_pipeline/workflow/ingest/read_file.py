"""Reading one file of an archive into staged candles, dead letters and grants."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import polars as pl
import sqlalchemy as sa

from kraken_pipeline.coverage.evidence import Grant, answered
from kraken_pipeline.coverage.ranges import Span, intersect, normalise, seconds, whole_candles
from kraken_pipeline.errors import DiskFull, LakeRefused, PassingError, PipelineError, SourceChanged
from kraken_pipeline.kraken.archive import ArchiveReader
from kraken_pipeline.kraken.ohlcvt import CandleReader, OutOfOrder
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.kraken.rows import Facts, Reject
from kraken_pipeline.kraken.time_and_sales import TradesReader
from kraken_pipeline.market.candle import SOURCE, Source
from kraken_pipeline.market.flow import FLOW, nothing, without_flow
from kraken_pipeline.market.moment import as_datetime
from kraken_pipeline.storage.faults import faults_explained
from kraken_pipeline.storage.lake.staged import Staged
from kraken_pipeline.storage.lake.writer import CandleWriter
from kraken_pipeline.storage.records import dead_letters, density_records
from kraken_pipeline.storage.records.file_records import FileRecord
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.storage.trades.kept import TradeSource, file_source_name
from kraken_pipeline.storage.trades.writer import StagedTrades, TradeWriter
from kraken_pipeline.workflow.ingest.scan import (
    Task,
)
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import RunSpec


@dataclass(slots=True)
class Reading:
    """A file that was read, successfully or not, with its staged candles."""

    task: Task
    file_id: int
    staged: Staged | None = None
    facts: Facts = field(default_factory=Facts)
    reach: Span | None = None  # the span that the whole file answers for: part of its identity
    grants: tuple[Grant, ...] = ()
    trades: StagedTrades | None = None  # where they are kept
    rejects: list[Reject] = field(default_factory=list)
    rows_rejected: int = 0
    error: str | None = None
    is_changed: bool = False  # since it was found, so that it is scanned again
    seconds: float = 0.0
    duplicate: FileRecord | None = None  # the same file, ingested or withdrawn before


def read_file(
    stores: Stores, spec: RunSpec, task: Task, file_id: int, reader: ArchiveReader, run: RunContext
) -> Reading:
    """Read and stage one file, sorted if it is out of order; an error of the file is kept with the reading."""
    began = time.perf_counter()
    read = Reading(task, file_id)
    try:
        with faults_explained():
            try:
                _stage(stores, spec, read, reader, run, sort=False)
            except OutOfOrder:
                read.rejects, read.rows_rejected = [], 0
                _stage(stores, spec, read, reader, run, sort=True)
    except (PassingError, DiskFull, LakeRefused):
        raise  # a store went away, or the disk is full: not an error of the file
    except PipelineError as error:  # any other exception is a bug and ends the run with its traceback
        read.error = str(error)
        read.is_changed = isinstance(error, SourceChanged)
        read.staged = read.trades = None
    read.seconds = time.perf_counter() - began
    return read


def _stage(stores: Stores, spec: RunSpec, read: Reading, reader: ArchiveReader, run: RunContext, *, sort: bool) -> None:
    task = read.task
    wanted = spec.window
    series = task.file.series
    known = stores.lake.manifest.of(series)  # read for the whole batch when its series were locked
    writer = CandleWriter(stores.lake, series, origin=task.file.name, now=run.now, known=known)
    keeper = None
    if task.file.kind is Kind.TRADES and stores.settings.kraken_keep_trades:
        keeper = TradeWriter(stores.lake, series.pair, run.now)
    trades = 0
    try:
        with reader.open(task.file) as stream:
            rows = _rows(stores, task, stream, reader, run, sort=sort, keeper=keeper)
            with closing(rows.blocks()) as blocks:
                for block in blocks:
                    _note_rejects(read, block.rejects)
                    candles = _within(block.rows, wanted, spec)
                    trades += int(candles["trade_count"].sum()) if candles.height else 0
                    writer.add(_finished(candles, task))
            reader.require_same(task.file, stream)
        read.facts = rows.facts
        read.staged = writer.finish()
        read.reach = _reach(task, rows.facts)
        read.grants = _grants(task, rows.facts, read.reach, wanted, trades, run.now)
        if keeper is not None:
            read.trades = _staged_trades(keeper, read)
    except BaseException:
        writer.discard()
        if keeper is not None:
            keeper.discard()
        raise


def _staged_trades(keeper: TradeWriter, read: Reading) -> StagedTrades:
    """Stage the trades of a file in the time for which it answers."""
    container, reach = read.task.container, read.reach
    source = TradeSource(
        file_source_name(read.facts.sha256),
        keeper.has_ids,
        ((container.end or 0) if container is not None else 0) // 86_400,
        reach.seconds if reach is not None else 0,
    )
    return keeper.finish(source, normalise(grant.span for grant in read.grants))


def _rows(
    stores: Stores,
    task: Task,
    stream: Any,
    reader: ArchiveReader,
    run: RunContext,
    *,
    sort: bool,
    keeper: TradeWriter | None = None,
) -> CandleReader | TradesReader:
    if task.file.kind is Kind.TRADES:
        is_release = task.container is not None and task.container.end is not None
        with stores.catalog.read() as connection:
            density = density_records.density_of(connection, task.file.pair.name)
        keep = None if keeper is None else keeper.add
        return TradesReader(stream, run.now, edges_are_whole=is_release, density=density, keep=keep)
    return CandleReader(
        stream,
        task.file.interval,
        run.now,
        manifest=reader.manifest(task.file.container) if task.file.container else None,
        sort_in=stores.lake.scratch if sort else None,
    )


def _note_rejects(read: Reading, rejects: Sequence[Reject]) -> None:
    """Count rejected rows, and keep the first ones of the file."""
    read.rejects += rejects[: dead_letters.MOST_OF_FILE - len(read.rejects)]
    read.rows_rejected += len(rejects)


def write_letters(connection: sa.Connection, read: Reading, run: RunContext) -> None:
    """Record the rejects of a reading as dead letters, and its error as one more."""
    errors = [letter(read.task.file.name, read.error)] if read.error is not None else []
    dead_letters.add(
        connection,
        read.file_id,
        read.task.file.location,
        [*read.rejects, *errors],
        run_id=run.run_id,
        now=run.now,
        unkept=read.rows_rejected - len(read.rejects),
    )


def letter(text: str, reason: str) -> Reject:
    """Return the dead letter of a whole file."""
    return Reject(0, text, reason, None)


def _within(candles: pl.DataFrame, wanted: Span, spec: RunSpec) -> pl.DataFrame:
    if spec.selects_all_time or candles.is_empty():
        return candles
    kept = candles
    if spec.start is not None:
        kept = kept.filter(pl.col("time") >= as_datetime(wanted.start))
    if spec.end is not None:
        kept = kept.filter(pl.col("time") < as_datetime(wanted.end))
    return kept


def _finished(candles: pl.DataFrame, task: Task) -> pl.DataFrame:
    if candles.is_empty():
        return candles
    source = Source.TRADES if task.file.kind is Kind.TRADES else Source.CSV
    release_end = task.container.end if task.container is not None else None
    # Columns one by one: `with_columns` costs 0.2 ms, however few the rows.
    columns = _provenance(source, (release_end or 0) // 86_400)
    flow = [candles[name] if name in candles.columns else nothing(name, candles.height) for name in FLOW]
    return without_flow(candles).hstack([*(column.new_from_index(0, candles.height) for column in columns), *flow])


@cache
def _provenance(source: Source, release: int) -> tuple[pl.Series, pl.Series]:
    """Return the columns that say where candles come from, one row long."""
    return pl.Series("source", [source.value], dtype=SOURCE), pl.Series("release", [release], dtype=pl.Int32)


def _reach(task: Task, facts: Facts) -> Span | None:
    """Return the span that a file answers for.

    A release answers for its whole span, a loose file for its first candle to its last one's start.
    """
    interval = task.file.interval
    if task.container is not None and task.container.start is not None and task.container.end is not None:
        start, end = interval.ceil(task.container.start), interval.floor(task.container.end)
    else:
        start, end = interval.floor(facts.first_time or 0), interval.floor(facts.last_time or 0)
        if task.file.kind is Kind.TRADES:
            end += interval.seconds  # the incomplete minutes at both ends are part of facts.unanswered
    return Span(start, end) if start < end else None


def _grants(task: Task, facts: Facts, reach: Span | None, wanted: Span, trades: int, now: int) -> tuple[Grant, ...]:
    if reach is None:
        return ()
    source = Source.TRADES if task.file.kind is Kind.TRADES else Source.CSV
    spans = whole_candles(intersect(answered(reach.start, reach.end, facts.unanswered), (wanted,)), task.file.interval)
    length = seconds(spans)
    return tuple(Grant(span, source, now, trades * span.seconds // length) for span in spans)
