"""Ingesting: turns each file of an archive into candles and coverage.

Files are processed in batches of different series. They are staged in parallel threads and committed together, because
a transaction for each of 24,000 files would cost more than reading them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import sqlalchemy as sa

from kraken_pipeline.kraken.archive import ArchiveFile, ArchiveReader
from kraken_pipeline.kraken.discovery import PassedOver
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import FileStatus
from kraken_pipeline.storage.exchange_state import counters
from kraken_pipeline.storage.records import dead_letters, file_records
from kraken_pipeline.storage.records.file_records import FileRecord
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import costs
from kraken_pipeline.workflow.ingest.batches import Batch, Outcomes, batches_of, groups_of, stored_in_turn
from kraken_pipeline.workflow.ingest.outcome import FileOutcome
from kraken_pipeline.workflow.ingest.read_file import Reading, letter, read_file, write_letters
from kraken_pipeline.workflow.ingest.scan import (
    IngestHistory,
    Task,
    is_within,
    scan_again,
)
from kraken_pipeline.workflow.ingest.untold import have_read_again
from kraken_pipeline.workflow.lake_write import LakeWrite, commit
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import RunSpec
from kraken_pipeline.workflow.side_by_side import side_by_side

ROUNDS = 3
"""The most times that one run reads a file that changes while it is read."""

LARGE_FILES = 400
LARGE_BYTES = 64 << 20
"""The number and size of files from which on a run reads them in several processes: it takes two seconds and more."""


@dataclass(frozen=True, slots=True)
class Following:
    """The work on the series of a group of files that follows their ingestion, in the process that ingested them.

    Attributes:
        work: Does the work on the ingested series; it has to be picklable, as have its results.
        cost: Returns the expected cost of the work for some files, in seconds, as `workflow.costs` does.
        candles: Returns the number of candles that a result says were stored.
        is_step: Whether the files are one group of several that are ingested at the same time, so that the work
            follows even if they are ingested as one group.
        results: The results so far, one for each group that gave candles.
    """

    work: Callable[[Stores, RunSpec, Collection[Series], RunContext], Any]
    cost: Callable[[Sequence[ArchiveFile]], float]
    candles: Callable[[Any], int]
    is_step: bool = False
    results: list[Any] = field(default_factory=list)


def enlist(stores: Stores, tasks: Iterable[Task], run: RunContext) -> dict[str, int]:
    """Record the files of a run as PENDING; return their ids by location."""
    entries = [(task.file, task.container.sha256 if task.container else None, task.stamp) for task in tasks]
    with stores.catalog.write() as connection:
        return file_records.enlist(connection, entries, run.run_id, run.now)


def fail_broken(stores: Stores, broken: Sequence[PassedOver], run: RunContext) -> None:
    """Record containers that cannot be opened as FAILED, with a dead letter each."""
    if not broken:
        return
    with stores.catalog.write() as connection:
        for skipped in broken:
            file_id = file_records.fail_container(
                connection, skipped.name, skipped.name, skipped.reason, run_id=run.run_id, now=run.now
            )
            dead_letters.forget(connection, [file_id])
            dead_letters.add(
                connection,
                file_id,
                skipped.name,
                [letter(skipped.name, skipped.reason)],
                run_id=run.run_id,
                now=run.now,
            )


def ingest(
    stores: Stores, spec: RunSpec, tasks: Sequence[Task], run: RunContext, following: Following | None = None
) -> list[FileOutcome]:
    """Ingest files, each with its evidence; an error of one file stops no other.

    Args:
        stores: The stores to write to.
        spec: The spec of the run, which may limit the time to ingest.
        tasks: The files, as `scan` found them.
        run: The run that ingests; its progress is updated after every batch.
        following: The work that follows the ingestion of each group if there are several, so that no process waits for
            the others; of one group, the work is left to the run.

    Returns:
        The outcome of each file, in the order of reading.
    """
    if not tasks:
        return []
    stores.lake.asset_ids.register(task.file.pair for task in tasks)
    have_read_again(stores, (task.file for task in tasks), run.now)
    outcomes = _leave_to_others(stores, spec, tasks, run)
    ids = enlist(stores, [task for task in tasks if task.file.location not in outcomes], run)
    waiting = [task for task in tasks if task.file.location in ids]
    if following is not None and following.is_step:
        known = [task.file for task in tasks if task.file.location in outcomes]
        _report(run, known, list(outcomes.values()), 0, _cost(stores, known, following))
    elif any(outcome.status is FileStatus.COMPLETED for outcome in outcomes.values()):
        is_followed = is_dealt_out([task.file for task in waiting], stores.settings.kraken_workers)
        _count_anew(stores, run, following.cost([task.file for task in waiting]) if following and is_followed else 0.0)
    for round_ in range(ROUNDS):
        files = {task.file.location: task.file for task in waiting}
        with closing(_ingested(stores, spec, waiting, ids, run, following)) as results:
            for done, candles, cost in results:
                outcomes |= done
                _report(run, [files[location] for location in done], list(done.values()), candles, cost)
        changed = [task for task in waiting if outcomes[task.file.location].status is FileStatus.PENDING]
        if not changed or round_ == ROUNDS - 1:
            break
        waiting, gone = _found_again(stores, spec, changed, run)
        outcomes |= gone
        ids = enlist(stores, waiting, run)
    wanted = dict.fromkeys(task.file.location for task in tasks)
    return [outcomes[location] for location in {**wanted, **dict.fromkeys(outcomes)}]


def _found_again(
    stores: Stores, spec: RunSpec, changed: Sequence[Task], run: RunContext
) -> tuple[list[Task], Outcomes]:
    """Look again for files that were changed since they were found.

    Returns:
        The files that exist now, including new ones in a changed archive; and the outcomes of those that no longer
        exist, which have failed, by location.
    """
    found = scan_again(stores, spec, changed, run.now)
    fail_broken(stores, found.broken, run)
    stores.lake.asset_ids.register(task.file.pair for task in found.tasks)
    there = {task.file.location for task in found.tasks}
    still = {skipped.name for skipped in found.waiting}
    outcomes: Outcomes = {}
    results: list[Mapping[str, Any]] = []
    for task in changed:
        # A file that still grows is left to the next run and keeps its reason.
        if task.file.location in there or task.file.path.name in still:
            continue
        reason = "it was changed after the scan, and does not exist any more"
        outcomes[task.file.location] = FileOutcome(task.file.name, task.file.series, FileStatus.FAILED, reason)
        results += [
            {"id": record.id, "status": FileStatus.FAILED, "reason": reason, "updated_at": run.now}
            for record in _unfinished(stores, task)
        ]
    with stores.catalog.write() as connection:
        file_records.finish(connection, results)
    return found.tasks, outcomes


def _unfinished(stores: Stores, task: Task) -> list[FileRecord]:
    with stores.catalog.read() as connection:
        records = file_records.by_location(connection, [task.file.location]).get(task.file.location, [])
    return [record for record in records if record.status in (FileStatus.PENDING, FileStatus.INGESTING)]


class _Ingesting:
    """The work on one group of files; every process of a run has its own, which opens each container once.

    Args:
        spec: The spec of the run.
        run_id: The id of the run.
        now: The time of the run, in seconds since the epoch.
        threads: The number of files of a group that are read at the same time.
        then: The work that follows on the series of the group, if any.
    """

    def __init__(
        self,
        spec: RunSpec,
        run_id: str,
        now: int,
        threads: int,
        then: Callable[[Stores, RunSpec, Collection[Series], RunContext], Any] | None = None,
    ) -> None:
        self._spec = spec
        self._run = RunContext(run_id, now)
        self._threads = threads
        self._then = then
        self.reader = ArchiveReader()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Ingesting, (self._spec, self._run.run_id, self._run.now, self._threads, self._then)

    def __call__(self, stores: Stores, group: _Group) -> tuple[Outcomes, list[Any]]:
        """Ingest a group of files; return their outcomes, and the result of the work that follows, if there is one."""
        outcomes: Outcomes = {}
        with closing(self.batches(stores, group)) as batches:
            for done in batches:
                outcomes |= done
        series = {done.series for done in outcomes.values() if done.status is FileStatus.COMPLETED}
        if self._then is None or not series:
            return outcomes, []
        return outcomes, [self._then(stores, self._spec, series, RunContext(self._run.run_id, self._run.now))]

    def without_more(self, stores: Stores, group: _Group) -> Generator[tuple[Outcomes, list[Any]]]:
        """Ingest a group of files, and yield the outcomes of each batch as results without work that follows."""
        with closing(self.batches(stores, group)) as batches:
            for done in batches:
                yield done, []

    def batches(self, stores: Stores, group: _Group) -> Generator[Outcomes]:
        """Ingest a group of files, and yield the outcomes of each batch."""
        with (
            ThreadPoolExecutor(self._threads) as pool,
            closing(
                stored_in_turn(
                    stores,
                    batches_of(group.tasks),
                    partial(self._read, stores, pool, group.ids),
                    partial(_stored, stores, self._spec, self._run),
                )
            ) as batches,
        ):
            for _, done in batches:
                yield done

    def _read(self, stores: Stores, pool: Executor, ids: Mapping[str, int], batch: Batch) -> None:
        spec, run = self._spec, self._run
        batch.known = _leave_to_others(stores, spec, batch.tasks, run)
        work = [task for task in batch.tasks if task.file.location not in batch.known]
        _mark_ingesting(stores, [(task, ids[task.file.location]) for task in work], run)
        stores.lake.manifest.reread_all([task.file.series for task in work])
        batch.read(pool, lambda task: read_file(stores, spec, task, ids[task.file.location], self.reader, run), work)


@dataclass(frozen=True, slots=True)
class _Group:
    """Files that one process ingests, with the ids of their records by location."""

    tasks: Sequence[Task]
    ids: Mapping[str, int]


def _ingested(
    stores: Stores,
    spec: RunSpec,
    tasks: Sequence[Task],
    ids: Mapping[str, int],
    run: RunContext,
    following: Following | None,
) -> Generator[tuple[Outcomes, int, float]]:
    """Yield the outcomes of all files, some at a time, with the candles of what followed and the cost of all of it."""
    workers = stores.settings.kraken_workers
    is_step = following is not None and following.is_step
    is_cut = is_step or is_dealt_out([task.file for task in tasks], workers)
    groups = list(groups_of(tasks, workers)) if is_cut else [tasks]
    followed_by = following if len(groups) > 1 or is_step else None
    then = followed_by.work if followed_by else None
    work = _Ingesting(spec, run.run_id, run.now, 1 if len(groups) > 1 else workers, then)
    parts = [_Group(group, {task.file.location: ids[task.file.location] for task in group}) for group in groups]
    files = {task.file.location: task.file for task in tasks}
    is_whole = len(groups) > 1 or is_step  # each group is one piece of progress
    results = side_by_side(stores, work, parts, workers) if is_whole else work.without_more(stores, parts[0])
    with work.reader, closing(results):
        for done, followed in results:
            read = [files[location] for location in done]
            candles = 0
            if followed_by is not None:
                followed_by.results.extend(followed)
                candles = sum(followed_by.candles(result) for result in followed)
            yield done, candles, _cost(stores, read, followed_by)


def _cost(stores: Stores, files: Sequence[ArchiveFile], following: Following | None) -> float:
    """Return the expected cost of ingesting some files, and of the work that follows, in seconds."""
    cost = costs.ingesting(len(files), sum(file.size for file in files), stores.settings.kraken_workers)
    return cost + (following.cost(files) if following is not None else 0.0)


def is_dealt_out(files: Sequence[ArchiveFile], workers: int) -> bool:
    """Return whether files are ingested in groups by several processes."""
    return workers > 1 and (len(files) >= LARGE_FILES or sum(file.size for file in files) >= LARGE_BYTES)


def _leave_to_others(stores: Stores, spec: RunSpec, tasks: Sequence[Task], run: RunContext) -> Outcomes:
    """Return the outcomes of files that are already ingested, by location; they are not read again.

    Another run may have ingested and moved them since they were found, or this run itself before it was interrupted and
    retried.
    """
    with stores.catalog.read() as connection:
        known = IngestHistory(connection, tasks)
    outcomes: Outcomes = {}
    left: list[Mapping[str, Any]] = []
    for task in tasks:
        if (reason := known.earlier_result(task, spec.window)) is not None:
            own = [record for record in known.done(task, spec.window) if record.run_id == run.run_id]
            outcomes[task.file.location] = (
                _outcome_before(own[-1], task)
                if own and own[-1].status is not FileStatus.WITHDRAWN
                else FileOutcome(task.file.name, task.file.series, FileStatus.SKIPPED, reason)
            )
            left += [
                {"id": record.id, "status": FileStatus.SKIPPED, "reason": reason, "updated_at": run.now}
                for record in known.records(task)
                if record.status in (FileStatus.PENDING, FileStatus.INGESTING)
            ]
    if left:
        with stores.catalog.write() as connection:
            file_records.finish(connection, left)
    return outcomes


def _outcome_before(record: FileRecord, task: Task) -> FileOutcome:
    return FileOutcome(
        name=task.file.name,
        series=task.file.series,
        status=record.status,
        reason=record.reason,
        rows=record.rows,
        rows_rejected=record.rows_rejected,
        candles_stored=record.candles_stored,
    )


def _count_anew(stores: Stores, run: RunContext, more: float) -> None:
    """Set a run's progress from the records; its last report may be older than its last batch.

    Args:
        stores: The stores.
        run: The run.
        more: The expected cost of the work that follows the ingestion of each group, in seconds.
    """
    with stores.catalog.read() as connection:
        done = file_records.done_by(connection, run.run_id)
    files, size = run.progress.files_total - done.files, run.progress.bytes_total - done.size
    run.expect("ingesting", more + costs.ingesting(max(0, files), max(0, size), stores.settings.kraken_workers))
    run.report(
        phase="ingesting",
        files_done=done.files,
        files_ingested=done.completed,
        candles=done.candles,
        bytes_done=done.size,
    )


def _report(
    run: RunContext, files: Sequence[ArchiveFile], done: Sequence[FileOutcome], candles: int, cost: float
) -> None:
    run.did("ingesting", cost)
    progress = run.progress
    run.report(
        phase="ingesting",
        files_done=progress.files_done + len(done),
        files_ingested=progress.files_ingested + sum(outcome.status is FileStatus.COMPLETED for outcome in done),
        candles=progress.candles + candles + sum(outcome.candles_stored for outcome in done),
        bytes_done=progress.bytes_done + sum(file.size for file in files),
    )


def _mark_ingesting(stores: Stores, work: Sequence[tuple[Task, int]], run: RunContext) -> None:
    """Record files as INGESTING, and delete the dead letters of earlier readings."""
    with stores.catalog.write() as connection:
        known = file_records.by_location(connection, [task.file.location for task, _ in work])
        file_records.set_status(connection, [file_id for _, file_id in work], FileStatus.INGESTING, run.run_id, run.now)
        dead_letters.forget(connection, [record.id for records in known.values() for record in records])


# --- storing a batch


def _stored(stores: Stores, spec: RunSpec, run: RunContext, batch: Sequence[Reading]) -> Outcomes:
    """Commit the readings of a batch in one write, and return their outcomes."""
    _find_duplicates(stores, spec, batch)
    writes = [
        LakeWrite(read.staged, read.grants, read.file_id, read.facts.contradicted, read.trades)
        for read in batch
        if read.staged is not None and read.duplicate is None
    ]

    def finish(connection: sa.Connection) -> None:
        for read in batch:
            if not read.is_changed:
                write_letters(connection, read, run)
        file_records.finish(connection, [_result(read, spec, run) for read in batch])
        counters.add_to(connection, _counts(list(outcomes.values())), run.now)

    outcomes = {read.task.file.location: _outcome(read) for read in batch}
    commit(stores, writes, run.now, finish)
    return outcomes


def _counts(outcomes: Sequence[FileOutcome]) -> Mapping[str, int]:
    """Return the number of files by their status, and that of their rows, by the name of the counter."""
    return {
        **Counter(f"files.{outcome.status}" for outcome in outcomes if outcome.status is not FileStatus.PENDING),
        "rows.read": sum(outcome.rows for outcome in outcomes),
        "rows.rejected": sum(outcome.rows_rejected for outcome in outcomes),
    }


def _find_duplicates(stores: Stores, spec: RunSpec, batch: Sequence[Reading]) -> None:
    """Mark files that were ingested or withdrawn before, under whatever name.

    Two files are the same if kind, pair, interval, reach and SHA-256 are. For withdrawn files the reach does not count:
    the same content is no better in another archive.
    """
    pairs, sums = ({read.task.file.pair.name for read in batch}, {read.facts.sha256 for read in batch})
    with stores.catalog.read() as connection:
        records = file_records.completed(connection, sorted(pairs), sums)
        former = file_records.withdrawn(connection, sorted(pairs), sums)
    withdrawn = {(record.kind, record.series, record.sha256): record for record in former}
    known: dict[tuple[Any, ...], list[FileRecord]] = {}
    for record in records:
        known.setdefault(
            (record.kind, record.pair, record.interval, record.start, record.end, record.sha256), []
        ).append(record)
    for read in batch:
        file = read.task.file
        start, end = (read.reach.start, read.reach.end) if read.reach else (None, None)
        duplicates = known.get((file.kind, file.pair.name, file.interval.value, start, end, read.facts.sha256), [])
        if read.staged is not None and duplicates and is_within(duplicates, spec.window):
            read.duplicate = duplicates[-1]
        if read.staged is not None:
            read.duplicate = withdrawn.get((file.kind, file.series, read.facts.sha256), read.duplicate)


def _status(read: Reading) -> tuple[FileStatus, str | None]:
    if read.error is not None:
        return FileStatus.PENDING if read.is_changed else FileStatus.FAILED, read.error
    if read.duplicate is not None:
        how = (
            f"which was {read.duplicate.became}"
            if read.duplicate.status is FileStatus.WITHDRAWN
            else read.duplicate.became
        )
        return FileStatus.SKIPPED, f"the same as {read.duplicate.name}, {how}"
    return FileStatus.COMPLETED, None


def _result(read: Reading, spec: RunSpec, run: RunContext) -> Mapping[str, Any]:
    status, reason = _status(read)
    is_stored = status is FileStatus.COMPLETED and read.staged is not None
    return {
        "id": read.file_id,
        "status": status,
        "reason": reason,
        "container": read.task.container.sha256 if read.task.container else None,
        "stamp": read.task.stamp,
        "size": read.task.file.size,
        "sha256": read.facts.sha256 or None,
        "start": read.reach.start if read.reach else None,
        "end": read.reach.end if read.reach else None,
        "taken_start": spec.start,
        "taken_end": spec.end,
        "first_time": read.facts.first_time,
        "last_time": read.facts.last_time,
        "rows": read.facts.rows,
        "candles_stored": read.staged.changed if is_stored and read.staged else 0,
        "rows_rejected": read.rows_rejected,
        "run_id": run.run_id,
        "updated_at": run.now,
    }


def _outcome(read: Reading) -> FileOutcome:
    status, reason = _status(read)
    return FileOutcome(
        name=read.task.file.name,
        series=read.task.file.series,
        status=status,
        reason=reason,
        rows=read.facts.rows,
        rows_rejected=read.rows_rejected,
        candles_stored=read.staged.changed if read.staged and status is FileStatus.COMPLETED else 0,
        seconds=read.seconds,
    )
