from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

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
)
from kraken_pipeline.demo.listing import DAY, demo_listings
from kraken_pipeline.demo.world import SECOND_NS, World
from kraken_pipeline.errors import (
    CircuitOpen,
    ExchangeRefused,
    ExchangeUnavailable,
    Maintenance,
    PipelineError,
    UnusableReply,
)
from kraken_pipeline.kraken.client import Client
from kraken_pipeline.kraken.exchange import Exchange, Lifetimes, ListedPairs
from kraken_pipeline.kraken.trades import FULL_PAGE
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.listed_state import ListedState
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.exchange_state.breaker import Breaker, BreakerState
from kraken_pipeline.storage.exchange_state.counters import Counters, totals
from kraken_pipeline.storage.exchange_state.limiter import Limiter
from kraken_pipeline.storage.reply_cache.cache import Cache
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.backfill.circuit import breaker_of
from kraken_pipeline.workflow.backfill.exchange import connected
from kraken_pipeline_tests.support.homes import oracle, settings_of, spans, values

pytestmark = pytest.mark.slow

NOW = 1_762_820_224  # 2025-11-11 00:17:04 UTC, as in the recordings
START = NOW // DAY * DAY - 40 * DAY
HOUR = NOW // 3_600 * 3_600
WORLD = World(3, demo_listings(START), NOW)
STOCK = WORLD.listings["AAPLxUSD"]
HOURS = Series("XBTUSD", Interval.H1)
MINUTES = Series("XBTUSD", Interval.M1)
PATIENCE_S = 30
DOWN = HttpStatus(503)
OLD_NS, RECENT_NS = START * SECOND_NS, (NOW - 3_600) * SECOND_NS
"""From where on a page is full, and from where on it is not."""

Rewrite = Callable[[str, Any], Any]


class FakeClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Rewriting(DemoExchange):
    """An exchange whose results are rewritten on their way: (endpoint, result) → result."""

    def __init__(self, rewrite: Rewrite) -> None:
        super().__init__(WORLD)
        self._rewrite = rewrite

    def answer(self, endpoint: str, params: Mapping[str, str], caller: str) -> Any:
        answer = super().answer(endpoint, params, caller)
        reply = json.loads(answer.body)
        reply["result"] = self._rewrite(endpoint, reply["result"])
        return replace(answer, body=json.dumps(reply).encode())


@contextmanager
def built(
    stores: Stores,
    server: DemoExchange,
    clock: FakeClock | None = None,
    lifetimes: Lifetimes | None = None,
    on_list: Callable[[ListedPairs], None] = lambda _: None,
) -> Iterator[Exchange]:
    """An exchange that asks once, quickly, and whose cache may have a clock of its own."""
    counters = Counters(stores.catalog)
    limiter, breaker = Limiter(stores.catalog, 1_000), Breaker(stores.catalog, 1_000)
    client = Client(
        server.url, limiter=limiter, breaker=breaker, counters=counters, attempts=1, timeout=PATIENCE_S, first_wait=0
    )
    cache = Cache(stores.settings.home / "cache", "test", 64 << 20, counters, clock=clock or time.time)
    with closing(Exchange(client, cache, lifetimes or Lifetimes(), on_list=on_list)) as exchange:
        yield exchange


def asked(server: DemoExchange, endpoint: str) -> list[dict[str, str]]:
    """The queries of an endpoint, in their order."""
    return [dict(each.params) for each in server.requests if each.endpoint == endpoint]


def always(effect: Effect, endpoint: str | None = None) -> Fault:
    return Fault(effect, endpoint=endpoint, times=None)


