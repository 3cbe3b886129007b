"""Redis goes away in the middle of a backfill, comes back, or was never there: nobody notices, but for two warnings."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis

from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.listing import DAY, Listing
from kraken_pipeline.demo.world import World
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.storage.reply_cache import redis_cache
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.backfill import backfill
from kraken_pipeline.workflow.backfill.exchange import connected
from kraken_pipeline.workflow.backfill.outcome import BackfillOutcome
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.exchanges import at
from kraken_pipeline_tests.support.fixtures import need
from kraken_pipeline_tests.support.homes import covered, lake_of, oracle, stored
from kraken_pipeline_tests.support.servers import Redis

pytestmark = pytest.mark.slow
START = 1_700_006_400
NOW = START + 3 * DAY + 11 * 3_600 + 1_234
"""34 s into a minute, so that no run crosses into the next one while its pages settle."""
PAIRS = ("ADAEUR", "XBTUSD")
WORLD = World(
    13,
    (
        Listing("XBTUSD", "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 28_000.0, 0.006, 1_900, START),
        Listing("ADAEUR", "ADAEUR", "ADA/EUR", "ADA", "ZEUR", 6, 0.355, 55.0, 1_200, START),
    ),
    NOW,
)
INTERVALS = (Interval.M1, Interval.H1)
Asked = Counter[tuple[Any, ...]]


class Watched(DemoExchange):
    """An exchange at which something happens when so many pages of trades have been asked for, before the answer."""

    def __init__(self, **at_page: Callable[[], object]) -> None:
        super().__init__(WORLD)
        self._due = {int(name.removeprefix("page")): happens for name, happens in at_page.items()}
        self._pages = 0

    def answer(self, endpoint: str, params: Mapping[str, str], caller: str) -> Any:
        if endpoint == "Trades" and params["count"] != "1":
            self._pages += 1
            if (happens := self._due.pop(self._pages, None)) is not None:
                happens()
        return super().answer(endpoint, params, caller)

    @property
    def asked(self) -> Asked:
        """How often each thing was asked for."""
        return Counter((each.endpoint, *sorted(each.params.items())) for each in self.requests)

    @property
    def has_happened(self) -> bool:
        """Whether all that was to happen did."""
        return not self._due


def fill(stores: Stores, number: int = 1) -> BackfillOutcome:
    spec = run_spec(pairs=PAIRS, intervals=INTERVALS, complete=True)
    return backfill(stores, spec, RunContext(f"run-{number}", NOW))


def assert_complete(stores: Stores, done: BackfillOutcome) -> None:
    """Every candle that there was, once, and known to be all."""
    assert (done.failed, done.notes, done.gaps) == ((), (), ())
    for pair in PAIRS:
        for interval in INTERVALS:
            end = interval.floor(NOW)
            assert stored(stores, pair, interval) == oracle(pair, interval, 0, end, WORLD), (pair, interval)
            (whole,) = covered(stores, pair, interval)
            assert whole.end == end
    true = sum(len(oracle(pair, interval, 0, interval.floor(NOW), WORLD)) for pair in PAIRS for interval in INTERVALS)
    assert sum(each.candles_stored for each in done.filled) == true, "none was stored twice"


def assert_asked_once(exchange: Watched, undisturbed: Asked) -> None:
    """Nothing that an undisturbed run does not ask for, and nothing more often, but for one page at the most."""
    assert exchange.asked.keys() == undisturbed.keys()
    again = exchange.asked - undisturbed
    assert again.total() <= 1, again
    assert {each[0] for each in again} <= {"Trades"}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was warned of, each by its word."""
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return [next((word for word in ("is down", "answers again") if word in each), each) for each in said]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis that no other test has."""
    need(Redis)
    with Redis(tmp_path_factory.mktemp("redis-of-its-own")) as server:
        yield server


@pytest.fixture
def url(server: Redis, monkeypatch: pytest.MonkeyPatch) -> str:
    """It is there, empty, and every call finds out at once that it is back."""
    monkeypatch.setattr(redis_cache, "PAUSE_SECONDS", 0.0)
    server.start()
    server.clear()
    return server.url


@pytest.fixture(scope="module")
def undisturbed(server: Redis, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """What a backfill asks for to which nothing happens."""
    server.start()
    with Watched() as exchange, at(exchange, tmp_path_factory.mktemp("home"), kraken_cache_url=server.url) as stores:
        assert_complete(stores, fill(stores))
        pages = [each for each in exchange.asked if each[0] == "Trades" and ("count", "1000") in each]
        assert len(pages) >= 8
        assert set(exchange.asked.values()) == {1}
        return exchange.asked


def test_a_redis_that_is_killed_and_comes_back_in_the_same_backfill_costs_nothing(
    home: Path, server: Redis, url: str, undisturbed: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    # Killed while a page is being asked for: the lock of that page is held there, and its reply is to be kept there.
    with Watched(page3=server.kill, page6=server.start) as exchange, at(exchange, home, kraken_cache_url=url) as stores:
        done = fill(stores)
        assert exchange.has_happened
        assert_complete(stores, done)
        assert_asked_once(exchange, undisturbed)
        assert warnings(caplog) == ["is down", "answers again"]
        assert url.rpartition("@")[2] in caplog.text
        assert server.password not in caplog.text

        kept = lake_of(stores)
        fill(stores, 2)
        assert exchange.asked.total() <= undisturbed.total() + 3, "a status, and a list that went with Redis"
        assert lake_of(stores) == kept


def test_a_redis_that_goes_away_for_good_is_done_without(
    home: Path, server: Redis, url: str, undisturbed: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    with Watched(page2=server.kill) as exchange, at(exchange, home, kraken_cache_url=url) as stores:
        done = fill(stores)
        assert exchange.has_happened
        assert_complete(stores, done)
        assert_asked_once(exchange, undisturbed)
        assert warnings(caplog) == ["is down"]


def test_a_backfill_does_without_a_redis_that_was_never_there(
    home: Path, server: Redis, url: str, undisturbed: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    server.kill()
    with Watched() as exchange, at(exchange, home, kraken_cache_url=url) as stores:
        done = fill(stores)
        assert_complete(stores, done)
        assert exchange.asked == undisturbed
        assert warnings(caplog) == ["is down"]
        # What the embedded level keeps serves as Redis would have served.
        asked = exchange.asked
        with connected(stores) as asking:
            asking.listed_pairs()
        assert exchange.asked == asked


def test_one_that_is_away_at_first_is_used_from_when_it_comes(
    home: Path, server: Redis, url: str, undisturbed: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    server.kill()
    with Watched(page4=server.start) as exchange, at(exchange, home, kraken_cache_url=url) as stores:
        done = fill(stores)
        assert exchange.has_happened
        assert_complete(stores, done)
        assert_asked_once(exchange, undisturbed)
        assert warnings(caplog) == ["is down", "answers again"]
        with connected(stores) as asking:
            asking.listed_pairs()
        with redis.Redis.from_url(url) as client:
            keys = [key.decode() for key in client.scan_iter() if not key.startswith(b"_lock")]
        assert any(":history:Trades:" in key for key in keys), keys
