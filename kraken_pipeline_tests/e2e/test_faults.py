"""What goes wrong on the way to Kraken: after it all is as if nothing had, and no error was taken for an answer.

Each test lets something go wrong at a real HTTP server. Right after the disturbed run all that is stored is true and
all coverage is, and in the same run or the next one it is the same as where nothing went wrong.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kraken_pipeline.coverage.gaps import GapStatus
from kraken_pipeline.demo.clock import FixedClock, MovingClock
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.faults import (
    Delay,
    Effect,
    Fault,
    HalfBody,
    HttpStatus,
    Refusal,
    Reset,
    SystemState,
    Tampering,
    ThrottledReply,
)
from kraken_pipeline.demo.listing import DAY, Listing
from kraken_pipeline.demo.throttle import Throttle
from kraken_pipeline.demo.world import SECOND_NS, World
from kraken_pipeline.errors import Maintenance
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.records import dead_letters
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.backfill.backfill import backfill
from kraken_pipeline.workflow.backfill.circuit import breaker_of
from kraken_pipeline.workflow.backfill.outcome import BackfillOutcome
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.homes import covered, evidence_of, lake_of, oracle, rows_of, settings_of, stored
from kraken_pipeline_tests.support.shell import TIMEOUT, shell, start

pytestmark = pytest.mark.slow

START = 1_700_006_400
NOW = START + 2 * DAY + 11 * 3_600 + 1_234
"""34 s into a minute, so that no test crosses into the next one while its pages settle."""
PAIR = "XBTUSD"
WORLD = World(
    7, (Listing(PAIR, "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 28_000.0, 0.006, 1_900, START + 17_477),), NOW
)
INTERVALS = (Interval.M1, Interval.H1)

STATUSES = [HttpStatus(code) for code in (500, 502, 503, 504, 520, 521, 522)]
CONNECTIONS = [Reset(), HalfBody()]
PASSING = [
    Refusal(code)
    for code in (
        "EAPI:Rate limit exceeded",
        "EGeneral:Too many requests",
        "EService:Unavailable",
        "EService:Busy",
        "EService:Timeout",
        "EService:Deadline elapsed",
        "EGeneral:Internal error",
        "EService:Market in cancel_only mode",
        "EService:Market in post_only mode",
        "EWhatever:Nobody knows this one",
    )
]
LASTING = [
    ("EQuery:Unknown asset pair", "EQuery:Unknown asset"),
    ("EGeneral:Invalid arguments", "EGeneral:Invalid arguments:since"),
    ("EGeneral:Unknown method", "EGeneral:Permission denied"),
    ("EAPI:Invalid key", "EAPI:Invalid signature"),
    ("EAPI:Invalid nonce", "EQuery:Unknown asset pair"),
]
"""What OHLC is refused with, and Trades."""
LATE = Delay(5)
"""Far beyond `IN_A_HURRY`; the server waits no longer than its test."""
IN_A_HURRY = {"kraken_api_timeout_seconds": 0.3}


@contextmanager
def home_at(exchange: DemoExchange, folder: Path, **more: Any) -> Iterator[Stores]:
    """A home whose exchange is this one; a breaker that stays out of the way unless a test wants it."""
    given = {"kraken_api_url": exchange.url, "kraken_breaker_failures": 1_000, "kraken_api_patience_seconds": 0.0}
    with opened(settings_of(folder, **{**given, **more})) as stores:
        yield stores


def fill(stores: Stores, number: int = 1, now: int = NOW, **options: Any) -> BackfillOutcome:
    """A backfill of a pair that nothing is known of before the first."""
    given = {"pairs": PAIR, "intervals": INTERVALS}
    return backfill(stores, run_spec(**{**given, **options}), RunContext(f"run-{number}", now))


def state(stores: Stores) -> dict[str, Any]:
    """What a home holds, however many runs and replies it took."""
    evidence = evidence_of(stores)
    return {
        "lake": lake_of(stores),
        "coverage": evidence["coverage"],
        "extents": evidence["extents"],
        "open gaps": [gap for gap in evidence["gaps"] if gap[-1] != "FILLED"],
        "listings": rows_of(stores, schema.listings, "pair", "delisted_at", "first_trade"),
    }


def assert_true(stores: Stores) -> None:
    """Whatever is stored happened, and where something is covered, all that happened there is stored."""
    for interval in INTERVALS:
        true = oracle(PAIR, interval, 0, NOW, WORLD)
        assert set(stored(stores, PAIR, interval)) <= set(true), interval
        for span in covered(stores, PAIR, interval):
            assert span.end <= interval.floor(NOW)
            assert stored(stores, PAIR, interval, span.start, span.end) == [
                row for row in true if int(row[0]) in span
            ], (interval, span)


def assert_same(stores: Stores, undisturbed: dict[str, Any]) -> None:
    found = state(stores)
    for what, value in undisturbed.items():
        assert found[what] == value, what


def paged(exchange: DemoExchange) -> list[int]:
    """From which nanosecond on pages of trades were asked for."""
    asked = [each.params for each in exchange.requests if each.endpoint == "Trades"]
    return [int(params["since"]) for params in asked if params["count"] != "1"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run leaves behind that nothing happened to."""
    with DemoExchange(WORLD) as exchange, home_at(exchange, tmp_path_factory.mktemp("undisturbed")) as stores:
        done = fill(stores)
        assert (done.failed, done.notes, done.gaps) == ((), (), ())
        assert len(paged(exchange)) >= 4
        assert [each.params["interval"] for each in exchange.requests if each.endpoint == "OHLC"] == ["1"]
        assert_true(stores)
        for interval in INTERVALS:
            assert stored(stores, PAIR, interval) == oracle(PAIR, interval, 0, interval.floor(NOW), WORLD)
        return state(stores)