class TestStatus:
    def test_the_clock_is_that_of_the_status(self, stores: Stores) -> None:
        clock = FixedClock(NOW)
        with DemoExchange(WORLD, clock=clock) as server, built(stores, server) as exchange:
            assert exchange.require_online().status == "online"
            assert NOW <= exchange.now() < NOW + PATIENCE_S
            clock.advance(7_200)
            assert exchange.now() < NOW + PATIENCE_S, "it runs on from the last status"
            exchange.require_online()
            assert NOW + 7_200 <= exchange.now() < NOW + 7_200 + PATIENCE_S
            assert len(server.requests) == 2

    def test_it_runs_on_between_two_questions(self, stores: Stores) -> None:
        with DemoExchange(WORLD) as server, built(stores, server) as exchange:
            moments = [exchange.now() for _ in range(3)]
            assert moments == sorted(moments)
            assert [each.endpoint for each in server.requests] == ["SystemStatus"], (
                "asked for once, by whoever is first"
            )

    @pytest.mark.parametrize("status", ["cancel_only", "post_only"])
    def test_market_data_is_served_while_nobody_can_trade(self, stores: Stores, status: str) -> None:
        faults = [always(SystemState(status), "SystemStatus")]
        with DemoExchange(WORLD, faults=faults) as server, built(stores, server) as exchange:
            assert exchange.require_online().status == status
            assert exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR).candles["trade_count"].sum() > 0

    def test_a_status_that_nobody_knows_stops_nothing_and_is_told(self, stores: Stores) -> None:
        faults = [always(SystemState("resting"), "SystemStatus")]
        with DemoExchange(WORLD, faults=faults) as server, built(stores, server) as exchange:
            for _ in range(2):
                assert exchange.require_online().status == "resting"
            (warning,) = exchange.warnings
            assert warning.startswith("Kraken's status is 'resting', which is unknown")

    def test_maintenance_is_an_error_of_its_own_and_is_not_asked_about_again(self, home: Path) -> None:
        with (
            DemoExchange(WORLD, faults=[Fault(SystemState("maintenance"))]) as server,
            opened(settings_of(home, kraken_api_url=server.url)) as stores,
            connected(stores) as exchange,
        ):
            with pytest.raises(Maintenance):
                exchange.require_online()
            assert len(server.requests) == 1
            assert breaker_of(stores).record().failures == 0
            assert exchange.require_online().status == "online"

    def test_who_asks_for_the_time_in_maintenance_hears_of_it(self, stores: Stores) -> None:
        with (
            DemoExchange(WORLD, faults=[Fault(SystemState("maintenance"))]) as server,
            built(stores, server) as exchange,
            pytest.raises(Maintenance),
        ):
            exchange.now()

    @pytest.mark.parametrize(
        ("effect", "kind"),
        [(DOWN, ExchangeUnavailable), (Refusal("EGeneral:Unknown method"), ExchangeRefused)],
        ids=str,
    )
    def test_without_a_status_there_is_no_time(self, stores: Stores, effect: Effect, kind: type[PipelineError]) -> None:
        with DemoExchange(WORLD, faults=[Fault(effect)]) as server, built(stores, server) as exchange:
            with pytest.raises(kind):
                exchange.now()
            assert NOW <= exchange.now() < NOW + PATIENCE_S


