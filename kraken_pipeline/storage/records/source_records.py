"""Read-only queries about the sources of candles: containers, loose files, and the answers of each kind of source.

`file_records` and `evidence_records` write these records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.schema import conflicts, containers, files, grants, of_pairs
from kraken_pipeline.storage.catalog.states import FileStatus


@dataclass(frozen=True, slots=True)
class ArchiveSource:
    """A container or a loose file.

    Attributes:
        name: The display name.
        kind: The kind of its release, or of the file; empty where it could not be opened.
        is_loose: Whether it is a loose file.
        files: The number of its files on record.
        completed: The number of files that were ingested or skipped.
        failed: The number of files that failed.
        rows: The number of rows read.
        rows_rejected: The number of rows rejected.
        first: The start of the first candle, in seconds since the epoch; None where there is none.
        last: The start of the last candle, likewise.
    """

    name: str
    kind: str
    is_loose: bool
    files: int
    completed: int
    failed: int
    rows: int
    rows_rejected: int
    first: int | None
    last: int | None


def archive_sources(connection: sa.Connection, pairs: Sequence[str]) -> list[ArchiveSource]:
    """Return the containers and loose files with candles of some pairs, or that failed; containers first, by name."""

    def count(*statuses: FileStatus) -> sa.ColumnElement[int]:
        return sa.func.sum(sa.case((files.c.status.in_([str(status) for status in statuses]), 1), else_=0))

    name = sa.func.coalesce(containers.c.name, files.c.name)
    is_loose = files.c.container.is_(None)
    kind = sa.func.coalesce(containers.c.kind, files.c.kind)
    query = (
        sa.select(
            name,
            kind,
            is_loose,
            sa.func.count(),
            count(FileStatus.COMPLETED, FileStatus.SKIPPED),
            count(FileStatus.FAILED),
            sa.func.sum(files.c.rows),
            sa.func.sum(files.c.rows_rejected),
            sa.func.min(files.c.first_time),
            sa.func.max(files.c.last_time),
        )
        .outerjoin(containers, containers.c.sha256 == files.c.container)
        .where(of_pairs(files.c.pair, pairs) | files.c.pair.is_(None))
        .group_by(name, kind, is_loose, files.c.container)
        .order_by(is_loose, name)
    )
    return [
        ArchiveSource(
            name, kind or "", bool(is_loose), int(count), int(done), int(failed), int(rows), int(bad), *bounds
        )
        for name, kind, is_loose, count, done, failed, rows, bad, *bounds in connection.execute(query)
    ]


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers of one kind of source at one interval.

    Attributes:
        source: A `market.candle.Source`.
        interval: The interval of the candles.
        series: The number of series.
        seconds: The total time of the answers; time answered for twice counts twice.
        trades: The number of trades that the source counts there.
        verified_at: The time of the last answer, in seconds since the epoch.
    """

    source: str
    interval: Interval
    series: int
    seconds: int
    trades: int
    verified_at: int


def answered(connection: sa.Connection, pairs: Sequence[str]) -> list[Answered]:
    """Return the answers of each kind of source for some pairs, by source and interval."""
    query = (
        sa.select(
            grants.c.source,
            grants.c.interval,
            sa.func.count(grants.c.pair.distinct()),
            sa.func.sum(grants.c.end - grants.c.start),
            sa.func.sum(grants.c.trades),
            sa.func.max(grants.c.verified_at),
        )
        .where(of_pairs(grants.c.pair, pairs))
        .group_by(grants.c.source, grants.c.interval)
        .order_by(grants.c.source, grants.c.interval)
    )
    return [
        Answered(source, Interval(interval), *map(int, numbers))
        for source, interval, *numbers in connection.execute(query)
    ]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A source whose trade counts differ from the stored ones; see `schema.conflicts`.

    Attributes:
        series: The series.
        span: The time from the first such candle to the last.
        candles: The number of such candles.
        reason: The difference, as text.
        file: The name of the file; None for a reply.
        made_at: The time when the difference was recorded, in seconds since the epoch.
    """

    series: Series
    span: Span
    candles: int
    reason: str
    file: str | None
    made_at: int

    @property
    def is_of_counts(self) -> bool:
        """Whether it is about trade counts, as between two archives, and not about prices."""
        return " trades than " in self.reason

    @property
    def is_outdoing(self) -> bool:
        """Whether the source is kept because it counts more trades than another archive."""
        return " more trades than " in self.reason


def disagreements(connection: sa.Connection, pairs: Sequence[str], most: int) -> tuple[list[Disagreement], int]:
    """Return up to `most` sources of some pairs with differing trade counts, worst first, and their total number."""
    is_wanted = of_pairs(conflicts.c.pair, pairs)
    query = (
        sa.select(conflicts, files.c.name)
        .outerjoin(files, files.c.id == conflicts.c.file_id)
        .where(is_wanted)
        .order_by(conflicts.c.candles.desc(), conflicts.c.pair, conflicts.c.interval, conflicts.c.start)
        .limit(most)
    )
    found = [
        Disagreement(
            Series(row["pair"], Interval(row["interval"])),
            Span(row["start"], row["end"]),
            row["candles"],
            row["reason"],
            row["name"],
            row["made_at"],
        )
        for row in connection.execute(query).mappings()
    ]
    return found, connection.scalar(sa.select(sa.func.count()).select_from(conflicts).where(is_wanted)) or 0
