"""What the catalog knows of where candles came from: archives and loose files, and what each kind of source answered.

Only read here; `file_records` and `evidence_records` write it.
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
    """An archive that holds many files, or a loose file.

    Attributes:
        name: What people call it.
        kind: Of its release, or of the file; empty where it could not be opened.
        is_loose: Whether it is a file by itself.
        files: How many files of it are on record.
        completed: How many of these are ingested.
        failed: How many failed.
        rows: How many rows were read from them.
        rows_rejected: How many of these were rejected.
        first: The start of the first candle, in seconds since the epoch; None where there is none.
        last: The start of the last one.
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
    """Each archive and loose file from which candles of some pairs came, or that failed; archives first, by name."""

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
    """What one kind of source answered for, of one interval.

    Attributes:
        source: A `market.candle.Source`.
        interval: Of which candles.
        series: For how many series.
        seconds: For how much time of them in all; what answered twice counts twice.
        trades: How many trades it counts there.
        verified_at: When it last answered, in seconds since the epoch.
    """

    source: str
    interval: Interval
    series: int
    seconds: int
    trades: int
    verified_at: int


def answered(connection: sa.Connection, pairs: Sequence[str]) -> list[Answered]:
    """What each kind of source answered for of some pairs, by source and interval."""
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
    """A source that counts other trades than what is kept; see `schema.conflicts`.

    Attributes:
        series: Whose.
        span: From the first such candle to the last.
        candles: How many there are.
        reason: What it says.
        file: The file that says it; None for a reply.
        made_at: When it said so, in seconds since the epoch.
    """

    series: Series
    span: Span
    candles: int
    reason: str
    file: str | None
    made_at: int

    @property
    def is_of_counts(self) -> bool:
        """Whether it is about how many trades there were, as between two archives, and not about prices."""
        return " trades than " in self.reason

    @property
    def is_outdoing(self) -> bool:
        """Whether the source is kept, because it counts more trades than another archive."""
        return " more trades than " in self.reason


def disagreements(connection: sa.Connection, pairs: Sequence[str], most: int) -> tuple[list[Disagreement], int]:
    """The sources that count other trades than what is kept of some pairs, the worst first, and how many there are."""
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
