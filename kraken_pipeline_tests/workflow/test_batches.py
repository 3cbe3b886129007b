"""Batches of files: whatever fails, locks and staged files are gone, and nothing is at work any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.storage.catalog.states import FileStatus
from kraken_pipeline.storage.lake.writer import CandleWriter
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.ingest.batches import Batch, Outcomes, stored_in_turn
from kraken_pipeline.workflow.ingest.outcome import FileOutcome
from kraken_pipeline.workflow.ingest.read_file import Reading
from kraken_pipeline.workflow.ingest.scan import Task, scan
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.homes import NOW, Q1, Shelf
from kraken_pipeline_tests.support.samples import candle, frame

pytestmark = pytest.mark.slow

SOON = 10.0


@pytest.fixture
def tasks(stores: Stores, shelf: Shelf) -> list[Task]:
    found = scan(stores, run_spec(archive_dirs=[shelf.q1]), NOW).tasks
    assert len(found) >= 4
    return found


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def stage(stores: Stores, task: Task) -> Reading:
    """Stages a candle of a file, as reading does."""
    writer = CandleWriter(stores.lake, task.file.series, origin="a test", now=NOW)
    writer.add(frame([candle(Q1.start)]))
    return Reading(task, 0, writer.finish())


def outcomes_of(readings: Sequence[Reading]) -> Outcomes:
    files = [read.task.file for read in readings]
    return {file.location: FileOutcome(file.name, file.series, FileStatus.COMPLETED) for file in files}


def assert_nothing_is_left(stores: Stores, tasks: Sequence[Task]) -> None:
    assert list(stores.lake.scratch.iterdir()) == []
    with stores.locks.series([task.file.series for task in tasks], timeout=0):
        pass


def reading_all(stores: Stores, pool: Executor) -> Callable[[Batch], None]:
    return lambda batch: batch.read(pool, lambda task: stage(stores, task), batch.tasks)


def test_a_batch_is_read_while_the_one_before_is_stored(
    stores: Stores, tasks: list[Task], pool: ThreadPoolExecutor
) -> None:
    is_second_read = threading.Event()

    def read(batch: Batch) -> None:
        reading_all(stores, pool)(batch)
        if batch.tasks[0] is tasks[1]:
            is_second_read.set()

    def store(readings: Sequence[Reading]) -> Outcomes:
        assert is_second_read.wait(SOON), "the second is not read while the first is stored"
        return outcomes_of(readings)

    with closing(stored_in_turn(stores, [tasks[:1], tasks[1:2]], read, store)) as stored:
        found = [(list(batch), list(outcomes)) for batch, outcomes in stored]
    assert found == [([task], [task.file.location]) for task in tasks[:2]]
    assert_nothing_is_left(stores, tasks)


def test_a_series_of_the_batch_before_is_waited_for(
    stores: Stores, tasks: list[Task], pool: ThreadPoolExecutor
) -> None:
    order: list[str] = []

    def read(batch: Batch) -> None:
        order.append("read")
        reading_all(stores, pool)(batch)

    def store(readings: Sequence[Reading]) -> Outcomes:
        order.append("stored")
        return outcomes_of(readings)

    assert len(list(stored_in_turn(stores, [tasks[:1], tasks[:1]], read, store))) == 2
    assert order == ["read", "stored", "read", "stored"]
    assert_nothing_is_left(stores, tasks)


def test_where_reading_fails_the_batch_before_is_stored_in_full_first(
    stores: Stores, tasks: list[Task], pool: ThreadPoolExecutor
) -> None:
    is_reading, ended = threading.Event(), list[Sequence[Reading]]()

    def read(batch: Batch) -> None:
        if batch.tasks[0] is tasks[0]:
            return reading_all(stores, pool)(batch)
        is_reading.set()
        raise OSError("the disk is gone")

    def store(readings: Sequence[Reading]) -> Outcomes:
        assert is_reading.wait(SOON)
        ended.append(readings)
        return outcomes_of(readings)

    with pytest.raises(OSError, match="the disk is gone"):
        list(stored_in_turn(stores, [tasks[:1], tasks[1:2]], read, store))
    assert len(ended) == 1
    assert_nothing_is_left(stores, tasks)


def test_where_reading_and_storing_fail_the_error_tells_of_both(
    stores: Stores, tasks: list[Task], pool: ThreadPoolExecutor
) -> None:
    def read(batch: Batch) -> None:
        reading_all(stores, pool)(batch)
        if batch.tasks[0] is tasks[1]:
            raise OSError("the disk is gone")

    def store(_: Sequence[Reading]) -> Outcomes:
        raise ValueError("the catalog is gone")

    with pytest.raises(OSError, match="the disk is gone") as error:
        list(stored_in_turn(stores, [tasks[:1], tasks[1:2]], read, store))
    assert error.value.__notes__ == ["The batch before could not be stored either: the catalog is gone"]
    assert_nothing_is_left(stores, tasks)


def test_where_storing_fails_neither_batch_leaves_anything(
    stores: Stores, tasks: list[Task], pool: ThreadPoolExecutor
) -> None:
    def store(_: Sequence[Reading]) -> Outcomes:
        raise ValueError("the catalog is gone")

    with pytest.raises(ValueError, match="the catalog is gone"):
        list(stored_in_turn(stores, [tasks[:1], tasks[1:2]], reading_all(stores, pool), store))
    assert_nothing_is_left(stores, tasks)


def test_who_stops_listening_leaves_nothing(stores: Stores, tasks: list[Task], pool: ThreadPoolExecutor) -> None:
    batches = [tasks[:1], tasks[1:2], tasks[2:3]]
    with closing(stored_in_turn(stores, batches, reading_all(stores, pool), outcomes_of)) as stored:
        next(stored)
    assert_nothing_is_left(stores, tasks)


def test_one_file_that_fails_ends_the_batch_only_when_no_other_is_read_any_more(
    stores: Stores, tasks: list[Task], pool: ThreadPoolExecutor
) -> None:
    failed = threading.Event()
    begun: list[Task] = []
    ended: list[Task] = []

    def read_one(task: Task) -> Reading:
        if task is tasks[0]:
            failed.set()
            raise OSError("the disk is gone")
        begun.append(task)
        assert failed.wait(SOON)
        time.sleep(0.2)
        ended.append(task)
        return stage(stores, task)

    with closing(Batch(stores, tasks)) as batch:
        with pytest.raises(OSError, match="the disk is gone"):
            batch.read(pool, read_one, tasks)
        assert 0 < len(begun) == len(ended) == len(batch.readings)
    assert_nothing_is_left(stores, tasks)


class _Closed(Executor):
    def submit(self, *_: Any, **__: Any) -> Future[Any]:
        raise RuntimeError("no new threads")


def test_where_no_thread_can_be_had_the_series_are_released(
    stores: Stores, tasks: list[Task], pool: ThreadPoolExecutor
) -> None:
    batch = Batch(stores, tasks)
    batch.read(pool, lambda task: stage(stores, task), tasks)
    with closing(batch), pytest.raises(RuntimeError, match="no new threads"):
        batch.begin_storing(_Closed(), outcomes_of)
    assert_nothing_is_left(stores, tasks)


def test_to_close_a_batch_is_to_wait_until_it_is_stored(
    stores: Stores, tasks: list[Task], pool: ThreadPoolExecutor
) -> None:
    stored: list[Sequence[Reading]] = []

    def store(readings: Sequence[Reading]) -> Outcomes:
        time.sleep(0.2)
        stored.append(readings)
        return outcomes_of(readings)

    with closing(Batch(stores, tasks)) as batch:
        batch.read(pool, lambda task: stage(stores, task), tasks)
        batch.begin_storing(pool, store)
    assert len(stored) == 1
    assert_nothing_is_left(stores, tasks)


def test_what_was_committed_stays(stores: Stores, tasks: list[Task], pool: ThreadPoolExecutor, tmp_path: Path) -> None:
    def store(readings: Sequence[Reading]) -> Outcomes:
        for read in readings:
            assert read.staged is not None
            for move in read.staged.moves:
                move.put.written.rename(tmp_path / move.put.written.name)
            read.staged.moves.clear()
        return outcomes_of(readings)

    ((_, outcomes),) = stored_in_turn(stores, [tasks[:3]], reading_all(stores, pool), store)
    assert list(outcomes) == [task.file.location for task in tasks[:3]]
    assert len(list(tmp_path.glob("*.parquet"))) == 3
    assert_nothing_is_left(stores, tasks)
