"""Stored candles against fresh replies of OHLC: what is equal, what differs, and that nothing is changed by looking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.demo.archives import write_csv
from kraken_pipeline.demo.clock import FixedClock
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.faults import Fault, HttpStatus, Refusal, SystemState
from kraken_pipeline.demo.listing import DAY, Listing
from kraken_pipeline.demo.world import World
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.backfill import backfill
from kraken_pipeline.workflow.backfill.circuit import breaker_of
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.proof.validate import ValidationOutcome, validate_recent
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.exchanges import at
from kraken_pipeline_tests.support.homes import evidence_of, lake_of, oracle, rows_of, run, write_lines

pytestmark = pytest.mark.slow

HOUR = 3_600
START = 1_700_006_400 // DAY * DAY
NOW = START + 9 * DAY + 4 * HOUR + 34
XBT = Listing("XBTUSD", "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 28_000.0, 0.006, 300, START)
ADA = Listing("ADAEUR", "ADAEUR", "ADA/EUR", "ADA", "ZEUR", 6, 0.355, 55.0, 120, START, night=(2, 4))
WORLD = World(7, (XBT, ADA), NOW)
SOME = oracle("XBTUSD", 60, START + 5 * DAY, START + 5 * DAY + 2 * HOUR, WORLD)


@pytest.fixture
def exchange() -> Iterator[DemoExchange]:
    with DemoExchange(WORLD) as found:
        yield found


@pytest.fixture
def there(home: Path, exchange: DemoExchange, tmp_path: Path) -> Iterator[Stores]:
    """Everything of two pairs in hours and days, the first eight days of it from archives."""
    with at(exchange, home) as stores:
        fill(stores, tmp_path)
        yield stores


def fill(stores: Stores, folder: Path, world: World = WORLD) -> None:
    files = [write_csv(folder, world, pair, Interval.H1, start=START, end=START + 8 * DAY) for pair in world.listings]
    run(stores, *files, now=NOW, api_backfill=False, intervals="60")
    assert backfill(stores, run_spec(intervals="60,1440"), RunContext("run-one", NOW)).gaps == ()


def validate(stores: Stores, **options: Any) -> ValidationOutcome:
    return validate_recent(stores, run_spec(**{"intervals": "60,1440", **options}), RunContext("validation", NOW))


def conflicts(stores: Stores) -> list[tuple[Any, ...]]:
    return rows_of(stores, schema.conflicts, "pair", "interval", "start", "end", "candles", "reason")


def test_what_is_stored_as_it_happened_is_equal(there: Stores, exchange: DemoExchange) -> None:
    before, asked = (lake_of(there), evidence_of(there)), len(exchange.requests)
    found = validate(there)
    # Whole hours and days of the last seven days.
    assert {(str(each.series), each.compared) for each in found.series} == {
        (f"{pair} {interval}", count) for pair in WORLD.listings for interval, count in ((60, 167), (1440, 6))
    }
    assert (found.different, found.failed, found.notes) == (0, (), ())
    assert conflicts(there) == []
    assert (lake_of(there), evidence_of(there)) == before
    assert found.requests == len(exchange.requests) - asked == 5


def test_every_reply_is_a_fresh_one(there: Stores, exchange: DemoExchange) -> None:
    validate(there)
    before = len(exchange.requests)
    validate(there)
    assert [each.endpoint for each in exchange.requests[before:]] == ["SystemStatus", *["OHLC"] * 4]


CHANGES: dict[str, Callable[[list[float]], None]] = {
    "volume": lambda row: row.__setitem__(5, row[5] * 1.01),
    "trades": lambda row: row.__setitem__(6, row[6] + 1),
    "price": lambda row: row.__setitem__(2, row[2] * 1.5),
}


@pytest.mark.parametrize("what", list(CHANGES))
def test_a_candle_that_differs_is_a_conflict_on_record_and_stays_as_it_is(
    home: Path, exchange: DemoExchange, tmp_path: Path, what: str
) -> None:
    true = SOME[0]
    changed = list(true)
    CHANGES[what](changed)
    changed[6] += 1  # so that it wins against the reply
    line = ",".join(str(int(value) if number in {0, 6} else value) for number, value in enumerate(changed))
    following = ",".join(str(int(value) if number in {0, 6} else value) for number, value in enumerate(SOME[1]))
    with at(exchange, home) as stores:
        fill(stores, tmp_path)
        run(stores, write_lines(tmp_path / "b" / "XBTUSD_60.csv", [line, following]), now=NOW, api_backfill=False)
        before = lake_of(stores)
        known = conflicts(stores)
        found = validate(stores, pairs="XBTUSD", intervals="60")
        (one,) = found.series
        assert (one.different, found.different) == ((int(true[0]),), 1)
        assert [row for row in conflicts(stores) if row not in known] == [
            ("XBTUSD", 60, int(true[0]), int(true[0]) + HOUR, 1, one.reason)
        ]
        assert lake_of(stores) == before

        recorded = conflicts(stores)
        assert validate(stores, pairs="XBTUSD", intervals="60").different == 1
        assert conflicts(stores) == recorded, "it is put on record once, however often it is found"


def test_noise_in_a_sum_of_volumes_is_no_difference(home: Path, exchange: DemoExchange, tmp_path: Path) -> None:
    changed = [*SOME[0][:5], SOME[0][5] * (1 + 1e-9), SOME[0][6]]
    line = ",".join(str(int(value) if number in {0, 6} else value) for number, value in enumerate(changed))
    with at(exchange, home) as stores:
        fill(stores, tmp_path)
        run(stores, write_lines(tmp_path / "b" / "XBTUSD_60.csv", [line]), now=NOW, api_backfill=False)
        assert validate(stores).different == 0


def test_a_candle_that_ohlc_says_is_none_is_a_difference(home: Path, tmp_path: Path) -> None:
    # As of ADAEUR's day of 2021-07-24: the reply says that nobody traded.
    day = START + 5 * DAY
    wrong = Defect(DefectKind.FALSE_QUIET, "ADAEUR", Interval.D1, day)
    with DemoExchange(WORLD, defects=[wrong]) as exchange, at(exchange, home) as stores:
        fill(stores, tmp_path)
        found = validate(stores)
        assert {str(each.series): each.different for each in found.series if each.different} == {"ADAEUR 1440": (day,)}
        assert [row[:5] for row in conflicts(stores)] == [("ADAEUR", 1440, day, day + DAY, 1)]


def test_only_what_is_covered_and_recent_is_compared(there: Stores) -> None:
    (found,) = validate(there, pairs="XBTUSD", intervals="60", lookback_days=1).series
    assert found.compared == 23
    (found,) = validate(there, pairs="XBTUSD", intervals="60", lookback_days=365).series
    assert found.compared == len(range(START, NOW - HOUR + 1, HOUR))


def test_what_ohlc_does_not_know_is_left_out(there: Stores, exchange: DemoExchange) -> None:
    backfill(there, run_spec(intervals="720"), RunContext("run-two", NOW))
    before = len(exchange.requests)
    assert validate(there, intervals="720").series == ()
    assert [each.endpoint for each in exchange.requests[before:]] == ["SystemStatus"]


def test_a_pair_that_is_listed_no_more_is_left_out(home: Path, tmp_path: Path) -> None:
    with DemoExchange(WORLD) as exchange, at(exchange, home) as stores:
        fill(stores, tmp_path)
    later = NOW + HOUR
    gone = World(7, (XBT, replace(ADA, delisted=NOW)), later)
    with DemoExchange(gone) as exchange, at(exchange, home, kraken_cache_assets_seconds=0) as stores:
        backfill(stores, run_spec(intervals="60"), RunContext("run-two", later))
        found = validate(stores)
        assert {each.series.pair for each in found.series} == {"XBTUSD"}
        assert found.failed == ()


@pytest.mark.parametrize(("budget", "compared"), [(1, 0), (3, 2), (5, 4)])
def test_the_budget_bounds_it(there: Stores, budget: int, compared: int) -> None:
    found = validate(there, budget=budget)
    assert (found.requests, len(found.series)) == (budget, compared)
    assert bool(found.notes) is (compared < 4)


def test_in_maintenance_nothing_is_compared_and_nothing_has_failed(there: Stores, exchange: DemoExchange) -> None:
    exchange.inject(Fault(SystemState("maintenance"), endpoint="SystemStatus"))
    found = validate(there)
    assert (found.series, found.requests, found.failed) == ((), 1, ())
    assert "maintenance" in found.notes[0]


@pytest.mark.parametrize("effect", [HttpStatus(520), Refusal("EGeneral:Invalid arguments")], ids=str)
def test_a_reply_that_does_not_come_is_no_difference(
    there: Stores, exchange: DemoExchange, effect: HttpStatus | Refusal
) -> None:
    exchange.inject(Fault(effect, endpoint="OHLC", pair="ADAEUR", times=None))
    found = validate(there)
    assert [failure.split(":")[0] for failure in found.failed] == ["OHLC of ADAEUR 60", "OHLC of ADAEUR 1440"]
    assert {each.series.pair for each in found.series} == {"XBTUSD"}
    assert (found.different, conflicts(there)) == (0, [])


def test_an_open_breaker_leaves_the_rest_to_the_next_run(home: Path, tmp_path: Path) -> None:
    with DemoExchange(WORLD) as exchange, at(exchange, home, kraken_breaker_failures=3) as stores:
        fill(stores, tmp_path)
        exchange.inject(Fault(HttpStatus(503), endpoint="OHLC", times=None))
        found = validate(stores)
        assert len(found.failed) == 1
        assert breaker_of(stores).record().failures == 3
        assert "left to the next run" in found.notes[0]
        assert found.series == ()


def test_of_a_home_without_pairs_there_is_nothing_to_compare(home: Path, exchange: DemoExchange) -> None:
    with at(exchange, home) as stores:
        assert validate(stores).series == ()
        with pytest.raises(InvalidRequest, match="XBTUSD is unknown"):
            validate(stores, pairs="XBTUSD")


def test_a_clock_behind_ours_shortens_what_is_compared(home: Path, tmp_path: Path) -> None:
    clock = FixedClock(NOW)
    with DemoExchange(WORLD, clock=clock) as exchange, at(exchange, home) as stores:
        fill(stores, tmp_path)
        clock.advance(-2 * HOUR)
        (found,) = validate(stores, pairs="XBTUSD", intervals="60").series
        assert (str(found.series), found.compared, found.different) == ("XBTUSD 60", 165, ())
