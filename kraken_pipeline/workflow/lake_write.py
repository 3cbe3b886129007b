"""The only write path into the lake, ordered so that a crash does no harm.

`range pending, marked for reconciliation, files announced` → files moved → `files confirmed, grants`. A crash leaves
rows without coverage and a superfluous publication. It never leaves coverage without rows, rows that are never
published or reconciled, or a file that the manifest does not name.

A write that leaves a series in another layout stages all of its candles anew. The transaction that confirms the new
files retires the old ones, which are deleted afterwards. A crash before it leaves the new files unread, and a crash
after it the old ones; the next write to the series, or `verify`, deletes them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import polars as pl
import sqlalchemy as sa

from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.ranges import Span, Spans, intersect, lies_in, normalise, of_candles, subtract
from kraken_pipeline.errors import StoreUnavailable
from kraken_pipeline.market.candle import are_independent
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.exchange_state import counters
from kraken_pipeline.storage.lake import last_write
from kraken_pipeline.storage.lake.staged import Staged, move_all
from kraken_pipeline.storage.records import (
    deliveries,
    dispute_records,
    evidence_records,
    manifest,
    proof_records,
    publications,
)
from kraken_pipeline.storage.records.manifest import LakeCommit, LakeFile
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.storage.trades import writer as trade_writer
from kraken_pipeline.storage.trades.writer import StagedTrades


@dataclass(frozen=True, slots=True)
class LakeWrite:
    """Staged candles of one series with their evidence.

    Attributes:
        staged: The staged candles.
        grants: The grants of their source.
        file_id: The id of the archive file's record, if they come from a file.
        contradicted: The spans of candles for which the source has several rows that differ.
        trades: The staged trades of the source, where they are kept. They claim their time from the moment in which
            the grants count, so that neither is there without the other.
    """

    staged: Staged
    grants: tuple[Grant, ...]
    file_id: int | None = None
    contradicted: Spans = ()
    trades: StagedTrades | None = None


def commit(
    stores: Stores, writes: Sequence[LakeWrite], now: int, finish: Callable[[sa.Connection], None] | None = None
) -> None:
    """Commit writes of different series to the lake and the catalog; the caller holds their locks.

    Args:
        stores: The stores to write to.
        writes: At most one write for each series.
        now: The current time, in seconds since the epoch.
        finish: Records more in the transaction that records the grants.

    Raises:
        StoreUnavailable: The catalog's server went away. Earlier transactions stay, and files may have been moved
            whose coverage is not granted. Committing again is safe.
    """
    written = [write.staged.series for write in writes]
    pending = [(write.staged.series, write.staged.changed_span) for write in writes]
    changes = [(series, span) for series, span in pending if span is not None]
    enriched = [(write.staged.series, write.staged.enriched_span) for write in writes]
    enriched_spans = [(series, span) for series, span in enriched if span is not None]
    moved = {write.staged.series: [move.file for move in write.staged.moves] for write in writes}
    files = [file for its in moved.values() for file in its]
    for write in writes:
        write.staged.sync(stores.lake.files)
    trades = [write.trades for write in writes if write.trades is not None]
    if changes or files:
        with stores.catalog.write() as connection:
            publications.enqueue(connection, [*changes, *enriched_spans], now)
            publications.mark_for_reconciliation(connection, changes, now)
            proof_records.unconfirm(connection, {series: (span,) for series, span in changes})
            manifest.announce(connection, files)
            manifest.keep_history(connection, _history(writes))
        stores.lake.manifest.reread_all(written)
    stores.locks.require(written)
    stages = [write.staged for write in writes]
    trade_writer.begin(stores.lake, trades)
    move_all(stores.lake.files, stages)
    last_write.note(stores.lake.home, files)
    lake_times = {write.staged.series: all_times(stores, write.staged) for write in writes}
    with stores.catalog.write() as connection:
        stores.locks.require(written)  # without the locks, others may have changed what was read from the lake
        manifest.confirm(connection, files)
        trade_writer.confirm(connection, trades)
        _retire(connection, stages, moved, now)
        proof_records.confirm(connection, _confirmed(connection, writes))
        dispute_records.settle(
            connection, {staged.series: of_candles(staged.undisputed, staged.series.interval) for staged in stages}
        )
        dispute_records.dispute(
            connection, {staged.series: of_candles(staged.disputed, staged.series.interval) for staged in stages}
        )
        evidence_records.grant(connection, [(write.staged.series, write.grants, write.file_id) for write in writes])
        evidence_records.renew(connection, lake_times)
        answered = [(write.staged.series, grant.span) for write in writes for grant in write.grants]
        publications.mark_for_reconciliation(connection, answered, now)
        for write in writes:
            for span, candles, reason in _conflicts(write):
                evidence_records.record_conflict(
                    connection,
                    write.staged.series,
                    span,
                    candles=candles,
                    reason=reason,
                    file_id=write.file_id,
                    now=now,
                )
        if finish is not None:
            finish(connection)
        counters.add_to(connection, _stored(writes), now)
    stores.lake.manifest.forget(written)
    trade_writer.clear(stores.lake, trades)
    if left := [staged.series for staged in stages if staged.retired]:
        with suppress(StoreUnavailable):  # all is committed; what is left is deleted by the next write to the series
            stores.locks.require(left)
            stores.lake.clear(left)


def _history(writes: Iterable[LakeWrite]) -> dict[Series, LakeCommit]:
    """Return what writes are about to add, and the files of the ledger with what they replace."""
    now = time.time_ns() // 1_000
    return {
        write.staged.series: LakeCommit(
            write.staged.added,
            tuple(move.file.path for move in write.staged.moves if not move.file.is_candles),
            now,
        )
        for write in writes
    }


def _stored(writes: Iterable[LakeWrite]) -> Mapping[str, int]:
    """Return the number of new and different candles by the name of their source's counter."""
    counts: Counter[str] = Counter()
    for write in writes:
        if write.grants:
            counts[f"candles.{write.grants[0].source}"] += write.staged.changed
    return counts


