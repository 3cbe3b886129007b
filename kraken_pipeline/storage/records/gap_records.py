"""Catalog records of gaps, and of the attempts to fill them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from kraken_pipeline.coverage.gaps import GapStatus
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.schema import attempts, coverage, gaps, of_pairs
from kraken_pipeline.storage.postgresql import alone
from kraken_pipeline.storage.records.refutations import has_refutations
from kraken_pipeline.storage.records.series_rows import by_series


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt to fill a span.

    Attributes:
        span: The span.
        route: The route, as a `Route`.
        origin: The file, interval or reply; None where it does not matter.
        error: The error; None for an answer.
        made_at: The time of the attempt, in seconds since the epoch.
        id: The id of its record; 0 before it is recorded.
    """

    span: Span
    route: str
    origin: str | None
    error: str | None
    made_at: int
    id: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class GapRow:
    """The record of a gap; see `schema.gaps` for the columns."""

    series: Series
    span: Span
    missing_candles: int
    overflow_candles: int
    route: str
    required_csv_file: str | None
    status: GapStatus
    attempts: int
    error: str | None
    detected_at: int
    closed_at: int | None = None


def add_attempts(connection: sa.Connection, made: Mapping[Series, Sequence[Attempt]], run_id: str) -> None:
    """Record attempts, by series."""
    ends = _ends_of_answers(connection, made)
    rows = [
        {
            "pair": series.pair,
            "interval": series.interval.value,
            "start": attempt.span.start,
            "end": attempt.span.end,
            "route": attempt.route,
            "origin": attempt.origin,
            "error": attempt.error,
            "run_id": run_id,
            "made_at": attempt.made_at,
        }
        for series, some in made.items()
        for attempt in some
        if attempt.error is not None
        or (series, attempt.span.start) not in ends
        or not _prolonged(connection, series, attempt, ends)
    ]
    if rows:
        connection.execute(sa.insert(attempts), rows)


def _ends_of_answers(connection: sa.Connection, made: Mapping[Series, Sequence[Attempt]]) -> set[tuple[Series, int]]:
    """Return where answers on record end that some new attempts could prolong: one query instead of two an attempt."""
    starts = [attempt.span.start for some in made.values() for attempt in some]
    if not starts:
        return set()
    query = sa.select(attempts.c.pair, attempts.c.interval, attempts.c.end).where(
        of_pairs(attempts.c.pair, {series.pair for series in made}),
        attempts.c.error.is_(None),
        attempts.c.end.between(min(starts), max(starts)),
    )
    return {(Series(pair, interval), end) for pair, interval, end in connection.execute(query)}


def _prolonged(connection: sa.Connection, series: Series, attempt: Attempt, ends: set[tuple[Series, int]]) -> bool:
    """Extend an answer by the same route that ends where this one begins; return whether there was one.

    The new end is added to those of the answers on record.

    This keeps the number of rows small, because they are read often. Answers stay apart where the span was tried or
    refuted since: the later answer would look older than it is.
    """
    if has_refutations(connection, series):
        return False
    is_series = (attempts.c.pair == series.pair) & (attempts.c.interval == series.interval.value)
    last_there = (
        sa.select(sa.func.coalesce(sa.func.max(attempts.c.id), 0))
        .where(is_series, attempts.c.start < attempt.span.end, attempts.c.end > attempt.span.start)
        .scalar_subquery()
    )
    is_before = (
        sa.select(sa.func.max(attempts.c.id))
        .where(
            is_series,
            attempts.c.route == attempt.route,
            attempts.c.origin.is_(None) if attempt.origin is None else attempts.c.origin == attempt.origin,
            attempts.c.error.is_(None),
            attempts.c.end == attempt.span.start,
            attempts.c.id > last_there,
        )
        .scalar_subquery()
    )
    done = connection.execute(
        sa.update(attempts).where(attempts.c.id == is_before).values(end=attempt.span.end, made_at=attempt.made_at)
    )
    if done.rowcount:
        ends.add((series, attempt.span.end))
    return bool(done.rowcount)


def attempts_of(connection: sa.Connection, pairs: Sequence[str] | None) -> dict[Series, list[Attempt]]:
    """Return every attempt at the series of some pairs, oldest first."""
    query = sa.select(attempts).order_by(attempts.c.id)
    query = query.where(of_pairs(attempts.c.pair, pairs))
    found: dict[Series, list[Attempt]] = {}
    for number, pair, interval, start, end, route, origin, error, _, made_at in connection.execute(query).all():
        attempt = Attempt(Span(start, end), route, origin, error, made_at, number)
        found.setdefault(Series(pair, Interval(interval)), []).append(attempt)
    return found


