from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing import get_context

import pytest

from kraken_pipeline.errors import CircuitOpen
from kraken_pipeline.storage.catalog.database import Catalog
from kraken_pipeline.storage.exchange_state.breaker import Breaker, BreakerRecord, BreakerState
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline_tests.support.processes import process, result

NOW = 1_000.0
OPEN_SECONDS = 60.0
CLOSED = BreakerRecord(BreakerState.CLOSED, 0, None)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def made(stores: Stores, clock: Clock) -> Callable[[], Breaker]:
    """Makes a breaker, as each process has its own."""
    return lambda: Breaker(stores.catalog, 3, OPEN_SECONDS, clock=clock)


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.failed()


def is_admitted(breaker: Breaker) -> bool:
    try:
        breaker.admit()
    except CircuitOpen:
        return False
    return True


def opened(made: Callable[[], Breaker]) -> Breaker:
    breaker = made()
    fail(breaker, 3)
    return breaker


def test_it_is_closed_until_something_fails(made: Callable[[], Breaker]) -> None:
    breaker = made()
    breaker.admit()
    breaker.succeeded()
    assert breaker.record() == CLOSED


def test_it_opens_after_so_many_failures_in_a_row_whoever_has_them(made: Callable[[], Breaker]) -> None:
    one, other = made(), made()
    fail(one, 2)
    assert other.record() == BreakerRecord(BreakerState.CLOSED, 2, None)
    other.admit()
    other.failed()
    assert one.record() == BreakerRecord(BreakerState.OPEN, 3, NOW + OPEN_SECONDS)
    for each in (one, other):
        with pytest.raises(CircuitOpen, match="Kraken failed 3 times in a row; no requests are made until") as refusal:
            each.admit()
        assert refusal.value.retry_at == NOW + OPEN_SECONDS


def test_a_success_begins_the_count_anew(made: Callable[[], Breaker]) -> None:
    one, other = made(), made()
    fail(one, 2)
    other.succeeded()
    assert one.record() == CLOSED
    fail(one, 2)
    one.admit()


def test_it_stays_open_for_its_time_and_nobody_may_ask(made: Callable[[], Breaker], clock: Clock) -> None:
    breaker = opened(made)
    clock.now += OPEN_SECONDS - 0.001
    assert not is_admitted(breaker)
    clock.now = NOW + OPEN_SECONDS
    assert breaker.record() == BreakerRecord(BreakerState.HALF_OPEN, 3, NOW + OPEN_SECONDS)
    assert is_admitted(breaker)


def test_half_open_it_lets_exactly_one_try(made: Callable[[], Breaker], clock: Clock) -> None:
    several = [opened(made), made(), made()]
    clock.now += OPEN_SECONDS
    assert [is_admitted(each) for each in several] == [True, False, False]
    with pytest.raises(CircuitOpen) as refusal:
        several[0].admit()
    assert refusal.value.retry_at == clock.now + 1, "not in the past"
    assert several[1].record().state is BreakerState.HALF_OPEN


def test_a_try_that_succeeds_closes_it_for_all(made: Callable[[], Breaker], clock: Clock) -> None:
    one, other = opened(made), made()
    clock.now += OPEN_SECONDS
    other.admit()
    other.succeeded()
    assert one.record() == CLOSED
    assert is_admitted(one)
    fail(one, 2)
    assert is_admitted(other)


def test_a_try_that_fails_opens_it_for_another_time(made: Callable[[], Breaker], clock: Clock) -> None:
    one, other = opened(made), made()
    clock.now += OPEN_SECONDS
    other.admit()
    clock.now += 7
    other.failed()
    assert one.record() == BreakerRecord(BreakerState.OPEN, 4, clock.now + OPEN_SECONDS)
    assert not is_admitted(one)
    clock.now += OPEN_SECONDS
    assert [is_admitted(each) for each in (one, other)] == [True, False]


def test_the_right_of_one_that_never_answered_goes_to_another(made: Callable[[], Breaker], clock: Clock) -> None:
    dead, other = opened(made), made()
    clock.now += OPEN_SECONDS
    dead.admit()
    clock.now += OPEN_SECONDS - 1
    assert not is_admitted(other)
    clock.now += 1
    assert is_admitted(other)
    assert not is_admitted(made())


