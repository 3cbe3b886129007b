from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from kraken_pipeline.errors import Busy
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.database import Catalog
from kraken_pipeline.storage.locks.locks import FileLocks, Locks
from kraken_pipeline_tests.support.processes import line, process, result, tell
from kraken_pipeline_tests.support.servers import wait_for

if TYPE_CHECKING:  # the processes of these tests would spend most of their time on importing it
    from kraken_pipeline_tests.contract.conftest import Backend

HOURS = Series("XBTUSD", Interval.H1)
DAYS = Series("XBTUSD", Interval.D1)
OTHER = Series("ADAEUR", Interval.H1)
PATIENT = 60.0
"""Longer than any test; a lock that is free is taken at once."""
SOON = 10.0
"""A server learns of the end of a process when it reads from its connection, in a moment if it has the time."""


def locks_at(where: str) -> Locks:
    """The locks in a folder, or in a database of PostgreSQL."""
    return Catalog(where).locks() if where.startswith("postgresql") else Locks(FileLocks(Path(where)))


@pytest.fixture
def where(backend: Backend, tmp_path: Path) -> Iterator[str]:
    """Where the locks of a test lie: a folder, or a database."""
    if backend.server is None:
        yield str(tmp_path)
    else:
        with backend.empty(tmp_path) as url:
            yield url


def can_fetch(locks: Locks, name: str) -> bool:
    try:
        with locks.fetch(name):
            return True
    except Busy:
        return False


def is_had(locks: Locks, series: Series) -> bool:
    with locks.series([series], timeout=PATIENT):
        return True


@pytest.fixture
def locks(where: str) -> Iterator[Locks]:
    with closing(locks_at(where)) as found:
        yield found


def hold_series(where: str) -> None:
    with locks_at(where).series([HOURS, DAYS]):
        print("held", flush=True)  # noqa: T201
        sys.stdin.readline()
    print("free", flush=True)  # noqa: T201


def hold_run(where: str, run_id: str) -> None:
    with locks_at(where).run(run_id):
        print("held", flush=True)  # noqa: T201
        sys.stdin.readline()


def hold_slot(where: str, kind: str, count: int) -> None:
    with locks_at(where).slot(kind, count):
        print("held", flush=True)  # noqa: T201
        sys.stdin.readline()


def hold_fetch(where: str, name: str) -> None:
    with locks_at(where).fetch(name):
        print("held", flush=True)  # noqa: T201
        sys.stdin.readline()
    print("free", flush=True)  # noqa: T201


def count_up(where: str, file: str, times: int) -> None:
    counter = Path(file)
    locks = locks_at(where)
    for _ in range(times):
        with locks.series([HOURS], timeout=PATIENT):
            counter.write_text(str(int(counter.read_text(encoding="utf-8")) + 1), encoding="utf-8")


MANY = [Series(f"COIN{number}USD", interval) for number in range(6) for interval in (Interval.H1, Interval.D1)]


def take_at_random(where: str, seed: int, times: int) -> None:
    chance, locks = Random(seed), locks_at(where)
    for _ in range(times):
        with locks.series(chance.sample(MANY, 4), timeout=PATIENT):
            pass
    print(times)  # noqa: T201


@pytest.mark.process
def test_a_series_that_another_process_writes_is_busy_until_it_is_done(locks: Locks, where: str) -> None:
    with process(hold_series, where) as other:
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


@pytest.mark.process
def test_the_locks_of_a_killed_process_are_free_at_once(locks: Locks, where: str) -> None:
    with process(hold_series, where) as other, process(hold_run, where, "run-1") as run:
        assert line(other) == line(run) == "held"
        assert locks.is_running("run-1")
        for each in (other, run):
            each.kill()
            each.wait()
        with locks.series([HOURS, DAYS], timeout=SOON):
            pass
        wait_for(lambda: not locks.is_running("run-1"), "the end of a killed run", SOON)


@pytest.mark.process
def test_processes_that_change_one_file_under_a_lock_lose_nothing(where: str, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0", encoding="utf-8")
    with ExitStack() as stack:
        for running in [stack.enter_context(process(count_up, where, str(counter), 25)) for _ in range(3)]:
            result(running)
    assert counter.read_text(encoding="utf-8") == "75"


@pytest.mark.process
def test_processes_that_take_many_series_in_any_order_all_come_to_their_end(where: str) -> None:
    with ExitStack() as stack:
        several = [stack.enter_context(process(take_at_random, where, seed, 40)) for seed in range(3)]
        assert [result(running) for running in several] == ["40"] * 3


def test_threads_of_one_process_exclude_each_other_as_processes_do(locks: Locks, where: str) -> None:
    with locks.series([HOURS]), pytest.raises(Busy), locks.series([HOURS], timeout=0):
        pass


def test_a_series_named_twice_is_locked_once(locks: Locks, where: str) -> None:
    with locks.series([HOURS, HOURS], timeout=0):
        pass


def test_what_was_locked_before_a_busy_one_is_let_go(locks: Locks, where: str) -> None:
    with locks.series([DAYS]):
        with pytest.raises(Busy), locks.series([HOURS, DAYS], timeout=0):
            pass
        with locks.series([HOURS], timeout=0):
            pass


def test_those_who_want_the_same_series_in_other_orders_do_not_wait_in_a_circle(locks: Locks, where: str) -> None:
    start = threading.Barrier(2)

    def take(order: Sequence[Series]) -> None:
        start.wait()
        for _ in range(10):
            with locks.series(order, timeout=PATIENT):
                pass

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(take, [(HOURS, DAYS), (DAYS, HOURS)]))


