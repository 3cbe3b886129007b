"""Catalog records of archive files and of the containers that hold them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.schema import containers, files, grants, of_pairs
from kraken_pipeline.storage.catalog.states import FileStatus
from kraken_pipeline.storage.postgresql import alone

if TYPE_CHECKING:  # what reads the catalog opens no archive, and need not load what does
    from kraken_pipeline.kraken.archive import ArchiveFile

_VARIABLES = 10_000
"""The maximum number of values in one statement: SQLite allows 32,766."""
DONE = (FileStatus.COMPLETED, FileStatus.SKIPPED, FileStatus.WITHDRAWN)
"""The states of files that are not read again as long as they are unchanged."""


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    """A container, identified by its content.

    Attributes:
        sha256: The SHA-256 of its bytes.
        name: Its file name.
        kind: The kind of its release.
        start: The start of the release's range `[start, end)`, in seconds since the epoch; None where it is no release.
        end: The end of that range; None where it is no release.
        quarter: The quarter that it holds (2023Q2); None for a complete release.
        series: Its members, each as `XBTUSD_60`.
    """

    sha256: str
    name: str
    kind: str
    start: int | None
    end: int | None
    quarter: str | None
    series: tuple[str, ...]


def container_by_stamp(connection: sa.Connection, stamp: str) -> ContainerRecord | None:
    """Return the container with this stamp, that is at the same path and unchanged; None where there is none."""
    return _container(connection, containers.c.stamp == stamp)


def container_by_digest(connection: sa.Connection, sha256: str) -> ContainerRecord | None:
    """Return the container with this content, whatever its name; None where there is none."""
    return _container(connection, containers.c.sha256 == sha256)


def _container(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> ContainerRecord | None:
    row = connection.execute(sa.select(containers).where(condition)).mappings().first()
    return _as_container(row) if row else None


def _as_container(row: Mapping[Any, Any]) -> ContainerRecord:
    names = ("sha256", "name", "kind", "start", "end", "quarter")
    return ContainerRecord(**{name: row[name] for name in names}, series=tuple(row["series"]))


def keep_container(connection: sa.Connection, record: ContainerRecord, stamp: str, now: int) -> None:
    """Record a container, replacing earlier records of the same content."""
    alone(connection, containers)
    connection.execute(sa.delete(containers).where(containers.c.sha256 == record.sha256))
    values = {name: getattr(record, name) for name in ("sha256", "name", "kind", "start", "end", "quarter")}
    connection.execute(sa.insert(containers).values(**values, series=list(record.series), stamp=stamp, seen_at=now))


def all_containers(connection: sa.Connection) -> list[ContainerRecord]:
    """Return every container that was ever opened."""
    return [_as_container(row) for row in connection.execute(sa.select(containers)).mappings()]


@dataclass(frozen=True, slots=True)
class FileRecord:
    """The record of an archive file; see `schema.files` for the columns."""

    id: int
    location: str
    name: str
    container: str | None
    stamp: str | None
    kind: str
    pair: str
    interval: int
    status: FileStatus
    sha256: str | None
    size: int
    start: int | None
    end: int | None
    taken_start: int | None
    taken_end: int | None
    first_time: int | None
    last_time: int | None
    rows: int
    candles_stored: int
    rows_rejected: int
    run_id: str
    updated_at: int
    reason: str | None

    @property
    def series(self) -> Series:
        """The series of its candles."""
        return Series(self.pair, Interval(self.interval))

    @property
    def span(self) -> Span | None:
        """The time from its first candle to the end of its last one; None where it has none."""
        if self.first_time is None or self.last_time is None:
            return None
        interval = self.series.interval
        return Span(interval.floor(self.first_time), interval.floor(self.last_time) + interval.seconds)

    @property
    def became(self) -> str:
        """The outcome, as text; valid only for a file that is done."""
        if self.status is FileStatus.WITHDRAWN:
            return f"withdrawn: {self.reason}"
        return self.reason or f"ingested by run {self.run_id[:8]}"

    @property
    def window(self) -> Span:
        """The window of the file that was ingested; without limits where all of it was."""
        return Span(
            -(1 << 60) if self.taken_start is None else self.taken_start,
            1 << 60 if self.taken_end is None else self.taken_end,
        )


_FIELDS = [files.c[name] for name in FileRecord.__slots__]


def _records(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[FileRecord]:
    query = sa.select(*_FIELDS).where(condition).order_by(files.c.id)
    return [FileRecord(**{**row, "status": FileStatus(row["status"])}) for row in connection.execute(query).mappings()]


def matching(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[FileRecord]:
    """Return the records of files, not of containers, that meet a condition, oldest first."""
    return _records(connection, condition & files.c.pair.is_not(None))


def by_location(connection: sa.Connection, locations: Sequence[str]) -> dict[str, list[FileRecord]]:
    """Return the records of files by location, oldest first, for these locations."""
    found: dict[str, list[FileRecord]] = {}
    for start in range(0, len(locations), _VARIABLES):
        condition = files.c.location.in_(locations[start : start + _VARIABLES])
        for record in _records(connection, condition & files.c.pair.is_not(None)):
            found.setdefault(record.location, []).append(record)
    return found


def read_unanswered(connection: sa.Connection, now: int) -> set[Series]:
    """Reset ingested files that have lost their grants to PENDING, and return their series."""
    answered = sa.select(grants.c.file_id).where(grants.c.file_id.is_not(None))
    had = (files.c.start < files.c.end) & (files.c.rows > 0)
    lost = (files.c.status == FileStatus.COMPLETED) & had & files.c.id.not_in(answered)
    found = {record.series for record in matching(connection, lost)}
    reason = "to be read again: the record of its coverage is damaged"
    connection.execute(sa.update(files).where(lost).values(status=FileStatus.PENDING, reason=reason, updated_at=now))
    return found


def have_read_again(connection: sa.Connection, ids: Collection[int], reason: str, now: int) -> None:
    """Reset some ingested files to PENDING."""
    wanted = sorted(ids)
    for start in range(0, len(wanted), _VARIABLES):
        is_one = files.c.id.in_(wanted[start : start + _VARIABLES]) & (files.c.status == FileStatus.COMPLETED)
        values = {"status": FileStatus.PENDING, "reason": reason, "updated_at": now}
        connection.execute(sa.update(files).where(is_one).values(**values))


def pending(connection: sa.Connection, series: Collection[Series]) -> list[FileRecord]:
    """Return the files of some series that are to be read, or read again."""
    is_pending = files.c.status == FileStatus.PENDING
    found = matching(connection, of_pairs(files.c.pair, {one_series.pair for one_series in series}) & is_pending)
    return [record for record in found if record.series in series]


def completed(connection: sa.Connection, pairs: Sequence[str], sums: Collection[str] | None = None) -> list[FileRecord]:
    """Return the ingested files of some pairs; where `sums` is given, only those with one of these SHA-256 sums."""
    return _of_pairs(connection, pairs, FileStatus.COMPLETED, sums)


def withdrawn(connection: sa.Connection, pairs: Sequence[str], sums: Collection[str]) -> list[FileRecord]:
    """Return the withdrawn files of some pairs that have one of some SHA-256 sums."""
    return _of_pairs(connection, pairs, FileStatus.WITHDRAWN, sums)


def _of_pairs(
    connection: sa.Connection, pairs: Sequence[str], status: FileStatus, sums: Collection[str] | None
) -> list[FileRecord]:
    found: list[FileRecord] = []
    wanted = files.c.status == status
    if sums is not None:
        wanted &= files.c.sha256.in_(sums)
    for start in range(0, len(pairs), _VARIABLES):
        found += _records(connection, files.c.pair.in_(pairs[start : start + _VARIABLES]) & wanted)
    return found


def enlist(
    connection: sa.Connection,
    wanted: Iterable[tuple[ArchiveFile, str | None, str | None]],
    run_id: str,
    now: int,
) -> dict[str, int]:
    """Record files as PENDING and return their ids by location.

    A file that an earlier run did not finish keeps its record.

    Args:
        connection: A write transaction.
        wanted: Files, each with its container's SHA-256 and its stamp.
        run_id: The run that will read them.
        now: The current time, in seconds since the epoch.
    """
    entries = list(wanted)
    alone(connection, files)  # a file that another run is completing now must not become PENDING again
    known = by_location(connection, [file.location for file, _, _ in entries])
    ids: dict[str, int] = {}
    new: list[dict[str, Any]] = []
    for file, container, stamp in entries:
        unfinished = [record for record in known.get(file.location, ()) if record.status not in DONE]
        if unfinished:
            ids[file.location] = unfinished[-1].id
            continue
        new.append(
            {
                "location": file.location,
                "name": file.name,
                "container": container,
                "stamp": stamp,
                "kind": file.kind,
                "pair": file.pair.name,
                "interval": file.interval.value,
                "status": FileStatus.PENDING,
                "size": file.size,
                "run_id": run_id,
                "updated_at": now,
                "rows": 0,
                "candles_stored": 0,
                "rows_rejected": 0,
            }
        )
    again = list(ids.values())
    for start in range(0, len(again), _VARIABLES):
        set_status(connection, again[start : start + _VARIABLES], FileStatus.PENDING, run_id, now)
    if new:
        result = connection.execute(sa.insert(files).returning(files.c.id, sort_by_parameter_order=True), new)
        ids.update({row["location"]: int(file_id) for row, file_id in zip(new, result.scalars(), strict=True)})
    return ids


def set_status(connection: sa.Connection, ids: Sequence[int], status: FileStatus, run_id: str, now: int) -> None:
    """Set the status of some records and clear their reason."""
    connection.execute(
        sa.update(files).where(files.c.id.in_(ids)).values(status=status, run_id=run_id, updated_at=now, reason=None)
    )


def finish(connection: sa.Connection, results: Sequence[Mapping[str, Any]]) -> None:
    """Write the outcomes of files: mappings with the same columns of `schema.files`, each with the record's `id`."""
    if results:
        rows = [{("of_id" if name == "id" else name): value for name, value in result.items()} for result in results]
        connection.execute(sa.update(files).where(files.c.id == sa.bindparam("of_id")), rows)


