"""Work dealt out to several processes: every group once, whatever happens to a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

from kraken_pipeline.errors import DamagedFile, StoreError
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.records import publications
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow import pair_groups, pipeline
from kraken_pipeline.workflow.ingest import batches, ingest
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.side_by_side import side_by_side
from kraken_pipeline.workflow.verify.recovery import recover
from kraken_pipeline_tests.support.homes import NOW, Shelf, evidence_of, files_of, lake_of, rows_of, run, settings_of
from kraken_pipeline_tests.support.processes import line, process

pytestmark = [pytest.mark.slow, pytest.mark.process]


def here(stores: Stores, group: list[int]) -> tuple[int, str, int]:
    """The process that works, its home, and a sum; it takes long enough that every process gets a group."""
    time.sleep(0.05)
    return os.getpid(), str(stores.settings.home), sum(group)


def shifted(stores: Stores, group: list[int], by: int) -> tuple[int, str, int]:
    process, home, total = here(stores, group)
    return process, home, total + by


class Counting:
    """Counts its groups, as work that keeps a file open does; the first process waits for two groups of the other."""

    def __init__(self, first: int, two_are_done: str) -> None:
        self.groups = 0
        self.first, self.two_are_done = first, two_are_done

    def __call__(self, _: Stores, __: int) -> tuple[int, int]:
        deadline = time.monotonic() + 60
        while os.getpid() == self.first and not Path(self.two_are_done).exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        self.groups += 1
        if os.getpid() != self.first and self.groups == 2:
            Path(self.two_are_done).touch()
        return os.getpid(), self.groups


def wrong(_: Stores, group: list[int]) -> int:
    if group == [3]:
        raise DamagedFile("a file is damaged", ("lake/a.parquet",))
    return sum(group)


def killed(_: Stores, group: int) -> int:
    if os.getpid() != group:  # not the process of the test
        os.kill(os.getpid(), signal.SIGKILL)
    return group


def test_every_group_is_worked_on_once_by_processes_with_the_same_stores(home: Path) -> None:
    groups = [[number, number] for number in range(60)]
    with opened(settings_of(home, kraken_workers=3)) as stores:
        results = list(side_by_side(stores, here, groups, 3))
        more = list(side_by_side(stores, partial(shifted, by=1), groups[:20], 3))
    assert sorted(total for _, _, total in results) == [2 * number for number in range(60)]
    assert {home for _, home, _ in results} == {str(stores.settings.home)}
    processes = {pid for pid, _, _ in results}
    assert os.getpid() in processes
    assert 2 <= len(processes) <= 3
    assert sorted(total for _, _, total in more) == [2 * number + 1 for number in range(20)]
    assert {pid for pid, _, _ in more} <= processes, "processes are kept for other work of the same run"
    assert not any(map(_is_alive, processes - {os.getpid()})), "and end with its stores"


def test_work_keeps_what_it_has_opened_as_long_as_it_takes_and_no_longer(stores: Stores, tmp_path: Path) -> None:
    """What a worker process has open of an archive must not serve a later round, in which it may be another file."""
    two_are_done = tmp_path / "two"
    for _ in range(2):
        two_are_done.unlink(missing_ok=True)
        done = list(side_by_side(stores, Counting(os.getpid(), str(two_are_done)), range(6), 2))
        of_worker = sorted(count for process, count in done if process != os.getpid())
        assert len(of_worker) >= 2
        assert of_worker == list(range(1, len(of_worker) + 1))


def test_one_group_or_one_process_starts_nothing(stores: Stores) -> None:
    assert {pid for pid, _, _ in side_by_side(stores, here, [[1]], 4)} == {os.getpid()}
    assert {pid for pid, _, _ in side_by_side(stores, here, [[1], [2]], 1)} == {os.getpid()}
    assert list(side_by_side(stores, here, [], 4)) == []


def of_daemon(home: str) -> tuple[int, list[tuple[int, str, int]]]:
    with opened(settings_of(Path(home), kraken_workers=2)) as stores:
        return os.getpid(), list(side_by_side(stores, here, [[number] for number in range(4)], 2))


def test_a_process_that_may_start_none_works_alone(home: Path) -> None:
    """As the processes of Celery's workers, which do the steps of runs."""
    with get_context("forkserver").Pool(1) as pool:
        daemon, results = pool.apply(of_daemon, (str(home),))
    assert {pid for pid, _, _ in results} == {daemon}
    assert [total for *_, total in results] == [0, 1, 2, 3]


def test_an_error_of_a_group_arrives_as_it_was_raised_and_ends_the_work(stores: Stores) -> None:
    with (
        pytest.raises(DamagedFile, match="a file is damaged") as raised,
        closing(side_by_side(stores, wrong, [[number] for number in range(8)], 2)) as results,
    ):
        list(results)
    assert raised.value.paths == ("lake/a.parquet",)