def test_an_answer_after_the_right_went_to_another_changes_nothing(made: Callable[[], Breaker], clock: Clock) -> None:
    slow, other = opened(made), made()
    clock.now += OPEN_SECONDS
    slow.admit()
    clock.now += OPEN_SECONDS
    other.admit()
    before = other.record()
    slow.succeeded()
    assert other.record() == before
    slow.failed()
    assert other.record().state is BreakerState.HALF_OPEN
    other.succeeded()
    assert slow.record() == CLOSED


def test_the_success_of_a_request_from_before_does_not_close_it(made: Callable[[], Breaker], clock: Clock) -> None:
    old, prober = made(), opened(made)
    old.succeeded()
    assert prober.record().state is BreakerState.OPEN
    clock.now += OPEN_SECONDS
    old.succeeded()
    assert prober.record().state is BreakerState.HALF_OPEN
    prober.admit()
    old.succeeded()
    assert prober.record().state is BreakerState.HALF_OPEN
    assert not is_admitted(old)


def test_the_failure_of_a_request_from_before_keeps_it_open_for_no_longer(
    made: Callable[[], Breaker], clock: Clock
) -> None:
    old, prober = made(), opened(made)
    clock.now += 30
    old.failed()
    assert prober.record() == BreakerRecord(BreakerState.OPEN, 4, NOW + OPEN_SECONDS)
    clock.now += 30
    prober.admit()
    old.failed()
    assert prober.record() == BreakerRecord(BreakerState.HALF_OPEN, 5, NOW + OPEN_SECONDS)
    prober.succeeded()
    assert old.record() == CLOSED


# --- with real processes

PROCESSES = 3


def fail_often(database: str) -> None:
    fail(Breaker(Catalog(database), 1_000), 10)


def fail_in_processes(database: str) -> None:
    with get_context("fork").Pool(PROCESSES) as pool:
        pool.map(fail_often, [database] * PROCESSES, chunksize=1)


def try_once(database: str) -> bool:
    return is_admitted(Breaker(Catalog(database), 3, OPEN_SECONDS))


def try_in_processes(database: str) -> None:
    """Says how many were admitted; all of them are killed then, before any has an answer."""
    with get_context("fork").Pool(PROCESSES) as pool:
        print(sum(pool.map(try_once, [database] * 4 * PROCESSES, chunksize=4)))  # noqa: T201


@pytest.mark.process
def test_failures_of_all_processes_are_counted(stores: Stores) -> None:
    with process(fail_in_processes, stores.settings.catalog_url) as running:
        result(running)
    assert Breaker(stores.catalog, 1_000).record() == BreakerRecord(BreakerState.CLOSED, 30, None)


@pytest.mark.process
def test_of_several_processes_one_may_try_and_another_when_it_was_killed(stores: Stores) -> None:
    fail(Breaker(stores.catalog, 3, OPEN_SECONDS, clock=lambda: time.time() - OPEN_SECONDS - 1), 3)
    with process(try_in_processes, stores.settings.catalog_url) as running:
        assert result(running) == "1"
    assert not is_admitted(Breaker(stores.catalog, 3, OPEN_SECONDS))
    a_minute_on = [Breaker(stores.catalog, 3, OPEN_SECONDS, clock=lambda: time.time() + OPEN_SECONDS) for _ in "12"]
    assert [is_admitted(each) for each in a_minute_on] == [True, False]


@pytest.mark.parametrize("back", [30.0, 7_200.0])
def test_a_clock_that_steps_back_does_not_keep_it_open_for_longer_than_twice_its_time(
    made: Callable[[], Breaker], clock: Clock, back: float
) -> None:
    breaker, other = opened(made), made()
    clock.now -= back
    began = clock.now
    while not is_admitted(breaker):
        assert clock.now - began < 2 * OPEN_SECONDS
        clock.now += 5
    assert not is_admitted(other), "one process tries"
    breaker.succeeded()
    assert other.record() == CLOSED


def test_a_right_to_try_of_a_clock_that_has_stepped_back_is_over(made: Callable[[], Breaker], clock: Clock) -> None:
    breaker, other = opened(made), made()
    clock.now += OPEN_SECONDS
    assert is_admitted(breaker)
    clock.now -= 7_200
    assert is_admitted(other)
    other.succeeded()
    assert breaker.record() == CLOSED