def twice_everywhere(effects: Sequence[Effect]) -> list[Fault]:
    """Two hits of each kind of request: status, list, candles, a first trade, the first and the third page."""
    kinds = [("SystemStatus", 0), ("AssetPairs", 0), ("OHLC", 0), ("Trades", 0), ("Trades", 3), ("Trades", 7)]
    each = itertools.cycle(effects)
    return [Fault(next(each), endpoint, after=after + more) for endpoint, after in kinds for more in (0, 1)]


def in_the_middle(candles: Effect, page: Effect, times: int) -> list[Fault]:
    """The candles, and a page in the middle of the trades, fail so many times."""
    return [
        Fault(candles, endpoint="OHLC", times=times),
        Fault(page, endpoint="Trades", after=3, times=times),
    ]


# --- what passes


@pytest.mark.parametrize("effects", [STATUSES, CONNECTIONS, PASSING], ids=["HTTP", "connection", "code"])
def test_what_strikes_every_kind_of_request_twice_is_made_up_for_in_the_same_run(
    home: Path, undisturbed: dict[str, Any], effects: Sequence[Effect]
) -> None:
    with DemoExchange(WORLD, faults=twice_everywhere(effects)) as exchange, home_at(exchange, home) as stores:
        done = fill(stores)
        outcomes = [each.outcome for each in exchange.requests]
        assert len(outcomes) - outcomes.count("ok") == 12
        assert len(set(outcomes)) == len(effects) + 1
        assert (done.failed, done.notes, done.gaps) == ((), (), ())
        assert done.requests == len(exchange.requests)
        assert_same(stores, undisturbed)