class TestPairs:
    def test_currencies_and_tokenized_stocks_are_asked_for_and_kept(self, stores: Stores) -> None:
        with DemoExchange(WORLD) as server:
            for _ in range(2):  # the second one is another process, on the same home
                with built(stores, server) as exchange:
                    for _ in range(2):
                        listed = exchange.listed_pairs()
                        assert not listed.is_stale
                        assert listed.tokenized == {"AAPLxUSD"}
                        assert len(listed.book) == 5
                        assert listed.book.key(listed.book.resolve("XBT/USD")) == "XXBTZUSD"
            assert asked(server, "AssetPairs") == [{}, {"aclass_base": "tokenized_asset"}]

    def test_the_list_is_kept_for_a_day(self, stores: Stores) -> None:
        clock = FakeClock()
        with DemoExchange(WORLD) as server, built(stores, server, clock) as exchange:
            for hours, requests in ((0, 2), (23.99, 2), (24.01, 4), (30, 4)):
                clock.now = time.time() + hours * 3_600
                exchange.listed_pairs()
                assert len(server.requests) == requests

    def test_what_changes_is_seen_when_the_list_is_asked_for_anew(self, stores: Stores) -> None:
        clock, servers = FakeClock(), FixedClock(NOW)
        gone = replace(WORLD.listings["XDGUSD"], delisted=NOW + 1)
        others = [each for each in demo_listings(START) if each.name != gone.name]
        with (
            DemoExchange(World(3, [gone, *others], NOW), clock=servers) as server,
            built(stores, server, clock) as exchange,
        ):
            pair = exchange.listed_pairs().book.resolve("XDGUSD")
            servers.advance(1)
            assert pair in exchange.listed_pairs().book
            clock.now += DAY
            assert pair not in exchange.listed_pairs().book

    def test_an_old_list_serves_while_there_is_no_answer_and_says_so(self, stores: Stores) -> None:
        clock = FakeClock()
        with DemoExchange(WORLD) as server, built(stores, server, clock) as exchange:
            assert not exchange.listed_pairs().is_stale
            clock.now += 2 * DAY
            server.inject(Fault(DOWN, endpoint="AssetPairs", times=4))
            stale = exchange.listed_pairs()
            assert (stale.is_stale, len(stale.book)) == (True, 5)
            with built(stores, server, clock) as other:
                assert other.listed_pairs().is_stale
            assert not exchange.listed_pairs().is_stale, "the exchange answers again"

    @pytest.mark.parametrize("after", [0, 1])
    def test_half_a_list_is_no_list_and_is_not_kept(self, stores: Stores, after: int) -> None:
        faults = [Fault(DOWN, endpoint="AssetPairs", after=after)]
        with DemoExchange(WORLD, faults=faults) as server, built(stores, server) as exchange:
            with pytest.raises(ExchangeUnavailable, match="AssetPairs"):
                exchange.listed_pairs()
            assert len(exchange.listed_pairs().book) == 5
            # The half that came is kept, and not asked for again.
            assert asked(server, "AssetPairs")[1 + after :] == [{}, {"aclass_base": "tokenized_asset"}][after:]

    def test_a_list_says_of_each_pair_what_its_entry_does(self, stores: Stores) -> None:
        with DemoExchange(WORLD) as server, built(stores, server) as exchange:
            listed = exchange.listed_pairs()
        assert set(listed.states) == set(listed.book)
        xbt = ListedState("XXBTZUSD", "XBTUSD", "XBT/USD", "XBT", "USD", "online", is_tokenized=False)
        assert listed.states["XBTUSD"] == xbt
        assert listed.states["AAPLxUSD"].is_tokenized
        assert listed.newest_at >= listed.made_at > 0

    def test_each_list_is_told_once_and_one_that_is_partly_kept_is_as_new_as_its_newest_part(
        self, stores: Stores
    ) -> None:
        clock, told = FakeClock(), list[ListedPairs]()
        with DemoExchange(WORLD) as server, built(stores, server, clock, on_list=told.append) as exchange:
            for _ in range(3):
                exchange.listed_pairs()
            (first,) = told
            clock.now += 2 * DAY
            server.inject(Fault(Refusal("EGeneral:Permission denied"), endpoint="AssetPairs", after=1))
            exchange.listed_pairs()
            exchange.listed_pairs()
        _, second = told
        assert (first.is_whole, second.is_whole) == (True, True)
        assert second.newest_at - first.newest_at >= DAY
        assert second.made_at < second.newest_at, "the class that was refused is the one of the first list"
        assert second.states == first.states

    def test_there_may_be_no_tokenized_stocks(self, stores: Stores) -> None:
        with DemoExchange(World(3, demo_listings(START)[:4], NOW)) as server, built(stores, server) as exchange:
            listed = exchange.listed_pairs()
            assert (len(listed.book), listed.tokenized) == (4, frozenset())

    def test_a_list_without_a_currency_is_an_error_and_not_kept(self, stores: Stores) -> None:
        with DemoExchange(World(3, [STOCK], NOW)) as server, built(stores, server) as exchange:
            for _ in range(2):
                with pytest.raises(UnusableReply, match="no pair at all"):
                    exchange.listed_pairs()
            assert len(server.requests) == 2

    @pytest.mark.parametrize("effect", [Refusal("EGeneral:Permission denied"), Refusal("EGeneral:Invalid arguments")])
    def test_a_class_that_is_refused_stays_as_it_was_known(self, stores: Stores, effect: Effect) -> None:
        clock = FakeClock()
        with DemoExchange(WORLD) as server:
            with built(stores, server, clock) as exchange:
                exchange.listed_pairs()
            clock.now += 2 * DAY
            server.inject(Fault(effect, endpoint="AssetPairs", after=1))
            with built(stores, server, clock) as exchange:
                for _ in range(3):
                    listed = exchange.listed_pairs()
                    assert (len(listed.book), listed.is_whole) == (5, True)
                    assert listed.tokenized == {"AAPLxUSD"}
                (warning,) = exchange.warnings
                assert warning.startswith(
                    "The pairs of the class tokenized_asset keep their last known state: Kraken refused"
                )
                assert len(asked(server, "AssetPairs")) == 4, "it is asked for once by each run"
                assert exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR).candles["trade_count"].sum() > 0

    def test_a_class_that_has_become_empty_stays_as_it_was_known(self, stores: Stores) -> None:
        clock, is_empty = FakeClock(), False

        def rewrite(endpoint: str, result: Any) -> Any:
            return {} if is_empty and endpoint == "AssetPairs" and "AAPLxUSD" in result else result

        with Rewriting(rewrite) as server:
            with built(stores, server, clock) as exchange:
                assert len(exchange.listed_pairs().book) == 5
            is_empty = True
            clock.now += 2 * DAY
            with built(stores, server, clock) as exchange:
                assert len(exchange.listed_pairs().book) == 5
                assert len(exchange.warnings) == 1

    def test_a_class_that_is_refused_and_was_never_known_says_of_no_pair_that_it_is_not_listed(
        self, stores: Stores
    ) -> None:
        faults = [Fault(Refusal("EGeneral:Permission denied"), endpoint="AssetPairs", after=1, times=None)]
        with DemoExchange(WORLD, faults=faults) as server, built(stores, server) as exchange:
            listed = exchange.listed_pairs()
            assert (len(listed.book), listed.tokenized, listed.is_whole) == (4, frozenset(), False)
            assert not listed.lacks(parse_pair("AAPLxUSD"))

    def test_an_entry_that_cannot_be_read_takes_no_other_along(self, stores: Stores) -> None:
        odd = {
            "XXBTZUSD": {"altname": "XBTUSD"},
            "FOOUSD": {"altname": "FOOUSD", "wsname": None, "base": "FOO", "quote": "ZUSD"},
            "币安USD": {"altname": "币安USD", "wsname": "币安/USD", "base": "币安", "quote": "ZUSD"},
            "NONE": None,
        }

        def rewrite(endpoint: str, result: Any) -> Any:
            return {**result, **odd} if endpoint == "AssetPairs" else result

        with Rewriting(rewrite) as server, built(stores, server) as exchange:
            listed = exchange.listed_pairs()
            assert len(listed.book) == 4
            (warning,) = exchange.warnings
            assert warning.startswith("4 entries of AssetPairs cannot be read and are skipped: AssetPairs: XXBTZUSD")
            assert not listed.lacks(parse_pair("XBTUSD")), "it is listed, whatever else is said of it"
            assert listed.lacks(parse_pair("BARUSD"))
            series = Series("ETHUSD", Interval.H1)
            assert exchange.ohlc(series, HOUR - 7_200, until=HOUR).candles["trade_count"].sum() > 0

    @pytest.mark.parametrize("is_first", [False, True])
    def test_another_venue_does_not_shadow_the_main_book(self, stores: Stores, is_first: bool) -> None:
        def rewrite(endpoint: str, result: Any) -> Any:
            if endpoint != "AssetPairs":
                return result
            main = WORLD.listings["XBTUSD"].asset_pair()
            other = {
                "XBTUSD:BTNL": {**main, "wsname": "XBT/USD:BTNL", "execution_venue": "bitnomial_exchange"},
                "XBTUSD": {**main, "execution_venue": "bitnomial_exchange"},
            }
            return {**other, **result} if is_first else {**result, **other}

        with Rewriting(rewrite) as server, built(stores, server) as exchange:
            book = exchange.listed_pairs().book
            assert len(book) == 5
            assert book.key(book.resolve("XBTUSD")) == "XXBTZUSD"
            assert exchange.warnings == ()
            assert exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR).candles["trade_count"].sum() > 0

    def test_fees_and_limits_are_not_kept(self, stores: Stores) -> None:
        with DemoExchange(WORLD) as server, built(stores, server) as exchange:
            exchange.listed_pairs()
        content = Cache(stores.settings.home / "cache", "test", 64 << 20, Counters(stores.catalog)).stats()
        assert (content.keys, content.size < 500) == (2, True)


