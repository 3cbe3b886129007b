from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from multiprocessing import get_context

import pytest
import sqlalchemy as sa

from kraken_pipeline.errors import Throttled
from kraken_pipeline.storage.catalog.database import Catalog
from kraken_pipeline.storage.catalog.schema import limits
from kraken_pipeline.storage.exchange_state.limiter import EVERY, LONGEST_WAIT, Limiter
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline_tests.support.processes import process, result

NOW = 1_000.0


class Clock:
    """A clock that only sleeping moves; `meanwhile` happens once, in the middle of the next sleep."""

    def __init__(self) -> None:
        self.now = NOW
        self.slept: list[float] = []
        self.oversleeps: list[float] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        until = self.now + seconds + (self.oversleeps.pop(0) if self.oversleeps else 0.0)
        happening, self.meanwhile = self.meanwhile, lambda: None
        happening()
        self.now = max(self.now, until)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limiter_of(catalog: Catalog, clock: Clock, rate: float = 2.0, **endpoints: float) -> Limiter:
    return Limiter(catalog, rate, endpoints, clock=clock, sleep=clock.sleep)


def moments(limiter: Limiter, clock: Clock, *asked: str) -> list[float]:
    """When requests go out that one caller makes, one after another and without taking any time."""
    found = []
    for endpoint in asked:
        limiter.acquire(endpoint)
        found.append(clock.now - NOW)
    return found


def on_record(catalog: Catalog) -> dict[str, tuple[float, float]]:
    with catalog.read() as connection:
        return {row.name: (row.next_at, row.slowness) for row in connection.execute(sa.select(limits))}


def test_permits_are_as_far_apart_as_the_rate_says(stores: Stores, clock: Clock) -> None:
    limiter = limiter_of(stores.catalog, clock)
    assert moments(limiter, clock, "OHLC", "Trades", "Time", "OHLC") == [0.0, 0.5, 1.0, 1.5]
    assert limiter.slowness() == 1.0


def test_what_was_not_used_is_not_saved_up(stores: Stores, clock: Clock) -> None:
    limiter = limiter_of(stores.catalog, clock)
    limiter.acquire("OHLC")
    clock.now += 3_600
    assert moments(limiter, clock, "OHLC", "OHLC", "OHLC") == [3_600.0, 3_600.5, 3_601.0]


def test_permits_are_given_in_the_order_in_which_they_are_asked_for_whoever_asks(stores: Stores, clock: Clock) -> None:
    several = [limiter_of(stores.catalog, clock) for _ in range(3)]
    assert [each.reserve(EVERY) - NOW for each in (*several, *several)] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]


def test_nothing_is_held_while_a_permit_is_waited_for(stores: Stores, clock: Clock) -> None:
    limiter, other = limiter_of(stores.catalog, clock), limiter_of(stores.catalog, clock)
    limiter.acquire("OHLC")
    reserved: list[float] = []
    clock.meanwhile = lambda: reserved.append(other.reserve(EVERY))
    limiter.acquire("OHLC")
    assert (clock.now, reserved) == (NOW + 0.5, [NOW + 1.0])


class TestEndpoints:
    def test_an_endpoint_has_its_own_limit_beside_that_of_all(self, stores: Stores, clock: Clock) -> None:
        limiter = limiter_of(stores.catalog, clock, Trades=0.5)
        assert moments(limiter, clock, "Trades", "OHLC", "Trades", "OHLC", "Trades") == [0.0, 0.5, 2.0, 2.5, 4.0]

    def test_whoever_waits_for_an_endpoint_keeps_nobody_waiting_who_asks_for_another(
        self, stores: Stores, clock: Clock
    ) -> None:
        limiter = limiter_of(stores.catalog, clock, 10, Trades=0.1)
        other = limiter_of(stores.catalog, clock, 10, Trades=0.1)
        limiter.acquire("Trades")
        seen: list[float] = []
        clock.meanwhile = lambda: seen.extend(moments(other, clock, "OHLC", "OHLC", "OHLC"))
        limiter.acquire("Trades")
        assert seen == pytest.approx([0.1, 0.2, 0.3])
        assert clock.now == NOW + 10

    def test_a_limit_of_an_endpoint_above_that_of_all_changes_nothing(self, stores: Stores, clock: Clock) -> None:
        limiter = limiter_of(stores.catalog, clock, 2, Trades=50)
        assert moments(limiter, clock, "Trades", "Trades", "Trades") == [0.0, 0.5, 1.0]

    def test_a_complaint_about_an_endpoint_slows_that_and_the_whole_down_and_no_other(
        self, stores: Stores, clock: Clock
    ) -> None:
        limiter = limiter_of(stores.catalog, clock, Trades=1, OHLC=1)
        limiter.reserve("OHLC")
        limiter.throttled("Trades")
        slowness = {name: slowness for name, (_, slowness) in on_record(stores.catalog).items()}
        assert (slowness[EVERY], slowness["Trades"], slowness["OHLC"]) == (2.0, 2.0, 1.0)


