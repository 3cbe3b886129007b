"""The outboxes: which ranges of which series QuestDB is still owed, and which have changed since they were reconciled.

A range is put in before the lake changes. It goes out of the one once QuestDB has applied it, of the other once it was
reconciled. Whoever delivers reads what is owed first, then waits until nobody is in the middle of writing these series,
and only then reads the lake: a writer that has put its range in and not yet moved its files would otherwise be taken
for done. Whoever reconciles holds the locks of the series for all of it.
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
from kraken_pipeline.storage.catalog.schema import doubts, of_pairs, publications

_IDS = 500
"""Ids in one statement: SQLite and PostgreSQL both take many more, but not as many as a rebuild has."""


@dataclass(frozen=True, slots=True)
class Publication:
    """A range that is owed.

    Attributes:
        id: Of its record; a range that changes gets a new one.
        series: Whose candles.
        span: Which.
        made_at: Since when, in seconds since the epoch.
    """

    id: int
    series: Series
    span: Span
    made_at: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much is owed.

    Attributes:
        count: How many ranges.
        oldest: Since when the oldest is, in seconds since the epoch; None where there is none.
    """

    count: int
    oldest: int | None


def owe(connection: sa.Connection, changes: Iterable[tuple[Series, Span]], now: int) -> None:
    """Puts changed ranges into the outbox, before the lake changes: QuestDB is never left without them.

    A range that touches one that is owed already takes its place, under a new id: each page of trades brings one. Who
    is publishing the old one at that moment ends by deleting an id that is gone, and the new one stays owed.
    """
    _put(connection, publications, changes, now)


def doubt(connection: sa.Connection, changes: Iterable[tuple[Series, Span]], now: int) -> None:
    """Takes note that ranges have changed, candles or evidence, and are to be reconciled."""
    _put(connection, doubts, changes, now)


def doubted(connection: sa.Connection, pairs: Collection[str] | None = None) -> dict[str, list[Publication]]:
    """What is to be reconciled, by pair; of some pairs or of all."""
    query = sa.select(doubts).order_by(doubts.c.pair, doubts.c.interval, doubts.c.start)
    query = query.where(of_pairs(doubts.c.pair, pairs))
    found: dict[str, list[Publication]] = {}
    for row in connection.execute(query).mappings():
        series = Series(row["pair"], Interval(row["interval"]))
        doubt_ = Publication(row["id"], series, Span(row["start"], row["end"]), row["made_at"])
        found.setdefault(series.pair, []).append(doubt_)
    return found


def reconciled(connection: sa.Connection, ids: Sequence[int]) -> None:
    """Takes ranges out that were reconciled."""
    for start in range(0, len(ids), _IDS):
        connection.execute(sa.delete(doubts).where(doubts.c.id.in_(ids[start : start + _IDS])))


def _put(connection: sa.Connection, table: sa.Table, changes: Iterable[tuple[Series, Span]], now: int) -> None:
    rows = []
    for series, span in changes:
        key = {"of_pair": series.pair, "of_interval": series.interval.value}
        owed_before = connection.execute(_touched(table), {**key, "of_start": span.start, "of_end": span.end}).all()
        if owed_before:
            connection.execute(sa.delete(table).where(table.c.id.in_([each.id for each in owed_before])))
        rows.append(
            {
                "pair": series.pair,
                "interval": series.interval.value,
                "start": min((span.start, *(each.start for each in owed_before))),
                "end": max((span.end, *(each.end for each in owed_before))),
                "made_at": min((now, *(each.made_at for each in owed_before))),
            }
        )
    if rows:
        connection.execute(sa.insert(table), rows)


@cache
def _touched(table: sa.Table) -> sa.Select[Any]:
    """The rows of a series that overlap or touch a range; built once, because that takes longer than to ask."""
    return sa.select(table).where(
        table.c.pair == sa.bindparam("of_pair"),
        table.c.interval == sa.bindparam("of_interval"),
        table.c.start <= sa.bindparam("of_end"),
        table.c.end >= sa.bindparam("of_start"),
    )


def owed(
    connection: sa.Connection, interval: Interval, series: Collection[Series] | None = None
) -> dict[Series, list[Publication]]:
    """What is owed of one interval, by series and in order of time.

    Args:
        connection: The catalog.
        interval: Which.
        series: Only of these; of all where it is None.
    """
    table = publications
    query = (
        sa.select(table.c.id, table.c.pair, table.c.start, table.c.end, table.c.made_at)
        .where(table.c.interval == interval.value)
        .order_by(table.c.pair, table.c.start, table.c.id)
    )
    found: dict[Series, list[Publication]] = {}
    for id_, pair, start, end, made_at in connection.execute(query):
        each = Publication(id_, Series(pair, interval), Span(start, end), made_at)
        if series is None or each.series in series:
            found.setdefault(each.series, []).append(each)
    return found


def deliver(connection: sa.Connection, ids: Sequence[int], until: int) -> None:
    """Takes note that QuestDB has everything of some publications that lies before a moment.

    What has been replaced under a new id in the meantime is not touched.
    """
    table = publications
    for start in range(0, len(ids), _IDS):
        is_one = table.c.id.in_(ids[start : start + _IDS])
        connection.execute(sa.delete(table).where(is_one, table.c.end <= until))
        connection.execute(sa.update(table).where(is_one, table.c.start < until).values(start=until))


def backlog(connection: sa.Connection) -> Backlog:
    """How much is owed in all."""
    count, oldest = connection.execute(sa.select(sa.func.count(), sa.func.min(publications.c.made_at))).one()
    return Backlog(int(count), oldest)