class TestOhlc:
    @pytest.mark.parametrize("pair", ["XBTUSD", "ADAEUR", "AAPLxUSD"])
    def test_the_committed_candles_are_those_that_happened(self, stores: Stores, pair: str) -> None:
        with DemoExchange(WORLD) as server, built(stores, server) as exchange:
            for interval in (Interval.M1, Interval.H1, Interval.D1):
                end = interval.floor(NOW)
                start = end - 20 * interval.seconds
                reply = exchange.ohlc(Series(pair, interval), start, until=NOW)
                truth = oracle(pair, interval, start, end, WORLD)
                assert values(reply.candles) == truth
                assert reply.listed == spans((max(start, interval.floor(WORLD.listings[pair].first_trade)), end))
                assert (reply.committed, reply.rejects) == (end, ())
                assert reply.candles["trade_count"].sum() == sum(row[-1] for row in truth)

    @pytest.mark.parametrize(("start", "first"), [(HOUR - 7_200, -2), (HOUR - 7_199, -1), (HOUR - 3_601, -1)])
    def test_it_begins_with_the_first_candle_that_starts_at_the_moment_or_after(
        self, stores: Stores, start: int, first: int
    ) -> None:
        with DemoExchange(WORLD) as server, built(stores, server) as exchange:
            reply = exchange.ohlc(HOURS, start, until=HOUR)
            assert reply.listed == spans((HOUR + first * 3_600, HOUR))
            (params,) = asked(server, "OHLC")
            since = str(HOUR + first * 3_600 - 1)  # exclusive
            assert params == {"pair": "XBTUSD", "interval": "60", "since": since}

    @pytest.mark.parametrize("start", [0, START])
    def test_it_reaches_back_720_candles_and_says_so(self, stores: Stores, start: int) -> None:
        with DemoExchange(WORLD) as server, built(stores, server) as exchange:
            reply = exchange.ohlc(HOURS, start, until=HOUR)
            assert reply.listed == spans((HOUR - 720 * 3_600, HOUR))
            assert int(asked(server, "OHLC")[0]["since"]) >= 0

    def test_what_reaches_far_enough_serves_again_also_for_others(self, stores: Stores) -> None:
        with DemoExchange(WORLD) as server:
            replies = []
            for _ in range(2):
                with built(stores, server) as exchange:
                    for until in (HOUR - 3_600, HOUR, HOUR + 3_599):
                        replies.append(exchange.ohlc(HOURS, HOUR - 7_200, until=until))  # noqa: PERF401
            assert len(asked(server, "OHLC")) == 1
            assert {reply.listed for reply in replies} == {spans((HOUR - 7_200, HOUR))}

    def test_what_ends_before_is_asked_for_anew(self, stores: Stores) -> None:
        clock = FixedClock(NOW)
        with DemoExchange(WORLD, clock=clock) as server, built(stores, server) as exchange:
            exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR)
            clock.advance(3_600)
            assert exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR).committed == HOUR
            assert exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR + 3_600).committed == HOUR + 3_600
            assert exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR).committed == HOUR + 3_600, "the newer one is kept"
            assert len(asked(server, "OHLC")) == 2

    def test_a_reply_that_does_not_reach_far_enough_is_given_all_the_same(self, stores: Stores) -> None:
        with DemoExchange(WORLD) as server, built(stores, server) as exchange:
            for _ in range(2):
                assert exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR + DAY).committed == HOUR
            assert len(asked(server, "OHLC")) == 2

    def test_another_start_interval_or_pair_is_another_reply(self, stores: Stores) -> None:
        with DemoExchange(WORLD) as server, built(stores, server) as exchange:
            for series, start in (
                (HOURS, HOUR - 7_200),
                (HOURS, HOUR - 3_600),
                (Series("XBTUSD", Interval.M30), HOUR - 7_200),
                (Series("ETHUSD", Interval.H1), HOUR - 7_200),
            ):
                assert exchange.ohlc(series, start, until=HOUR).listed[0].start == start
            assert len(asked(server, "OHLC")) == 4

    def test_a_fresh_one_is_asked_for_whatever_is_kept_and_is_kept_itself(self, stores: Stores) -> None:
        clock = FixedClock(NOW)
        with DemoExchange(WORLD, clock=clock) as server, built(stores, server) as exchange:
            exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR)
            clock.advance(3_600)
            fresh = exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR, is_fresh=True)
            assert fresh.committed == HOUR + 3_600
            assert exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR).committed == HOUR + 3_600
            assert len(asked(server, "OHLC")) == 2

    def test_a_fresh_one_that_fails_is_not_replaced_by_what_is_kept(self, stores: Stores) -> None:
        with DemoExchange(WORLD) as server, built(stores, server) as exchange:
            exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR)
            server.inject(Fault(DOWN))
            with pytest.raises(ExchangeUnavailable, match="HTTP 503"):
                exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR, is_fresh=True)

    @pytest.mark.parametrize(("series", "lifetime"), [(MINUTES, 60), (HOURS, 300)], ids=str)
    def test_minutes_serve_for_a_minute_and_others_for_five(
        self, stores: Stores, series: Series, lifetime: float
    ) -> None:
        clock = FakeClock()
        begun = clock()
        with DemoExchange(WORLD) as server, built(stores, server, clock) as exchange:
            for age, requests in ((0, 1), (lifetime - 1, 1), (lifetime, 2)):
                clock.now = begun + age
                exchange.ohlc(series, HOUR - 7_200, until=HOUR)
                assert len(asked(server, "OHLC")) == requests

    def test_an_old_reply_serves_when_there_is_no_answer_if_it_reaches_far_enough(self, stores: Stores) -> None:
        clock = FakeClock()
        with DemoExchange(WORLD) as server, built(stores, server, clock) as exchange:
            first = exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR)
            clock.now += 3_600
            server.inject(always(DOWN))
            assert exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR).listed == first.listed
            with pytest.raises(ExchangeUnavailable, match="HTTP 503"):
                exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR + 3_600)

    @pytest.mark.parametrize(
        ("effect", "kind"),
        [
            (HttpStatus(520), ExchangeUnavailable),
            (Reset(), ExchangeUnavailable),
            (HalfBody(), ExchangeUnavailable),
            (Refusal("EService:Busy"), ExchangeUnavailable),
            (Refusal("EGeneral:Too many requests"), ExchangeUnavailable),
            (Refusal("EQuery:Unknown asset pair"), ExchangeRefused),
            (Tampering.NO_ROWS, ExchangeUnavailable),
            (Tampering.LAST_MISSING, UnusableReply),
        ],
        ids=str,
    )
    def test_an_error_is_raised_and_never_kept(self, stores: Stores, effect: Effect, kind: type[PipelineError]) -> None:
        faults = [Fault(effect, endpoint="OHLC", times=2)]
        with DemoExchange(WORLD, faults=faults) as server, built(stores, server) as exchange:
            for is_fresh in (True, False):
                with pytest.raises(kind, match="OHLC"):
                    exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR, is_fresh=is_fresh)
            assert exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR).listed == spans((HOUR - 7_200, HOUR))
            assert len(asked(server, "OHLC")) == 3

    def test_a_last_of_zero_answers_for_nothing(self, stores: Stores) -> None:
        faults = [Fault(Tampering.LAST_ZERO, endpoint="OHLC")]
        with DemoExchange(WORLD, faults=faults) as server, built(stores, server) as exchange:
            assert exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR).listed == ()
            assert exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR).listed == spans((HOUR - 7_200, HOUR))

    @pytest.mark.parametrize("key", ["XBTUSD", "BTC/USD", "whatever"])
    def test_a_reply_under_another_key_is_read_and_told(self, stores: Stores, key: str) -> None:
        def rewrite(endpoint: str, result: Any) -> Any:
            return {key: result["XXBTZUSD"], "last": result["last"]} if endpoint in ("OHLC", "Trades") else result

        with Rewriting(rewrite) as server, built(stores, server) as exchange:
            assert exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR).candles["trade_count"].sum() > 0
            assert exchange.trades("XBTUSD", RECENT_NS).rows
            assert exchange.warnings == (f"The replies about XBTUSD have changed their key from XXBTZUSD to {key}.",)

    @pytest.mark.parametrize("key", ["XETHZUSD", "ETHUSD", "ETH/USD"])
    def test_a_reply_about_another_pair_is_unusable(self, stores: Stores, key: str) -> None:
        def rewrite(endpoint: str, result: Any) -> Any:
            return {key: result["XXBTZUSD"], "last": result["last"]} if endpoint == "OHLC" else result

        with (
            Rewriting(rewrite) as server,
            built(stores, server) as exchange,
            pytest.raises(UnusableReply, match=f"OHLC of XBTUSD 60: the result is about {key}"),
        ):
            exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR)

    def test_a_pair_that_is_not_listed_is_refused(self, stores: Stores) -> None:
        with (
            DemoExchange(WORLD) as server,
            built(stores, server) as exchange,
            pytest.raises(ExchangeRefused, match=r"pair=NOSUCHUSD .*EQuery:Unknown asset pair"),
        ):
            exchange.ohlc(Series("NOSUCHUSD", Interval.H1), HOUR - 7_200, until=HOUR)

    def test_a_pair_that_has_not_been_traded_yet_has_no_answer(self, stores: Stores) -> None:
        world = World(3, [*demo_listings(START)[:4], replace(STOCK, first_trade=NOW + DAY)], NOW)
        with (
            DemoExchange(world) as server,
            built(stores, server) as exchange,
            pytest.raises(ExchangeUnavailable, match="OHLC of AAPLxUSD 60: the reply has no row"),
        ):
            exchange.ohlc(Series("AAPLxUSD", Interval.H1), HOUR - 7_200, until=HOUR)


