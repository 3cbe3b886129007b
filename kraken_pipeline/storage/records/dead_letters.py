"""Dead letters: rows of files and replies that are neither candle nor trade, and operations that failed for good.

Each records its origin, its content and the reason. Of the rejected rows of a file only the first `MOST_OF_FILE` are
kept; one more letter counts the others.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.schema import dead_letters, files
from kraken_pipeline.storage.postgresql import alone

if TYPE_CHECKING:
    from kraken_pipeline.kraken.rows import Reject

MOST_OF_FILE = 1_000
"""The most rejected rows of one file that are kept. They show what is wrong; a million of them would show no more."""


def forget(connection: sa.Connection, file_ids: Iterable[int]) -> None:
    """Delete the dead letters of files that are about to be read again."""
    connection.execute(sa.delete(dead_letters).where(dead_letters.c.file_id.in_(list(file_ids))))


def add(
    connection: sa.Connection,
    file_id: int,
    location: str,
    rejects: Sequence[Reject],
    *,
    run_id: str,
    now: int,
    unkept: int = 0,
) -> None:
    """Add dead letters of a file.

    Args:
        connection: The catalog.
        file_id: The file's record.
        location: The file's location.
        rejects: The rejected rows that are kept.
        run_id: The run that read the file.
        now: The current time, in seconds since the epoch.
        unkept: The number of further rejected rows, which one letter counts.
    """
    letters: list[tuple[Reject, int | None]] = [(reject, None) for reject in rejects]
    if unkept:
        letters.append((_unkept(unkept), unkept))
    if letters:
        connection.execute(
            sa.insert(dead_letters),
            [
                {
                    "file_id": file_id,
                    "location": location,
                    "line": reject.line or None,
                    "text": _text(reject),
                    "reason": reject.reason,
                    "rows": rows,
                    "run_id": run_id,
                    "made_at": now,
                }
                for reject, rows in letters
            ],
        )


_UNKEPT = f"counted, but not kept: the dead letters of a file are its first {MOST_OF_FILE:,} rejected rows"


def _unkept(count: int) -> Reject:
    from kraken_pipeline.kraken.rows import Reject  # noqa: PLC0415 - loads numpy, which listing letters does not need

    return Reject(0, f"{count:,} more rejected rows", _UNKEPT, None)


def _text(reject: Reject) -> str:
    return reject.text.replace("\x00", "\\x00")  # PostgreSQL cannot store NUL in text


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation that failed for good, with what is needed to retry it.

    Attributes:
        id: The id of its dead letter.
        series: The series of the gap.
        span: The span of the gap.
        route: The route, as a `Route`.
        error: The last error.
        made_at: The time of the failure, in seconds since the epoch.
    """

    id: int
    series: Series
    span: Span
    route: str
    error: str
    made_at: int


def add_of_reply(
    connection: sa.Connection, series: Series, location: str, rejects: Sequence[Reject], *, run_id: str, now: int
) -> None:
    """Add rejected rows of a reply, skipping rows that came with an earlier reply."""
    known = sa.select(dead_letters.c.text, dead_letters.c.reason).where(
        dead_letters.c.pair == series.pair,
        dead_letters.c.interval == series.interval.value,
        dead_letters.c.location == location,
    )
    before = {tuple(row) for row in connection.execute(known)} if rejects else set()
    rows = [
        {
            "pair": series.pair,
            "interval": series.interval.value,
            "location": location,
            "text": _text(reject),
            "reason": reject.reason,
            "run_id": run_id,
            "made_at": now,
        }
        for reject in rejects
        if (_text(reject), reject.reason) not in before
    ]
    if rows:
        connection.execute(sa.insert(dead_letters), rows)


def give_up(
    connection: sa.Connection, series: Series, span: Span, route: str, error: str, *, run_id: str, now: int
) -> None:
    """Add an operation that failed for good, replacing earlier records of the same operation."""
    alone(connection, dead_letters)
    for operation in operations(connection, [series.pair]):
        if operation.series == series and operation.route == route and operation.span.overlaps(span):
            connection.execute(sa.delete(dead_letters).where(dead_letters.c.id == operation.id))
    connection.execute(
        sa.insert(dead_letters).values(
            pair=series.pair,
            interval=series.interval.value,
            location=f"{route} of {series}",
            text=f"{iso(span.start)} to {iso(span.end)}",
            reason=error,
            operation={"route": route, "start": span.start, "end": span.end},
            run_id=run_id,
            made_at=now,
        )
    )


