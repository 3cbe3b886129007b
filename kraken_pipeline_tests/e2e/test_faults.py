"""What goes wrong on the way to Kraken: after it, everything is as if nothing had, and no error was taken for an answer.

Each test lets something go wrong at a real HTTP server. Right after the disturbed run all that is stored is true and
all coverage is, and in the same run or the next one it is the same as where nothing went wrong.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.coverage.gaps import GapStatus
from kraken_pipeline.demo.clock import FixedClock
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
    Throttled,
)
from kraken_pipeline.demo.listing import DAY, Listing
from kraken_pipeline.demo.throttle import Throttle
from kraken_pipeline.demo.world import SECOND_NS, World
from kraken_pipeline.errors import Maintenance
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.storage import dead_letters, schema
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.backfill import BackfillOutcome, backfill
from kraken_pipeline.workflow.exchange import breaker_of
from kraken_pipeline.workflow.progress import Run
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.homes import covered, evidence_of, lake_of, oracle, rows_of, settings_of, stored
from kraken_pipeline_tests.shell import TIMEOUT, ended, shell, start

START = 1_700_006_400
NOW = START + 2 * DAY + 11 * 3_600 + 1_234
"""34 s into a minute, so that no test crosses into the next one while its pages settle."""
PAIR = "XBTUSD"
WORLD = World(
    7, (Listing(PAIR, "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 28_000.0, 0.006, 1_900, START + 17_477),), NOW
)
INTERVALS = (Interval.M1, Interval.H1)
PATIENT: dict[str, Any] = {"complete": True}

PASSING = [
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
]
LASTING = [
    "EQuery:Unknown asset pair",
    "EQuery:Unknown asset",
    "EGeneral:Invalid arguments",
    "EGeneral:Invalid arguments:since",
    "EGeneral:Unknown method",
    "EAPI:Invalid key",
    "EAPI:Invalid signature",
    "EAPI:Invalid nonce",
    "EGeneral:Permission denied",
]
BROKEN: list[Effect] = [*(HttpStatus(code) for code in (500, 502, 503, 504, 520, 521, 522)), Reset(), HalfBody()]
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
    return backfill(stores, run_spec(**{**given, **options}), Run(f"run-{number}", now))


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


def once_everywhere(effect: Effect) -> list[Fault]:
    """One hit of each kind of request: status, list, candles, a first trade, the first and the third page."""
    return [
        *(Fault(effect, endpoint=each) for each in ("SystemStatus", "AssetPairs", "OHLC", "Trades")),
        *(Fault(effect, endpoint="Trades", after=each) for each in (2, 5)),
    ]


def for_as_long_as_a_run_tries(effect: Effect, times: int = 3) -> list[Fault]:
    """The candles, and a page in the middle of the trades, fail as often as a run asks for them."""
    return [
        Fault(effect, endpoint="OHLC", times=times),
        Fault(effect, endpoint="Trades", after=3, times=times),
    ]


# --- what passes


@pytest.mark.parametrize("effect", [*BROKEN, *map(Refusal, PASSING)], ids=str)
def test_what_strikes_every_kind_of_request_once_is_made_up_for_in_the_same_run(
    home: Path, undisturbed: dict[str, Any], effect: Effect
) -> None:
    with DemoExchange(WORLD, faults=once_everywhere(effect)) as exchange, home_at(exchange, home) as stores:
        done = fill(stores)
        assert sum(each.outcome != "ok" for each in exchange.requests) == 6
        assert (done.failed, done.notes, done.gaps) == ((), (), ())
        assert done.requests == len(exchange.requests)
        assert_true(stores)
        assert_same(stores, undisturbed)


@pytest.mark.parametrize(
    "effect", [HttpStatus(503), HttpStatus(520), Reset(), HalfBody(), Refusal("EService:Busy")], ids=str
)
def test_what_lasts_for_a_run_is_made_up_for_in_the_next(
    home: Path, undisturbed: dict[str, Any], effect: Effect
) -> None:
    faults = for_as_long_as_a_run_tries(effect)
    with DemoExchange(WORLD, faults=faults) as exchange, home_at(exchange, home) as stores:
        done = fill(stores)
        assert [failure.split(":")[0] for failure in done.failed] == ["OHLC of XBTUSD 1", "TRADES of XBTUSD 1"]
        assert_true(stores)
        assert {(gap.series.pair, gap.status) for gap in done.gaps} == {(PAIR, GapStatus.DETECTED)}
        assert stored(stores, PAIR, 1), "what was answered before stands"

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
    faults = for_as_long_as_a_run_tries(LATE)
    with DemoExchange(WORLD, faults=faults) as exchange, home_at(exchange, home, **IN_A_HURRY) as stores:
        done = fill(stores)
        assert len(done.failed) == 2
        assert all("no answer in time" in failure for failure in done.failed)
        assert_true(stores)
        fill(stores, 2)
        assert_same(stores, undisturbed)


# --- what does not


@pytest.mark.parametrize("code", LASTING)
def test_what_kraken_refuses_is_not_repeated_and_counts_as_no_answer(
    home: Path, undisturbed: dict[str, Any], code: str
) -> None:
    faults = for_as_long_as_a_run_tries(Refusal(code), times=1)
    with DemoExchange(WORLD, faults=faults) as exchange, home_at(exchange, home) as stores:
        done = fill(stores)
        assert len(done.failed) == 2
        assert all(code in failure for failure in done.failed)
        assert [each.outcome for each in exchange.requests].count(code) == 2, "not tried three times"
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


@pytest.mark.parametrize("tampering", list(Tampering), ids=lambda each: each.name)
@pytest.mark.parametrize(
    ("endpoint", "after"), [("OHLC", 0), *(("Trades", number) for number in range(5))], ids=lambda each: str(each)
)
def test_a_reply_that_lacks_something_is_never_taken_for_a_quiet_time(
    home: Path, undisturbed: dict[str, Any], tampering: Tampering, endpoint: str, after: int
) -> None:
    fault = Fault(tampering, endpoint=endpoint, after=after)
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
