from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from kraken_pipeline.errors import Busy
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.locks import FileLocks, Locks
from kraken_pipeline_tests.storage.processes import line, process, result, tell

HOURS = Series("XBTUSD", Interval.H1)
DAYS = Series("XBTUSD", Interval.D1)
PATIENT = 60.0
"""Longer than any test; a lock that is free is taken at once."""


def hold_series(folder: str) -> None:
    with Locks(FileLocks(Path(folder))).series([HOURS, DAYS]):
        print("held", flush=True)  # noqa: T201
        sys.stdin.readline()
    print("free", flush=True)  # noqa: T201


def hold_run(folder: str, run_id: str) -> None:
    with Locks(FileLocks(Path(folder))).run(run_id):
        print("held", flush=True)  # noqa: T201
        sys.stdin.readline()


def hold_slot(folder: str, kind: str, count: int) -> None:
    with Locks(FileLocks(Path(folder))).slot(kind, count):
        print("held", flush=True)  # noqa: T201
        sys.stdin.readline()


def hold_fetch(folder: str, name: str) -> None:
    with Locks(FileLocks(Path(folder))).fetch(name):
        print("held", flush=True)  # noqa: T201
        sys.stdin.readline()
    print("free", flush=True)  # noqa: T201


def count_up(folder: str, times: int) -> None:
    counter = Path(folder) / "counter"
    locks = Locks(FileLocks(Path(folder)))
    for _ in range(times):
        with locks.series([HOURS], timeout=PATIENT):
            counter.write_text(str(int(counter.read_text(encoding="utf-8")) + 1), encoding="utf-8")


def test_a_series_that_another_process_writes_is_busy_until_it_is_done(tmp_path: Path) -> None:
    locks = Locks(FileLocks(tmp_path))
    with process(hold_series, str(tmp_path)) as other:
        assert line(other) == "held"
        for series in (HOURS, DAYS):
            with pytest.raises(Busy) as refusal, locks.series([series], timeout=0):
                pass
            assert str(refusal.value) == f"another process has been writing {series} for 0 s; try again later"
        with locks.series([Series("XBTUSD", Interval.M1)], timeout=0):
            tell(other)
        assert line(other) == "free"
        with locks.series([HOURS, DAYS], timeout=0):
            pass


def test_the_locks_of_a_killed_process_are_free_at_once(tmp_path: Path) -> None:
    locks = Locks(FileLocks(tmp_path))
    with process(hold_series, str(tmp_path)) as other, process(hold_run, str(tmp_path), "run-1") as run:
        assert line(other) == line(run) == "held"
        assert locks.is_running("run-1")
        for each in (other, run):
            each.kill()
            each.wait()
        with locks.series([HOURS, DAYS], timeout=0):
            pass
        assert not locks.is_running("run-1")


def test_processes_that_change_one_file_under_a_lock_lose_nothing(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0", encoding="utf-8")
    with ExitStack() as stack:
        for running in [stack.enter_context(process(count_up, str(tmp_path), 25)) for _ in range(3)]:
            result(running)
    assert (tmp_path / "counter").read_text(encoding="utf-8") == "75"


def test_threads_of_one_process_exclude_each_other_as_processes_do(tmp_path: Path) -> None:
    locks = Locks(FileLocks(tmp_path))
    with locks.series([HOURS]), pytest.raises(Busy), locks.series([HOURS], timeout=0):
        pass


def test_a_series_named_twice_is_locked_once(tmp_path: Path) -> None:
    with Locks(FileLocks(tmp_path)).series([HOURS, HOURS], timeout=0):
        pass


def test_what_was_locked_before_a_busy_one_is_let_go(tmp_path: Path) -> None:
    locks = Locks(FileLocks(tmp_path))
    with locks.series([DAYS]):
        with pytest.raises(Busy), locks.series([HOURS, DAYS], timeout=0):
            pass
        with locks.series([HOURS], timeout=0):
            pass


def test_those_who_want_the_same_series_in_other_orders_do_not_wait_in_a_circle(tmp_path: Path) -> None:
    locks = Locks(FileLocks(tmp_path))
    start = threading.Barrier(2)

    def take(order: Sequence[Series]) -> None:
        start.wait()
        for _ in range(10):
            with locks.series(order, timeout=PATIENT):
                pass

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(take, [(HOURS, DAYS), (DAYS, HOURS)]))


