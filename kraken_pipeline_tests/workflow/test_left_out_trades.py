"""Trades that the exchange leaves out of its pages: no candle lacks one, and what comes later heals."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.coverage.ranges import Span, subtract
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.faults import Fault, LeftOut
from kraken_pipeline.demo.listing import DAY, Listing
from kraken_pipeline.demo.world import SECOND_NS, World
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.records import density_records
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.backfill import backfill
from kraken_pipeline.workflow.backfill.outcome import BackfillOutcome
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.exchanges import at
from kraken_pipeline_tests.support.homes import covered, open_gaps, oracle, rows_of, stored

pytestmark = pytest.mark.slow

START = 1_740_787_200
END = START + 3 * DAY
NOW = END + 14 * DAY + 30
XBT = Listing("XBTUSD", "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 61_250.0, 0.006, 900, START)
WORLD = World(11, (XBT,), NOW)
TRADES = WORLD.trades("XBTUSD", START * SECOND_NS, END * SECOND_NS)
FIRST, LAST = 1_205, 1_244
"""Forty trades of the second day."""


@pytest.fixture
def exchange() -> Iterator[DemoExchange]:
    with DemoExchange(WORLD) as found:
        yield found


@pytest.fixture
def there(home: Path, exchange: DemoExchange) -> Iterator[Stores]:
    with at(exchange, home) as stores:
        yield stores


def fill(stores: Stores, run_id: str, now: int = NOW, **options: Any) -> BackfillOutcome:
    """A run that is to have all minutes of the three days."""
    window = {"start": START, "end": END, "intervals": "1", "pairs": "XBTUSD"}
    return backfill(stores, run_spec(**{"complete": True, **window, **options}), RunContext(run_id, now))


def minute_of(number: int) -> int:
    (time,) = TRADES.filter(TRADES["id"] == number)["time"]
    return int(time) // SECOND_NS // 60 * 60


HOLE = Span(minute_of(FIRST - 1), minute_of(LAST + 1) + 60)


def pages(exchange: DemoExchange) -> int:
    return sum(each.endpoint == "Trades" and each.params.get("count") != "1" for each in exchange.requests)


def assert_whole(stores: Stores) -> None:
    assert covered(stores, "XBTUSD", 1) == (Span(START, END),)
    assert stored(stores, "XBTUSD", 1) == oracle("XBTUSD", 1, START, END, WORLD)


def test_a_hole_costs_its_minutes_and_the_same_command_heals_it_at_once(there: Stores, exchange: DemoExchange) -> None:
    exchange.inject(Fault(LeftOut(FIRST, LAST), endpoint="Trades", times=None, condition=lambda: is_bad))
    is_bad = True
    done = fill(there, "run-one")
    assert [gap.span for gap in done.gaps] == [HOLE]
    assert covered(there, "XBTUSD", 1) == subtract((Span(START, END),), (HOLE,))
    assert stored(there, "XBTUSD", 1) == [
        row for row in oracle("XBTUSD", 1, START, END, WORLD) if int(row[0]) not in HOLE
    ]
    (note,) = [note for note in done.notes if "left out" in note]
    assert "the exchange has left out 40 trades twice (ids 1205 to 1244)" in note
    is_bad = False
    assert fill(there, "run-two").gaps == ()
    assert_whole(there)
    assert rows_of(there, schema.absent_ids, "first") == []


def test_a_hole_is_asked_for_once_more_in_a_run_and_not_waited_for(there: Stores, exchange: DemoExchange) -> None:
    fill(there, "run-zero", end=START + 3_600)
    before = pages(exchange)
    exchange.inject(Fault(LeftOut(FIRST, LAST), endpoint="Trades", times=None))
    fill(there, "run-one")
    first = pages(exchange) - before
    assert first <= 2 + 3, "three pages, the end of the span, and one that is asked for again"
    for number in range(4):
        (gap,) = fill(there, f"run-{number}").gaps
        assert (gap.failures, gap.next_try) == (0, 0)
        assert pages(exchange) - before == first + 2 * (number + 1)
    assert [row.span for row in open_gaps(there, "XBTUSD", 1)] == [HOLE]


def test_a_hole_that_is_filled_when_asked_again_leaves_no_trace(there: Stores, exchange: DemoExchange) -> None:
    exchange.inject(Fault(LeftOut(FIRST, LAST), endpoint="Trades", after=1))
    done = fill(there, "run-one")
    assert_whole(there)
    assert [note for note in done.notes if "left out" in note] == []
    assert rows_of(there, schema.absent_ids, "first") == []


def test_other_trades_lost_in_each_run_are_never_taken_for_ids_that_do_not_exist(
    there: Stores, exchange: DemoExchange
) -> None:
    # The trades that a run loses lie between those that the run before it lost.
    losing = 0

    def is_losing(turn: int) -> bool:
        return turn == losing

    for turn in range(3):
        effect = LeftOut(FIRST + turn, LAST, every=5)
        exchange.inject(Fault(effect, endpoint="Trades", times=None, condition=partial(is_losing, turn)))
    for turn in range(3):
        losing = turn
        fill(there, f"run-{turn}", NOW + turn * 7_200)
        with there.catalog.read() as connection:
            assert density_records.density_of(connection, "XBTUSD").sparse == ()
        for span in covered(there, "XBTUSD", 1):
            assert stored(there, "XBTUSD", 1, span.start, span.end) == oracle("XBTUSD", 1, span.start, span.end, WORLD)
        assert covered(there, "XBTUSD", 1) != (Span(START, END),)
    losing = 3
    assert fill(there, "run-3", NOW + 4 * 7_200).gaps == ()
    assert_whole(there)
    assert rows_of(there, schema.absent_ids, "first") == []


def test_ids_that_are_absent_again_an_hour_later_do_not_exist(there: Stores, exchange: DemoExchange) -> None:
    exchange.inject(Fault(LeftOut(FIRST, LAST), endpoint="Trades", times=None))
    assert len(fill(there, "run-one").gaps) == 1
    assert len(fill(there, "run-two", NOW + 3_599).gaps) == 1
    assert fill(there, "run-three", NOW + 3_600).gaps == ()
    assert covered(there, "XBTUSD", 1) == (Span(START, END),)
    with there.catalog.read() as connection:
        (sparse,) = density_records.density_of(connection, "XBTUSD").sparse
    assert (sparse.first, sparse.last) == (FIRST, LAST)
