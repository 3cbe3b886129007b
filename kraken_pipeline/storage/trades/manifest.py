"""The manifest of the trade lake: the catalog's record of each of its files, with what the file claims.

A claim holds as long as its file does: it is in the file's footer and in its record, and nowhere else. A file is
announced before it is moved to its place. The transaction that confirms it retires the files that it replaces, which
are deleted afterwards. So confirmed files claim disjoint times at any moment, and announced ones claim nothing: they
are of a write that is not done, or to be deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from kraken_pipeline.storage.catalog.schema import damages, of_pairs, trade_files
from kraken_pipeline.storage.catalog.seals import intact, sealed
from kraken_pipeline.storage.trades.kept import TradeClaim, claims_text, parsed_claims

_PATHS = 500


@dataclass(frozen=True, slots=True)
class TradeFile:
    """A file of the trade lake, as it was written.

    Attributes:
        path: The path relative to the place of the lake, with slashes.
        pair: The pair of its trades.
        month: Their month (UTC), as a number: 202501.
        rows: The number of trades.
        bytes: The size in bytes.
        sha256: The SHA-256 of its bytes, as hexadecimal digits.
        digest: The digest of its rows.
        claims: What it claims.
        write_id: The id of the write; it begins with the time.
        written_at: The time of the run that wrote it, in seconds since the epoch.
        is_announced: Whether it is about to be moved to its place, or to be deleted.
        scrubbed_at: The time when it was last read in full and found correct; None before the first time.
    """

    path: str
    pair: str
    month: int
    rows: int
    bytes: int
    sha256: str
    digest: str
    claims: tuple[TradeClaim, ...]
    write_id: str
    written_at: int
    is_announced: bool = False
    scrubbed_at: int | None = None


def trade_files_of(
    connection: sa.Connection, pairs: Collection[str] | None = None, months: Collection[int] | None = None
) -> list[TradeFile]:
    """Return the files on record of some pairs and months, or of all, in order of pair, month and write."""
    query = sa.select(trade_files).where(of_pairs(trade_files.c.pair, pairs))
    if months is not None and len(months) < _PATHS:
        query = query.where(trade_files.c.month.in_(list(months)))
    rows = connection.execute(query.order_by(trade_files.c.pair, trade_files.c.month, trade_files.c.write_id)).all()
    return [_file(row._mapping) for row in intact(trade_files, rows)]


def damaged_paths(connection: sa.Connection) -> set[str]:
    """Return the paths of files whose damage is on record and not settled; they claim nothing."""
    is_one = damages.c.path.like("trades/%") & damages.c.settled_at.is_(None)
    return set(connection.scalars(sa.select(damages.c.path).where(is_one)))


def claims_of(connection: sa.Connection, pair: str) -> list[TradeClaim]:
    """Return what the files of a pair claim, in order of time; announced and damaged files claim nothing."""
    damaged = damaged_paths(connection)
    files = [file for file in trade_files_of(connection, [pair]) if not file.is_announced and file.path not in damaged]
    return sorted((claim for file in files for claim in file.claims), key=lambda claim: claim.span.start)


def kept_pairs(connection: sa.Connection) -> list[str]:
    """Return the pairs of which trades are kept, sorted."""
    return sorted(connection.scalars(sa.select(trade_files.c.pair).distinct()))


def announce(connection: sa.Connection, files: Iterable[TradeFile]) -> None:
    """Record files that are about to be moved to their places."""
    rows = [_row(file, is_announced=True) for file in files]
    if rows:
        connection.execute(sa.insert(trade_files), rows)


def confirm(connection: sa.Connection, files: Iterable[TradeFile], retired: Collection[str]) -> None:
    """Record that announced files are in their places, and that others claim nothing any longer."""
    _mark(connection, [file.path for file in files], is_announced=False)
    _mark(connection, retired, is_announced=True)


def adopt(connection: sa.Connection, files: Collection[TradeFile]) -> None:
    """Record files that are already in their places."""
    strike(connection, [file.path for file in files])
    if files:
        connection.execute(sa.insert(trade_files), [_row(file, is_announced=False) for file in files])


def strike(connection: sa.Connection, paths: Collection[str]) -> None:
    """Delete the records of files that are gone."""
    for some in _parts(paths):
        connection.execute(sa.delete(trade_files).where(trade_files.c.path.in_(some)))


def scrubbed(connection: sa.Connection, paths: Collection[str], now: int) -> None:
    """Record that some files were read in full and found correct."""
    for some in _parts(paths):
        connection.execute(sa.update(trade_files).where(trade_files.c.path.in_(some)).values(scrubbed_at=now))


def _mark(connection: sa.Connection, paths: Collection[str], *, is_announced: bool) -> None:
    for some in _parts(paths):
        is_one = trade_files.c.path.in_(some)
        connection.execute(sa.update(trade_files).where(is_one).values(is_announced=is_announced))


def _parts(paths: Collection[str]) -> Iterable[list[str]]:
    names = sorted(paths)
    return (names[start : start + _PATHS] for start in range(0, len(names), _PATHS))


_NAMES = [name for name in TradeFile.__slots__ if name != "claims"]


def _row(file: TradeFile, *, is_announced: bool) -> dict[str, Any]:
    row = {**{name: getattr(file, name) for name in _NAMES}, "claims": claims_text(file.claims)}
    return sealed(trade_files, {**row, "is_announced": is_announced})


def _file(row: sa.RowMapping) -> TradeFile:
    return TradeFile(**{name: row[name] for name in _NAMES}, claims=parsed_claims(row["claims"]))