def fail_container(connection: sa.Connection, location: str, name: str, reason: str, *, run_id: str, now: int) -> int:
    """Record a container that cannot be opened as FAILED; return the record's id, which later failures reuse."""
    values = {
        "location": location,
        "name": name,
        "status": FileStatus.FAILED,
        "reason": reason,
        "size": 0,
        "run_id": run_id,
        "updated_at": now,
    }
    alone(connection, files)
    known = connection.scalar(sa.select(files.c.id).where((files.c.location == location) & files.c.pair.is_(None)))
    if known is not None:
        connection.execute(sa.update(files).where(files.c.id == known).values(**values))
        return int(known)
    counts = {"rows": 0, "candles_stored": 0, "rows_rejected": 0}
    return int(connection.execute(sa.insert(files).values(**values, **counts).returning(files.c.id)).scalar_one())


def failed_members(connection: sa.Connection) -> frozenset[tuple[str, str, int]]:
    """Return the members that have not answered for anything, each as container SHA-256, pair and interval.

    They could not be read, or are still to be read or read again.
    """
    has_not = files.c.status.in_([FileStatus.FAILED, FileStatus.PENDING, FileStatus.INGESTING])
    query = sa.select(files.c.container, files.c.pair, files.c.interval).where(
        has_not & files.c.container.is_not(None) & files.c.pair.is_not(None)
    )
    return frozenset((container, pair, interval) for container, pair, interval in connection.execute(query))