def operations(connection: sa.Connection, pairs: Iterable[str] | None) -> list[Operation]:
    """Return the operations that failed for good and have not succeeded since, oldest first."""
    query = (
        sa.select(dead_letters)
        .where(dead_letters.c.operation.is_not(sa.null()), dead_letters.c.retried_at.is_(None))
        .order_by(dead_letters.c.id)
    )
    if pairs is not None:
        query = query.where(dead_letters.c.pair.in_(list(pairs)))
    return [
        Operation(
            row["id"],
            Series(row["pair"], Interval(row["interval"])),
            Span(row["operation"]["start"], row["operation"]["end"]),
            row["operation"]["route"],
            row["reason"],
            row["made_at"],
        )
        for row in connection.execute(query).mappings()
    ]


def settle(connection: sa.Connection, ids: Iterable[int], now: int) -> None:
    """Record that operations have succeeded after a retry."""
    connection.execute(sa.update(dead_letters).where(dead_letters.c.id.in_(list(ids))).values(retried_at=now))


def listed(connection: sa.Connection, pairs: Iterable[str] | None, limit: int | None) -> list[dict[str, Any]]:
    """Return dead letters, newest file first and by line, then those without a file; see `COLUMNS`.

    For a failed operation, `operation` is what `dead-letters retry` repeats. Operations that have succeeded since are
    left out.
    """
    return list(_rows(connection, pairs, limit))


_PAIR = sa.func.coalesce(dead_letters.c.pair, files.c.pair)
_INTERVAL = sa.func.coalesce(dead_letters.c.interval, files.c.interval)
_BOTH = sa.outerjoin(dead_letters, files, dead_letters.c.file_id == files.c.id)


def _rows(connection: sa.Connection, pairs: Iterable[str] | None, limit: int | None) -> Iterator[dict[str, Any]]:
    names = ("location", "line", "text", "reason", "rows", "operation", "run_id", "made_at")
    query = _narrowed(
        sa.select(
            dead_letters.c.id,
            _PAIR.label("pair"),
            _INTERVAL.label("interval"),
            *(dead_letters.c[name] for name in names),
        ),
        pairs,
    ).order_by(dead_letters.c.file_id.desc().nulls_last(), dead_letters.c.line.nulls_first(), dead_letters.c.id)
    if limit is not None:
        query = query.limit(limit)
    return (dict(row) for row in connection.execute(query).mappings())


def _narrowed(query: sa.Select[Any], pairs: Iterable[str] | None) -> sa.Select[Any]:
    query = query.select_from(_BOTH).where(dead_letters.c.retried_at.is_(None))
    return query if pairs is None else query.where(_PAIR.in_(list(pairs)))


def count(connection: sa.Connection, pairs: Iterable[str] | None = None) -> int:
    """Return the number of rejected rows, files and operations, of all pairs or of some, kept or not."""
    return int(
        connection.scalar(_narrowed(sa.select(sa.func.sum(sa.func.coalesce(dead_letters.c.rows, 1))), pairs)) or 0
    )


def count_unkept(connection: sa.Connection, pairs: Iterable[str] | None = None) -> int:
    """Return the number of rejected rows that are counted only, of all pairs or of some."""
    return int(connection.scalar(_narrowed(sa.select(sa.func.sum(dead_letters.c.rows)), pairs)) or 0)


def as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dead letter as `dead-letters list --json` shows it."""
    operation = row["operation"]
    shown = operation and {
        "route": operation["route"],
        "start": iso(operation["start"]),
        "end": iso(operation["end"]),
    }
    return {**row, "rows": row["rows"] or 1, "operation": shown, "made_at": iso(row["made_at"])}


COLUMNS = ("id", "pair", "interval", "location", "line", "reason", "text", "rows", "operation", "run_id", "made_at")


def export(connection: sa.Connection, pairs: Iterable[str] | None, path: Path) -> int:
    """Write all dead letters to a CSV file with a header, and return their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in _rows(connection, pairs, None):
            shown = as_json(row)
            writer.writerow({**shown, "operation": (shown["operation"] or {}).get("route")})
            written += 1
    return written
