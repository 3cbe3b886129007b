from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest

from kraken_pipeline.demo.clock import FixedClock, MovingClock
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.exchange import DemoExchange, serve
from kraken_pipeline.demo.listing import DAY, demo_listings
from kraken_pipeline.demo.throttle import Throttle
from kraken_pipeline.demo.world import SECOND_NS, Burst, World
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.interval import INTERVALS, Interval
from kraken_pipeline_tests.demo.asking import PATIENCE_S, ask, ask_for_error

NOW = 1_762_820_224  # 2025-11-11 00:17:04 UTC, as in the recordings
START = NOW // DAY * DAY - 40 * DAY
BURST = Burst("ETHUSD", (NOW - 3_000) * SECOND_NS + 777, 1_500)
KEYS = {"XBTUSD": "XXBTZUSD", "ETHUSD": "XETHZUSD", "XDGUSD": "XDGUSD", "ADAEUR": "ADAEUR", "AAPLxUSD": "AAPLxUSD"}


@pytest.fixture(scope="module")
def world() -> World:
    return World(3, demo_listings(START), NOW, bursts=[BURST])


@pytest.fixture(scope="module")
def exchange(world: World) -> Iterator[DemoExchange]:
    with DemoExchange(world) as running:
        yield running


def ohlc(exchange: DemoExchange, pair: str, interval: int, **params: object) -> tuple[list[list[Any]], int]:
    result = ask(exchange, "OHLC", pair=pair, interval=interval, **params)
    assert list(result) == [KEYS[pair], "last"]
    return result[KEYS[pair]], result["last"]


def trades(exchange: DemoExchange, pair: str, **params: object) -> tuple[list[list[Any]], str]:
    result = ask(exchange, "Trades", pair=pair, **params)
    assert list(result) == [KEYS[pair], "last"]
    return result[KEYS[pair]], result["last"]


def paged(exchange: DemoExchange, pair: str, since: int, count: int = 1_000) -> list[list[Any]]:
    """All trades from an instant on (ns since the epoch), page after page, each once by its id."""
    seen: list[list[Any]] = []
    while True:
        rows, last = trades(exchange, pair, since=since, count=count)
        assert not seen or rows[0][6] <= seen[-1][6], "the last trade comes again"
        fresh = [row for row in rows if not seen or row[6] > seen[-1][6]]
        if not fresh:
            return seen
        seen += fresh
        since = int(last)


class TestTimeAndStatus:
    def test_time_is_that_of_the_clock(self, exchange: DemoExchange) -> None:
        assert ask(exchange, "Time") == {"unixtime": NOW, "rfc1123": "Tue, 11 Nov 25 00:17:04 +0000"}

    def test_the_system_is_online(self, exchange: DemoExchange) -> None:
        assert ask(exchange, "SystemStatus") == {"status": "online", "timestamp": "2025-11-11T00:17:04Z"}

    def test_a_fixed_clock_stands_until_it_is_moved(self, world: World) -> None:
        clock = FixedClock(NOW)
        with DemoExchange(world, clock=clock) as exchange:
            clock.advance(90.5)
            assert ask(exchange, "Time")["unixtime"] == NOW + 90

    def test_a_moving_clock_goes_on_from_another_time(self) -> None:
        clock = MovingClock(NOW)
        first, then = clock(), clock()
        assert NOW * SECOND_NS <= first <= then < (NOW + PATIENCE_S) * SECOND_NS


