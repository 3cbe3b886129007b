"""Dead letters: rows that are no candle and no trade, with the file, the line, the text and the reason."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from kraken_pipeline.kraken.rows import Reject
from kraken_pipeline.market.moment import iso
from kraken_pipeline.storage.schema import dead_letters, files


def forget(connection: sa.Connection, file_ids: Iterable[int]) -> None:
    """Deletes the dead letters of some files, which are about to be read again."""
    connection.execute(sa.delete(dead_letters).where(dead_letters.c.file_id.in_(list(file_ids))))


def add(
    connection: sa.Connection, file_id: int, location: str, rejects: Sequence[Reject], *, run_id: str, now: int
) -> None:
    """Adds dead letters to those of a file."""
    if rejects:
        connection.execute(
            sa.insert(dead_letters),
            [
                {
                    "file_id": file_id,
                    "location": location,
                    "line": reject.line or None,
                    "text": reject.text.replace("\x00", "\\x00"),  # PostgreSQL holds no NUL in text
                    "reason": reject.reason,
                    "run_id": run_id,
                    "made_at": now,
                }
                for reject in rejects
            ],
        )


def listed(connection: sa.Connection, pairs: Iterable[str] | None, limit: int | None) -> list[dict[str, Any]]:
    """Dead letters, the newest file first, in order of lines: `pair`, `interval`, `location`, `line`, `text`, …."""
    return list(_rows(connection, pairs, limit))


def _rows(connection: sa.Connection, pairs: Iterable[str] | None, limit: int | None) -> Iterator[dict[str, Any]]:
    query = (
        sa.select(
            files.c.pair,
            files.c.interval,
            dead_letters.c.location,
            dead_letters.c.line,
            dead_letters.c.text,
            dead_letters.c.reason,
            dead_letters.c.run_id,
            dead_letters.c.made_at,
        )
        .join_from(dead_letters, files, dead_letters.c.file_id == files.c.id)
        .order_by(dead_letters.c.file_id.desc(), dead_letters.c.line)
    )
    if pairs is not None:
        query = query.where(files.c.pair.in_(list(pairs)))
    if limit is not None:
        query = query.limit(limit)
    return (dict(row) for row in connection.execute(query).mappings())


def count(connection: sa.Connection, pairs: Iterable[str] | None = None) -> int:
    """How many there are, of all pairs or of some."""
    query = sa.select(sa.func.count()).select_from(dead_letters)
    if pairs is not None:
        query = query.join(files, dead_letters.c.file_id == files.c.id).where(files.c.pair.in_(list(pairs)))
    return int(connection.scalar(query) or 0)


def as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """A dead letter as `dead-letters list --json` shows it."""
    return {**row, "made_at": iso(row["made_at"])}


COLUMNS = ("pair", "interval", "location", "line", "reason", "text", "run_id", "made_at")


def export(connection: sa.Connection, pairs: Iterable[str] | None, path: Path) -> int:
    """Writes all of them to a CSV file with a header; returns how many there are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in _rows(connection, pairs, None):
            writer.writerow(as_json(row))
            written += 1
    return written