def withdrawn_containers(connection: sa.Connection) -> dict[str, str]:
    """Return the containers that were withdrawn as a whole: SHA-256 → reason."""
    query = sa.select(files.c.container, files.c.reason).where(
        files.c.status == FileStatus.WITHDRAWN, files.c.pair.is_(None), files.c.container.is_not(None)
    )
    return {row.container: row.reason for row in connection.execute(query)}


def archived_pairs(connection: sa.Connection) -> frozenset[str]:
    """Return the pairs with an ingested archive."""
    query = sa.select(files.c.pair).where(files.c.status == FileStatus.COMPLETED, files.c.pair.is_not(None)).distinct()
    return frozenset(connection.scalars(query))


@dataclass(frozen=True, slots=True)
class FilesDone:
    """The totals of a run's finished files: all files, successfully ingested files, candles and bytes."""

    files: int
    completed: int
    candles: int
    size: int


def done_by(connection: sa.Connection, run_id: str) -> FilesDone:
    """Return the totals of a run's finished files."""
    is_done = files.c.status.in_([*DONE, FileStatus.FAILED]) & files.c.pair.is_not(None)
    totals = [
        sa.func.count(),
        sa.func.count().filter(files.c.status == FileStatus.COMPLETED),
        sa.func.coalesce(sa.func.sum(files.c.candles_stored), 0),
        sa.func.coalesce(sa.func.sum(files.c.size), 0),
    ]
    row = connection.execute(sa.select(*totals).where(is_done, files.c.run_id == run_id)).one()
    return FilesDone(*(int(value) for value in row))


def counts(connection: sa.Connection, run_id: str | None = None) -> dict[str, int]:
    """Return the number of files by status, of one run or of all."""
    query = sa.select(files.c.status, sa.func.count()).group_by(files.c.status)
    if run_id is not None:
        query = query.where(files.c.run_id == run_id)
    return {str(status): int(number) for status, number in connection.execute(query)}
