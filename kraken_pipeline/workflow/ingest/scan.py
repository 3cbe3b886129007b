"""Scanning folders for archives that have not been ingested yet.

A scan writes nothing but what it learns about containers, and in a dry run not even that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import sqlalchemy as sa

from kraken_pipeline.archive_path import ArchivePath, BucketPath, as_found_now, identity_of, state_of
from kraken_pipeline.coverage.ranges import Span, normalise, subtract
from kraken_pipeline.errors import InvalidRequest, SourceChanged, UnreadableArchive, plain
from kraken_pipeline.kraken.archive import ArchiveFile, ArchiveReader, Container, container_digest
from kraken_pipeline.kraken.discovery import Discovery, PassedOver, discover
from kraken_pipeline.kraken.edges import release_end
from kraken_pipeline.kraken.manifest import read_sums
from kraken_pipeline.kraken.packing import UnpackedLimits
from kraken_pipeline.market.pair import Pair
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.records import file_records
from kraken_pipeline.storage.records.file_records import ContainerRecord, FileRecord
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.ingest.untold import untold
from kraken_pipeline.workflow.known_pairs import known_pairs
from kraken_pipeline.workflow.run_spec import RunSpec


@dataclass(frozen=True, slots=True)
class Task:
    """A file to ingest.

    Attributes:
        file: The file with its location.
        container: The record of its container; None for a loose file.
        stamp: The path, size and modification time of a loose file; None in a container.
    """

    file: ArchiveFile
    container: ContainerRecord | None = None
    stamp: str | None = None


@dataclass(slots=True)
class Scan:
    """The content of the scanned folders.

    Attributes:
        tasks: Selected files that have not been ingested yet, in the order of reading.
        ingested_before: Files that were ingested before, each with the run that did it.
        skipped: Files that are no archives.
        waiting: Files that are still growing.
        broken: Containers that cannot be opened.
        containers: Containers that were examined.
        new_pairs: Pairs of the tasks that the lake has never held.
    """

    tasks: list[Task] = field(default_factory=list)
    ingested_before: list[PassedOver] = field(default_factory=list)
    skipped: list[PassedOver] = field(default_factory=list)
    waiting: list[PassedOver] = field(default_factory=list)
    broken: list[PassedOver] = field(default_factory=list)
    containers: list[ContainerRecord] = field(default_factory=list)
    new_pairs: list[Pair] = field(default_factory=list)


def folders(stores: Stores, spec: RunSpec) -> list[ArchivePath]:
    """Return the folders of a run's archives: the drop folder, those of the settings, and those of its spec."""
    by_setting = (path.resolve() for path in stores.settings.archive_dirs)
    found = dict.fromkeys([*drop_folder(stores.settings), *by_setting, *spec.archive_dirs])
    return [as_found_now(path) for path in found]


def drop_folder(settings: Settings) -> list[ArchivePath]:
    """Return the drop folder; nothing if it is a prefix of a bucket below which there is no object.

    A local folder that is missing is an error of whoever reads it, and not an empty one.
    """
    drop = settings.drop
    return [] if isinstance(drop, BucketPath) and not drop.is_dir() else [drop]


def require_folders(settings: Settings, spec: RunSpec) -> None:
    """Check that the folders and files of a run exist.

    Raises:
        InvalidRequest: A folder or file does not exist.
    """
    for path in spec.archive_dirs:
        if not path.exists():
            raise InvalidRequest(f"there is no file or folder {path}; name one that holds Kraken's archives")
    for path in settings.archive_dirs:
        if not path.exists():
            raise InvalidRequest(
                f"KRAKEN_ARCHIVE_DIRS: there is no file or folder {path}; remove it from the setting, or mount it"
            )


def scan(stores: Stores, spec: RunSpec, now: int, *, patience: bool = False) -> Scan:
    """Scan the folders of a run.

    Args:
        stores: The stores, with the records of ingested files.
        spec: The selection of the run.
        now: The current time, in seconds since the epoch.
        patience: Whether to wait a moment for files that were changed just now.

    Raises:
        InvalidRequest: A folder does not exist.
    """
    return _scan(stores, spec, folders(stores, spec), now, patience=patience)


def scan_again(stores: Stores, spec: RunSpec, tasks: Iterable[Task], now: int) -> Scan:
    """Scan files again that were changed since they were found."""
    paths = {
        as_found_now(path)
        for task in tasks
        for path in (task.file.container.parts if task.file.container else (task.file.path,))
    }
    return _scan(stores, spec, sorted(path for path in paths if path.exists()), now)