def open_gaps(connection: sa.Connection, pairs: Sequence[str] | None) -> dict[Series, list[GapRow]]:
    """Return the open gaps of the series of some pairs, in order of time."""
    return _rows(connection, pairs, gaps.c.closed_at.is_(None))


def open_spans(connection: sa.Connection, pairs: Sequence[str] | None, status: GapStatus) -> dict[Series, list[Span]]:
    """Return the open gaps of one status of the series of some pairs, in order of time."""
    query = sa.select(*(gaps.c[name] for name in ("pair", "interval", "start", "end")))
    query = query.where(gaps.c.closed_at.is_(None), gaps.c.status == str(status), of_pairs(gaps.c.pair, pairs))
    query = query.order_by(gaps.c.pair, gaps.c.interval, gaps.c.start, gaps.c.id)
    return {
        series: [Span(start, end) for _, _, start, end in rows]
        for series, rows in by_series(connection.execute(query).all())
    }


def closed_gaps(connection: sa.Connection, pairs: Sequence[str] | None) -> dict[Series, list[GapRow]]:
    """Return the closed gaps of the series of some pairs, in order of time."""
    return _rows(connection, pairs, gaps.c.closed_at.is_not(None))


_STATUSES = {str(status): status for status in GapStatus}
"""By value: to look one up takes a fifth of the time of a call of the enumeration, and there are many rows."""


def _rows(
    connection: sa.Connection, pairs: Sequence[str] | None, condition: sa.ColumnElement[bool]
) -> dict[Series, list[GapRow]]:
    query = sa.select(gaps).where(condition).order_by(gaps.c.pair, gaps.c.interval, gaps.c.start, gaps.c.id)
    query = query.where(of_pairs(gaps.c.pair, pairs))
    return {
        series: [
            GapRow(series, Span(start, end), missing, overflow, route, file, _STATUSES[status], *others)
            for _, _, _, start, end, missing, overflow, route, file, status, *others in rows
        ]
        for series, rows in by_series(connection.execute(query).all(), pair_at=1)
    }


def replace_open(connection: sa.Connection, series: Iterable[Series], rows: Iterable[GapRow]) -> None:
    """Replace the open records of some series with these rows, and add the closed ones among the rows."""
    alone(connection, gaps)  # otherwise two concurrent runs would each leave their rows
    keys = [{"_pair": one_series.pair, "_interval": one_series.interval.value} for one_series in series]
    if keys:
        connection.execute(
            sa.delete(gaps).where(
                (gaps.c.pair == sa.bindparam("_pair"))
                & (gaps.c.interval == sa.bindparam("_interval"))
                & gaps.c.closed_at.is_(None)
            ),
            keys,
        )
    values = [
        {
            "pair": row.series.pair,
            "interval": row.series.interval.value,
            "start": row.span.start,
            "end": row.span.end,
            "missing_candles": row.missing_candles,
            "overflow_candles": row.overflow_candles,
            "route": row.route,
            "required_csv_file": row.required_csv_file,
            "status": row.status,
            "attempts": row.attempts,
            "error": row.error,
            "detected_at": row.detected_at,
            "closed_at": row.closed_at,
        }
        for row in rows
    ]
    if values:
        connection.execute(sa.insert(gaps), values)


def mark(connection: sa.Connection, series: Series, spans: Iterable[Span], status: GapStatus) -> None:
    """Set the status of the open records that overlap some spans."""
    for span in spans:
        connection.execute(
            sa.update(gaps)
            .where(
                gaps.c.pair == series.pair,
                gaps.c.interval == series.interval.value,
                gaps.c.closed_at.is_(None),
                gaps.c.start < span.end,
                gaps.c.end > span.start,
            )
            .values(status=status)
        )


def forget_closed(connection: sa.Connection, before: int) -> int:
    """Delete the records of gaps closed before a moment (seconds since the epoch), and return their number."""
    return connection.execute(sa.delete(gaps).where(gaps.c.closed_at < before)).rowcount


def forget_attempts(connection: sa.Connection, before: int) -> int:
    """Delete attempts made before a moment whose span is now covered, and return their number.

    No route depends on such attempts.
    """
    is_covered = (
        sa.select(coverage.c.start)
        .where(
            coverage.c.pair == attempts.c.pair,
            coverage.c.interval == attempts.c.interval,
            coverage.c.start <= attempts.c.start,
            coverage.c.end >= attempts.c.end,
        )
        .exists()
    )
    return connection.execute(sa.delete(attempts).where(attempts.c.made_at < before, is_covered)).rowcount