class TestTrades:
    def test_a_page_is_what_was_traded_from_then_on(self, stores: Stores) -> None:
        truth = WORLD.trades("XBTUSD", RECENT_NS, NOW * SECOND_NS)
        with DemoExchange(WORLD) as server, built(stores, server) as exchange:
            page = exchange.trades("XBTUSD", RECENT_NS)
            assert asked(server, "Trades") == [{"pair": "XBTUSD", "since": str(RECENT_NS), "count": str(FULL_PAGE)}]
        assert [row[6] for row in page.rows] == truth["id"].to_list()
        assert [row[0] for row in page.rows] == truth["price"].to_list()
        assert page.last == truth["time"][-1]
        assert page.asked == f"Trades of XBTUSD since {RECENT_NS}"
        assert NOW <= page.asked_at < NOW + PATIENCE_S

    def test_full_pages_are_kept_also_for_others(self, stores: Stores) -> None:
        with DemoExchange(WORLD) as server:
            pages = []
            for _ in range(2):
                with built(stores, server) as exchange:
                    pages += [exchange.trades("XBTUSD", OLD_NS) for _ in range(2)]
            assert len(asked(server, "Trades")) == 1
        assert all(len(page.rows) == FULL_PAGE for page in pages)
        assert all((page.rows, page.last) == (pages[0].rows, pages[0].last) for page in pages)

    @pytest.mark.parametrize("since", [RECENT_NS, NOW * SECOND_NS])
    def test_a_page_that_may_become_longer_is_asked_for_anew(self, stores: Stores, since: int) -> None:
        clock = FixedClock(NOW)
        with DemoExchange(WORLD, clock=clock) as server, built(stores, server) as exchange:
            before = exchange.trades("XBTUSD", since)
            clock.advance(3_600)
            after = exchange.trades("XBTUSD", since)
            assert len(asked(server, "Trades")) == 2
        assert len(before.rows) < len(after.rows) < FULL_PAGE
        assert list(after.rows[: len(before.rows)]) == list(before.rows)

    def test_another_moment_or_pair_is_another_page(self, stores: Stores) -> None:
        with DemoExchange(WORLD) as server, built(stores, server) as exchange:
            pages = [
                exchange.trades(*each) for each in (("XBTUSD", OLD_NS), ("XBTUSD", OLD_NS + 1), ("ETHUSD", OLD_NS))
            ]
            assert len(asked(server, "Trades")) == 3
        assert len({page.rows[0] for page in pages}) == 3

    def test_a_full_page_serves_for_an_hour_and_longer_if_there_is_no_answer(self, stores: Stores) -> None:
        clock = FakeClock()
        begun = clock()
        with DemoExchange(WORLD) as server, built(stores, server, clock) as exchange:
            for age, requests in ((0, 1), (3_599, 1), (3_600, 2)):
                clock.now = begun + age
                page = exchange.trades("XBTUSD", OLD_NS)
                assert len(asked(server, "Trades")) == requests
            clock.now += 3_600
            server.inject(always(DOWN, "Trades"))
            assert exchange.trades("XBTUSD", OLD_NS).rows == page.rows
            assert len(asked(server, "Trades")) == 3

    def test_a_page_that_was_not_full_does_not_stand_in_for_an_answer(self, stores: Stores) -> None:
        with DemoExchange(WORLD) as server, built(stores, server) as exchange:
            exchange.trades("XBTUSD", RECENT_NS)
            server.inject(always(DOWN, "Trades"))
            with pytest.raises(ExchangeUnavailable, match="HTTP 503"):
                exchange.trades("XBTUSD", RECENT_NS)

    @pytest.mark.parametrize("effect", [Tampering.LAST_MISSING, Tampering.LAST_ZERO])
    def test_a_page_may_not_say_its_last_time(self, stores: Stores, effect: Effect) -> None:
        faults = [Fault(effect, endpoint="Trades")]
        with DemoExchange(WORLD, faults=faults) as server, built(stores, server) as exchange:
            page = exchange.trades("XBTUSD", RECENT_NS)
            assert page.last is None
            assert len(page.rows) > 0

    @pytest.mark.parametrize(
        ("effect", "kind"),
        [
            (HttpStatus(520), ExchangeUnavailable),
            (HalfBody(), ExchangeUnavailable),
            (Refusal("EService:Unavailable"), ExchangeUnavailable),
            (Refusal("EQuery:Unknown asset pair"), ExchangeRefused),
        ],
        ids=str,
    )
    def test_an_error_is_raised_and_never_kept(self, stores: Stores, effect: Effect, kind: type[PipelineError]) -> None:
        with (
            DemoExchange(WORLD, faults=[Fault(effect, endpoint="Trades")]) as server,
            built(stores, server) as exchange,
        ):
            with pytest.raises(kind, match="Trades pair=XBTUSD"):
                exchange.trades("XBTUSD", OLD_NS)
            assert len(exchange.trades("XBTUSD", OLD_NS).rows) == FULL_PAGE

    def test_an_answer_that_is_none_is_not_kept(self, stores: Stores) -> None:
        broken = [True]

        def rewrite(endpoint: str, result: Any) -> Any:
            return {"XETHZUSD": result["XXBTZUSD"], "last": "1"} if endpoint == "Trades" and broken else result

        with Rewriting(rewrite) as server, built(stores, server) as exchange:
            with pytest.raises(UnusableReply, match="the result is about XETHZUSD"):
                exchange.trades("XBTUSD", OLD_NS)
            broken.clear()
            assert len(exchange.trades("XBTUSD", OLD_NS).rows) == FULL_PAGE


