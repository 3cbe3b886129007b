from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import pytest

from kraken_pipeline.storage.catalog.database import Catalog
from kraken_pipeline.storage.exchange_state import counters
from kraken_pipeline.storage.exchange_state.counters import Counters
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline_tests.support.processes import process, result

HOUR = 3_600
NOW = 500_000 * HOUR + 1_234.5


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def totals(stores: Stores, *names: str, since: float = NOW) -> Mapping[str, int]:
    with stores.catalog.read() as connection:
        return counters.totals(connection, names, since)


PROCESSES = 3


def count_up(database: str) -> None:
    counts = Counters(Catalog(database), clock=lambda: NOW)
    for _ in range(20):
        counts.add("api.requests")
        counts.add("cache.hits", 2)
        counts.flush()


def count_in_processes(database: str) -> None:
    with get_context("fork").Pool(PROCESSES) as pool:
        pool.map(count_up, [database] * PROCESSES, chunksize=1)


def test_what_was_counted_is_on_record_when_it_was_written(stores: Stores, clock: Clock) -> None:
    counts = Counters(stores.catalog, clock=clock)
    for _ in range(3):
        counts.add("api.requests")
    counts.add("api.errors", 7)
    assert totals(stores, "api.requests", "api.errors") == {"api.requests": 0, "api.errors": 0}
    counts.flush()
    counts.flush()
    assert totals(stores, "api.requests", "api.errors") == {"api.requests": 3, "api.errors": 7}


def test_it_is_written_every_few_seconds_by_itself(stores: Stores, clock: Clock) -> None:
    counts = Counters(stores.catalog, clock=clock)
    counts.add("api.requests")
    clock.now += 4.9
    counts.add("api.requests")
    assert totals(stores, "api.requests") == {"api.requests": 0}
    clock.now += 0.1
    counts.add("api.requests")
    assert totals(stores, "api.requests") == {"api.requests": 3}
    counts.add("api.requests")
    assert totals(stores, "api.requests") == {"api.requests": 3}


def test_several_add_to_the_same_counts(stores: Stores, clock: Clock) -> None:
    for count in (1, 10, 100):
        counts = Counters(stores.catalog, clock=clock)
        counts.add("api.requests", count)
        counts.flush()
    assert totals(stores, "api.requests") == {"api.requests": 111}


@pytest.mark.process
def test_processes_that_count_at_the_same_time_lose_nothing(stores: Stores) -> None:
    with process(count_in_processes, stores.settings.catalog_url) as running:
        result(running)
    assert totals(stores, "api.requests", "cache.hits") == {"api.requests": 60, "cache.hits": 120}


def test_threads_that_count_and_write_at_the_same_time_lose_nothing(stores: Stores, clock: Clock) -> None:
    counts = Counters(stores.catalog, clock=clock)

    def count(number: int) -> None:
        for _ in range(50):
            counts.add("api.requests")
        if number % 2:
            counts.flush()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(8)))
    counts.flush()
    assert totals(stores, "api.requests") == {"api.requests": 400}


def test_a_count_belongs_to_the_hour_in_which_it_was_made(stores: Stores, clock: Clock) -> None:
    counts = Counters(stores.catalog, clock=clock)
    counts.add("api.requests")
    clock.now += HOUR
    counts.add("api.requests", 10)
    clock.now += 2 * HOUR
    counts.flush()
    ago = [totals(stores, "api.requests", since=NOW + hours * HOUR)["api.requests"] for hours in range(3)]
    assert ago == [11, 10, 0]


def test_totals_begin_with_the_hour_that_holds_the_moment(stores: Stores, clock: Clock) -> None:
    counts = Counters(stores.catalog, clock=clock)
    counts.add("api.requests")
    counts.flush()
    start = NOW // HOUR * HOUR
    for since in (start, start + 0.5, start + HOUR - 1):
        assert totals(stores, "api.requests", since=since) == {"api.requests": 1}
    assert totals(stores, "api.requests", since=start + HOUR) == {"api.requests": 0}
    assert totals(stores) == {}


def test_only_hours_that_were_over_are_forgotten(stores: Stores, clock: Clock) -> None:
    counts = Counters(stores.catalog, clock=clock)
    counts.add("api.requests")
    counts.add("api.errors")
    clock.now += HOUR
    counts.add("api.requests", 10)
    counts.flush()
    start = NOW // HOUR * HOUR
    with stores.catalog.write() as connection:
        assert counters.forget(connection, start + HOUR - 1) == 0
        assert counters.forget(connection, start + HOUR + 1) == 2
        assert counters.forget(connection, start + HOUR + 1) == 0
    assert totals(stores, "api.requests", "api.errors", since=0) == {"api.requests": 10, "api.errors": 0}


def test_a_sum_over_all_time_never_falls_when_old_hours_are_forgotten(stores: Stores, clock: Clock) -> None:
    counts = Counters(stores.catalog, clock=clock)
    for _ in range(3):
        counts.add("api.requests", 2)
        counts.flush()
        clock.now += HOUR
    for before in (NOW, NOW + 2 * HOUR, NOW + 2 * HOUR, NOW + 9 * HOUR):
        with stores.catalog.write() as connection:
            counters.forget(connection, before)
        with stores.catalog.read() as connection:
            assert counters.all_totals(connection) == {"api.requests": 6}
    assert totals(stores, "api.requests") == {"api.requests": 0}, "what is forgotten is in no hour"


def test_a_peak_is_the_greatest_of_its_hours_and_no_sum(stores: Stores) -> None:
    with stores.catalog.write() as connection:
        for hours, value in ((0, 3), (0, 7), (0, 5), (-1, 9), (-2, 11)):
            counters.raise_to(connection, "catalog_pool", value, NOW + hours * HOUR)
        counters.set_to(connection, "clock_ahead_ms", -40, NOW)
        counters.set_to(connection, "clock_ahead_ms", -50, NOW)
        counters.add_to(connection, {"files.COMPLETED": 2, "files.FAILED": 0}, NOW)
    with stores.catalog.read() as connection:
        assert counters.peaks(connection, NOW) == {"catalog_pool": 7}
        assert counters.peaks(connection, NOW - HOUR) == {"catalog_pool": 9}
        assert counters.latest(connection, "clock_ahead_ms") == -50
        assert counters.latest(connection, "anything") is None
        assert counters.all_totals(connection) == {"files.COMPLETED": 2}
    with stores.catalog.write() as connection:
        counters.forget(connection, NOW + HOUR)
    with stores.catalog.read() as connection:
        assert counters.peaks(connection, 0) == {}
