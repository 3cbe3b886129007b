"""Six processes that ask one exchange at the same time are together as polite as one, and none of them starves."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from kraken_pipeline.kraken.client import Client
from kraken_pipeline.storage.catalog.database import Catalog
from kraken_pipeline.storage.exchange_state import counters
from kraken_pipeline.storage.exchange_state.breaker import Breaker, BreakerState
from kraken_pipeline.storage.exchange_state.counters import Counters
from kraken_pipeline.storage.exchange_state.limiter import Limiter
from kraken_pipeline_tests.support.processes import line, process, result, tell

if TYPE_CHECKING:
    from kraken_pipeline.storage.stores import Stores

pytestmark = pytest.mark.slow
SECONDS = int(os.environ.get("KRAKEN_TEST_SECONDS", "10"))
RATE = int(os.environ.get("KRAKEN_TEST_RATE", "4"))
PROCESSES = 6


def ask_for_a_while(number: int, url: str, database: str, seconds: int) -> None:
    catalog = Catalog(database)
    counts = Counters(catalog)
    client = Client(url, limiter=Limiter(catalog, RATE), breaker=Breaker(catalog), counters=counts)
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        client.ask("Time", process=number)
    client.close()
    counts.flush()
    catalog.close()


def test_processes_share_the_rate_of_requests(stores: Stores) -> None:
    # Not for the six, whose importing would take longer than what they are to do.
    from kraken_pipeline.demo.exchange import DemoExchange
    from kraken_pipeline_tests.support.homes import SPRING

    with ExitStack() as stack:
        exchange = stack.enter_context(DemoExchange(SPRING))
        arguments = (exchange.url, stores.settings.catalog_url, SECONDS)
        running = [stack.enter_context(process(ask_for_a_while, number, *arguments)) for number in range(PROCESSES)]
        assert [line(each) for each in running] == ["ready"] * PROCESSES
        for each in running:
            tell(each)
        for each in running:
            result(each)
        log = exchange.requests

    moments = [each.time for each in log]
    most = max(sum(start <= moment < start + 1 for moment in moments) for start in moments)
    shares = Counter(each.params["process"] for each in log)
    share = len(log) / PROCESSES
    took = max(moments) - min(moments)
    print(  # noqa: T201
        f"{len(log)} requests in {took:.1f} s, {(len(log) - 1) / took:.3f} a second, "
        f"{most} within one second at the most, of each process {sorted(shares.values())}"
    )
    assert most <= RATE + 1
    assert len(log) >= 0.9 * RATE * SECONDS, "they are slower than they have to be"
    assert len(shares) == PROCESSES
    assert all(0.5 * share <= count <= 1.5 * share for count in shares.values()), shares

    assert {each.outcome for each in log} == {"ok"}
    assert Breaker(stores.catalog).record().state is BreakerState.CLOSED
    with stores.catalog.read() as connection:
        assert counters.totals(connection, ["api.requests"], 0) == {"api.requests": len(log)}