@pytest.mark.parametrize("effect", [HttpStatus(520), Reset(), HalfBody(), Refusal("EService:Busy")], ids=str)
def test_what_lasts_for_a_run_is_made_up_for_in_the_next(
    home: Path, undisturbed: dict[str, Any], effect: Effect
) -> None:
    with DemoExchange(WORLD, faults=in_the_middle(effect, effect, 3)) as exchange, home_at(exchange, home) as stores:
        done = fill(stores)
        assert [failure.split(":")[0] for failure in done.failed] == ["OHLC of XBTUSD 1", "TRADES of XBTUSD 1"]
        assert_true(stores)
        assert {(gap.series.pair, gap.status) for gap in done.gaps} == {(PAIR, GapStatus.DETECTED)}
        minutes = next(each for each in done.filled if each.series.interval is Interval.M1)
        assert minutes.candles_stored == len(stored(stores, PAIR, 1)) > 0, "what was answered before stands"

        again = fill(stores, 2)

        assert (again.failed, again.gaps) == ((), ())
        assert_same(stores, undisturbed)


def test_an_answer_that_comes_too_late_is_asked_for_again(home: Path, undisturbed: dict[str, Any]) -> None:
    faults = [Fault(LATE, endpoint="OHLC"), Fault(LATE, endpoint="Trades", after=3)]
    with DemoExchange(WORLD, faults=faults) as exchange, home_at(exchange, home, **IN_A_HURRY) as stores:
        done = fill(stores)
        assert [each.outcome for each in exchange.requests if each.outcome != "ok"] == ["delay"] * 2
        assert done.failed == ()
        assert_same(stores, undisturbed)


def test_answers_that_are_late_for_a_whole_run_are_had_in_the_next(home: Path, undisturbed: dict[str, Any]) -> None:
    with (
        DemoExchange(WORLD, faults=in_the_middle(LATE, LATE, 3)) as exchange,
        home_at(exchange, home, **IN_A_HURRY) as stores,
    ):
        done = fill(stores)
        assert len(done.failed) == 2
        assert all("no answer in time" in failure for failure in done.failed)
        assert_true(stores)
        fill(stores, 2)
        assert_same(stores, undisturbed)


# --- what does not


@pytest.mark.parametrize("codes", LASTING, ids=", ".join)
def test_what_kraken_refuses_is_not_repeated_and_counts_as_no_answer(
    home: Path, undisturbed: dict[str, Any], codes: tuple[str, str]
) -> None:
    faults = in_the_middle(Refusal(codes[0]), Refusal(codes[1]), 1)
    with DemoExchange(WORLD, faults=faults) as exchange, home_at(exchange, home) as stores:
        done = fill(stores)
        assert len(done.failed) == 2
        assert all(code in failure for code, failure in zip(codes, done.failed, strict=True))
        assert [each.outcome for each in exchange.requests if each.outcome != "ok"] == [*codes], "not tried three times"
        assert_true(stores)
        with stores.catalog.read() as connection:
            given_up = dead_letters.operations(connection, None)
        assert {(str(each.series), each.route) for each in given_up} >= {("XBTUSD 1", "OHLC"), ("XBTUSD 1", "TRADES")}

        again = fill(stores, 2)

        assert again.failed == ()
        assert_same(stores, undisturbed)
        with stores.catalog.read() as connection:
            assert dead_letters.operations(connection, None) == [], "what has succeeded since is settled"


# --- replies that are none


@pytest.mark.parametrize("tampering", [Tampering.LAST_MISSING, Tampering.LAST_ZERO], ids=lambda each: each.name)
def test_pages_without_a_word_of_where_they_end_are_paged_through_all_the_same(
    home: Path, undisturbed: dict[str, Any], tampering: Tampering
) -> None:
    fault = Fault(tampering, endpoint="Trades", times=None)
    with DemoExchange(WORLD, faults=[fault]) as exchange, home_at(exchange, home) as stores:
        assert fill(stores).failed == ()
        assert_same(stores, undisturbed)


def test_replies_that_have_grown_or_come_in_another_order_are_the_same_replies(
    home: Path, undisturbed: dict[str, Any]
) -> None:
    faults = [
        Fault(Tampering.EXCHANGED, endpoint="Trades", times=None),
        Fault(Tampering.GROWN, times=None),
    ]
    with DemoExchange(WORLD, faults=faults) as exchange, home_at(exchange, home) as stores:
        done = fill(stores)
        assert done.failed == ()
        assert sum("entries of AssetPairs cannot be read" in note for note in done.notes) == 1
        assert_same(stores, undisturbed)


