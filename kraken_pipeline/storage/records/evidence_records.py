"""Catalog records of grants and coverage, and of the candles in the lake of each series."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import sqlalchemy as sa

from kraken_pipeline.coverage.evidence import CoveredRange, Grant, coverage
from kraken_pipeline.coverage.ranges import Span, Spans, normalise
from kraken_pipeline.market.candle import Account
from kraken_pipeline.market.interval import BY_MINUTES, Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.seals import intact, is_intact, sealed
from kraken_pipeline.storage.records import refutations
from kraken_pipeline.storage.records.series_rows import by_series

_SERIES = 5_000
"""The maximum number of series in one statement, with two variables each: SQLite allows 32,766."""
_DAY = 86_400


@dataclass(frozen=True, slots=True)
class CoverageRecord:
    """A range of coverage on record.

    Attributes:
        span: The range.
        source: A `Source`, or MIXED.
        candles: The number of candles in the lake.
        verified_at: The time of the last answer, in seconds since the epoch.
    """

    span: Span
    source: str
    candles: int
    verified_at: int


@dataclass(frozen=True, slots=True)
class Extent:
    """The candles of a series in the lake: their number, and the start of the first and the last one (seconds)."""

    candles: int
    first_time: int
    last_time: int


def grant(connection: sa.Connection, given: Iterable[tuple[Series, Iterable[Grant], int | None]]) -> None:
    """Record grants; call `renew` afterwards to update the coverage.

    Args:
        connection: A write transaction.
        given: Series, each with its grants and the id of the file that answered.
    """
    _insert(
        connection,
        [
            _row(series, grant, file_id)
            for series, grants, file_id in given
            for grant in grants
            if file_id is not None or not _prolonged(connection, series, grant)
        ],
    )


def grant_found(connection: sa.Connection, series: Series, grants: Iterable[Grant]) -> None:
    """Record separate grants, each as a record of its own; call `renew` afterwards to update the coverage."""
    _insert(connection, [_row(series, grant, None) for grant in grants])


def _row(series: Series, granted: Grant, file_id: int | None) -> dict[str, object]:
    return {
        "pair": series.pair,
        "interval": series.interval.value,
        "start": granted.span.start,
        "end": granted.span.end,
        "source": granted.source,
        "file_id": file_id,
        "trades": granted.trades,
        "verified_at": granted.verified_at,
    }


def _insert(connection: sa.Connection, rows: Sequence[Mapping[str, object]]) -> None:
    if rows:
        connection.execute(sa.insert(schema.grants), [sealed(schema.grants, row) for row in rows])


def _prolonged(connection: sa.Connection, series: Series, grant: Grant) -> bool:
    """Extend a grant of the same day and source that ends where this one begins; return whether there was one.

    Each page of trades and each update every few minutes brings a grant. Thousands of them would slow down every
    derivation of coverage. Days are kept apart, so that the time of an answer stays known. Answers for a series with
    refutations are kept apart as well, because a refutation counts only later answers.
    """
    if refutations.has_refutations(connection, series):
        return False
    table = schema.grants
    query = sa.select(table).where(
        table.c.pair == series.pair,
        table.c.interval == series.interval.value,
        table.c.source == grant.source,
        table.c.file_id.is_(None),
        table.c.end == grant.span.start,
        table.c.verified_at.between(grant.verified_at // _DAY * _DAY, grant.verified_at),
    )
    before = connection.execute(query.order_by(table.c.id.desc()).limit(1)).mappings().first()
    if before is None or not is_intact(table, before):
        return False
    longer = {"end": grant.span.end, "trades": before["trades"] + grant.trades, "verified_at": grant.verified_at}
    row = sealed(table, {**before, **longer})
    connection.execute(sa.update(table).where(table.c.id == before["id"]).values(**row))
    return True


def renew(connection: sa.Connection, lake_times: Mapping[Series, pl.Series]) -> None:
    """Derive the coverage of some series anew from their grants and refutations.

    Six statements serve all series: a statement for each series and table would cost 1.2 ms a series.

    Args:
        connection: A write transaction.
        lake_times: Series → the start of every candle in the lake, in seconds (Int64), sorted.
    """
    if not lake_times:
        return
    grants = grants_of(connection, lake_times)
    standing = refuted(connection, lake_times, grants)
    keys = [{"of_pair": series.pair, "of_interval": series.interval.value} for series in lake_times]
    for table in (schema.coverage, schema.extents):
        is_one = (table.c.pair == sa.bindparam("of_pair")) & (table.c.interval == sa.bindparam("of_interval"))
        connection.execute(sa.delete(table).where(is_one), keys)
    covered: list[dict[str, object]] = []
    extents: list[dict[str, object]] = []
    for series, times in lake_times.items():
        key = {"pair": series.pair, "interval": series.interval.value}
        ranges = coverage(grants.get(series, ()), standing.get(series, ()))
        covered += [{**key, **row} for row in _coverage_rows(ranges, times)]
        if len(times):
            bounds = {"first_time": int(times[0]), "last_time": int(times[-1])}
            extents.append({**key, "candles": len(times), **bounds})
    for table, rows in ((schema.coverage, covered), (schema.extents, extents)):
        if rows:
            connection.execute(sa.insert(table), [sealed(table, row) for row in rows])


def _coverage_rows(ranges: Sequence[CoveredRange], times: pl.Series) -> Iterator[dict[str, object]]:
    edges = [edge for covered in ranges for edge in (covered.span.start, covered.span.end)]
    at = times.search_sorted(pl.Series(edges, dtype=pl.Int64()), side="left").to_list()
    for index, covered in enumerate(ranges):
        yield {
            "start": covered.span.start,
            "end": covered.span.end,
            "source": covered.source,
            "candles": at[2 * index + 1] - at[2 * index],
            "verified_at": covered.verified_at,
        }


def inconsistent(connection: sa.Connection, selected: Collection[Series] | None = None) -> list[Series]:
    """Return the series whose recorded coverage does not follow from their grants and refutations.

    Args:
        connection: A transaction.
        selected: The series to look at; None for all.
    """
    if selected is None:
        stored = coverage_of(connection)
        every = {*stored, *_series_in(connection, schema.grants)}
    else:
        intervals = sorted({series.interval for series in selected})
        stored = coverage_of(connection, intervals, sorted({series.pair for series in selected}))
        every = set(selected)
    grants = grants_of(connection, every)
    standing = refuted(connection, every, grants)
    return sorted(
        series
        for series in every
        if tuple(record.span for record in stored.get(series, ()))
        != tuple(part.span for part in coverage(grants.get(series, ()), standing.get(series, ())))
    )


def _series_in(connection: sa.Connection, table: sa.Table) -> set[Series]:
    known = set(Interval)
    rows = connection.execute(sa.select(table.c.pair, table.c.interval).distinct())
    return {Series(pair, Interval(interval)) for pair, interval in rows if interval in known}


def grants_of(connection: sa.Connection, series: Iterable[Series]) -> dict[Series, list[Grant]]:
    """Return all grants of some series; damaged rows are left out."""
    found: dict[Series, list[Grant]] = {}
    table = schema.grants
    query = sa.select(table).order_by(table.c.id)
    for condition in _are(table, series):
        for row in connection.execute(query.where(condition)).mappings():
            if is_intact(table, row):
                span = Span(row["start"], row["end"])
                grant = Grant(span, row["source"], row["verified_at"], row["trades"], row["id"])
                found.setdefault(Series(row["pair"], Interval(row["interval"])), []).append(grant)
    return found


def granted_by(connection: sa.Connection, file_ids: Collection[int]) -> dict[int, list[Span]]:
    """Return the spans that some files have granted; files without grants are left out."""
    found: dict[int, list[Span]] = {}
    table, ids = schema.grants, sorted(file_ids)
    for start in range(0, len(ids), _SERIES):
        is_one = table.c.file_id.in_(ids[start : start + _SERIES])
        for row in connection.execute(sa.select(table.c.file_id, table.c.start, table.c.end).where(is_one)):
            found.setdefault(int(row.file_id), []).append(Span(row.start, row.end))
    return found


def answers_of(connection: sa.Connection, series: Iterable[Series]) -> dict[Series, list[tuple[Span, Account]]]:
    """Return the answered spans of some series, each with its source and the end day of its release; 0 for none."""
    found: dict[Series, list[tuple[Span, Account]]] = {}
    grants, files, containers = schema.grants, schema.files, schema.containers
    names = (grants.c.pair, grants.c.interval, grants.c.start, grants.c.end, grants.c.source, containers.c.end)
    query = sa.select(*names).select_from(
        grants.outerjoin(files, grants.c.file_id == files.c.id).outerjoin(
            containers, files.c.container == containers.c.sha256
        )
    )
    for condition in _are(grants, series):
        for pair, interval, start, end, source, release_end in connection.execute(query.where(condition)):
            account = (source, (release_end or 0) // _DAY)
            found.setdefault(Series(pair, Interval(interval)), []).append((Span(start, end), account))
    return found


def refuted(
    connection: sa.Connection, series: Iterable[Series], grants: Mapping[Series, Sequence[Grant]]
) -> dict[Series, Spans]:
    """Return the refuted spans of some series, given all their grants."""
    found: dict[Series, list[Span]] = {}
    for condition in _are(schema.refutations, series):
        for refutation in refutations.matching(connection, condition):
            standing = refutation.standing(grants.get(refutation.series, ()))
            found.setdefault(refutation.series, []).extend(standing)
    return {series: normalise(spans) for series, spans in found.items()}


def _are(table: sa.Table, series: Iterable[Series]) -> Iterator[sa.ColumnElement[bool]]:
    """Yield conditions that together select the rows of some series, each with few enough variables for SQLite."""
    wanted = [(one_series.pair, one_series.interval.value) for one_series in series]
    for start in range(0, len(wanted), _SERIES):
        yield sa.tuple_(table.c.pair, table.c.interval).in_(wanted[start : start + _SERIES])


def coverage_of(
    connection: sa.Connection, intervals: Sequence[Interval] | None = None, pairs: Sequence[str] | None = None
) -> dict[Series, list[CoverageRecord]]:
    """Return the coverage of every series, or of those of some intervals and pairs, in order of time.

    Damaged rows are left out.
    """
    table = schema.coverage
    query = (
        sa.select(table)
        .where(schema.of_pairs(table.c.pair, pairs))
        .order_by(table.c.pair, table.c.interval, table.c.start)
    )
    if intervals is not None:
        query = query.where(table.c.interval.in_([interval.value for interval in intervals]))
    return {
        series: [
            CoverageRecord(Span(start, end), source, candles, verified_at)
            for _, _, start, end, source, candles, verified_at, _ in rows
        ]
        for series, rows in by_series(intact(table, connection.execute(query).all()))
    }


def extents(connection: sa.Connection, pairs: Sequence[str] | None = None) -> dict[Series, Extent]:
    """Return the extent of every series in the lake, or of those of some pairs."""
    table = schema.extents
    query = sa.select(table).where(schema.of_pairs(table.c.pair, pairs))
    return {
        Series(pair, BY_MINUTES[interval]): Extent(candles, first_time, last_time)
        for pair, interval, candles, first_time, last_time, _ in intact(table, connection.execute(query).all())
    }


def trade_rates(connection: sa.Connection) -> Mapping[str, float]:
    """Return the trades per second of each pair, over its grants since its first candle.

    Earlier time is left out, because a complete archive also answers for the years before a pair was listed.
    """
    grants, extents = schema.grants, schema.extents
    first = (
        sa.select(extents.c.pair, sa.func.min(extents.c.first_time).label("time")).group_by(extents.c.pair).subquery()
    )
    start = sa.case((first.c.time > grants.c.start, first.c.time), else_=grants.c.start)
    length = sa.func.sum(sa.case((grants.c.end > start, grants.c.end - start), else_=0))
    query = (
        sa.select(grants.c.pair, sa.func.sum(grants.c.trades), length)
        .outerjoin(first, first.c.pair == grants.c.pair)
        .group_by(grants.c.pair)
    )
    return {pair: int(trades) / int(seconds) for pair, trades, seconds in connection.execute(query).all() if seconds}


def conflicting(
    connection: sa.Connection, pairs: Collection[str], interval: Interval, reason: str | None = None
) -> dict[str, Spans]:
    """Return the spans of an interval with conflicts on record, by pair, for one reason or for any."""
    table = schema.conflicts
    query = sa.select(table.c.pair, table.c.start, table.c.end).where(
        table.c.pair.in_(pairs), table.c.interval == interval.value
    )
    if reason is not None:
        query = query.where(table.c.reason == reason)
    spans: dict[str, list[Span]] = {}
    for pair, start, end in connection.execute(query):
        spans.setdefault(pair, []).append(Span(start, end))
    return {pair: normalise(found) for pair, found in spans.items()}


def record_conflict(
    connection: sa.Connection, series: Series, span: Span, *, candles: int, reason: str, file_id: int | None, now: int
) -> None:
    """Record that a source reported other trade counts than the stored ones."""
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


def changes_of(connection: sa.Connection, pair: str, longest: Interval) -> list[tuple[Span, int]]:
    """Return the spans of a pair about which something was learnt, each with the time of the last change.

    These are answers, refuted answers, sources that differed, contradictions and suspicions.

    Args:
        connection: A transaction.
        pair: The name of the pair.
        longest: The longest interval that counts.

    Returns:
        The spans and the times, in seconds since the epoch, in no order.
    """
    minutes, sides, suspected = longest.value, schema.contradictions, schema.suspicions
    found = [
        connection.execute(
            sa.select(table.c.start, table.c.end, moment).where(table.c.pair == pair, table.c.interval <= minutes)
        ).all()
        for table, moment in (
            (schema.coverage, schema.coverage.c.verified_at),
            (schema.conflicts, schema.conflicts.c.made_at),
            (schema.refutations, sa.func.coalesce(schema.refutations.c.ended_at, schema.refutations.c.made_at)),
        )
    ]
    is_of_sides = (sides.c.pair == pair, sides.c.fine <= minutes)
    found.append(
        connection.execute(sa.select(sides.c.start, sides.c.end, sides.c.changed_at).where(*is_of_sides)).all()
    )
    is_suspected = (suspected.c.pair.is_(None) | (suspected.c.pair == pair), suspected.c.interval <= minutes)
    named = (suspected.c.start, suspected.c.end, suspected.c.changed_at)
    found.append(connection.execute(sa.select(*named).where(*is_suspected)).all())
    return [(Span(start, end), int(moment)) for rows in found for start, end, moment in rows]