class TestComplaints:
    def test_each_halves_the_rate_down_to_a_sixteenth(self, stores: Stores, clock: Clock) -> None:
        limiter = limiter_of(stores.catalog, clock)
        seen = []
        for _ in range(6):
            limiter.throttled("OHLC")
            seen.append(limiter.slowness())
        assert seen == [2, 4, 8, 16, 16, 16]
        assert moments(limiter, clock, "OHLC", "OHLC") == pytest.approx([8.0, 16.0])

    def test_the_rate_comes_back_with_each_permit_and_never_exceeds_itself(self, stores: Stores, clock: Clock) -> None:
        limiter = limiter_of(stores.catalog, clock)
        limiter.throttled("OHLC")
        seen = moments(limiter, clock, *["OHLC"] * 40)
        waits = [after - before for before, after in pairwise(seen)]
        assert waits[0] == pytest.approx(1.0)
        assert waits == sorted(waits, reverse=True)
        assert waits[33] > 0.5
        assert waits[35:] == pytest.approx([0.5] * 4)
        assert limiter.slowness() == 1.0

    def test_all_processes_are_slowed_down(self, stores: Stores, clock: Clock) -> None:
        limiter_of(stores.catalog, clock).throttled("OHLC")
        other = limiter_of(stores.catalog, clock)
        assert other.slowness() == 2
        assert moments(other, clock, "Time", "Time") == [1.0, 2.0]

    def test_until_the_moment_that_the_exchange_names_nothing_is_asked(self, stores: Stores, clock: Clock) -> None:
        limiter = limiter_of(stores.catalog, clock, Trades=1)
        limiter.throttled("Trades", NOW + 60)
        limiter.throttled("Trades", NOW + 30)
        assert moments(limiter, clock, "OHLC") == [60.0]

    def test_a_moment_that_is_over_only_slows_down(self, stores: Stores, clock: Clock) -> None:
        limiter = limiter_of(stores.catalog, clock)
        limiter.throttled("OHLC", NOW - 60)
        assert moments(limiter, clock, "OHLC", "OHLC") == [1.0, 2.0]

    def test_a_permit_that_was_waited_for_when_the_exchange_complained_is_void(
        self, stores: Stores, clock: Clock
    ) -> None:
        limiter = limiter_of(stores.catalog, clock)
        limiter.acquire("OHLC")
        clock.meanwhile = lambda: limiter.throttled("OHLC", NOW + 60)
        limiter.acquire("OHLC")
        assert clock.now == NOW + 60

    def test_whoever_waits_then_goes_on_one_after_another(self, stores: Stores, clock: Clock) -> None:
        several = [limiter_of(stores.catalog, clock) for _ in range(4)]
        several[0].throttled("OHLC", NOW + 60)
        assert [each.reserve(EVERY) - NOW for each in several] == pytest.approx([60, 61, 61.98, 62.9404])


class TestPermitsFarAway:
    def test_they_are_neither_waited_for_nor_taken(self, stores: Stores, clock: Clock) -> None:
        limiter = limiter_of(stores.catalog, clock, Trades=1)
        until = NOW + LONGEST_WAIT + 1
        limiter.throttled("OHLC", until)
        before = on_record(stores.catalog)
        for endpoint in ("OHLC", "Trades", "Time"):
            with pytest.raises(Throttled, match="the next request may be made at 1970-01-01T00:18:41Z") as refusal:
                limiter.acquire(endpoint)
            assert refusal.value.wait_until == until
        assert clock.slept == []
        after = on_record(stores.catalog)
        assert {name: after[name] for name in before} == before
        clock.now += 1
        assert moments(limiter, clock, "OHLC") == [until - NOW]

    def test_whoever_waits_when_a_long_silence_is_asked_for_is_told(self, stores: Stores, clock: Clock) -> None:
        limiter = limiter_of(stores.catalog, clock)
        limiter.acquire("OHLC")
        clock.meanwhile = lambda: limiter.throttled("OHLC", NOW + 3_600)
        with pytest.raises(Throttled) as refusal:
            limiter.acquire("OHLC")
        assert refusal.value.wait_until == NOW + 3_600