def test_names_that_differ_in_case_alone_are_different_locks(tmp_path: Path) -> None:
    locks = Locks(FileLocks(tmp_path))
    with locks.series([Series("AAPLxUSD", Interval.H1)]), locks.series([Series("AAPLXUSD", Interval.H1)], timeout=0):
        names = {path.name.casefold() for path in (tmp_path / "series").iterdir()}
    assert len(names) == 2


def test_slots_bound_how_much_goes_on_at_the_same_time(tmp_path: Path) -> None:
    locks = Locks(FileLocks(tmp_path))
    inside, most = 0, 0
    guard = threading.Lock()
    full = threading.Barrier(2)

    def work(number: int) -> None:
        nonlocal inside, most
        with locks.slot("ingest", 2):
            with guard:
                inside += 1
                most = max(most, inside)
            if number < 2:
                full.wait()  # two of them are in at the same time
            with guard:
                inside -= 1

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(2, 20)))
    assert most == 2


def test_a_slot_that_another_process_holds_is_waited_for(tmp_path: Path) -> None:
    locks = Locks(FileLocks(tmp_path))
    entered = threading.Event()

    def enter() -> None:
        with locks.slot("ingest", 1):
            entered.set()

    with process(hold_slot, str(tmp_path), "ingest", 1) as other, ThreadPoolExecutor(1) as pool:
        assert line(other) == "held"
        with locks.slot("backfill", 1):  # another kind
            waiting = pool.submit(enter)
            assert not entered.wait(0.15)
        tell(other)
        waiting.result(timeout=PATIENT)


def test_what_another_process_fetches_nobody_else_does_and_nobody_waits_for_it(tmp_path: Path) -> None:
    locks = Locks(FileLocks(tmp_path))
    with process(hold_fetch, str(tmp_path), "trades.XBTUSD") as other:
        assert line(other) == "held"
        with pytest.raises(Busy, match=r"^another run is fetching trades\.XBTUSD$"), locks.fetch("trades.XBTUSD"):
            pass
        with locks.fetch("trades.ADAEUR"), pytest.raises(Busy), Locks(FileLocks(tmp_path)).fetch("trades.ADAEUR"):
            pass
        tell(other)
        assert line(other) == "free"
        with locks.fetch("trades.XBTUSD"):
            pass


def test_a_fetch_that_fails_or_is_killed_keeps_nobody_out(tmp_path: Path) -> None:
    locks = Locks(FileLocks(tmp_path))
    with pytest.raises(ZeroDivisionError), locks.fetch("trades.XBTUSD"):
        raise ZeroDivisionError
    with process(hold_fetch, str(tmp_path), "trades.XBTUSD") as other:
        assert line(other) == "held"
        other.kill()
        other.wait()
        with locks.fetch("trades.XBTUSD"):
            pass


def test_a_run_is_running_for_as_long_as_its_lock_is_held(tmp_path: Path) -> None:
    locks = Locks(FileLocks(tmp_path))
    assert not locks.is_running("run-1")
    with locks.run("run-1"):
        assert locks.is_running("run-1")
        assert not locks.is_running("run-2")
    assert not locks.is_running("run-1")
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_run_that_fails_lets_its_lock_go(tmp_path: Path) -> None:
    locks = Locks(FileLocks(tmp_path))
    with pytest.raises(ZeroDivisionError), locks.run("run-1"):
        raise ZeroDivisionError
    assert not locks.is_running("run-1")
    assert list((tmp_path / "runs").iterdir()) == []


def test_any_run_at_work_is_noticed_and_one_that_was_killed_is_not(tmp_path: Path) -> None:
    locks = Locks(FileLocks(tmp_path))
    assert not locks.is_any_running()
    with process(hold_run, str(tmp_path), "5f0c-aa") as other:
        assert line(other) == "held"
        assert locks.is_any_running()
        other.kill()
        other.wait()
        assert not locks.is_any_running(), "its file is there, and nobody holds it"