def look_into(settings: Settings, where: Iterable[ArchivePath], *, patience: bool = False) -> Discovery:
    """Find the archives in folders, with the settings of a home.

    Args:
        settings: The settings.
        where: The folders, or single files.
        patience: Whether to wait a moment for files that were changed just now.

    Raises:
        InvalidRequest: A folder does not exist.
    """
    return discover(where, settle_seconds=settings.kraken_settle_seconds, patience=patience, limits=limits_of(settings))


def limits_of(settings: Settings) -> UnpackedLimits:
    """Return the limits on the unpacked size of files in archives."""
    return UnpackedLimits(settings.kraken_unpacked_gib << 30, settings.kraken_unpacked_ratio)


def _scan(stores: Stores, spec: RunSpec, where: Sequence[ArchivePath], now: int, *, patience: bool = False) -> Scan:
    found = look_into(stores.settings, where, patience=patience)
    if not spec.accept_unknown_pairs:
        pass_over_unknown(stores, found)
    wanted = [file for file in found.files if _is_wanted(file, stores, spec)]
    scanned = Scan(skipped=found.skipped, waiting=found.waiting, broken=found.broken)
    tasks = _with_containers(stores, spec, found, wanted, scanned, now=now)
    _skip_ingested(stores, spec, tasks, scanned)
    known = set(stores.lake.asset_ids.all()["pair"])
    new = {task.file.pair.name: task.file.pair for task in scanned.tasks if task.file.pair.name not in known}
    scanned.new_pairs = [new[name] for name in sorted(new)]
    return scanned


def pass_over_unknown(stores: Stores, found: Discovery) -> None:
    """Skip files that belong to a pair by their name only: `prices_60.csv`, `README_15.csv`.

    Such a file is kept if its pair was listed or stored before, or if a release at hand has the pair too.
    """
    if not any(file.is_doubtful for file in found.files):
        return
    known = {*known_pairs(stores), *(file.pair.name for file in found.files if not file.is_doubtful)}
    unknown = [file for file in found.files if file.is_doubtful and file.pair.name not in known]
    found.files = [file for file in found.files if not file.is_doubtful or file.pair.name in known]
    found.skipped += [PassedOver(file.name, f"no pair {file.pair} is known, and {UNKNOWN}") for file in unknown]


UNKNOWN = "its name ends with no known currency; if it is one of Kraken's: --accept-unknown-pairs"


def _is_wanted(file: ArchiveFile, stores: Stores, spec: RunSpec) -> bool:
    # Trades become one-minute candles, from which every wanted interval follows.
    from_trades = file.interval == 1 and file.kind == "TRADES"
    return (from_trades or file.interval in spec.intervals) and spec.selects(file.pair, stores.tiers)


def _with_containers(
    stores: Stores, spec: RunSpec, found: Discovery, wanted: Sequence[ArchiveFile], scanned: Scan, *, now: int
) -> list[Task]:
    containers = {file.container.path: file.container for file in wanted if file.container is not None}
    records: dict[ArchivePath, ContainerRecord] = {}
    with ArchiveReader() as reader:
        for path, container in containers.items():
            members = [file for file in found.files if file.container is container]
            try:
                records[path] = examine(stores, container, members, reader, now, remember=not spec.dry_run)
            except FileNotFoundError:
                continue  # another run has moved it away in the meantime
            except SourceChanged as error:
                scanned.waiting.append(PassedOver(path.name, str(error)))
            except (UnreadableArchive, OSError) as error:
                scanned.broken.append(PassedOver(path.name, str(error), container.parts[0]))
    scanned.containers = list(records.values())
    tasks: list[Task] = []
    for file in wanted:
        if file.container is None:
            with suppress(FileNotFoundError):
                tasks.append(Task(file, None, stamp(file.path)))
        elif file.path in records:
            tasks.append(Task(file, records[file.path]))
    return tasks


