"""Correction of wrong conclusions that earlier versions drew from archives.

They stored rows without a trade as candles, treated such rows before the first candle of a file as quiet time, and
treated ZIPs whose names promise nothing as releases. A migration records the pairs of archives. The first run after it
corrects each pair once, before it compares anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import polars as pl
import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Span, Spans, subtract
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.schema import earlier_archives, grants
from kraken_pipeline.storage.lake.writer import stage_removal
from kraken_pipeline.storage.records import evidence_records, file_records, publications, withdrawals
from kraken_pipeline.storage.records.file_records import FileRecord
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.heed import heeding
from kraken_pipeline.workflow.lake_write import LakeWrite, commit

ORIGIN = "a row without a trade is quiet time"


def correct(stores: Stores, pairs: Collection[str], now: int) -> Sequence[str]:
    """Correct those of some pairs that are not corrected yet, and return their names.

    After an interruption, the next run resumes with the unfinished pair.

    Raises:
        Busy: Another process has been writing a pair for too long.
    """
    with stores.catalog.read() as connection:
        names = waiting(connection, pairs)
    for pair in names:
        every = [Series(pair, interval) for interval in Interval]
        with stores.locks.series(every):
            for series in every:
                heeding(lambda series=series: _correct(stores, series, now))  # type: ignore[misc]
            with stores.catalog.write() as connection:
                connection.execute(sa.delete(earlier_archives).where(earlier_archives.c.pair == pair))
    return names


def waiting(connection: sa.Connection, pairs: Collection[str]) -> list[str]:
    """Return those of some pairs that are not corrected yet, sorted."""
    return sorted(set(connection.scalars(sa.select(earlier_archives.c.pair))) & set(pairs))


def _correct(stores: Stores, series: Series, now: int) -> None:
    """Trim unfounded grants, then remove the rows without a trade; the caller holds the series' lock."""
    quiet = stores.lake.without_trades(series)
    silent = quiet["time"].dt.epoch("s")
    traded = stores.lake.times(series)
    traded = traded.filter(~traded.is_in(silent.implode()))
    with stores.catalog.read() as connection:
        claims = list(_claims(connection, series, traded, silent))
    if claims:
        with stores.catalog.write() as connection:
            for file, spans in claims:
                withdrawals.trim_grants(connection, series, spans, file_id=file.id)
            evidence_records.renew(connection, {series: traded})
            publications.mark_for_reconciliation(
                connection, [(series, span) for _, spans in claims for span in spans], now
            )
    if quiet.height:
        staged = stage_removal(stores.lake, series, quiet, origin=ORIGIN, now=now)
        commit(stores, [LakeWrite(staged, ())], now)


def _claims(
    connection: sa.Connection, series: Series, traded: pl.Series, silent: pl.Series
) -> Iterator[tuple[FileRecord, Spans]]:
    """Yield the files that promise nothing beyond their rows, each with the spans granted beyond these."""
    releases = {
        container.sha256 for container in file_records.all_containers(connection) if container.start is not None
    }
    for file in file_records.completed(connection, [series.pair]):
        if file.series != series or file.kind != Kind.OHLCVT or file.container in releases:
            continue
        query = sa.select(grants.c.start, grants.c.end).where(grants.c.file_id == file.id)
        granted = [Span(start, end) for start, end in connection.execute(query)]
        own = _own(file, traded, silent)
        if beyond := tuple(part for span in granted for part in subtract((span,), own)):
            yield file, beyond


def _own(file: FileRecord, traded: pl.Series, silent: pl.Series) -> Spans:
    """Return the span from a file's first candle to the start of its last one."""
    if file.first_time is None or file.last_time is None:
        return ()
    candles, others = (column.filter(column.is_between(file.first_time, file.last_time)) for column in (traded, silent))
    if others.is_empty():
        return (Span(file.first_time, file.last_time),) if file.first_time < file.last_time else ()
    if candles.is_empty():
        return ()
    first, last = int(candles[0]), int(candles[-1])
    return (Span(first, last),) if first < last else ()