class TestFirstTrade:
    def test_it_is_the_start_of_the_minute(self, stores: Stores) -> None:
        with DemoExchange(WORLD) as server, built(stores, server) as exchange:
            assert exchange.first_trade("XBTUSD") == START
            assert exchange.first_trade("AAPLxUSD") == STOCK.first_trade // 60 * 60 < STOCK.first_trade
            assert asked(server, "Trades")[0] == {"pair": "XBTUSD", "since": "0", "count": "1"}

    def test_a_pair_without_a_trade_has_none_yet_and_is_asked_about_again(self, stores: Stores) -> None:
        clock = FixedClock(NOW)
        coming = replace(STOCK, first_trade=NOW + DAY)
        world = World(3, [*demo_listings(START)[:4], coming], NOW)
        with DemoExchange(world, clock=clock) as server, built(stores, server) as exchange:
            assert exchange.first_trade("AAPLxUSD") is None
            clock.advance(DAY + 60)
            assert exchange.first_trade("AAPLxUSD") == Interval.M1.floor(coming.first_trade)

    @pytest.mark.parametrize(
        ("effect", "kind"),
        [(DOWN, ExchangeUnavailable), (Refusal("EQuery:Unknown asset pair"), ExchangeRefused)],
        ids=str,
    )
    def test_an_error_is_not_no_trade(self, stores: Stores, effect: Effect, kind: type[PipelineError]) -> None:
        faults = [Fault(effect, endpoint="Trades")]
        with DemoExchange(WORLD, faults=faults) as server, built(stores, server) as exchange, pytest.raises(kind):
            exchange.first_trade("XBTUSD")


