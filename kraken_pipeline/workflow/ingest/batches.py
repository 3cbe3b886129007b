"""Batches: files of different series that are read together, and stored while the next batch is read."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack

from kraken_pipeline.errors import Busy
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.ingest.outcome import FileOutcome
from kraken_pipeline.workflow.ingest.read_file import Reading
from kraken_pipeline.workflow.ingest.scan import Task

BATCH_FILES = 64
BATCH_BYTES = 64 << 20
"""The most bytes of a batch, because its files are in memory together; a larger file is a batch of its own."""

GROUP_FILES = 256
"""The most files of a group, unless one pair has more."""

_STEPS_OF_WORKER = 4
"""The number of steps that each process has: the process of a step takes more than a second to start."""

Outcomes = dict[str, FileOutcome]
"""The outcome of each file, by location."""


class Batch:
    """A batch in progress, which owns the locks of its series, its readings, and the storing of them in a thread.

    Whatever fails, its end comes exactly once: what was staged and not committed is deleted, and then the series are
    released. It comes after the storing where that was begun, and with `close` otherwise.

    Args:
        stores: The stores.
        tasks: The files.
        before: The batch before. It is waited for where another process, or it itself, holds one of the series: two
            runs that wait while they hold locks could wait for each other.

    Attributes:
        tasks: The files.
        known: The outcomes that are known without reading.
        readings: The files that were read, until the end.

    Raises:
        Busy: Another process has held one of the series for too long.
    """

    def __init__(self, stores: Stores, tasks: Sequence[Task], before: Batch | None = None) -> None:
        self.tasks = tasks
        self.known: Outcomes = {}
        self.readings: list[Reading] = []
        self._storing: Future[Outcomes] | None = None
        self._locks = ExitStack()
        series = [task.file.series for task in tasks]
        try:
            self._locks.enter_context(stores.locks.series(series, timeout=0))
        except Busy:
            if before is not None:
                before.close()
            self._locks.enter_context(stores.locks.series(series))

    def read(self, pool: Executor, read: Callable[[Task], Reading], tasks: Iterable[Task]) -> None:
        """Read files in parallel. If one fails, the error is raised once the others are done or cancelled.

        Args:
            pool: The threads that read.
            read: Reads one file.
            tasks: The files of the batch to read.
        """
        reading: list[Future[Reading]] = []
        try:
            reading += [pool.submit(read, task) for task in tasks]
            self.readings = [future.result() for future in reading]
        except BaseException:
            for future in reading:
                future.cancel()
            # Of a file that is being read, `exception` waits for the end.
            done = [future for future in reading if not future.cancelled() and future.exception() is None]
            self.readings = [future.result() for future in done]
            raise

    def begin_storing(self, beside: Executor, store: Callable[[Sequence[Reading]], Outcomes]) -> None:
        """Store the readings in a thread.

        Args:
            beside: The thread that stores.
            store: Stores readings and returns their outcomes.
        """
        self._storing = beside.submit(self._store, store)

    def _store(self, store: Callable[[Sequence[Reading]], Outcomes]) -> Outcomes:
        try:
            return {**self.known, **store(self.readings)}
        finally:
            self._end()

    def outcomes(self) -> Outcomes:
        """Return the outcomes of all files once the batch is stored; raise the error of a storing that failed."""
        assert self._storing is not None, "the storing was not begun"  # noqa: S101
        return self._storing.result()

    def failure(self) -> BaseException | None:
        """Return the error of a storing that failed, once it is over."""
        return None if self._storing is None else self._storing.exception()

    def close(self) -> None:
        """Wait until the batch is stored, or end it where its storing was not begun; repeating it does nothing."""
        if self._storing is None:
            self._end()
        else:
            wait([self._storing])

    def _end(self) -> None:
        with self._locks:
            for reading in self.readings:
                for staged in (reading.staged, reading.trades):
                    if staged is not None:
                        staged.discard()
            self.readings = []


def stored_in_turn(
    stores: Stores,
    batches: Iterable[Sequence[Task]],
    read: Callable[[Batch], None],
    store: Callable[[Sequence[Reading]], Outcomes],
) -> Generator[tuple[Sequence[Task], Outcomes], None, None]:
    """Read and store batches, and yield the outcomes of each; close the iterator to end the batches in progress.

    A batch is read while the one before is stored, which hides a quarter of the time. Both have ended when an error is
    raised.

    Args:
        stores: The stores.
        batches: The files of each batch.
        read: Reads a batch; it is called in the thread of the caller.
        store: Stores readings and returns their outcomes; it is called in another thread.
    """
    before: Batch | None = None
    batch: Batch | None = None
    with ThreadPoolExecutor(1) as beside:
        try:
            for tasks in batches:
                batch = Batch(stores, tasks, before)
                read(batch)
                if before is not None:
                    yield before.tasks, before.outcomes()
                batch.begin_storing(beside, store)
                before, batch = batch, None
            if before is not None:
                yield before.tasks, before.outcomes()
        except BaseException as error:
            hidden = None if before is None else before.failure()
            if hidden is not None and hidden is not error:
                error.add_note(f"The batch before could not be stored either: {hidden}")
            raise
        finally:
            for left in (batch, before):
                if left is not None:
                    left.close()


def batches_of(tasks: Sequence[Task]) -> Iterator[list[Task]]:
    """Yield batches of files of different series, in order; a second file of a series waits for the next batch."""
    waiting = list(tasks)
    while waiting:
        batch: list[Task] = []
        later: list[Task] = []
        chosen: set[Series] = set()
        size = 0
        for index, task in enumerate(waiting):
            if len(batch) == BATCH_FILES or (batch and size + task.file.size > BATCH_BYTES):
                later += waiting[index:]
                break
            if task.file.series in chosen:
                later.append(task)
                continue
            chosen.add(task.file.series)
            batch.append(task)
            size += task.file.size
        yield batch
        waiting = later


def groups_of(tasks: Sequence[Task], workers: int, *, of_steps: bool = False) -> Iterator[list[Task]]:
    """Yield groups of files that different processes can ingest at the same time; the largest pairs come first.

    A group holds all files of its pairs. Groups are small enough that the processes end at about the same time, and
    large enough that one batch is read while the one before is stored.

    Args:
        tasks: The files, in the order in which those of a series are ingested.
        workers: The number of processes.
        of_steps: Whether each group is a step of its own, whose process has to start first: the groups are then as
            large as they can be while the processes still end at about the same time.
    """
    pairs: dict[str, list[Task]] = {}
    for task in tasks:
        pairs.setdefault(task.file.pair.name, []).append(task)
    sizes = {pair: sum(task.file.size for task in found) for pair, found in pairs.items()}
    files, most = min(GROUP_FILES, max(BATCH_FILES, len(tasks) // (8 * workers))), BATCH_BYTES
    if of_steps:
        share = _STEPS_OF_WORKER * workers
        files, most = max(BATCH_FILES, len(tasks) // share), max(BATCH_BYTES, sum(sizes.values()) // share)
    group: list[Task] = []
    size = 0
    for pair in sorted(pairs, key=lambda pair: -sizes[pair]):
        group += pairs[pair]
        size += sizes[pair]
        if len(group) >= files or size >= most:
            yield group
            group, size = [], 0
    if group:
        yield group
