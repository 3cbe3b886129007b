"""Catalog records of absent ids: trade ids that the exchange left out, and those known not to exist."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from kraken_pipeline.coverage.anchors import tested_years
from kraken_pipeline.coverage.density import APART_SECONDS, Absence, AbsentIds, Density
from kraken_pipeline.coverage.ranges import Spans, clip, normalise, subtract, union
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.schema import absent_ids
from kraken_pipeline.storage.catalog.seals import is_intact, sealed
from kraken_pipeline.storage.postgresql import alone
from kraken_pipeline.storage.records import evidence_records
from kraken_pipeline.storage.records.anchors import anchors_of, forget_anchors


def density_of(connection: sa.Connection, pair: str) -> Density:
    """Return what is known about the numbering of a pair's trades."""
    absences = absences_of(connection, pair)
    sparse = tuple(absence.absent for absence in absences if absence.confirmed_at is not None)
    return Density(tested_years(anchors_of(connection, pair), absences), sparse)


def absences_of(connection: sa.Connection, pair: str, *conditions: sa.ColumnElement[bool]) -> list[Absence]:
    """Return the recorded absent ids of a pair, in order; damaged rows are left out.

    Args:
        connection: A transaction.
        pair: The pair.
        conditions: Conditions on the rows of `absent_ids`; all rows of the pair without them.
    """
    query = sa.select(absent_ids).where(absent_ids.c.pair == pair, *conditions)
    return [
        Absence(
            AbsentIds(row["first"], row["last"], row["start"], row["end"] - 1, row["parts"]),
            row["run_id"],
            row["seen_at"],
            row["confirmed_at"],
        )
        for row in connection.execute(query.order_by(absent_ids.c.first, absent_ids.c.last)).mappings()
        if is_intact(absent_ids, row)
    ]


def record_absent(
    connection: sa.Connection, pair: str, absent: Sequence[AbsentIds], run_id: str, now: int
) -> list[AbsentIds]:
    """Record ids that a run did not receive in two requests.

    Ids that an earlier run, at least an hour ago, did not receive either are confirmed as non-existent.

    Args:
        connection: A write transaction.
        pair: The pair of the trades.
        absent: The absent ids of one page, in order.
        run_id: The run.
        now: The time of the run, in seconds since the epoch.

    Returns:
        The ids that still count as trades.
    """
    if not absent:
        return []
    alone(connection, absent_ids)
    overlapping = (absent_ids.c.first <= absent[-1].last) & (absent_ids.c.last >= absent[0].first)
    records = absences_of(connection, pair, overlapping)
    confirmed = _ids(record for record in records if record.confirmed_at is not None)
    before = _ids(record for record in records if record.run_id != run_id and record.seen_at <= now - APART_SECONDS)
    known = _ids(records)
    left: list[AbsentIds] = []
    for ids in absent:
        if _is_within(ids, confirmed):
            continue
        if _is_within(ids, before):
            _delete(connection, pair, ids)
            _insert(connection, pair, Absence(ids, run_id, now, now))
            continue
        if not _is_within(ids, known):
            _insert(connection, pair, Absence(ids, run_id, now))
        left.append(ids)
    return left


def forget_answered(connection: sa.Connection, pair: str, answered: Spans) -> None:
    """Delete unconfirmed absent ids where all of the time around them is answered, by a page or before it.

    Args:
        connection: A write transaction.
        pair: The pair of the trades.
        answered: The time that the page answers for.
    """
    if not answered:
        return
    within = (absent_ids.c.start < answered[-1].end) & (absent_ids.c.end > answered[0].start)
    records = absences_of(connection, pair, within, absent_ids.c.confirmed_at.is_(None))
    if not records:
        return
    coverage = evidence_records.coverage_of(connection, [Interval.M1], [pair]).get(Series(pair, Interval.M1), [])
    known = union(answered, tuple(covered.span for covered in coverage))
    for record in records:
        if not subtract((record.absent.span,), known):
            forget_absent(connection, pair, record.absent)


def forget_absent(connection: sa.Connection, pair: str, absent: AbsentIds) -> None:
    """Delete the record of absent ids that the exchange has returned after all.

    Anchors at moments among these ids name the trade after them, so they are deleted too and requested again.
    """
    _delete(connection, pair, absent)
    forget_anchors(connection, pair, absent.minutes)


def _ids(records: Iterable[Absence]) -> Spans:
    return normalise(record.absent.ids for record in records)


def _is_within(absent: AbsentIds, ids: Spans) -> bool:
    return not subtract((absent.ids,), clip(ids, absent.ids))


def _delete(connection: sa.Connection, pair: str, absent: AbsentIds) -> None:
    is_it = (absent_ids.c.first == absent.first) & (absent_ids.c.last == absent.last)
    connection.execute(sa.delete(absent_ids).where(absent_ids.c.pair == pair, is_it))


def _insert(connection: sa.Connection, pair: str, record: Absence) -> None:
    absent = record.absent
    row = {
        "pair": pair,
        "first": absent.first,
        "last": absent.last,
        "start": absent.span.start,
        "end": absent.span.end,
        "parts": absent.parts,
        "run_id": record.run_id,
        "seen_at": record.seen_at,
        "confirmed_at": record.confirmed_at,
    }
    connection.execute(sa.insert(absent_ids), sealed(absent_ids, row))