class TestLateSleepers:
    def test_who_slept_through_the_next_permit_takes_a_new_one(self, stores: Stores, clock: Clock) -> None:
        limiter = limiter_of(stores.catalog, clock)
        limiter.acquire("OHLC")
        limiter.reserve(EVERY)
        assert limiter.reserve(EVERY) == NOW + 1
        clock.oversleeps = [0.5]  # from 1.5 to 2.0
        limiter.acquire("OHLC")
        assert clock.now == NOW + 2
        assert on_record(stores.catalog)[EVERY][0] == NOW + 2.5, "a second permit was taken"

    def test_a_little_is_forgiven(self, stores: Stores, clock: Clock) -> None:
        limiter = limiter_of(stores.catalog, clock)
        limiter.acquire("OHLC")
        clock.oversleeps = [0.49]
        limiter.acquire("OHLC")
        assert len(clock.slept) == 1

    def test_at_a_high_rate_a_tenth_of_a_second_is_forgiven(self, stores: Stores, clock: Clock) -> None:
        limiter = limiter_of(stores.catalog, clock, 50)
        limiter.acquire("OHLC")
        clock.oversleeps = [0.09]
        limiter.acquire("OHLC")
        assert len(clock.slept) == 1
        clock.now = on_record(stores.catalog)[EVERY][0] - 0.02
        clock.oversleeps = [0.11]
        limiter.acquire("OHLC")
        assert on_record(stores.catalog)[EVERY][0] == pytest.approx(clock.now + 0.02)

    def test_who_waited_for_the_catalog_takes_a_new_one_as_well(
        self, stores: Stores, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limiter = limiter_of(stores.catalog, clock)
        reserve = limiter.reserve

        def slowly(name: str) -> float:
            at = reserve(name)
            monkeypatch.undo()
            clock.now += 5
            return at

        monkeypatch.setattr(limiter, "reserve", slowly)
        limiter.acquire("OHLC")
        assert on_record(stores.catalog)[EVERY][0] == NOW + 5.5


# --- with real processes and the real clock

PROCESSES, RATE, SECONDS = 6, 5, 5


def acquire_for_a_while(database: str, start: float) -> list[float]:
    limiter = Limiter(Catalog(database), RATE)
    limiter.slowness()  # so that it has its connection
    time.sleep(max(0.0, start - time.time()))  # so that none begins before the others
    taken = []
    while time.time() < start + SECONDS:
        limiter.acquire("OHLC")
        taken.append(time.time())
    return taken


def acquire_in_processes(database: str) -> None:
    """Forks them from one that has imported everything: six that start from nothing take longer than the test."""
    with get_context("fork").Pool(PROCESSES) as pool:
        given = database, time.time() + 0.6
        for taken in pool.starmap(acquire_for_a_while, [given] * PROCESSES, chunksize=1):
            print(*taken)  # noqa: T201


def most_within_a_second(seen: Sequence[float]) -> int:
    ordered = sorted(seen)
    return max(sum(start <= each < start + 1 for each in ordered) for start in ordered)


@pytest.mark.process
def test_six_processes_share_the_rate_and_each_has_its_share(stores: Stores) -> None:
    with process(acquire_in_processes, stores.settings.catalog_url) as running:
        taken = [[float(moment) for moment in line.split()] for line in result(running).splitlines()]
    together = [moment for each in taken for moment in each]
    assert most_within_a_second(together) <= RATE + 1
    # On a machine that is busy with other things they oversleep some of their permits.
    assert len(together) >= 0.6 * RATE * SECONDS, "they are slower than they have to be"
    assert min(map(len, taken)) >= 0.3 * len(together) / PROCESSES, [len(each) for each in taken]


class TestAClockThatStepsBack:
    @pytest.mark.parametrize("back", [10.0, 7_200.0, 40 * 86_400.0])
    def test_permits_are_waited_for_no_longer_than_the_longest_wait(
        self, stores: Stores, clock: Clock, back: float
    ) -> None:
        limiter = limiter_of(stores.catalog, clock, Trades=0.5)
        moments(limiter, clock, "Trades", "OHLC", "Trades")
        clock.now -= back
        began = clock.now
        seen = [moment + NOW - began for moment in moments(limiter, clock, "Trades", "OHLC", "Trades")]
        assert seen[0] <= LONGEST_WAIT
        assert seen[1] - seen[0] >= 0.5
        assert seen[2] - seen[0] >= 2.0, "they are as far apart as ever"

    @pytest.mark.parametrize("silence", [60.0, 100.0])
    def test_a_silence_is_kept_for_as_long_as_was_asked_for(self, stores: Stores, clock: Clock, silence: float) -> None:
        limiter = limiter_of(stores.catalog, clock)
        limiter.throttled("OHLC", clock.now + silence)
        clock.now -= 7_200
        began = clock.now
        limiter.acquire("OHLC")
        assert clock.now - began == pytest.approx(silence)
        limiter.acquire("OHLC")
        assert clock.now - began < silence + 5

    def test_a_long_silence_is_told_and_over_when_it_would_have_been(self, stores: Stores, clock: Clock) -> None:
        limiter = limiter_of(stores.catalog, clock)
        limiter.throttled("OHLC", clock.now + 900)
        clock.now -= 7_200
        began = clock.now
        with pytest.raises(Throttled) as raised:
            limiter.acquire("OHLC")
        assert raised.value.wait_until == pytest.approx(began + 900)
        clock.now = began + 901
        limiter.acquire("OHLC")
        assert clock.now - began < 905