class TestAssetPairs:
    def test_all_listed_currencies_come_under_their_internal_keys(self, exchange: DemoExchange) -> None:
        result = ask(exchange, "AssetPairs")
        assert {entry["altname"]: key for key, entry in result.items()} | {"AAPLxUSD": "AAPLxUSD"} == KEYS
        assert "AAPLxUSD" not in result
        assert result["XXBTZUSD"]["wsname"] == "XBT/USD"
        assert (result["XXBTZUSD"]["base"], result["XXBTZUSD"]["quote"]) == ("XXBT", "ZUSD")
        assert result["ADAEUR"]["tick_size"] == "0.000001"

    def test_some_can_be_asked_for_in_any_spelling(self, exchange: DemoExchange) -> None:
        assert list(ask(exchange, "AssetPairs", pair="XBT/USD,XDGUSD")) == ["XXBTZUSD", "XDGUSD"]
        assert ask_for_error(exchange, "AssetPairs", pair="XBTUSD,NOSUCH") == "EQuery:Unknown asset pair"

    def test_they_can_be_asked_for_by_class(self, exchange: DemoExchange) -> None:
        assert list(ask(exchange, "AssetPairs", aclass_base="tokenized_asset")) == ["AAPLxUSD"]
        assert ask(exchange, "AssetPairs", aclass_base="currency") == ask(exchange, "AssetPairs")

    def test_a_pair_of_another_class_than_was_asked_for_is_unknown(self, exchange: DemoExchange) -> None:
        unknown = "EQuery:Unknown asset pair"
        assert ask_for_error(exchange, "AssetPairs", pair="AAPLxUSD") == unknown
        assert ask_for_error(exchange, "AssetPairs", pair="XBTUSD", aclass_base="tokenized_asset") == unknown
        assert list(ask(exchange, "AssetPairs", pair="AAPLx/USD", aclass_base="tokenized_asset")) == ["AAPLxUSD"]

    def test_a_delisted_pair_is_unknown_from_then_on_and_a_coming_one_listed_without_trades(self) -> None:
        gone, *others, coming = demo_listings(START)
        gone = replace(gone, delisted=NOW)
        coming = replace(coming, first_trade=NOW + DAY, status="cancel_only")
        clock = FixedClock(NOW - 1)
        with DemoExchange(World(3, [gone, *others, coming], NOW), clock=clock) as exchange:
            assert "XXBTZUSD" in ask(exchange, "AssetPairs")
            clock.advance(1)
            assert "XXBTZUSD" not in ask(exchange, "AssetPairs")
            assert ask_for_error(exchange, "OHLC", pair="XBTUSD") == "EQuery:Unknown asset pair"
            stocks = ask(exchange, "AssetPairs", aclass_base="tokenized_asset")
            assert stocks["AAPLxUSD"]["status"] == "cancel_only"
            assert ohlc(exchange, "AAPLxUSD", 60) == ([], 0)
            assert trades(exchange, "AAPLxUSD", since=0) == ([], "0")
            assert trades(exchange, "AAPLxUSD") == ([], "0")