def examine(
    stores: Stores,
    container: Container,
    members: Sequence[ArchiveFile],
    reader: ArchiveReader,
    now: int,
    *,
    remember: bool = True,
) -> ContainerRecord:
    """Return the record of a container: its kind and what it covers.

    A container is examined once and then recognised by its content.

    Raises:
        UnreadableArchive: It cannot be read, or does not match its checksums or its manifest.
        SourceChanged: It was changed meanwhile.
    """
    mark = container_stamp(container)
    with stores.catalog.read() as connection:
        known = file_records.container_by_stamp(connection, mark)
    if known is not None:
        return known
    sha256 = container_digest(container, read_sums(container.parts[0].parent))
    with stores.catalog.read() as connection:
        known = file_records.container_by_digest(connection, sha256)
    if known is None or known.name != container.name:
        known = _examined(container, sha256, members, reader, now, threads=stores.settings.kraken_workers)
    if container.seen != identity_of(*container.parts):
        raise SourceChanged("it was changed during the scan; the next run scans it again")
    if remember:
        with stores.catalog.write() as connection:
            file_records.keep_container(connection, known, mark, now)
    return known


def _examined(
    container: Container, sha256: str, members: Sequence[ArchiveFile], reader: ArchiveReader, now: int, *, threads: int
) -> ContainerRecord:
    release = container.release
    series = tuple(sorted({f"{file.pair.name}_{file.interval.value}" for file in members}))
    if release is None:
        return ContainerRecord(sha256, container.name, "", None, None, None, series)
    start, end = release.start, release.end
    manifest = reader.manifest(container)
    if manifest is not None:  # it can narrow what the name says, and never widen it
        starts, ends = (start, manifest.coverage.start), (end, manifest.coverage.end)
        start = max(start for start in starts if start is not None)
        end = min((end for end in ends if end is not None), default=None)
    end = release_end(members, reader, now, end, threads=threads)
    if end is None or end <= start:
        raise UnreadableArchive("no candle in it is in the time of its name; check the name")
    quarter = str(release.quarter) if release.quarter else None
    return ContainerRecord(sha256, container.name, release.kind, start, end, quarter, series)


def container_stamp(container: Container) -> str:
    """Return the stamps of all parts of a container."""
    return "|".join([*(stamp(part) for part in container.parts), *map(plain, container.inside)])


def stamp(path: ArchivePath) -> str:
    """Return the path and the state of a file; a file with the same stamp is not read again.

    The stamp changes with nearly every change of the file.
    """
    return plain(f"{path}:{state_of(path)}")


def _skip_ingested(stores: Stores, spec: RunSpec, tasks: Sequence[Task], scanned: Scan) -> None:
    again = untold(stores, (task.file for task in tasks))
    with stores.catalog.read() as connection:
        known = IngestHistory(connection, tasks, without=again)
    for task in tasks:
        if (how := known.earlier_result(task, spec.window)) is not None:
            scanned.ingested_before.append(PassedOver(task.file.name, f"read before: {how}"))
        else:
            scanned.tasks.append(task)


class IngestHistory:
    """The records of earlier ingests of some files."""

    def __init__(self, connection: sa.Connection, tasks: Sequence[Task], *, without: Collection[int] = ()) -> None:
        """Read the records of all tasks at once.

        Args:
            connection: The catalog.
            tasks: The files.
            without: The ids of records that do not count, because their files are to be read again.
        """
        records = file_records.by_location(connection, [task.file.location for task in tasks])
        self._records = records if not without else _without(records, without)
        self._withdrawn = file_records.withdrawn_containers(connection)

    def records(self, task: Task) -> Sequence[FileRecord]:
        """Return the records of files at the location of this one, the oldest first."""
        return self._records.get(task.file.location, ())

    def done(self, task: Task, wanted: Span) -> Sequence[FileRecord]:
        """Return the records that show a window of a file to be ingested or withdrawn; none if it is not."""
        done = [record for record in self.records(task) if is_same(record, task)]
        return done if done and is_within(done, wanted) else ()

    def earlier_result(self, task: Task, wanted: Span) -> str | None:
        """Return the earlier result for a window of a file; None if it is still to be read."""
        if task.container is not None and task.container.sha256 in self._withdrawn:
            return f"withdrawn: {self._withdrawn[task.container.sha256]}"
        done = self.done(task, wanted)
        return done[-1].became if done else None


def _without(records: Mapping[str, list[FileRecord]], ids: Collection[int]) -> dict[str, list[FileRecord]]:
    return {location: [record for record in its if record.id not in ids] for location, its in records.items()}


def is_same(record: FileRecord, task: Task) -> bool:
    """Return whether a record shows that this file, in its current state, was finished without failing."""
    if record.status not in file_records.DONE:
        return False
    if task.container is not None:
        return record.container == task.container.sha256
    return record.stamp == task.stamp


def is_within(records: Iterable[FileRecord], wanted: Span) -> bool:
    """Return whether all of a window of a file was ingested."""
    return not subtract((wanted,), normalise(record.window for record in records))