def test_a_killed_process_is_an_error_that_says_what_to_do(stores: Stores) -> None:
    with pytest.raises(StoreError, match=r"was killed.*KRAKEN_WORKERS=1"):
        list(side_by_side(stores, killed, [os.getpid()] * 40, 2))


def deal_out_every_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "LARGE_FILES", 2)
    monkeypatch.setattr(batches, "BATCH_FILES", 1)


def test_pairs_are_resampled_and_compared_by_the_process_that_ingested_their_files(
    home: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    deal_out_every_pair(monkeypatch)
    with opened(settings_of(home, kraken_workers=2)) as stores:
        spec = run_spec(archive_dirs=[shelf.q1, shelf.q2])
        context = RunContext("run-one", NOW)
        found = pipeline.find_archives(stores, spec, context, is_whole_run=True)
        changes = pipeline.ingest_archives(stores, spec, found.tasks, context, is_whole_run=True)
        pairs = {outcome.series.pair for outcome in changes.files}
        assert len(pairs) > 1
        assert {filled.series.pair for filled in changes.filled.filled} == pairs
        with stores.catalog.read() as connection:
            assert publications.marked(connection) == {}  # nothing is left to compare
            assert publications.to_search(connection).keys() == pairs  # quiet time concerns all pairs
        of_files = sum(outcome.candles_stored for outcome in changes.files)
        assert context.progress.candles == of_files + sum(filled.candles_stored for filled in changes.filled.filled)
        assert context.progress.work["ingesting"].done == pytest.approx(context.progress.work["ingesting"].total)
        settled = lake_of(stores), rows_of(stores, schema.proofs, "pair", "interval", "start", "end")
        left = pipeline.fill_gaps(stores, spec, context)
        assert left.filled == ()
        assert (lake_of(stores), rows_of(stores, schema.proofs, "pair", "interval", "start", "end")) == settled


def test_a_catalog_is_rebuilt_alike_by_one_process_and_by_two(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    deal_out_every_pair(monkeypatch)
    monkeypatch.setattr(pair_groups, "LARGE_CANDLES", 10)
    monkeypatch.setattr(pair_groups, "GROUP_PAIRS", 1)
    found = []
    for workers in (1, 2):
        home = tmp_path / str(workers)
        with opened(settings_of(home, kraken_workers=workers)) as stores:
            run(stores, shelf.q1, shelf.q2)
        for path in home.glob("catalog.sqlite*"):
            path.unlink()
        with opened(settings_of(home, kraken_workers=workers), is_recovering=True) as stores:
            spec = run_spec(archive_dirs=[shelf.q1, shelf.q2])
            made = recover(stores, spec, RunContext("run-recover", NOW))
            assert len({outcome.series.pair for outcome in made.files}) > 1
            read = sorted((outcome.name, outcome.status, outcome.rows) for outcome in made.files)
            found.append((read, lake_of(stores), evidence_of(stores), files_of(stores)))
    assert found[0] == found[1]


def test_files_are_ingested_alike_by_one_process_and_by_two(
    home: Path, tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    deal_out_every_pair(monkeypatch)
    monkeypatch.setattr(pair_groups, "LARGE_CANDLES", 10)
    monkeypatch.setattr(pair_groups, "GROUP_PAIRS", 1)
    found = []
    for number, workers in enumerate((1, 2)):
        with opened(settings_of(tmp_path / str(number), kraken_workers=workers)) as stores:
            done = run(stores, shelf.q1, shelf.q2, shelf.complete)
            assert done.backfilled is not None
            found.append(
                (
                    sorted((name, outcome.status, outcome.rows) for name, outcome in done.files.items()),
                    lake_of(stores),
                    evidence_of(stores),
                    files_of(stores),
                    sorted(map(str, done.backfilled.filled)),
                    rows_of(stores, schema.proofs, "pair", "interval", "start", "end"),
                    rows_of(stores, schema.suspicions, "pair", "interval", "start", "end", "reason", "state"),
                    list(stores.lake.scratch.iterdir()),
                )
            )
    assert found[0] == found[1]


def work_until_killed(home: str) -> None:
    """Works in two processes for longer than any test waits, and prints the other one's id."""
    with opened(Settings(_env_file=None, kraken_pipeline_home=Path(home))) as stores:
        list(side_by_side(stores, _endless, [0, 1, 2, 3], 2))


def _endless(_: Stores, __: int) -> int:
    sys.stdout.write(f"{os.getpid()}\n")
    sys.stdout.flush()
    time.sleep(600)
    return 0


def test_the_other_process_ends_with_the_one_that_started_it(home: Path) -> None:
    with process(work_until_killed, str(home)) as running:
        pids = {int(line(running)), int(line(running))}
        assert running.pid in pids
        (other,) = pids - {running.pid}
        running.kill()
        running.wait()
        deadline = time.monotonic() + 20
        while _is_alive(other) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not _is_alive(other)


def _is_alive(pid: int) -> bool:
    shown = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], check=False, capture_output=True, text=True)
    return shown.returncode == 0 and not shown.stdout.startswith("Z")
