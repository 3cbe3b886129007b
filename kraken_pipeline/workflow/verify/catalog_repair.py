"""Repair of the catalog: removes damaged rows and has their content derived or answered again."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import EVER
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema, seals
from kraken_pipeline.storage.catalog.columns import remove_damaged
from kraken_pipeline.storage.catalog.states import DamageKind
from kraken_pipeline.storage.records import damage as damages
from kraken_pipeline.storage.records import (
    evidence_records,
    file_records,
    manifest,
    publications,
    withdrawals,
)
from kraken_pipeline.storage.records.damage import Damage
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.progress import RunContext

_SUMMED = (schema.coverage, schema.extents)
_COMPARED = (schema.proofs, schema.confirmations, schema.candle_counts)
"""Tables that reconciliation derives. The subject of a damaged row is unknown, so everything is compared again."""
_ASKED_AGAIN = (schema.anchors, schema.absent_ids, schema.trade_counts)
"""Tables of knowledge from trade ids. The next proof requests or counts again what a damaged row contained."""


def derive(stores: Stores, selected: Collection[Series], run: RunContext) -> None:
    """Compute derived records again that are damaged or no longer follow from the catalog's evidence."""
    with stores.catalog.write() as connection:
        broken = {table: seals.broken(connection, table) for table in (*_SUMMED, *_COMPARED, *_ASKED_AGAIN)}
        for table, rows in broken.items():
            seals.delete(connection, table, rows)
        if any(broken[table] for table in _COMPARED):
            _mark_all(connection, run.now)
    with stores.catalog.read() as connection:
        wrong = {*evidence_records.inconsistent(connection), *_other_extents(connection, selected)}
    _derive_coverage(stores, wrong, run.now)


def derive_coverage(stores: Stores, selected: Collection[Series], now: int) -> Sequence[Series]:
    """Compute the coverage of some series again where it no longer follows from the evidence; return those series."""
    with stores.catalog.read() as connection:
        wrong = evidence_records.inconsistent(connection, selected)
    _derive_coverage(stores, wrong, now)
    return wrong


def _derive_coverage(stores: Stores, wrong: Iterable[Series], now: int) -> None:
    for series in sorted(wrong):
        with stores.locks.series([series]):
            times = {series: stores.lake.times(series)}
            with stores.catalog.write() as connection:
                evidence_records.renew(connection, times)
                publications.mark_for_reconciliation(connection, [(series, EVER)], now)


def _mark_all(connection: sa.Connection, now: int) -> None:
    """Mark all coverage for reconciliation."""
    records = evidence_records.coverage_of(connection)
    publications.mark_for_reconciliation(
        connection, [(series, record.span) for series, found in records.items() for record in found], now
    )


def _other_extents(connection: sa.Connection, selected: Collection[Series]) -> set[Series]:
    """Return the series whose extents count other numbers of candles than the manifest adds up to."""
    rows = manifest.rows_of(connection)
    known = evidence_records.extents(connection)
    damaged = {damage.series for damage in damages.open_damages(connection)}
    left_out = manifest.unadopted_series(connection) | damaged
    return {
        series
        for series in selected
        if series not in left_out and rows.get(series, 0) != (known[series].candles if series in known else 0)
    }


_MADE_ANEW = (
    schema.asked_intervals,
    schema.attempts,
    schema.conflicts,
    schema.contradictions,
    schema.doubts,
    schema.gaps,
    schema.publications,
    schema.quiet_checks,
    schema.reports,
    schema.suspicions,
)
"""Tables that no coverage or proof depends on: they are derived again, or are history."""
_EVIDENCE = (
    schema.grants,
    schema.refutations,
    schema.disputes,
    schema.listings,
    schema.lake_files,
    schema.trade_files,
    schema.absences,
    schema.incidents,
    schema.pair_lists,
    schema.pair_changes,
    schema.lake_commits,
    schema.history_starts,
)


def broken_rows(stores: Stores) -> list[Damage]:
    """Return the damage of the catalog's evidence: one entry per table."""
    with stores.catalog.read() as connection:
        counts = {table.name: len(seals.broken(connection, table)) for table in _EVIDENCE}
    name = Path(stores.catalog.engine.url.database or "catalog").name
    return [
        Damage(name, None, None, DamageKind.CHANGED, f"has {count:,} rows of {table} that differ from what was written")
        for table, count in counts.items()
        if count
    ]


def mend_catalog(stores: Stores, now: int) -> set[Series]:
    """Remove damaged rows of evidence, and have their spans answered again.

    Returns:
        The series of the removed rows, as far as they are still readable.
    """
    touched: set[Series] = set()
    with stores.catalog.write() as connection:
        broken = {table: seals.broken(connection, table) for table in _EVIDENCE}
        for table, rows in broken.items():
            seals.delete(connection, table, rows)
        if broken[schema.grants]:
            touched |= file_records.read_unanswered(connection, now)
        for row in broken[schema.refutations]:
            _refute_all(connection, row, now)
        for row in (*broken[schema.grants], *broken[schema.refutations], *broken[schema.disputes]):
            if row["interval"] in set(Interval):
                touched.add(Series(row["pair"], Interval(row["interval"])))
        if broken[schema.lake_commits] or broken[schema.history_starts]:
            manifest.begin_history(connection, None, time.time_ns() // 1_000)  # what was stored before is not known
        if broken[schema.disputes]:
            _read_disputed(connection, broken[schema.disputes], now)
        removed = [remove_damaged(connection, table) for table in _MADE_ANEW if stores.catalog.is_sqlite]
        if any(removed):
            _mark_all(connection, now)
        # The records of answers are lost, so every source may be asked again.
        withdrawals.forget_answers(connection, dict.fromkeys(touched, (EVER,)))
    return touched


def _read_disputed(connection: sa.Connection, rows: Iterable[sa.RowMapping], now: int) -> None:
    """Make the files of the rows' pairs be read again to find disputes; a lost one may be of any interval."""
    for pair in sorted({str(row["pair"]) for row in rows}):
        for interval in Interval:
            reason = "to be read again: a record of the difference of two files is damaged"
            withdrawals.read_again(connection, Series(pair, interval), (EVER,), reason, now)


def _refute_all(connection: sa.Connection, row: sa.RowMapping, now: int) -> None:
    """Refute everything of the pair of a lost refutation, because its span is unknown."""
    reason = "a record of a refutation here is damaged"
    for interval in Interval:
        damages.uncover_lost(connection, Series(str(row["pair"]), interval), reason, now)
