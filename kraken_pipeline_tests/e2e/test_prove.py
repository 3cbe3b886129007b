"""A proof by the ids of trades: what no archive has at any interval is found, filled, and never asked for twice."""

from __future__ import annotations

import os
import random
import signal
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.coverage.anchors import search
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.demo.archives import write_quarterly_zip
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.faults import Delay, Fault, HttpStatus
from kraken_pipeline.demo.listing import DAY, Listing
from kraken_pipeline.demo.world import SECOND_NS, Burst, World
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.quarter import Quarter
from kraken_pipeline.storage.stores import opened
from kraken_pipeline_tests.support.exchanges import copied
from kraken_pipeline_tests.support.homes import oracle, settings_of, stored
from kraken_pipeline_tests.support.shell import TIMEOUT, shell, start

pytestmark = pytest.mark.slow

Q3, Q4 = Quarter(2023, 3), Quarter(2023, 4)
NOW = Q4.end + 30 * DAY + 1_234
LISTINGS = (
    Listing("XBTUSD", "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 28_000.0, 0.006, 60, Q3.start),
    Listing("ADAEUR", "ADAEUR", "ADA/EUR", "ADA", "ZEUR", 6, 0.355, 55.0, 60, Q3.start, night=(2, 4)),
)
LAST = tuple(Burst("XBTUSD", (quarter.end - 30) * SECOND_NS, 1) for quarter in (Q3, Q4))
"""So that releases, which know of nothing after their last trade, cover their quarters whole."""
HAPPENED = World(11, LISTINGS, NOW, bursts=LAST, skips_ids={"ADAEUR": 40})
"""What the exchange knows; the ids of ADAEUR are not dense."""
LOST = sorted(random.Random(7).sample(range(2, 10_000), 25))
"""The places of the trades of XBTUSD that no archive has."""
TOLD = World(11, LISTINGS, NOW, bursts=LAST, lacks={"XBTUSD": LOST})
INTERVALS = tuple(map(Interval, (1, 60, 1440)))
MINUTE = Interval.M1


def times(world: World) -> list[int]:
    """When the trades of XBTUSD were made, in seconds."""
    made = world.trades("XBTUSD", Q3.start * SECOND_NS, Q4.end * SECOND_NS)["time"]
    return [each // SECOND_NS for each in made.to_list()]


MADE = times(HAPPENED)
MINUTES = sorted({MINUTE.floor(MADE[place - 1]) for place in LOST})


def simulated() -> int:
    """How many anchors it takes: of the edges of both quarters, and to search them."""
    told = times(TOLD)
    ids: dict[int, int] = {}
    for quarter in (Q3, Q4):

        def counted(_: Interval, span: Span) -> int:
            return bisect_left(told, span.end) - bisect_left(told, span.start)

        span = Span(quarter.start, quarter.end)
        while needs := search(span, [MINUTE], ids, counted).needs:
            ids[needs[0]] = bisect_left(MADE, needs[0])
    return len(ids)


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with what the archives say, of which nobody was asked anything. To be copied."""
    folder = tmp_path_factory.mktemp("prove")
    for quarter in (Q3, Q4):
        write_quarterly_zip(folder / "in", TOLD, quarter, INTERVALS)
    assert shell(folder / "home", "ingest", "--archive-dir", "in", "--no-api-backfill").code == 0
    return folder / "home"


@pytest.fixture
def exchange() -> Iterator[DemoExchange]:
    with DemoExchange(HAPPENED) as found:
        yield found


def asked(exchange: DemoExchange, pair: str, count: int) -> list[str | None]:
    """The moments about which trades of a pair were asked for and told, so many at once."""
    return [
        each.params.get("since")
        for each in exchange.requests
        if (each.endpoint, each.pair, each.params.get("count"), each.outcome) == ("Trades", pair, str(count), "ok")
    ]


def of(found: list[dict[str, Any]], pair: str) -> list[dict[str, Any]]:
    return [each for each in found if each["pair"] == pair]


def assert_healed(home: Path) -> None:
    with opened(settings_of(home)) as stores:
        for interval in INTERVALS:
            assert stored(stores, "XBTUSD", interval) == oracle("XBTUSD", interval, Q3.start, Q4.end, HAPPENED)


def test_trades_that_all_archives_lack_are_found_and_filled_and_nothing_else(
    tmp_path: Path, ingested: Path, exchange: DemoExchange
) -> None:
    home = copied(ingested, tmp_path)
    at = {"KRAKEN_API_URL": exchange.url}
    hours = ("explain", "XBTUSD", "60", "2023-08-01T10:30", "--json")
    planned = shell(home, "prove", "--dry-run", **at).out
    assert planned.startswith("6 requests for the ids of trades at the edges of 4 spans")
    assert exchange.requests == ()

    done = shell(home, "prove", "--json", **at)
    assert done.code == 0, done.err
    assert planned.splitlines()[0] in done.err, "what it costs is said before, and is the same"
    found = of(done.json, "XBTUSD")
    short = [each for each in found if each["verdict"] == "short"]
    assert [each["start"] for each in short] == [iso(minute) for minute in MINUTES]
    assert {(each["interval"], each["trades_by_ids"] - each["trades_counted"]) for each in short} == {(1, 1)}
    assert {each["action"] for each in short} == {"refuted, and filled by paging through its trades"}
    spans = [each for each in found if each["verdict"] != "short"]
    assert Counter((each["start"], each["end"], each["verdict"]) for each in spans) == {
        (iso(quarter.start), iso(quarter.end), "proven"): 8 for quarter in (Q3, Q4)
    }
    assert sum(each["trades_counted"] for each in spans if each["interval"] == 1) == len(MADE)
    assert len(asked(exchange, "XBTUSD", 1)) == simulated()
    assert len(asked(exchange, "XBTUSD", 1_000)) == len(MINUTES)
    assert_healed(home)

    # What is proven so is reconciled, also minutes that nothing finer could prove, and everything says why.
    told = shell(home, "report", "--pairs", "XBTUSD", "--start", iso(Q3.start), "--end", iso(Q4.end), "--json").json
    assert {each["proven_pct"] for each in told["intervals"].values()} == {100.0}
    assert told["trades_counted_by_ids"] == len(MADE)
    sentence = f"counted: {sum(Q3.start <= each < Q3.end for each in MADE):,} trades by ids and by candles"
    proof = shell(home, *hours).json["proof"]
    assert any(each.startswith(sentence) for each in proof["by"])
    assert f"counted: {len(MADE):,} trades by ids and by candles." in shell(home, "report", "--end", iso(Q4.end)).out

    # Asking again costs nothing.
    before = len(exchange.requests)
    again = shell(home, "prove", "--json", **at)
    assert of(again.json, "XBTUSD") == spans
    assert len(exchange.requests) == before


def test_a_pair_whose_ids_are_not_dense_is_unanchored_throughout(
    tmp_path: Path, ingested: Path, exchange: DemoExchange
) -> None:
    home = copied(ingested, tmp_path)
    before = shell(home, "report", "--pairs", "ADAEUR", "--json").json
    found = shell(home, "prove", "--pairs", "ADAEUR", "--json", KRAKEN_API_URL=exchange.url).json
    assert {each["verdict"] for each in found} == {"unanchored"}
    assert {each["trades_by_ids"] for each in found} == {None}
    assert len(asked(exchange, "ADAEUR", 1)) <= 3 + 18
    assert len(asked(exchange, "ADAEUR", 1_000)) == 2, "a page with absent ids, and the same from the trade before them"
    after = shell(home, "report", "--pairs", "ADAEUR", "--json").json
    assert (after["proven_pct"], after["conflicts"], after["total_gaps"]) == (
        before["proven_pct"],
        before["conflicts"],
        before["total_gaps"],
    )
    count = len(exchange.requests)
    assert shell(home, "prove", "--pairs", "ADAEUR", "--json", KRAKEN_API_URL=exchange.url).json == found
    assert len(exchange.requests) == count


@pytest.mark.parametrize("after", [3, 150])
def test_a_proof_that_is_killed_repeats_no_request(
    tmp_path: Path, ingested: Path, exchange: DemoExchange, after: int
) -> None:
    home = copied(ingested, tmp_path)
    at = {"KRAKEN_API_URL": exchange.url, "KRAKEN_API_RATE": "50"}
    only = ("prove", "--pairs", "XBTUSD")
    exchange.inject(Fault(Delay(TIMEOUT), endpoint="Trades", after=after))
    process = start(home, *only, **at)
    deadline = time.monotonic() + TIMEOUT
    while not any(each.outcome == "delay" for each in exchange.requests):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()

    done = shell(home, *only, "--json", **at)
    assert done.code == 0, done.err
    for count in (1, 1_000):
        assert [each for each, times_ in Counter(asked(exchange, "XBTUSD", count)).items() if times_ > 1] == []
    assert len(asked(exchange, "XBTUSD", 1)) == simulated()
    assert len(asked(exchange, "XBTUSD", 1_000)) == len(MINUTES)
    assert {each["verdict"] for each in done.json if each["interval"] != 1} == {"proven"}
    assert_healed(home)


def test_a_budget_ends_a_proof_and_the_next_one_goes_on(tmp_path: Path, ingested: Path, exchange: DemoExchange) -> None:
    home = copied(ingested, tmp_path)
    at = {"KRAKEN_API_URL": exchange.url}
    only = ("prove", "--pairs", "XBTUSD", "--json")
    done = shell(home, *only, "--budget", "20", **at)
    assert "The budget of requests is spent" in done.err
    assert len(exchange.requests) == 20
    assert {each["verdict"] for each in done.json} == {"short"}, "that trades are missing is known by now"
    command = done.json[0]["action"]
    assert command.startswith("trades are missing: kraken-pipeline prove --pairs XBTUSD --start 2023-07-01 --end ")
    assert shell(home, *only, **at).code == 0
    assert len(asked(exchange, "XBTUSD", 1)) == simulated()
    assert_healed(home)


def test_what_fails_is_an_error_and_the_rest_is_left_to_the_next_run(
    tmp_path: Path, ingested: Path, exchange: DemoExchange
) -> None:
    home = copied(ingested, tmp_path)
    at = {"KRAKEN_API_URL": exchange.url, "KRAKEN_API_ATTEMPTS": "1", "KRAKEN_BREAKER_FAILURES": "1000"}
    exchange.inject(Fault(HttpStatus(520), endpoint="Trades", after=10, times=1))
    done = shell(home, "prove", "--pairs", "XBTUSD", **at)
    assert done.code == 1
    assert "anchors of XBTUSD" in done.out
    assert shell(home, "prove", "--pairs", "XBTUSD", **at).code == 0
    assert len(asked(exchange, "XBTUSD", 1)) == simulated()
    assert_healed(home)


def test_a_run_that_is_to_be_complete_ends_with_a_proof(tmp_path: Path, ingested: Path, exchange: DemoExchange) -> None:
    home = copied(ingested, tmp_path)
    only = ("--pairs", "XBTUSD", "--intervals", "60,1440", "--end", iso(Q4.end), "--complete")
    done = shell(home, "backfill", *only, "--json", KRAKEN_API_URL=exchange.url)
    assert done.code == 0, done.err
    assert done.json["outcome"]["spans_refuted"] >= len(MINUTES)
    assert len(asked(exchange, "XBTUSD", 1_000)) == len(MINUTES)
    assert_healed(home)


def test_a_count_ends_with_the_candles_that_it_was_made_of(
    tmp_path: Path, ingested: Path, exchange: DemoExchange
) -> None:
    home = copied(ingested, tmp_path)
    at = {"KRAKEN_API_URL": exchange.url}
    hours = ("--pairs", "XBTUSD", "--intervals", "1", "--start", iso(Q4.start), "--end", iso(Q4.end), "--json")
    shell(home, "prove", "--pairs", "XBTUSD", **at)
    assert shell(home, "report", *hours).json["trades_counted_by_ids"] > 0
    day = f"{iso(Q4.start + 10 * DAY)[:10]}"
    taken = ("--span", "--pair", "XBTUSD", "--interval", "1", "--start", day, "--end", iso(Q4.start + 11 * DAY)[:10])
    assert shell(home, "resolve", *taken, "--reason", "a test").code == 0
    assert "trades_counted_by_ids" not in shell(home, "report", *hours).json
    count = len(exchange.requests)
    (left,) = [
        each
        for each in shell(home, "prove", "--pairs", "XBTUSD", "--start", day, "--json", **at).json
        if each["interval"] == 1 and each["start"] == iso(Q4.start)
    ]
    assert (left["verdict"], left["end"]) == ("proven", iso(Q4.start + 10 * DAY)), "what is left of it"
    assert len(exchange.requests) - count <= 5, "the edges of the hole"
