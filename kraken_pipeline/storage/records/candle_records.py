"""Read-only queries about one candle: its grants, its files, its conflicts and the rows rejected at its time.

`evidence_records`, `dead_letters` and others write these records.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.schema import conflicts, dead_letters, files, grants
from kraken_pipeline.storage.catalog.states import FileStatus
from kraken_pipeline.storage.records import file_records
from kraken_pipeline.storage.records.file_records import FileRecord


@dataclass(frozen=True, slots=True)
class GrantRecord:
    """A grant that covers a candle.

    Attributes:
        span: The span that was answered for.
        source: A `market.candle.Source`.
        file_id: The id of the file that answered; None for other sources.
        verified_at: The time of the answer, in seconds since the epoch.
    """

    span: Span
    source: str
    file_id: int | None
    verified_at: int


@dataclass(frozen=True, slots=True)
class ConflictRecord:
    """A source that differs from the stored candles; see `schema.conflicts`."""

    span: Span
    candles: int
    reason: str
    made_at: int


def grants_over(connection: sa.Connection, series: Series, span: Span) -> list[GrantRecord]:
    """Return the grants that overlap a span, by the time of the answer."""
    query = sa.select(grants).where(_overlaps(grants, series, span)).order_by(grants.c.verified_at, grants.c.id)
    return [
        GrantRecord(Span(row["start"], row["end"]), row["source"], row["file_id"], row["verified_at"])
        for row in connection.execute(query).mappings()
    ]


def files_of(connection: sa.Connection, ids: Collection[int]) -> dict[int, FileRecord]:
    """Return file records by id."""
    return {record.id: record for record in file_records.matching(connection, files.c.id.in_(sorted(ids)))}


def files_over(connection: sa.Connection, series: Series, span: Span) -> list[FileRecord]:
    """Return the ingested files whose rows overlap a span."""
    is_there = (files.c.first_time < span.end) & (files.c.last_time >= span.start)
    condition = (files.c.pair == series.pair) & (files.c.interval == series.interval.value) & is_there
    return file_records.matching(connection, condition & (files.c.status == FileStatus.COMPLETED))


def conflicts_over(connection: sa.Connection, series: Series, span: Span) -> list[ConflictRecord]:
    """Return the conflicts that overlap a span, oldest first."""
    query = sa.select(conflicts).where(_overlaps(conflicts, series, span)).order_by(conflicts.c.id)
    return [
        ConflictRecord(Span(row["start"], row["end"]), row["candles"], row["reason"], row["made_at"])
        for row in connection.execute(query).mappings()
    ]


def conflicts_of_pair(connection: sa.Connection, pair: str, span: Span) -> dict[Series, list[ConflictRecord]]:
    """Return the conflicts of all series of a pair that overlap a span, oldest first."""
    query = sa.select(conflicts).where(
        conflicts.c.pair == pair, conflicts.c.start < span.end, conflicts.c.end > span.start
    )
    found: dict[Series, list[ConflictRecord]] = {}
    for row in connection.execute(query.order_by(conflicts.c.id)).mappings():
        record = ConflictRecord(Span(row["start"], row["end"]), row["candles"], row["reason"], row["made_at"])
        found.setdefault(Series(row["pair"], Interval(row["interval"])), []).append(record)
    return found


def letters_about(connection: sa.Connection, series: Series, time: int) -> list[dict[str, Any]]:
    """Return the rejected rows of a series whose text contains a time, by location and line.

    The text is searched for the time as seconds since the epoch and in ISO form, so matches are approximate. The letter
    that counts the rows of a file that were not kept is returned too, because the row of that time may be among them.

    Returns:
        `location`, `line`, `text`, `reason` and `made_at` of each row.
    """
    names = ("location", "line", "text", "reason", "made_at")
    pair = sa.func.coalesce(dead_letters.c.pair, files.c.pair)
    interval = sa.func.coalesce(dead_letters.c.interval, files.c.interval)
    text = dead_letters.c.text
    query = (
        sa.select(*(dead_letters.c[name] for name in names))
        .select_from(sa.outerjoin(dead_letters, files, dead_letters.c.file_id == files.c.id))
        .where(
            pair == series.pair,
            interval == series.interval.value,
            dead_letters.c.operation.is_(None),
            sa.or_(text.like(f"%{time}%"), text.like(f"%{iso(time)}%"), dead_letters.c.rows.is_not(None)),
        )
        .order_by(dead_letters.c.location, dead_letters.c.line, dead_letters.c.id)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def _overlaps(table: sa.Table, series: Series, span: Span) -> sa.ColumnElement[bool]:
    return sa.and_(
        table.c.pair == series.pair,
        table.c.interval == series.interval.value,
        table.c.start < span.end,
        table.c.end > span.start,
    )