@pytest.mark.parametrize(
    "tampering", [Tampering.LAST_MISSING, Tampering.LAST_ZERO, Tampering.NO_ROWS], ids=lambda each: each.name
)
def test_candles_without_rows_or_without_an_end_are_no_answer(
    home: Path, undisturbed: dict[str, Any], tampering: Tampering
) -> None:
    with DemoExchange(WORLD, faults=[Fault(tampering, endpoint="OHLC")]) as exchange, home_at(exchange, home) as stores:
        assert [failure.split(":")[0][:16] for failure in fill(stores).failed] == ["OHLC of XBTUSD 1"]
        assert_true(stores)
        assert fill(stores, 2).failed == ()
        assert_same(stores, undisturbed)


@pytest.mark.parametrize("after", range(5))
def test_a_page_without_trades_is_never_taken_for_a_quiet_time(
    home: Path, undisturbed: dict[str, Any], after: int
) -> None:
    fault = Fault(Tampering.NO_ROWS, endpoint="Trades", after=after)
    with DemoExchange(WORLD, faults=[fault]) as exchange, home_at(exchange, home) as stores:
        fill(stores)
        assert_true(stores)
        fill(stores, 2)
        assert_same(stores, undisturbed)


def test_a_page_without_trades_is_not_the_whole_history_when_candles_know_no_better(
    home: Path, undisturbed: dict[str, Any]
) -> None:
    # OHLC goes first, and knows of a later trade. Here it fails.
    faults = [Fault(HttpStatus(502), endpoint="OHLC", times=3), Fault(Tampering.NO_ROWS, endpoint="Trades", after=1)]
    with DemoExchange(WORLD, faults=faults) as exchange, home_at(exchange, home) as stores:
        done = fill(stores)
        assert len(done.failed) == 2
        assert_true(stores)
        fill(stores, 2)
        assert_same(stores, undisturbed)


def test_a_page_without_trades_is_not_believed_behind_the_last_trade_known(
    home: Path, undisturbed: dict[str, Any]
) -> None:
    # A day goes by, and again the candles of its end are not to be had.
    earlier = NOW - DAY
    clock = FixedClock(earlier)
    with DemoExchange(WORLD, clock=clock) as exchange, home_at(exchange, home, kraken_cache_prices_seconds=0) as stores:
        fill(stores, now=earlier)
        clock.advance(DAY)
        exchange.inject(Fault(HttpStatus(502), endpoint="OHLC", times=3))
        exchange.inject(Fault(Tampering.NO_ROWS, endpoint="Trades"))
        done = fill(stores, 2)
        assert len(done.failed) == 2
        assert_true(stores)
        fill(stores, 3)
        assert_true(stores)
        for interval in INTERVALS:
            assert stored(stores, PAIR, interval) == oracle(PAIR, interval, 0, interval.floor(NOW), WORLD)


def goes_off(event: threading.Event) -> Callable[[], bool]:
    """A condition that always holds, and lets something begin when it is looked at."""

    def condition() -> bool:
        event.set()
        return True

    return condition


# --- throttling


class Hurried:
    """A timer on which so many seconds pass with each request: what lasts for minutes takes as many requests."""

    def __init__(self, seconds: float) -> None:
        self._moments = itertools.count(NOW, seconds)

    def __call__(self) -> float:
        return next(self._moments)