def test_the_class_is_told_of_tokenized_stocks_and_of_no_other_pair(stores: Stores) -> None:
    with DemoExchange(WORLD) as server, built(stores, server) as exchange:
        for pair in ("AAPLxUSD", "XBTUSD"):
            exchange.ohlc(Series(pair, Interval.H1), HOUR - 7_200, until=HOUR)
            exchange.trades(pair, RECENT_NS)
            exchange.first_trade(pair)
        classes = [
            (each.pair, each.params.get("asset_class"))
            for each in server.requests
            if each.endpoint in ("OHLC", "Trades")
        ]
    assert classes == [("AAPLxUSD", "tokenized_asset")] * 3 + [("XBTUSD", None)] * 3


class TestConnected:
    def test_what_was_counted_is_written_at_the_end_also_of_what_fails(self, home: Path) -> None:
        names = ("api.requests", "api.errors", "api.retries", "cache.cold", "cache.hits")
        with (
            DemoExchange(WORLD, faults=[Fault(DOWN, endpoint="OHLC", times=2)]) as server,
            opened(settings_of(home, kraken_api_url=server.url, kraken_api_attempts=2)) as stores,
        ):
            with pytest.raises(ExchangeUnavailable), connected(stores) as exchange:
                exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR)
            with stores.catalog.read() as connection:
                assert list(totals(connection, names, 0).values()) == [4, 2, 1, 3, 0]
            with connected(stores) as exchange:
                exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR)
                assert exchange.requests == 1, "the list of pairs is known"
            with stores.catalog.read() as connection:
                assert list(totals(connection, names, 0).values()) == [5, 2, 1, 4, 2]

    def test_the_settings_say_how_often_and_for_how_long_it_tries(self, home: Path) -> None:
        with (
            DemoExchange(WORLD, faults=[Fault(Delay(PATIENCE_S), times=2)]) as server,
            opened(
                settings_of(
                    home,
                    kraken_api_url=server.url,
                    kraken_api_attempts=20,
                    kraken_api_timeout_seconds=0.2,
                    kraken_breaker_failures=20,
                )
            ) as stores,
            connected(stores) as exchange,
        ):
            assert exchange.require_online().status == "online"
            assert [each.outcome for each in server.requests].count("delay") == 2

    def test_the_settings_say_when_the_breaker_opens_and_others_see_it(self, home: Path) -> None:
        with (
            DemoExchange(WORLD, faults=[always(DOWN)]) as server,
            opened(settings_of(home, kraken_api_url=server.url, kraken_breaker_failures=2)) as stores,
        ):
            for _ in range(2):
                with connected(stores) as exchange, pytest.raises(CircuitOpen):
                    exchange.require_online()
            assert len(server.requests) == 2
            assert breaker_of(stores).record().state is BreakerState.OPEN

    def test_the_settings_say_how_long_replies_serve(self, home: Path) -> None:
        nothing = {f"kraken_cache_{name}_seconds": 0 for name in ("prices", "replies", "history")}
        with (
            DemoExchange(WORLD) as server,
            opened(settings_of(home, kraken_api_url=server.url, **nothing)) as stores,
            connected(stores) as exchange,
        ):
            for _ in range(2):
                exchange.ohlc(HOURS, HOUR - 7_200, until=HOUR)
                exchange.ohlc(MINUTES, HOUR - 7_200, until=HOUR)
                exchange.trades("XBTUSD", OLD_NS)
            endpoints = [each.endpoint for each in server.requests]
            assert [endpoints.count(each) for each in ("AssetPairs", "OHLC", "Trades")] == [2, 4, 2]

    def test_two_environments_share_no_reply(self, home: Path) -> None:
        with DemoExchange(WORLD) as server:
            for environment in ("one", "other", "one"):
                settings = settings_of(home, kraken_api_url=server.url, kraken_cache_environment=environment)
                with opened(settings) as stores, connected(stores) as exchange:
                    exchange.listed_pairs()
            assert len(server.requests) == 4
