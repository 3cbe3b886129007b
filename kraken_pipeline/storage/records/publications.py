"""The outboxes: ranges that are pending for QuestDB, marked for reconciliation, or to be searched for quiet time.

A range is added before the lake changes. It is removed from the first outbox once QuestDB has applied it. Once it was
reconciled, it moves from the second to the third, and is removed from that once it was searched. The publisher reads
the pending ranges first, then waits until no process is writing these series, and only then reads the lake. Otherwise a
writer that has added its range but not yet moved its files would pass for finished. Reconciliation holds the locks of
the series throughout.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.schema import doubts, of_pairs, publications, quiet_checks

_IDS = 500
"""The number of ids in one statement: SQLite and PostgreSQL allow many more, but not as many as a rebuild has."""


@dataclass(frozen=True, slots=True)
class Publication:
    """A range in an outbox.

    Attributes:
        id: The id of its record; a range that changes gets a new id.
        series: The series.
        span: The range.
        made_at: The time since when it is there, in seconds since the epoch.
    """

    id: int
    series: Series
    span: Span
    made_at: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """A summary of the pending ranges.

    Attributes:
        count: The number of ranges.
        oldest: The time since when the oldest is pending, in seconds since the epoch; None where there is none.
    """

    count: int
    oldest: int | None


def enqueue(connection: sa.Connection, changes: Iterable[tuple[Series, Span]], now: int) -> None:
    """Add changed ranges to the outbox before the lake changes, so that QuestDB never misses them.

    A range that touches a pending one is merged with it under a new id, because each page of trades brings a range. A
    publisher that is working on the old range then deletes an id that is gone, and the new range stays pending.
    """
    _put(connection, publications, changes, now)


def mark_for_reconciliation(connection: sa.Connection, changes: Iterable[tuple[Series, Span]], now: int) -> None:
    """Mark ranges for reconciliation, because their candles or evidence have changed."""
    _put(connection, doubts, changes, now)


def marked(connection: sa.Connection, pairs: Collection[str] | None = None) -> dict[str, list[Publication]]:
    """Return the ranges that are marked for reconciliation, by pair; of some pairs or of all."""
    return _by_pair(connection, doubts, pairs)


def to_search(connection: sa.Connection, pairs: Collection[str] | None = None) -> dict[str, list[Publication]]:
    """Return the ranges that were reconciled and not yet searched for quiet time, by pair; of some pairs or of all."""
    return _by_pair(connection, quiet_checks, pairs)


def _by_pair(connection: sa.Connection, table: sa.Table, pairs: Collection[str] | None) -> dict[str, list[Publication]]:
    query = sa.select(table).order_by(table.c.pair, table.c.interval, table.c.start)
    query = query.where(of_pairs(table.c.pair, pairs))
    found: dict[str, list[Publication]] = {}
    for row in connection.execute(query).mappings():
        series = Series(row["pair"], Interval(row["interval"]))
        mark = Publication(row["id"], series, Span(row["start"], row["end"]), row["made_at"])
        found.setdefault(series.pair, []).append(mark)
    return found


def reconciled(connection: sa.Connection, marks: Sequence[Publication], now: int) -> None:
    """Record that marked ranges were reconciled: from now on they are to be searched for quiet time."""
    _remove(connection, doubts, marks)
    _put(connection, quiet_checks, ((mark.series, mark.span) for mark in marks), now)


def searched(connection: sa.Connection, checks: Sequence[Publication]) -> None:
    """Remove ranges that were searched for quiet time."""
    _remove(connection, quiet_checks, checks)


def _remove(connection: sa.Connection, table: sa.Table, ranges: Sequence[Publication]) -> None:
    ids = [record.id for record in ranges]
    for start in range(0, len(ids), _IDS):
        connection.execute(sa.delete(table).where(table.c.id.in_(ids[start : start + _IDS])))


def _put(connection: sa.Connection, table: sa.Table, changes: Iterable[tuple[Series, Span]], now: int) -> None:
    rows = []
    for series, span in changes:
        key = {"of_pair": series.pair, "of_interval": series.interval.value}
        pending_before = connection.execute(_touched(table), {**key, "of_start": span.start, "of_end": span.end}).all()
        if pending_before:
            connection.execute(sa.delete(table).where(table.c.id.in_([row.id for row in pending_before])))
        rows.append(
            {
                "pair": series.pair,
                "interval": series.interval.value,
                "start": min((span.start, *(row.start for row in pending_before))),
                "end": max((span.end, *(row.end for row in pending_before))),
                "made_at": min((now, *(row.made_at for row in pending_before))),
            }
        )
    if rows:
        connection.execute(sa.insert(table), rows)


@cache
def _touched(table: sa.Table) -> sa.Select[Any]:
    """Return a query for the rows of a series that overlap or touch a range.

    It is built once, because building it takes longer than running it.
    """
    return sa.select(table).where(
        table.c.pair == sa.bindparam("of_pair"),
        table.c.interval == sa.bindparam("of_interval"),
        table.c.start <= sa.bindparam("of_end"),
        table.c.end >= sa.bindparam("of_start"),
    )


def pending(
    connection: sa.Connection, interval: Interval, series: Collection[Series] | None = None
) -> dict[Series, list[Publication]]:
    """Return the pending ranges of one interval, by series and in order of time.

    Args:
        connection: A transaction of the catalog.
        interval: The interval.
        series: Only these series; all where it is None.
    """
    table = publications
    query = (
        sa.select(table.c.id, table.c.pair, table.c.start, table.c.end, table.c.made_at)
        .where(table.c.interval == interval.value)
        .order_by(table.c.pair, table.c.start, table.c.id)
    )
    found: dict[Series, list[Publication]] = {}
    for id_, pair, start, end, made_at in connection.execute(query):
        publication = Publication(id_, Series(pair, interval), Span(start, end), made_at)
        if series is None or publication.series in series:
            found.setdefault(publication.series, []).append(publication)
    return found


def deliver(connection: sa.Connection, ids: Sequence[int], until: int) -> None:
    """Record that QuestDB has applied everything before a moment of some pending ranges.

    Ranges that were replaced under a new id in the meantime are not touched.
    """
    table = publications
    for start in range(0, len(ids), _IDS):
        is_one = table.c.id.in_(ids[start : start + _IDS])
        connection.execute(sa.delete(table).where(is_one, table.c.end <= until))
        connection.execute(sa.update(table).where(is_one, table.c.start < until).values(start=until))


def backlog(connection: sa.Connection) -> Backlog:
    """Return the summary of all pending ranges."""
    count, oldest = connection.execute(sa.select(sa.func.count(), sa.func.min(publications.c.made_at))).one()
    return Backlog(int(count), oldest)