@pytest.mark.parametrize(
    ("code", "options"),
    [("EAPI:Rate limit exceeded", {}), ("EGeneral:Too many requests", {"complete": True})],
    ids=["in-the-next-run", "in-the-same-run"],
)
def test_twenty_seconds_of_throttling_cost_time_and_nothing_else(
    home: Path, undisturbed: dict[str, Any], code: str, options: dict[str, Any]
) -> None:
    throttling = Fault(Refusal(code), endpoint="Trades", after=2, times=None, seconds=20)
    with (
        DemoExchange(WORLD, faults=[throttling], timer=Hurried(5)) as exchange,
        home_at(exchange, home, kraken_api_patience_seconds=60.0) as stores,
    ):
        done = fill(stores, **options)
        refused = [each.outcome for each in exchange.requests].count(code)
        assert done.failed == (), "no gap is to blame for it"
        assert_true(stores)
        if options:
            assert (refused, done.gaps) == (4, ())
        else:
            assert refused == 3
            assert any("left to the next run" in note for note in done.notes)
            assert {gap.attempts for gap in done.gaps if gap.series.interval is Interval.H1} == {0}
        fill(stores, 2)
        assert_same(stores, undisturbed)


def test_who_is_told_until_when_to_wait_waits(home: Path, undisturbed: dict[str, Any]) -> None:
    faults = [Fault(ThrottledReply(1), endpoint="OHLC"), Fault(ThrottledReply(1), endpoint="Trades", after=2)]
    with DemoExchange(WORLD, faults=faults) as exchange, home_at(exchange, home) as stores:
        done = fill(stores)
        assert done.failed == ()
        for before, after in itertools.pairwise(exchange.requests):
            if before.outcome.startswith("EService:Throttled:"):
                assert after.time >= int(before.outcome.rpartition(":")[2])
        assert_same(stores, undisturbed)


@pytest.mark.parametrize("effect", [ThrottledReply(600), Refusal("EGeneral:Temporary lockout")], ids=str)
def test_who_is_locked_out_asks_for_nothing_more_and_blames_no_gap(
    home: Path, undisturbed: dict[str, Any], effect: Effect
) -> None:
    lockout = Fault(effect, endpoint="Trades", after=2)
    with DemoExchange(WORLD, faults=[lockout]) as exchange, home_at(exchange, home) as stores:
        done = fill(stores)
        assert exchange.requests[-1].outcome != "ok", "nothing was asked after it"
        assert done.failed == ()
        assert_true(stores)

        asked = len(exchange.requests)
        kept_out = fill(stores, 2)
        assert len(exchange.requests) == asked, "nor in another run"
        assert (kept_out.requests, kept_out.failed) == (0, ())
        assert "too late to wait for" in " ".join(kept_out.notes)
        assert {gap.failures for gap in kept_out.gaps} == {0}

        with stores.catalog.write() as connection:  # a quarter of an hour goes by
            connection.execute(sa.delete(schema.limits))
        fill(stores, 3)
        assert_same(stores, undisturbed)


def test_an_exchange_that_counts_requests_is_asked_more_slowly(home: Path, undisturbed: dict[str, Any]) -> None:
    throttle = Throttle(burst=1, per_second=8)
    with DemoExchange(WORLD, throttle=throttle) as exchange, home_at(exchange, home, kraken_api_attempts=20) as stores:
        done = fill(stores)
        assert "EGeneral:Too many requests" in [each.outcome for each in exchange.requests]
        assert done.failed == ()
        assert_same(stores, undisturbed)


# --- outages