def test_names_that_differ_in_case_alone_are_different_locks(locks: Locks, where: str) -> None:
    with locks.series([Series("AAPLxUSD", Interval.H1)]), locks.series([Series("AAPLXUSD", Interval.H1)], timeout=0):
        pass


def test_slots_bound_how_much_goes_on_at_the_same_time(locks: Locks, where: str) -> None:
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


@pytest.mark.process
def test_a_slot_that_another_process_holds_is_waited_for(locks: Locks, where: str) -> None:
    entered = threading.Event()

    def enter() -> None:
        with locks.slot("ingest", 1):
            entered.set()

    with process(hold_slot, where, "ingest", 1) as other, ThreadPoolExecutor(1) as pool:
        assert line(other) == "held"
        with locks.slot("backfill", 1):  # another kind
            waiting = pool.submit(enter)
            assert not entered.wait(0.15)
        tell(other)
        waiting.result(timeout=PATIENT)


@pytest.mark.process
def test_what_another_process_fetches_nobody_else_does_and_nobody_waits_for_it(locks: Locks, where: str) -> None:
    with process(hold_fetch, where, "trades.XBTUSD") as other:
        assert line(other) == "held"
        with pytest.raises(Busy, match=r"^another run is fetching trades\.XBTUSD$"), locks.fetch("trades.XBTUSD"):
            pass
        with locks.fetch("trades.ADAEUR"), pytest.raises(Busy), locks.fetch("trades.ADAEUR"):
            pass
        tell(other)
        assert line(other) == "free"
        with locks.fetch("trades.XBTUSD"):
            pass


@pytest.mark.process
def test_a_fetch_that_fails_or_is_killed_keeps_nobody_out(locks: Locks, where: str) -> None:
    with pytest.raises(ZeroDivisionError), locks.fetch("trades.XBTUSD"):
        raise ZeroDivisionError
    with process(hold_fetch, where, "trades.XBTUSD") as other:
        assert line(other) == "held"
        other.kill()
        other.wait()
        wait_for(lambda: can_fetch(locks, "trades.XBTUSD"), "the end of a killed fetch", SOON)


def test_a_run_is_running_for_as_long_as_its_lock_is_held(locks: Locks, where: str) -> None:
    assert not locks.is_running("run-1")
    with locks.run("run-1"):
        assert locks.is_running("run-1")
        assert not locks.is_running("run-2")
    assert not locks.is_running("run-1")
    assert not locks.is_any_running()


def test_a_run_that_fails_lets_its_lock_go(locks: Locks, where: str) -> None:
    with pytest.raises(ZeroDivisionError), locks.run("run-1"):
        raise ZeroDivisionError
    assert not locks.is_running("run-1")
    assert not locks.is_any_running()


@pytest.mark.process
def test_any_run_at_work_is_noticed_and_one_that_was_killed_is_not(locks: Locks, where: str) -> None:
    assert not locks.is_any_running()
    with process(hold_run, where, "5f0c-aa") as other:
        assert line(other) == "held"
        assert locks.is_any_running()
        other.kill()
        other.wait()
        wait_for(lambda: not locks.is_any_running(), "the end of a killed run", SOON)


def test_a_run_of_which_another_process_says_that_it_is_it_is_refused(
    locks: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kraken_pipeline.storage.locks.locks.RUN_SECONDS", 0.05)
    with locks.run("run-1"):
        with pytest.raises(Busy, match=r"^another process is executing run run-1$"), locks.run("run-1"):
            pass
        assert locks.is_running("run-1")


def test_a_table_is_published_to_by_one_at_a_time(locks: Locks) -> None:
    refused = pytest.raises(Busy, match=r"^another run is publishing to candles_60$")
    with locks.table("candles_60"), locks.table("candles_1440"), refused, locks.table("candles_60", timeout=0.05):
        pass
    with locks.table("candles_60", timeout=0):
        pass


def test_a_lock_that_is_not_had_in_time_is_busy_however_short_the_time(locks: Locks) -> None:
    with locks.series([HOURS]):
        for timeout in (0.000_1, 0.2):
            with pytest.raises(Busy), locks.series([HOURS], timeout=timeout):
                pass


def test_a_series_that_is_let_go_in_time_is_had(locks: Locks) -> None:
    with ThreadPoolExecutor(1) as pool:
        with locks.series([HOURS]):
            waiting = pool.submit(is_had, locks, HOURS)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.2)
        assert waiting.result(timeout=PATIENT)


def test_the_same_name_of_another_kind_is_another_lock(locks: Locks) -> None:
    with locks.fetch("one"), locks.table("one", timeout=0), locks.run("one"), locks.slot("one", 1):
        assert locks.is_running("one")


def test_series_that_are_held_may_be_written_and_others_may_not(locks: Locks) -> None:
    with locks.series([HOURS, DAYS]):
        locks.require([DAYS])
        with locks.series([OTHER]):
            locks.require([HOURS, OTHER])
        locks.require([])
        with pytest.raises(KeyError):
            locks.require([OTHER])
