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

import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Span, Spans, normalise
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.schema import doubts, of_pairs, publications, quiet_checks

_IDS = 500
"""The number of ids in one statement: SQLite and PostgreSQL allow many more, but not as many as a rebuild has."""

_NEW = 0
"""The id of a range that is not recorded yet; those of records are greater."""


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


def ranges_of(marks: Iterable[Publication]) -> dict[Series, Spans]:
    """Return the ranges of some records, by series."""
    spans: dict[Series, list[Span]] = {}
    for mark in marks:
        spans.setdefault(mark.series, []).append(mark.span)
    return {series: normalise(found) for series, found in spans.items()}


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
    wanted = list(changes)
    if not wanted:
        return
    known = _touched(connection, table, wanted)
    gone: list[Publication] = []
    for series, span in wanted:
        touched = [old for old in known[series] if old.span.start <= span.end and old.span.end >= span.start]
        gone += touched
        start = min((span.start, *(old.span.start for old in touched)))
        end = max((span.end, *(old.span.end for old in touched)))
        merged = Publication(_NEW, series, Span(start, end), min((now, *(old.made_at for old in touched))))
        known[series] = [old for old in known[series] if old not in touched] + [merged]
    _remove(connection, table, [old for old in gone if old.id != _NEW])
    rows = [
        {
            "pair": new.series.pair,
            "interval": new.series.interval.value,
            "start": new.span.start,
            "end": new.span.end,
            "made_at": new.made_at,
        }
        for ranges in known.values()
        for new in ranges
        if new.id == _NEW
    ]
    connection.execute(sa.insert(table), rows)


def _touched(
    connection: sa.Connection, table: sa.Table, changes: Sequence[tuple[Series, Span]]
) -> dict[Series, list[Publication]]:
    """Return the records of each changed series that may overlap or touch its changes.

    A statement for many series costs little more than for one: for each series, it would cost 0.3 ms.
    """
    found: dict[Series, list[Publication]] = {series: [] for series, _ in changes}
    first, last = min(span.start for _, span in changes), max(span.end for _, span in changes)
    query = sa.select(table).where(table.c.start <= last, table.c.end >= first)
    keys = [(series.pair, series.interval.value) for series in found]
    for start in range(0, len(keys), _IDS):
        is_one = sa.tuple_(table.c.pair, table.c.interval).in_(keys[start : start + _IDS])
        for row in connection.execute(query.where(is_one)):
            series = Series(row.pair, Interval(row.interval))
            found[series].append(Publication(row.id, series, Span(row.start, row.end), row.made_at))
    return found


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