def test_an_outage_of_two_minutes_in_the_middle_of_paging_is_waited_out(
    home: Path, undisturbed: dict[str, Any]
) -> None:
    outage = Fault(HttpStatus(503), after=8, times=None, seconds=120)
    with (
        DemoExchange(WORLD, faults=[outage], timer=Hurried(10)) as exchange,
        home_at(exchange, home, kraken_api_patience_seconds=60.0) as stores,
    ):
        done = fill(stores, complete=True)
        down = [each for each in exchange.requests if each.outcome != "ok"]
        assert down[-1].time - down[0].time == 110
        assert {each.endpoint for each in down} == {"Trades"}
        assert (done.failed, done.gaps) == ((), ())
        open_minute = Interval.M1.floor(int(down[0].params["since"]) // SECOND_NS) * SECOND_NS
        pages = paged(exchange)
        assert pages[: pages.index(open_minute)] == sorted(pages[: pages.index(open_minute)])
        assert min(pages[pages.index(open_minute) :]) == open_minute, "what was answered is not asked for again"
        assert sum(each.candles_stored for each in done.filled) == sum(map(len, undisturbed["lake"].values()))
        assert_same(stores, undisturbed)


def test_an_outage_of_two_minutes_in_the_middle_of_paging_is_left_to_the_next_run(
    home: Path, undisturbed: dict[str, Any]
) -> None:
    outage = Fault(HttpStatus(503), after=8, times=None, seconds=120)
    with DemoExchange(WORLD, faults=[outage], timer=Hurried(10)) as exchange, home_at(exchange, home) as stores:
        for number in range(1, 10):
            covered_before = covered(stores, PAIR, 1)
            done = fill(stores, number)
            assert_true(stores)
            assert covered_before == () or number == 1 or covered(stores, PAIR, 1) >= covered_before
            if not done.gaps:
                break
        assert sum(each.outcome != "ok" for each in exchange.requests) == 12
        assert_same(stores, undisturbed)


def test_while_the_breaker_is_open_nobody_asks_and_one_probe_finds_out_that_it_is_over(
    home: Path, undisturbed: dict[str, Any]
) -> None:
    is_down = threading.Event()
    outage = Fault(Reset(), times=None, condition=is_down.is_set)
    with (
        DemoExchange(WORLD, faults=[outage]) as exchange,
        home_at(exchange, home, kraken_breaker_failures=3, kraken_breaker_seconds=0.2) as stores,
    ):
        exchange.inject(Fault(HttpStatus(503), endpoint="Trades", after=3, condition=goes_off(is_down)))
        done = fill(stores)
        assert [each.outcome for each in exchange.requests[-3:]] == ["HTTP 503", "reset", "reset"]
        assert_true(stores)
        asked = len(exchange.requests)
        assert breaker_of(stores).record().retry_at is not None
        assert fill(stores, 2).failed == ()
        assert len(exchange.requests) <= asked + 1, "at the most a probe"

        is_down.clear()
        time.sleep(0.25)

        again = fill(stores, 3)
        assert (again.failed, again.gaps) == ((), ())
        assert breaker_of(stores).record().retry_at is None
        assert done.gaps
        assert_same(stores, undisturbed)


def test_a_run_that_is_to_be_complete_waits_for_the_breaker_in_real_time(
    home: Path, undisturbed: dict[str, Any]
) -> None:
    outage = Fault(HttpStatus(522), endpoint="Trades", after=3, times=None, seconds=2)
    settings = {"kraken_breaker_failures": 5, "kraken_breaker_seconds": 0.2, "kraken_api_patience_seconds": 60.0}
    with DemoExchange(WORLD, faults=[outage]) as exchange, home_at(exchange, home, **settings) as stores:
        done = fill(stores, complete=True)
        assert (done.failed, done.gaps) == ((), ())
        down = [each.time for each in exchange.requests if each.outcome != "ok"]
        assert 5 <= len(down) <= 20
        assert_same(stores, undisturbed)


# --- maintenance


def test_in_maintenance_nothing_is_attempted_and_nothing_is_marked_as_failed(
    home: Path, undisturbed: dict[str, Any]
) -> None:
    is_closed = threading.Event()
    fault = Fault(SystemState("maintenance"), endpoint="SystemStatus", times=None, condition=is_closed.is_set)
    with DemoExchange(WORLD, faults=[fault]) as exchange, home_at(exchange, home) as stores:
        fill(stores, budget=6)
        before, asked = state(stores), len(exchange.requests)
        is_closed.set()

        for number in range(2, 6):
            closed = fill(stores, number, complete=number % 2 == 0)
            assert (closed.requests, closed.failed, closed.filled) == (1, (), ())
            assert "maintenance" in " ".join(closed.notes)
            assert {gap.status for gap in closed.gaps} == {GapStatus.DETECTED}
            assert {gap.attempts for gap in closed.gaps} <= {0, 1}
        assert {each.endpoint for each in exchange.requests[asked:]} == {"SystemStatus"}
        assert state(stores) == before

        is_closed.clear()
        fill(stores, 6)
        assert_same(stores, undisturbed)


def test_maintenance_that_begins_in_the_middle_of_paging_is_no_failure(home: Path, undisturbed: dict[str, Any]) -> None:
    is_closed = threading.Event()
    faults = [
        Fault(SystemState("maintenance"), endpoint="SystemStatus", times=None, condition=is_closed.is_set),
        Fault(Refusal("EService:Unavailable"), endpoint="Trades", times=None, condition=is_closed.is_set),
        Fault(HttpStatus(520), endpoint="Trades", after=3, condition=goes_off(is_closed)),
    ]
    with DemoExchange(WORLD, faults=faults) as exchange, home_at(exchange, home) as stores:
        done = fill(stores)
        assert done.failed == ()
        assert "maintenance" in " ".join(done.notes)
        assert {gap.failures for gap in done.gaps} == {0}
        assert_true(stores)
        is_closed.clear()
        fill(stores, 2)
        assert_same(stores, undisturbed)


def test_a_pair_that_nobody_knows_yet_waits_for_the_end_of_maintenance(home: Path) -> None:
    fault = Fault(SystemState("maintenance"), endpoint="SystemStatus")
    with DemoExchange(WORLD, faults=[fault]) as exchange, home_at(exchange, home) as stores:
        with pytest.raises(Maintenance):
            fill(stores)
        assert stores.lake.asset_ids.pairs() == []
        assert fill(stores, 2).gaps == ()


@pytest.mark.parametrize("status", ["cancel_only", "post_only"])
def test_while_nobody_may_trade_market_data_is_asked_for_all_the_same(
    home: Path, undisturbed: dict[str, Any], status: str
) -> None:
    fault = Fault(SystemState(status), endpoint="SystemStatus")
    with DemoExchange(WORLD, faults=[fault]) as exchange, home_at(exchange, home) as stores:
        assert fill(stores).notes == ()
        assert_same(stores, undisturbed)


# --- kill -9


@pytest.mark.process
def test_a_killed_paging_goes_on_at_the_open_minute(tmp_path: Path) -> None:
    # The shell takes the present for the present, so this world is one of these days.
    now = int(time.time())
    first_trade = now - 3 * DAY
    listing = Listing(PAIR, "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 28_000.0, 0.006, 3_500, first_trade)
    world = World(7, (listing,), now)
    home = tmp_path / "home"
    command = ("backfill", "--pairs", PAIR, "--intervals", "1,60", "--complete")

    with DemoExchange(world, clock=MovingClock(now)) as exchange:
        process = start(home, *command, KRAKEN_API_URL=exchange.url)
        deadline = time.monotonic() + TIMEOUT
        while len(paged(exchange)) < 4:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        asked = len(exchange.requests)
        before = paged(exchange)
        with opened(settings_of(home)) as stores:
            open_minute = covered(stores, PAIR, 1)[0].end
            true = oracle(PAIR, 1, 0, open_minute, world)
            assert stored(stores, PAIR, 1, 0, open_minute) == true
            assert len(true) > 100

        again = shell(home, *command, KRAKEN_API_URL=exchange.url)

        assert again.code == 0, again.err
        after = paged(exchange)[len(before) :]
        assert after[0] == open_minute * SECOND_NS
        assert sum(since >= after[0] for since in before) <= 1, (
            "the page that was not stored, and no other, comes again"
        )
        assert {each.endpoint for each in exchange.requests[asked:]} <= {"SystemStatus", "OHLC", "Trades"}
        assert "0" not in {each.params.get("since") for each in exchange.requests[asked:]}
        with opened(settings_of(home)) as stores:
            (whole,) = covered(stores, PAIR, 1)
            assert whole.end >= Interval.M1.floor(now)
            for interval in INTERVALS:
                assert stored(stores, PAIR, interval) == oracle(PAIR, interval, 0, interval.floor(whole.end), world)