def _retire(
    connection: sa.Connection, stages: Iterable[Staged], files: Mapping[Series, Sequence[LakeFile]], now: int
) -> None:
    """Retire the files that writes replaced by those of another layout; of the same candles QuestDB has what it had."""
    for staged in stages:
        if staged.retired:
            if not staged.changed and staged.enriched_span is None:
                candles = [file for file in files[staged.series] if file.is_candles]
                deliveries.replace_with_same(connection, staged.retired, candles, now)
            deliveries.forget(connection, staged.retired)
            manifest.retire(connection, staged.retired)


def _confirmed(connection: sa.Connection, writes: Sequence[LakeWrite]) -> dict[Series, Spans]:
    """Return the spans where a source equals an earlier independent one, candle for candle, quiet time included.

    Spans without a candle that both have are left out. Common quiet time is no agreement on a value, and where two
    archives differ in every candle, each quiet time in between would become a record.
    """
    compared = {write.staged.series: write for write in writes if len(write.staged.alike)}
    answers = evidence_records.answers_of(connection, compared)
    found = {}
    for series, write in compared.items():
        staged, known = write.staged, answers.get(series, ())
        others = normalise(span for span, account in known if are_independent(account, staged.account or account))
        spans = intersect(intersect(others, normalise(grant.span for grant in write.grants)), staged.compared)
        unlike = staged.unlike.filter(lies_in(spans, staged.unlike))
        spans = subtract(spans, of_candles(unlike, series.interval))
        edges = [pl.Series([getattr(span, edge) for span in spans], dtype=pl.Int64()) for edge in ("start", "end")]
        before, after = (staged.alike.search_sorted(edge).to_list() for edge in edges)
        found[series] = tuple(span for span, first, last in zip(spans, before, after, strict=True) if first < last)
    return found


def _conflicts(write: LakeWrite) -> Iterator[tuple[Span, int, str]]:
    """Yield where a source differs from the stored candles or from itself: the span, the number of candles, why."""
    staged = write.staged
    if staged.refused_span is not None:
        yield staged.refused_span, staged.refused, f"{staged.origin} counts fewer trades than the kept candles"
    if staged.outdone_span is not None:
        yield staged.outdone_span, staged.outdone, f"{staged.origin} counts more trades than another archive"
    for span in write.contradicted:
        count = span.seconds // staged.series.interval.seconds
        yield span, count, f"{staged.origin} has several rows for one time, which differ"


def all_times(stores: Stores, staged: Staged) -> pl.Series:
    """Return the start of every candle of a series in the lake after its write, in seconds (Int64), sorted."""
    untouched = stores.lake.times(staged.series, without=staged.years)
    if untouched.is_empty():
        return staged.times
    return pl.concat([untouched, staged.times]).sort()
