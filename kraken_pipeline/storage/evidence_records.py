"""The catalog's grants, refutations and coverage, and what lies in the lake for each series."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import sqlalchemy as sa

from kraken_pipeline.coverage.evidence import Grant, coverage
from kraken_pipeline.coverage.ranges import Span, Spans, normalise
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage import schema


@dataclass(frozen=True, slots=True)
class CoverageRecord:
    """A range of coverage on record.

    Attributes:
        span: The range.
        source: A `Source`, or MIXED.
        candles: How many candles the lake has in it.
        verified_at: When it was last answered for, in seconds since the epoch.
    """

    span: Span
    source: str
    candles: int
    verified_at: int


@dataclass(frozen=True, slots=True)
class Extent:
    """What the lake has of a series: how many candles, and when the first and the last one start (seconds)."""

    candles: int
    first_time: int
    last_time: int


def grant(connection: sa.Connection, series: Series, grants: Iterable[Grant], file_id: int | None) -> None:
    """Puts grants on record; `renew` then makes the coverage that follows."""
    rows = [
        {
            "pair": series.pair,
            "interval": series.interval.value,
            "start": each.span.start,
            "end": each.span.end,
            "source": each.source,
            "file_id": file_id,
            "trades": each.trades,
            "verified_at": each.verified_at,
        }
        for each in grants
    ]
    if rows:
        connection.execute(sa.insert(schema.grants), rows)


def renew(connection: sa.Connection, series: Series, times: pl.Series) -> None:
    """Derives the coverage of a series anew from its grants and refutations.

    Args:
        connection: A transaction that writes.
        series: Which.
        times: The start of every candle that the lake has of it, in seconds (Int64), sorted.
    """
    covered = coverage(grants_of(connection, series), refuted(connection, series))
    for table in (schema.coverage, schema.extents):
        connection.execute(sa.delete(table).where(_is(table, series)))
    key = {"pair": series.pair, "interval": series.interval.value}
    if covered:
        edges = pl.Series("edges", [edge for each in covered for edge in (each.span.start, each.span.end)])
        at = times.search_sorted(edges, side="left").to_list()
        rows = [
            {
                **key,
                "start": each.span.start,
                "end": each.span.end,
                "source": each.source,
                "candles": at[2 * index + 1] - at[2 * index],
                "verified_at": each.verified_at,
            }
            for index, each in enumerate(covered)
        ]
        connection.execute(sa.insert(schema.coverage), rows)
    if len(times):
        extent = {"candles": len(times), "first_time": int(times[0]), "last_time": int(times[-1])}
        connection.execute(sa.insert(schema.extents).values(**key, **extent))


def grants_of(connection: sa.Connection, series: Series) -> list[Grant]:
    """Every grant of a series."""
    table = schema.grants
    query = sa.select(table.c.start, table.c.end, table.c.source, table.c.verified_at, table.c.trades)
    return [
        Grant(Span(start, end), source, verified_at, trades)
        for start, end, source, verified_at, trades in connection.execute(query.where(_is(table, series)))
    ]


def refuted(connection: sa.Connection, series: Series) -> Spans:
    """What is refuted of a series."""
    table = schema.refutations
    query = sa.select(table.c.start, table.c.end).where(_is(table, series) & table.c.ended_at.is_(None))
    return normalise(Span(start, end) for start, end in connection.execute(query))


def _is(table: sa.Table, series: Series) -> sa.ColumnElement[bool]:
    return (table.c.pair == series.pair) & (table.c.interval == series.interval.value)


def coverage_of(
    connection: sa.Connection, intervals: Sequence[Interval] | None = None, pairs: Sequence[str] | None = None
) -> dict[Series, list[CoverageRecord]]:
    """The coverage of every series, or of those of some intervals and pairs, each in order of time."""
    table = schema.coverage
    query = sa.select(
        table.c.pair, table.c.interval, table.c.start, table.c.end, table.c.source, table.c.candles, table.c.verified_at
    ).order_by(table.c.pair, table.c.interval, table.c.start)
    found: dict[Series, list[CoverageRecord]] = {}
    for pair, interval, start, end, source, candles, verified_at in connection.execute(
        _narrowed(query, table, intervals, pairs)
    ):
        record = CoverageRecord(Span(start, end), source, candles, verified_at)
        found.setdefault(Series(pair, Interval(interval)), []).append(record)
    return found


def extents(connection: sa.Connection, pairs: Sequence[str] | None = None) -> dict[Series, Extent]:
    """What the lake has of every series, or of those of some pairs."""
    table = schema.extents
    query = sa.select(table.c.pair, table.c.interval, table.c.candles, table.c.first_time, table.c.last_time)
    return {
        Series(pair, Interval(interval)): Extent(candles, first_time, last_time)
        for pair, interval, candles, first_time, last_time in connection.execute(_narrowed(query, table, None, pairs))
    }


def trade_rates(connection: sa.Connection) -> Mapping[str, float]:
    """How many trades a second each pair has had, over all that its grants count."""
    table = schema.grants
    length = sa.func.sum(table.c.end - table.c.start)
    query = sa.select(table.c.pair, sa.func.sum(table.c.trades), length).group_by(table.c.pair)
    return {pair: int(trades) / int(seconds) for pair, trades, seconds in connection.execute(query) if seconds}


def _narrowed(
    query: sa.Select[tuple[str, int, int, int, str, int, int]] | sa.Select[tuple[str, int, int, int, int]],
    table: sa.Table,
    intervals: Sequence[Interval] | None,
    pairs: Sequence[str] | None,
) -> sa.Select[tuple[str, int, int, int, str, int, int]] | sa.Select[tuple[str, int, int, int, int]]:
    if intervals is not None:
        query = query.where(table.c.interval.in_([interval.value for interval in intervals]))
    if pairs is not None and len(pairs) < 10_000:
        query = query.where(table.c.pair.in_(list(pairs)))
    return query


def owe(connection: sa.Connection, changes: Iterable[tuple[Series, Span]], now: int) -> None:
    """Puts changed ranges into the outbox, before the lake changes: QuestDB is never left without them."""
    rows = [
        {
            "pair": series.pair,
            "interval": series.interval.value,
            "start": span.start,
            "end": span.end,
            "made_at": now,
        }
        for series, span in changes
    ]
    if rows:
        connection.execute(sa.insert(schema.publications), rows)


def record_conflict(
    connection: sa.Connection, series: Series, span: Span, *, candles: int, reason: str, file_id: int | None, now: int
) -> None:
    """Puts on record that something said other trade counts than what is kept."""
    connection.execute(
        sa.insert(schema.conflicts).values(
            pair=series.pair,
            interval=series.interval.value,
            start=span.start,
            end=span.end,
            candles=candles,
            reason=reason,
            file_id=file_id,
            made_at=now,
        )
    )
