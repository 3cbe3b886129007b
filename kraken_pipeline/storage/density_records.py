"""Ids of trades that the exchange has left out: what is on record of them, and which are known not to exist."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from kraken_pipeline.coverage.anchors import HOLE_SECONDS
from kraken_pipeline.coverage.density import AbsentIds, Density
from kraken_pipeline.coverage.ranges import Spans, clip, normalise, subtract
from kraken_pipeline.storage.postgresql import alone
from kraken_pipeline.storage.schema import absent_ids
from kraken_pipeline.storage.seals import is_intact, sealed


@dataclass(frozen=True, slots=True)
class AbsenceRecord:
    """Ids that a run was not given though it asked twice.

    Attributes:
        absent: Which.
        run_id: The run that was the first to find them absent.
        seen_at: When, in seconds since the epoch.
        confirmed_at: When another run found the same; None before that.
    """

    absent: AbsentIds
    run_id: str
    seen_at: int
    confirmed_at: int | None


def density_of(connection: sa.Connection, pair: str) -> Density:
    """Return what is known of how the trades of a pair are numbered."""
    records = absences_of(connection, pair)
    return Density(sparse=tuple(record.absent for record in records if record.confirmed_at is not None))


def absences_of(connection: sa.Connection, pair: str) -> list[AbsenceRecord]:
    """Return what is on record of absent ids of a pair, in their order."""
    query = sa.select(absent_ids).where(absent_ids.c.pair == pair).order_by(absent_ids.c.first, absent_ids.c.last)
    return [
        AbsenceRecord(
            AbsentIds(row["first"], row["last"], row["start"], row["end"] - 1),
            row["run_id"],
            row["seen_at"],
            row["confirmed_at"],
        )
        for row in connection.execute(query).mappings()
        if is_intact(absent_ids, row)
    ]


def record_absent(
    connection: sa.Connection, pair: str, absent: Sequence[AbsentIds], run_id: str, now: int
) -> list[AbsentIds]:
    """Put ids on record that a run was not given though it asked twice.

    Those that an earlier run, an hour ago or longer, was not given either do not exist from now on.

    Args:
        connection: Of a transaction that writes.
        pair: Whose trades.
        absent: Which ids.
        run_id: The run.
        now: Its moment, in seconds since the epoch.

    Returns:
        Those that still count as trades.
    """
    alone(connection, absent_ids)
    records = absences_of(connection, pair)
    known = normalise(record.absent.ids for record in records)
    before = normalise(
        record.absent.ids for record in records if record.run_id != run_id and record.seen_at <= now - HOLE_SECONDS
    )
    again = [each for each in absent if not subtract((each.ids,), clip(before, each.ids))]
    left = [each for each in absent if each not in again]
    new = [each for each in left if subtract((each.ids,), clip(known, each.ids))]
    _delete(connection, pair, again)
    rows = [AbsenceRecord(each, run_id, now, now) for each in again]
    rows += [AbsenceRecord(each, run_id, now, None) for each in new]
    if rows:
        connection.execute(sa.insert(absent_ids), [_row(pair, row) for row in rows])
    return left


def forget_absent(connection: sa.Connection, pair: str, answered: Spans) -> None:
    """Delete from record that ids were absent where the exchange has answered for all of the time around them."""
    records = absences_of(connection, pair)
    given = [
        record.absent
        for record in records
        if record.confirmed_at is None and not subtract((record.absent.span,), answered)
    ]
    _delete(connection, pair, given)


def _delete(connection: sa.Connection, pair: str, absent: Iterable[AbsentIds]) -> None:
    for each in absent:
        is_it = (absent_ids.c.first == each.first) & (absent_ids.c.last == each.last)
        connection.execute(sa.delete(absent_ids).where(absent_ids.c.pair == pair, is_it))


def _row(pair: str, record: AbsenceRecord) -> dict[str, str | int | None]:
    span = record.absent.span
    return sealed(
        absent_ids,
        {
            "pair": pair,
            "first": record.absent.first,
            "last": record.absent.last,
            "start": span.start,
            "end": span.end,
            "run_id": record.run_id,
            "seen_at": record.seen_at,
            "confirmed_at": record.confirmed_at,
        },
    )