class TestOHLC:
    @pytest.mark.parametrize("spelling", ["XBTUSD", "XXBTZUSD", "XBT/USD"])
    def test_the_result_is_keyed_by_the_internal_key_whatever_was_asked_for(
        self, exchange: DemoExchange, spelling: str
    ) -> None:
        assert list(ask(exchange, "OHLC", pair=spelling)) == ["XXBTZUSD", "last"]

    @pytest.mark.parametrize("interval", [1, 5, 15, 30])
    def test_a_full_reply_has_720_committed_rows_and_the_current_one_last(
        self, exchange: DemoExchange, interval: int
    ) -> None:
        rows, last = ohlc(exchange, "XBTUSD", interval)
        current = NOW // (60 * interval) * 60 * interval
        assert len(rows) == 721
        assert rows[-1][0] == current
        assert last == rows[-2][0] == current - 60 * interval
        assert [row[0] for row in rows] == list(range(rows[0][0], current + 1, 60 * interval))

    def test_the_interval_is_one_minute_unless_asked_for(self, exchange: DemoExchange) -> None:
        assert ask(exchange, "OHLC", pair="XBTUSD") == ask(exchange, "OHLC", pair="XBTUSD", interval=1)

    @pytest.mark.parametrize("interval", [240, 1440, 10080, 21600])
    def test_before_the_first_trade_there_is_no_row(self, exchange: DemoExchange, interval: int) -> None:
        rows, last = ohlc(exchange, "AAPLxUSD", interval)
        first = demo_listings(START)[-1].first_trade
        assert rows[0][0] == Interval(interval).floor(first)
        assert last == Interval(interval).floor(NOW) - 60 * interval

    def test_weeks_start_on_thursday(self, exchange: DemoExchange) -> None:
        assert {row[0] % 604_800 for row in ohlc(exchange, "XBTUSD", 10080)[0]} == {0}

    def test_since_is_exclusive(self, exchange: DemoExchange) -> None:
        rows, last = ohlc(exchange, "XBTUSD", 5)
        assert ohlc(exchange, "XBTUSD", 5, since=rows[300][0]) == (rows[301:], last)

    def test_a_since_inside_a_candle_starts_at_the_next(self, exchange: DemoExchange) -> None:
        rows, last = ohlc(exchange, "XBTUSD", 5)
        assert ohlc(exchange, "XBTUSD", 5, since=rows[300][0] + 1) == (rows[301:], last)
        assert ohlc(exchange, "XBTUSD", 5, since=rows[300][0] - 1) == (rows[300:], last)

    @pytest.mark.parametrize("since", [0, START])
    def test_a_since_before_the_window_gives_the_newest_rows_and_no_error(
        self, exchange: DemoExchange, since: int
    ) -> None:
        assert ohlc(exchange, "XBTUSD", 1, since=since) == ohlc(exchange, "XBTUSD", 1)

    @pytest.mark.parametrize("since", [NOW // 60 * 60, NOW, NOW + 10 * DAY])
    def test_the_current_row_is_there_whatever_since_says(self, exchange: DemoExchange, since: int) -> None:
        rows, last = ohlc(exchange, "XBTUSD", 1)
        assert ohlc(exchange, "XBTUSD", 1, since=since) == (rows[-1:], last)

    def test_quiet_candles_repeat_the_close_before_them(self, exchange: DemoExchange) -> None:
        rows, _ = ohlc(exchange, "AAPLxUSD", 1)
        quiet = [(row, before) for before, row in itertools.pairwise(rows) if row[7] == 0]
        assert len(quiet) > 300
        for row, before in quiet:
            assert row[1:] == [before[4]] * 4 + ["0.00", "0.00000000", 0]

    def test_a_window_that_begins_quiet_repeats_a_close_from_before_it(
        self, exchange: DemoExchange, world: World
    ) -> None:
        rows, _ = ohlc(exchange, "AAPLxUSD", 1)
        place = next(index for index, row in enumerate(rows) if row[7] == 0 and rows[index - 1][7] > 0)
        assert ohlc(exchange, "AAPLxUSD", 1, since=rows[place][0] - 1)[0][0] == rows[place]
        ticks = world.last_price("AAPLxUSD", rows[place][0] * SECOND_NS)
        assert ticks == int(Decimal(rows[place][1]) * 100)

    @pytest.mark.parametrize("interval", [interval for interval in INTERVALS if interval.in_rest])
    @pytest.mark.parametrize("pair", ["XBTUSD", "AAPLxUSD"])
    def test_committed_rows_with_trades_are_the_oracles_candles(
        self, exchange: DemoExchange, world: World, pair: str, interval: Interval
    ) -> None:
        rows, last = ohlc(exchange, pair, interval)
        traded = [(row[0], *map(float, row[1:5]), float(row[6]), row[7]) for row in rows if row[7] and row[0] <= last]
        candles = world.candles(pair, interval, rows[0][0], last + 1)
        assert traded == [(int(row[0].timestamp()), *row[1:]) for row in candles.iter_rows()]

    def test_the_current_candle_knows_nothing_of_the_future(self, world: World) -> None:
        clock = FixedClock(NOW // DAY * DAY + 8 * 3_600)
        counts = []
        with DemoExchange(world, clock=clock) as exchange:
            for _ in range(3):
                clock.advance(3_600)
                counts.append(ohlc(exchange, "XBTUSD", 1440)[0][-1][7])
        (whole,) = world.candles("XBTUSD", Interval.D1, NOW // DAY * DAY, NOW)["trade_count"]
        assert 0 < counts[0] < counts[1] < counts[2] < whole

    def test_a_false_quiet_row_says_that_nobody_traded_where_others_did(self, world: World) -> None:
        day = NOW // DAY * DAY - 5 * DAY
        lie = Defect(DefectKind.FALSE_QUIET, "ADAEUR", Interval.D1, day)
        with DemoExchange(world) as honest, DemoExchange(world, defects=[lie]) as liar:
            right, _ = ohlc(honest, "ADAEUR", 1440)
            wrong, _ = ohlc(liar, "ADAEUR", 1440)
        (place,) = (index for index, row in enumerate(right) if row[0] == day)
        assert right[place][7] > 0
        assert wrong[place] == [day, *[right[place - 1][4]] * 4, "0.000000", "0.00000000", 0]
        assert wrong[:place] + wrong[place + 1 :] == right[:place] + right[place + 1 :]


class TestTrades:
    def test_since_is_inclusive_to_the_nanosecond(self, exchange: DemoExchange, world: World) -> None:
        some = world.trades("XBTUSD", (NOW - DAY) * SECOND_NS, NOW * SECOND_NS)
        at, first_id = some["time"][50], some.filter(some["time"] == some["time"][50])["id"][0]
        rows, _ = trades(exchange, "XBTUSD", since=at)
        assert rows[0][6] == first_id
        rows, _ = trades(exchange, "XBTUSD", since=at + 1)
        assert rows[0][6] > some["id"][50]

    def test_last_is_the_time_of_the_last_trade_in_nanoseconds(self, exchange: DemoExchange, world: World) -> None:
        rows, last = trades(exchange, "XBTUSD", since=(NOW - DAY) * SECOND_NS, count=10)
        assert len(rows) == 10
        at = world.trades("XBTUSD", int(last), int(last) + 1)
        assert rows[-1][6] in at["id"]
        assert rows[-1][2] == int(last) / SECOND_NS

    def test_since_zero_starts_at_the_first_trade(self, exchange: DemoExchange) -> None:
        rows, _ = trades(exchange, "AAPLxUSD", since=0)
        assert rows[0][6] == 1
        assert rows[0][2] == demo_listings(START)[-1].first_trade

    def test_without_since_the_newest_trades_come(self, exchange: DemoExchange, world: World) -> None:
        rows, _ = trades(exchange, "AAPLxUSD", count=200)
        known = world.trades("AAPLxUSD", 0, NOW * SECOND_NS)["id"].to_list()
        assert [row[6] for row in rows] == known[-200:]

    def test_a_page_has_a_thousand_trades_unless_fewer_are_asked_for(self, exchange: DemoExchange) -> None:
        assert len(trades(exchange, "XBTUSD", since=0)[0]) == 1_000
        assert len(trades(exchange, "XBTUSD", since=0, count=1)[0]) == 1

    def test_after_the_newest_trade_nothing_comes_and_last_stays(self, exchange: DemoExchange) -> None:
        since = NOW * SECOND_NS
        assert trades(exchange, "XBTUSD", since=since) == ([], str(since))

    def test_prices_have_five_decimals_or_the_pairs_if_more(self, exchange: DemoExchange) -> None:
        for pair, decimals in {"XBTUSD": 5, "XDGUSD": 7, "ADAEUR": 6}.items():
            price, volume, *_ = trades(exchange, pair, since=0, count=1)[0][0]
            assert len(price.split(".")[1]) == decimals
            assert len(volume.split(".")[1]) == 8

    def test_paging_with_last_gives_every_trade_exactly_once_by_id(self, exchange: DemoExchange, world: World) -> None:
        seen = paged(exchange, "XDGUSD", (NOW - DAY) * SECOND_NS, count=100)
        known = world.trades("XDGUSD", (NOW - DAY) * SECOND_NS, NOW * SECOND_NS)
        assert [row[6] for row in seen] == known["id"].to_list()
        assert [float(row[0]) for row in seen] == known["price"].to_list()
        assert [float(row[1]) for row in seen] == known["volume"].to_list()
        assert [row[3] + row[4] for row in seen] == (known["side"] + known["order_type"]).to_list()

    def test_more_trades_at_one_nanosecond_than_a_page_holds_stall_who_pages_with_last(
        self, exchange: DemoExchange
    ) -> None:
        rows, last = trades(exchange, "ETHUSD", since=BURST.time)
        assert (len(rows), last) == (1_000, str(BURST.time))
        assert trades(exchange, "ETHUSD", since=last) == (rows, last)
        beyond, _ = trades(exchange, "ETHUSD", since=BURST.time + 1)
        assert beyond[0][6] == rows[0][6] + 1_500

    @pytest.mark.parametrize("pair", ["XBTUSD", "ADAEUR", "AAPLxUSD"])
    def test_ohlc_is_a_fold_of_trades(self, exchange: DemoExchange, pair: str) -> None:
        rows, last = ohlc(exchange, pair, 1)
        minutes: dict[int, list[tuple[Decimal, Decimal]]] = {}
        for price, volume, seconds, *_ in paged(exchange, pair, rows[0][0] * SECOND_NS):
            minutes.setdefault(int(seconds) // 60 * 60, []).append((Decimal(price), Decimal(volume)))
        assert sum(row[7] > 0 for row in rows) > 10
        for time, *prices, vwap, volume, count in rows:
            fills = minutes.get(time, [])
            assert count == len(fills) or time > last
            if fills and time <= last:
                each = [price for price, _ in fills]
                assert list(map(Decimal, prices)) == [each[0], max(each), min(each), each[-1]]
                assert Decimal(volume) == sum(amount for _, amount in fills)
                mean = Fraction(sum(price * amount for price, amount in fills)) / Fraction(volume)
                step = Fraction(1, 10 ** len(vwap.split(".")[1]))
                assert Fraction(vwap) <= mean < Fraction(vwap) + step, "truncated, not rounded"


class TestErrors:
    @pytest.mark.parametrize(
        ("endpoint", "params", "code"),
        [
            ("OHLC", {"pair": "NOSUCH"}, "EQuery:Unknown asset pair"),
            ("OHLC", {"pair": "aaplxusd"}, "EQuery:Unknown asset pair"),
            ("OHLC", {"pair": "#?!"}, "EQuery:Unknown asset pair"),
            ("OHLC", {}, "EGeneral:Invalid arguments"),
            ("OHLC", {"pair": "XBTUSD", "interval": 720}, "EGeneral:Invalid arguments"),
            ("OHLC", {"pair": "XBTUSD", "interval": 7}, "EGeneral:Invalid arguments"),
            ("OHLC", {"pair": "XBTUSD", "interval": "1h"}, "EGeneral:Invalid arguments"),
            ("OHLC", {"pair": "XBTUSD", "since": "yesterday"}, "EGeneral:Invalid arguments"),
            ("OHLC", {"pair": "XBTUSD", "since": -1}, "EGeneral:Invalid arguments"),
            ("Trades", {"pair": "XBTUSD", "count": 0}, "EGeneral:Invalid arguments"),
            ("Trades", {"pair": "XBTUSD", "count": 1001}, "EGeneral:Invalid arguments"),
            ("Trades", {"pair": "XBTUSD", "since": ""}, "EGeneral:Invalid arguments"),
            ("Trades", {"pair": "NOSUCH"}, "EQuery:Unknown asset pair"),
            ("Ticker", {"pair": "XBTUSD"}, "EGeneral:Unknown method"),
        ],
    )
    def test_what_is_wrongly_asked_is_answered_by_a_code_without_a_result(
        self, exchange: DemoExchange, endpoint: str, params: dict[str, object], code: str
    ) -> None:
        assert ask_for_error(exchange, endpoint, **params) == code


class TestServer:
    def test_one_connection_serves_many_requests(self, exchange: DemoExchange) -> None:
        connection = HTTPConnection(urlsplit(exchange.url).netloc, timeout=PATIENCE_S)
        connection.connect()
        socket = connection.sock
        for _ in range(3):
            connection.request("GET", "/0/public/Time")
            assert json.load(connection.getresponse())["result"]["unixtime"] == NOW
            assert connection.sock is socket
        connection.close()

    def test_requests_are_logged_with_pair_parameters_and_outcome(self, world: World) -> None:
        with DemoExchange(world, timer=lambda: 12.5) as exchange:
            ask(exchange, "Time")
            ask(exchange, "OHLC", pair="XXBTZUSD", interval=60)
            ask_for_error(exchange, "Trades", pair="NOSUCH")
            logged = [
                (each.time, each.endpoint, each.pair, dict(each.params), each.outcome) for each in exchange.requests
            ]
        assert logged == [
            (12.5, "Time", None, {}, "ok"),
            (12.5, "OHLC", "XBTUSD", {"pair": "XXBTZUSD", "interval": "60"}, "ok"),
            (12.5, "Trades", None, {"pair": "NOSUCH"}, "EQuery:Unknown asset pair"),
        ]

    @pytest.mark.slow
    def test_many_clients_at_once_get_the_same_answers(self) -> None:
        with DemoExchange(World(3, demo_listings(START), NOW)) as exchange, ThreadPoolExecutor(8) as clients:
            params = [{"pair": pair, "interval": interval} for pair in KEYS for interval in (1, 60, 1440)]
            together = list(clients.map(lambda each: ask(exchange, "OHLC", **each), params * 2))
            alone = [ask(exchange, "OHLC", **each) for each in params]
        assert together == alone * 2

    def test_it_has_no_address_before_it_listens(self, world: World) -> None:
        with pytest.raises(InvalidRequest, match="only within its context"):
            _ = DemoExchange(world).url

    def test_after_its_context_it_answers_no_more(self, world: World) -> None:
        with DemoExchange(world) as exchange:
            ask(exchange, "Time")
        with pytest.raises(OSError, match="refused"):
            ask(exchange, "Time")

    def test_it_can_serve_in_the_foreground_until_interrupted(self, world: World) -> None:
        answers: list[bytes] = []

        def announce(url: str) -> None:
            connection = HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_S)
            connection.request("GET", "/0/public/Time")
            answers.append(connection.getresponse().read())
            connection.close()
            raise KeyboardInterrupt

        serve(world, port=0, announce=announce)
        assert NOW <= json.loads(answers[0])["result"]["unixtime"] < NOW + PATIENCE_S


class TestThrottle:
    def test_a_burst_passes_then_the_pair_is_throttled_and_others_are_not(self, world: World) -> None:
        with DemoExchange(world, throttle=Throttle(burst=5), timer=lambda: 100.0) as exchange:
            for _ in range(5):
                ask(exchange, "Trades", pair="XBTUSD", count=1)
            assert ask_for_error(exchange, "OHLC", pair="XBT/USD") == "EGeneral:Too many requests"
            ask(exchange, "Trades", pair="ETHUSD", count=1)
            ask(exchange, "Time")

    def test_the_other_endpoints_are_throttled_together(self, world: World) -> None:
        with DemoExchange(world, throttle=Throttle(burst=2), timer=lambda: 100.0) as exchange:
            ask(exchange, "Time")
            ask(exchange, "AssetPairs", pair="XBTUSD")
            assert ask_for_error(exchange, "SystemStatus") == "EGeneral:Too many requests"

    def test_throttling_ends_with_time_and_later_if_calls_go_on(self) -> None:
        patient, eager = Throttle(burst=3), Throttle(burst=3)
        for throttle in (patient, eager):
            assert [throttle.admits("client", "XBTUSD", 0.0) for _ in range(4)] == [True, True, True, False]
        assert not any(eager.admits("client", "XBTUSD", 0.5) for _ in range(5))
        assert patient.admits("client", "XBTUSD", 2.0)
        assert not eager.admits("client", "XBTUSD", 2.0)
        assert eager.admits("client", "XBTUSD", 12.0)

    def test_at_the_rate_it_allows_nobody_is_throttled(self) -> None:
        throttle = Throttle(burst=1, per_second=2.0)
        assert all(throttle.admits("client", None, step / 2) for step in range(100))

    def test_callers_do_not_share_their_counters(self) -> None:
        throttle = Throttle(burst=1)
        assert throttle.admits("one", "XBTUSD", 0.0)
        assert throttle.admits("other", "XBTUSD", 0.0)
        assert not throttle.admits("one", "XBTUSD", 0.0)
