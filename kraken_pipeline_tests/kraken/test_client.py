from __future__ import annotations

import gzip
import json
import threading
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
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
    Oversized,
    Redirect,
    Refusal,
    Reset,
    ThrottledReply,
    Trickle,
)
from kraken_pipeline.demo.listing import demo_listings
from kraken_pipeline.demo.throttle import Throttle
from kraken_pipeline.demo.world import World
from kraken_pipeline.errors import (
    AnswerTooSlow,
    CircuitOpen,
    ExchangeRefused,
    ExchangeUnavailable,
    PipelineError,
    RedirectRefused,
    ReplyTooLarge,
    UnusableReply,
)
from kraken_pipeline.errors import Throttled as ThrottledError
from kraken_pipeline.kraken.client import LARGEST_PACKED, LARGEST_REPLY, Client
from kraken_pipeline.storage.exchange_state.breaker import Breaker, BreakerState
from kraken_pipeline.storage.exchange_state.counters import Counters, totals
from kraken_pipeline.storage.exchange_state.limiter import Limiter
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline_tests.support.homes import NOBODY

pytestmark = pytest.mark.slow

NOW = 1_762_820_224
WORLD = World(3, demo_listings(NOW - 5 * 86_400), NOW)
SECONDS = {"unixtime": NOW, "rfc1123": "Tue, 11 Nov 25 00:17:04 +0000"}
PATIENCE_S = 30
TOO_MANY = "EGeneral:Too many requests"
LOCKOUT = "EGeneral:Temporary lockout"

PASSING = [
    *map(HttpStatus, (500, 502, 503, 504, 520, 521, 522)),
    Reset(),
    HalfBody(),
    *map(
        Refusal,
        (
            "EService:Unavailable",
            "EService:Busy",
            "EService:Timeout",
            "EService:Deadline elapsed",
            "EGeneral:Internal error",
            "EService:Market in cancel_only mode",
            "EService:Market in post_only mode",
            "EService:Something new",
        ),
    ),
]
LASTING = [
    "EQuery:Unknown asset pair",
    "EQuery:Unknown asset",
    "EGeneral:Invalid arguments",
    "EGeneral:Unknown method",
    "EGeneral:Permission denied",
    "EAPI:Invalid nonce",
]


class FakeClock:
    """A clock that only sleeping moves; it starts at the present, which the client compares moments with."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Saying(DemoExchange):
    """An exchange whose first answers are these bodies, with a status; it breaks off in the middle if wanted."""

    def __init__(
        self, *bodies: bytes, status: int = 200, breaks_off: bool = False, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(WORLD)
        self._bodies = list(bodies)
        self._how: dict[str, Any] = {"status": status, "breaks_off": breaks_off, "headers": headers or {}}

    def answer(self, endpoint: str, params: Mapping[str, str], caller: str) -> Any:
        answer = super().answer(endpoint, params, caller)
        return replace(answer, body=self._bodies.pop(0), **self._how) if self._bodies else answer


class Rig:
    """A client with a real limiter, breaker and counters, and what can be seen of them."""

    def __init__(
        self, stores: Stores, url: str, clock: FakeClock | None = None, failures: int = 5, **more: Any
    ) -> None:
        given: Any = {} if clock is None else {"clock": clock}
        pausing: Any = {} if clock is None else {"sleep": clock.sleep}
        self._catalog = stores.catalog
        self.limiter = Limiter(stores.catalog, more.pop("rate", 1_000), more.pop("endpoints", None), **given, **pausing)
        self.breaker = Breaker(stores.catalog, failures, 60, **given)
        self.counters = Counters(stores.catalog)
        parts = {"limiter": self.limiter, "breaker": self.breaker, "counters": self.counters}
        self.client = Client(url, **{"first_wait": 0, "timeout": PATIENCE_S, **parts, **pausing, **more})

    def counts(self) -> tuple[int, int, int]:
        """Requests, errors and retries so far."""
        names = ("api.requests", "api.errors", "api.retries")
        self.counters.flush()
        with self._catalog.read() as connection:
            found = totals(connection, names, 0)
        return found[names[0]], found[names[1]], found[names[2]]

    def circuit(self) -> tuple[BreakerState, int]:
        """The breaker's state and the failures in a row that it counts."""
        record = self.breaker.record()
        return record.state, record.failures


@contextmanager
def rig(stores: Stores, exchange: DemoExchange | str, clock: FakeClock | None = None, **more: Any) -> Iterator[Rig]:
    found = Rig(stores, exchange if isinstance(exchange, str) else exchange.url, clock, **more)
    with closing(found.client):
        yield found


def always(effect: Effect, **more: Any) -> Fault:
    return Fault(effect, times=None, **more)


CLOSED = BreakerState.CLOSED


class TestAnswers:
    def test_the_result_of_an_answer_is_given_back(self, stores: Stores) -> None:
        with DemoExchange(WORLD) as exchange, rig(stores, exchange) as made:
            assert made.client.ask("Time") == SECONDS
            rows = made.client.ask("OHLC", pair="XBTUSD", interval=60, since=NOW - 7_200)["XXBTZUSD"]
            assert [row[0] for row in rows] == [NOW // 3_600 * 3_600 - 3_600, NOW // 3_600 * 3_600]
            assert [dict(each.params) for each in exchange.requests] == [
                {},
                {"pair": "XBTUSD", "interval": "60", "since": str(NOW - 7_200)},
            ]
            assert made.counts() == (2, 0, 0)
            assert made.client.requests == 2
            assert made.circuit() == (CLOSED, 0)

    def test_a_slash_at_the_end_of_the_url_does_no_harm(self, stores: Stores) -> None:
        with DemoExchange(WORLD) as exchange, rig(stores, f"{exchange.url}/") as made:
            assert made.client.ask("Time") == SECONDS

    @pytest.mark.parametrize("result", [{}, [], 0, "", False])
    def test_an_empty_result_is_an_answer(self, stores: Stores, result: Any) -> None:
        body = json.dumps({"error": [], "result": result}).encode()
        with Saying(body) as exchange, rig(stores, exchange) as made:
            assert made.client.ask("AssetPairs", aclass_base="tokenized_asset") == result


class TestWhatPasses:
    @pytest.mark.parametrize("effect", PASSING, ids=str)
    def test_it_is_asked_again_and_every_attempt_is_counted(self, stores: Stores, effect: Effect) -> None:
        with DemoExchange(WORLD, faults=[Fault(effect, times=2)]) as exchange, rig(stores, exchange) as made:
            assert made.client.ask("Time") == SECONDS
            assert len(exchange.requests) == made.client.requests == 3
            assert made.counts() == (3, 2, 2)
            assert made.circuit() == (CLOSED, 0)
            assert made.limiter.slowness() == 1.0, "nobody complained of too many requests"

    def test_an_answer_that_comes_too_late_is_asked_for_again(self, stores: Stores) -> None:
        with (
            DemoExchange(WORLD, faults=[Fault(Delay(PATIENCE_S))]) as exchange,
            rig(stores, exchange, timeout=0.2, attempts=20, failures=20) as made,
        ):
            assert made.client.ask("Time") == SECONDS
            assert {each.outcome for each in exchange.requests} == {"delay", "ok"}
            requests, errors, retries = made.counts()
            assert requests - 1 == errors == retries >= 1, "on a machine that is busy, more than one was too late"

    @pytest.mark.parametrize(
        ("effect", "said"),
        [
            (HttpStatus(520), "HTTP 520, .*api.kraken.com | 520"),
            (Reset(), "the connection failed"),
            (HalfBody(), "the connection failed"),
            (Delay(PATIENCE_S), "no answer in time"),
            (Refusal("EService:Busy"), "EService:Busy"),
        ],
        ids=str,
    )
    def test_after_the_last_attempt_the_error_says_what_was_asked_and_what_came(
        self, stores: Stores, effect: Effect, said: str
    ) -> None:
        timeout = 0.2 if isinstance(effect, Delay) else PATIENCE_S
        with (
            DemoExchange(WORLD, faults=[always(effect)]) as exchange,
            rig(stores, exchange, attempts=2, timeout=timeout) as made,
            pytest.raises(ExchangeUnavailable, match=said) as raised,
        ):
            made.client.ask("OHLC", pair="XBTUSD", interval=60)
        assert "OHLC pair=XBTUSD interval=60" in str(raised.value)
        assert type(raised.value) is ExchangeUnavailable
        assert made.counts() == (2, 2, 1)
        assert made.circuit() == (CLOSED, 2)

    @pytest.mark.parametrize("attempts", [1, 2, 4])
    def test_it_is_asked_for_at_most_as_often_as_allowed(self, stores: Stores, attempts: int) -> None:
        with (
            DemoExchange(WORLD, faults=[always(HttpStatus(503))]) as exchange,
            rig(stores, exchange, attempts=attempts) as made,
        ):
            with pytest.raises(ExchangeUnavailable):
                made.client.ask("Time")
            assert len(exchange.requests) == attempts
            assert made.counts() == (attempts, attempts, attempts - 1)

    def test_an_address_that_nobody_is_at_gives_no_answer(self, stores: Stores) -> None:
        with rig(stores, NOBODY) as made, pytest.raises(ExchangeUnavailable, match="Time: the connection failed"):
            made.client.ask("Time")
        assert made.counts() == (3, 3, 2)

    def test_each_wait_doubles_with_jitter_up_to_the_longest(self, stores: Stores) -> None:
        waits: list[float] = []
        with (
            DemoExchange(WORLD, faults=[always(HttpStatus(503))]) as exchange,
            rig(stores, exchange, attempts=6, failures=9, first_wait=1, longest_wait=7, sleep=waits.append) as made,
            pytest.raises(ExchangeUnavailable),
        ):
            made.client.ask("Time")
        assert len(waits) == 5
        assert all(low <= wait <= low + 1 for low, wait in zip((1, 2, 4), waits[:3], strict=True))
        assert waits[3:] == [7, 7]


class TestWhatLasts:
    @pytest.mark.parametrize("code", LASTING)
    def test_it_is_asked_once(self, stores: Stores, code: str) -> None:
        with DemoExchange(WORLD, faults=[Fault(Refusal(code))]) as exchange, rig(stores, exchange) as made:
            with pytest.raises(ExchangeRefused, match=f"Trades pair=XBTUSD: {code}"):
                made.client.ask("Trades", pair="XBTUSD")
            assert len(exchange.requests) == 1
            assert made.counts() == (1, 1, 0)

    def test_json_that_is_no_answer_of_krakens_is_unusable_and_asked_for_once(self, stores: Stores) -> None:
        bodies = (
            b"[]",
            b"{}",
            b"null",
            b"7",
            b'"EService:Busy"',
            b'{"error":[]}',
            b'{"error":[],"result":null}',
            b'{"result":{"unixtime":1}}',
            b'{"error":null,"result":{"unixtime":1}}',
            b'{"error":"EService:Busy","result":{"unixtime":1}}',
            b'{"error":[7],"result":{"unixtime":1}}',
            b'{"error":{},"result":{"unixtime":1}}',
            b'{"Error":["EService:Busy"],"result":{"unixtime":1}}',
        )
        with Saying(*bodies) as exchange, rig(stores, exchange) as made:
            for body in bodies:
                with pytest.raises(UnusableReply, match="Time: the answer") as raised:
                    made.client.ask("Time")
                assert repr(body.decode()) in str(raised.value)
            assert made.counts() == (len(bodies), len(bodies), 0)
            assert made.circuit() == (CLOSED, 0)


class TestErrorsAreNoAnswers:
    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            ("EService:Unavailable", ExchangeUnavailable),
            ("EAPI:Rate limit exceeded", ThrottledError),
            ("EQuery:Unknown asset pair", ExchangeRefused),
        ],
    )
    def test_a_code_is_an_error_with_and_without_a_result(
        self, stores: Stores, code: str, kind: type[PipelineError]
    ) -> None:
        results = ("", ',"result":{}', ',"result":{"XXBTZUSD":[],"last":0}', ',"result":null')
        bodies = [f'{{"error":["{code}"]{result}}}'.encode() for result in results]
        with Saying(*bodies) as exchange, rig(stores, exchange, attempts=1) as made:
            for _ in bodies:
                with pytest.raises(kind, match=code):
                    made.client.ask("OHLC", pair="XBTUSD")

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b" ",
            b"<!DOCTYPE html><html>Checking your browser</html>",
            b'{"error":[],"result":{"unixtime":17',
            b'{"error":[],"result":{"unixtime":1}}{',
            b'\xff\xfe{"error":[]}',
            b"[" * 200_000,
        ],
        ids=["empty", "blank", "page", "cut", "more", "bytes", "deep"],
    )
    def test_what_is_no_json_passes_whatever_its_status(self, stores: Stores, body: bytes) -> None:
        with Saying(body, body) as exchange, rig(stores, exchange) as made:
            assert made.client.ask("Time") == SECONDS
            assert made.counts() == (3, 2, 2)

    def test_an_error_quotes_no_more_than_the_beginning_of_a_page(self, stores: Stores) -> None:
        with (
            Saying(b"<html>" + b"x" * 100_000) as exchange,
            rig(stores, exchange, attempts=1) as made,
            pytest.raises(ExchangeUnavailable, match="<html>xxx") as raised,
        ):
            made.client.ask("Time")
        assert len(str(raised.value)) < 300

    def test_half_a_body_is_no_answer_even_where_the_half_is_one(self, stores: Stores) -> None:
        whole = b'{"error":[],"result":{"XXBTZUSD":[],"last":0}}'
        with Saying(whole + b" " * len(whole), breaks_off=True) as exchange, rig(stores, exchange) as made:
            assert made.client.ask("Time") == SECONDS
            assert made.counts() == (2, 1, 1)

    @pytest.mark.parametrize("status", [204, 403, 500])
    def test_the_body_of_another_status_than_200_is_no_answer(self, stores: Stores, status: int) -> None:
        body = b"" if status == 204 else b'{"error":[],"result":{"unixtime":1}}'
        with (
            Saying(body, status=status) as exchange,
            rig(stores, exchange, attempts=1) as made,
            pytest.raises(ExchangeUnavailable, match=f"HTTP {status}"),
        ):
            made.client.ask("Time")


class TestBreaker:
    def test_it_counts_every_attempt_and_opens_in_the_middle_of_the_retries(self, stores: Stores) -> None:
        with (
            DemoExchange(WORLD, faults=[always(HttpStatus(520))]) as exchange,
            rig(stores, exchange, attempts=5, failures=3) as made,
        ):
            with pytest.raises(CircuitOpen):
                made.client.ask("Time")
            assert len(exchange.requests) == 3
            assert made.circuit() == (BreakerState.OPEN, 3)
            assert made.counts() == (3, 3, 3), "the fourth attempt was not let through, and there was no fifth"

    def test_an_open_one_makes_no_request_and_is_not_tried_again(self, stores: Stores) -> None:
        waits: list[float] = []
        with DemoExchange(WORLD) as exchange, rig(stores, exchange, failures=1, sleep=waits.append) as made:
            made.breaker.failed()
            with pytest.raises(CircuitOpen, match="no requests are made until"):
                made.client.ask("Time")
            assert (exchange.requests, waits, made.client.requests) == ((), [], 0)
            assert made.counts() == (0, 0, 0)

    def test_an_open_one_takes_no_permit(self, stores: Stores) -> None:
        clock = FakeClock()
        with DemoExchange(WORLD) as exchange, rig(stores, exchange, clock, failures=1, rate=0.1) as made:
            made.breaker.failed()
            begun = clock()
            for _ in range(5):
                with pytest.raises(CircuitOpen):
                    made.client.ask("Time")
            clock.sleep(60)
            made.client.ask("Time")
            assert clock() == begun + 60, "the first permit is still there"

    def test_it_is_shared_with_other_processes(self, stores: Stores) -> None:
        with (
            DemoExchange(WORLD, faults=[Fault(HttpStatus(520), times=2)]) as exchange,
            rig(stores, exchange, attempts=1, failures=2) as one,
            rig(stores, exchange, attempts=1, failures=2) as other,
        ):
            for made in (one, other):
                with pytest.raises(ExchangeUnavailable, match="HTTP 520"):
                    made.client.ask("Time")
            for made in (one, other):
                with pytest.raises(CircuitOpen):
                    made.client.ask("Time")
            assert len(exchange.requests) == 2

    def test_after_its_time_one_request_tries_and_an_answer_closes_it(self, stores: Stores) -> None:
        clock = FakeClock()
        with (
            DemoExchange(WORLD, faults=[Fault(HttpStatus(520), times=3)]) as exchange,
            rig(stores, exchange, clock, attempts=1, failures=2) as made,
        ):
            for _ in range(2):
                with pytest.raises(ExchangeUnavailable, match="HTTP 520"):
                    made.client.ask("Time")
            clock.sleep(60)
            assert made.breaker.record().state is BreakerState.HALF_OPEN
            with pytest.raises(ExchangeUnavailable, match="HTTP 520"):
                made.client.ask("Time")
            assert made.breaker.record().state is BreakerState.OPEN
            clock.sleep(60)
            assert made.client.ask("Time") == SECONDS
            assert made.circuit() == (CLOSED, 0)

    @pytest.mark.parametrize("code", ["EQuery:Unknown asset pair", TOO_MANY])
    def test_a_refusal_counts_as_an_answer(self, stores: Stores, code: str) -> None:
        faults = [Fault(HttpStatus(520), times=2), Fault(Refusal(code), times=1)]
        with (
            DemoExchange(WORLD, faults=faults) as exchange,
            rig(stores, exchange, attempts=1, failures=3) as made,
        ):
            for failures in (1, 2, 0):
                with pytest.raises(PipelineError):
                    made.client.ask("Time")
                assert made.circuit() == (CLOSED, failures)

    def test_an_unusable_answer_counts_as_one(self, stores: Stores) -> None:
        with Saying(b"{}") as exchange, rig(stores, exchange, failures=2) as made:
            made.breaker.failed()
            with pytest.raises(UnusableReply):
                made.client.ask("Time")
            assert made.circuit() == (CLOSED, 0)


class TestThrottling:
    @pytest.mark.parametrize("code", [TOO_MANY, "EAPI:Rate limit exceeded"])
    def test_it_slows_the_limiter_and_does_not_open_the_breaker(self, stores: Stores, code: str) -> None:
        with (
            DemoExchange(WORLD, faults=[Fault(Refusal(code), times=2)]) as exchange,
            rig(stores, exchange, failures=1) as made,
        ):
            assert made.client.ask("Time") == SECONDS
            assert 3 < made.limiter.slowness() <= 4, "halved twice, and a little recovered"
            assert made.circuit() == (CLOSED, 0)
            assert made.counts() == (3, 2, 2)

    def test_after_the_last_attempt_it_is_still_throttling(self, stores: Stores) -> None:
        with (
            DemoExchange(WORLD, faults=[always(Refusal(TOO_MANY))]) as exchange,
            rig(stores, exchange, failures=1) as made,
        ):
            with pytest.raises(ThrottledError, match=TOO_MANY) as raised:
                made.client.ask("Time")
            assert raised.value.wait_until is None
            assert len(exchange.requests) == 3
            assert made.circuit() == (CLOSED, 0)

    def test_http_429_is_throttling(self, stores: Stores) -> None:
        with Saying(b"<html>", status=429) as exchange, rig(stores, exchange, failures=1) as made:
            assert made.client.ask("Time") == SECONDS
            assert 1 < made.limiter.slowness() <= 2
            assert made.circuit() == (CLOSED, 0)

    def test_nothing_is_asked_before_the_moment_that_kraken_names(self, stores: Stores) -> None:
        clock = FakeClock()
        with (
            DemoExchange(WORLD, timer=clock, faults=[Fault(ThrottledReply(7))]) as exchange,
            rig(stores, exchange, clock) as made,
        ):
            begun = int(clock())
            assert made.client.ask("Time") == SECONDS
            first, second = exchange.requests
            assert first.outcome == f"EService:Throttled:{begun + 7}"
            assert begun + 7 <= second.time < begun + 8

    def test_a_lockout_is_left_to_the_caller_and_holds_everybody_back(self, stores: Stores) -> None:
        clock = FakeClock()
        begun = clock()
        with (
            DemoExchange(WORLD, timer=clock, faults=[Fault(Refusal(LOCKOUT))]) as exchange,
            rig(stores, exchange, clock) as one,
            rig(stores, exchange, clock) as other,
        ):
            for made in (one, other, one):
                with pytest.raises(ThrottledError) as raised:
                    made.client.ask("Time")
                assert raised.value.wait_until == pytest.approx(begun + 900, abs=PATIENCE_S)
            assert len(exchange.requests) == 1
            assert one.counts()[0] + other.counts()[2] == 1, "one request, and no attempts in vain"
            assert clock() == begun
            clock.sleep(870)
            assert other.client.ask("Time") == SECONDS
            assert exchange.requests[-1].time == pytest.approx(begun + 900, abs=PATIENCE_S)

    @pytest.mark.parametrize(("seconds", "attempts"), [(5, 2), (30, 1)])
    def test_a_wait_longer_than_the_longest_between_attempts_is_the_callers(
        self, stores: Stores, seconds: int, attempts: int
    ) -> None:
        clock = FakeClock()
        with (
            DemoExchange(WORLD, timer=clock, faults=[always(ThrottledReply(seconds))]) as exchange,
            rig(stores, exchange, clock, attempts=2, longest_wait=10) as made,
        ):
            with pytest.raises(ThrottledError) as raised:
                made.client.ask("Time")
            assert raised.value.wait_until is not None
            assert len(exchange.requests) == attempts

    def test_requests_come_at_the_rate_of_all_and_of_their_endpoint(self, stores: Stores) -> None:
        clock = FakeClock()
        with (
            DemoExchange(WORLD, timer=clock) as exchange,
            rig(stores, exchange, clock, rate=2, endpoints={"Trades": 0.5}) as made,
        ):
            begun = clock()
            for endpoint in ("Time", "Time", "Trades", "Trades", "Trades"):
                params: dict[str, str | int] = {"pair": "XBTUSD", "count": 1} if endpoint == "Trades" else {}
                made.client.ask(endpoint, **params)
            moments = [each.time - begun for each in exchange.requests]
            assert moments[:3] == pytest.approx([0, 0.5, 1])
            assert moments[4] - moments[3] == pytest.approx(2)

    def test_at_the_rate_it_allows_the_exchange_never_complains(self, stores: Stores) -> None:
        clock = FakeClock()
        with (
            DemoExchange(WORLD, timer=clock, throttle=Throttle(burst=2, per_second=1)) as exchange,
            rig(stores, exchange, clock, rate=1) as made,
        ):
            for _ in range(20):
                made.client.ask("Time")
            assert {each.outcome for each in exchange.requests} == {"ok"}
            assert clock() >= exchange.requests[0].time + 18.99


class TestWhatIsNoneOfKrakens:
    def test_a_packed_answer_is_unpacked(self, stores: Stores) -> None:
        faults = [Fault(Oversized(0, is_packed=True))]
        with DemoExchange(WORLD, faults=faults) as exchange, rig(stores, exchange) as found:
            assert found.client.ask("Time") == SECONDS
            assert [each.outcome for each in exchange.requests] == ["bomb"]

    @pytest.mark.parametrize("effect", [Oversized(LARGEST_PACKED + 1), Oversized(LARGEST_REPLY + 1, is_packed=True)])
    def test_what_is_larger_than_any_reply_is_refused_and_asked_for_once(
        self, stores: Stores, effect: Oversized
    ) -> None:
        with DemoExchange(WORLD, faults=[always(effect)]) as exchange, rig(stores, exchange) as found:
            with pytest.raises(ReplyTooLarge, match="Time: the answer is larger than"):
                found.client.ask("Time")
            assert len(exchange.requests) == 1
            assert found.circuit() == (CLOSED, 0)

    def test_the_largest_reply_is_read(self, stores: Stores) -> None:
        faults = [Fault(Oversized(LARGEST_REPLY, is_packed=True)), Fault(Oversized(LARGEST_PACKED), after=1)]
        with DemoExchange(WORLD, faults=faults) as exchange, rig(stores, exchange) as found:
            for _ in faults:
                assert found.client.ask("Time") == SECONDS

    def test_a_bomb_is_refused_before_it_is_in_memory(self, stores: Stores) -> None:
        bomb = gzip.compress(bytes(600 << 20), 1)
        with Saying(bomb, headers={"Content-Encoding": "gzip"}) as exchange, rig(stores, exchange) as found:
            tracemalloc.start()
            try:
                with pytest.raises(ReplyTooLarge, match="when unpacked"):
                    found.client.ask("Time")
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert peak < 3 * LARGEST_REPLY

    @pytest.mark.parametrize("target", ["http://127.0.0.1:9/0/public/Time", "https://evil.example/", "//evil.example"])
    def test_another_address_is_not_gone_to(self, stores: Stores, target: str) -> None:
        with DemoExchange(WORLD, faults=[always(Redirect(target))]) as exchange, rig(stores, exchange) as found:
            with pytest.raises(RedirectRefused, match="Time: the answer redirects to http"):
                found.client.ask("Time")
            assert len(exchange.requests) == 1

    def test_where_its_own_address_leads_is_gone_to_and_not_in_a_circle(self, stores: Stores) -> None:
        faults = [Fault(Redirect("/0/public/Time?more=1"))]
        with DemoExchange(WORLD, faults=faults) as exchange, rig(stores, exchange, attempts=1) as found:
            assert found.client.ask("Time") == SECONDS
            assert [dict(each.params) for each in exchange.requests] == [{}, {"more": "1"}]
            exchange.inject(always(Redirect("/0/public/Time")))
            with pytest.raises(ExchangeUnavailable, match="redirects too often"):
                found.client.ask("Time")
            assert len(exchange.requests) == 5

    def test_an_answer_that_trickles_is_not_waited_for(self, stores: Stores) -> None:
        faults = [Fault(Trickle(0.1))]
        with DemoExchange(WORLD, faults=faults) as exchange:
            with rig(stores, exchange, attempts=1, timeout=0.4) as found:
                began = time.monotonic()
                with pytest.raises(AnswerTooSlow, match=r"Time: the answer takes longer than 0\.8 s"):
                    found.client.ask("Time")
                assert 0.8 <= time.monotonic() - began < 3
                assert found.circuit() == (CLOSED, 1)
            with rig(stores, exchange) as found:
                assert found.client.ask("Time") == SECONDS

    def test_a_body_that_trickles_is_left_by_the_thread_too(self, stores: Stores) -> None:
        faults = [Fault(Trickle(0.005))]
        with DemoExchange(WORLD, faults=faults) as exchange, rig(stores, exchange, attempts=1, timeout=0.6) as found:
            with pytest.raises(AnswerTooSlow):
                found.client.ask("AssetPairs")
            until = time.monotonic() + 10
            while any(each.name.startswith("kraken AssetPairs") for each in threading.enumerate()):
                assert time.monotonic() < until
                time.sleep(0.02)

    @pytest.mark.parametrize(
        ("packed", "body", "kind", "message"),
        [
            ("br", b"{}", UnusableReply, "packed with br"),
            ("gzip", b"{}", ExchangeUnavailable, "cannot be unpacked"),
            ("gzip", gzip.compress(b"{}", mtime=0)[:-9], ExchangeUnavailable, "is incomplete"),
        ],
    )
    def test_what_is_packed_in_a_way_that_nobody_asked_for_or_badly_is_no_answer(
        self, stores: Stores, packed: str, body: bytes, kind: type[PipelineError], message: str
    ) -> None:
        with (
            Saying(body, headers={"Content-Encoding": packed}) as exchange,
            rig(stores, exchange, attempts=1) as found,
            pytest.raises(kind, match=message),
        ):
            found.client.ask("Time")

    def test_the_clocks_are_compared(self, stores: Stores) -> None:
        ahead = int(time.time()) + 600
        with DemoExchange(WORLD, clock=FixedClock(ahead)) as exchange, rig(stores, exchange) as found:
            assert found.client.ahead is None
            found.client.ask("Time")
            assert found.client.server_time == ahead
            assert found.client.ahead == pytest.approx(-600, abs=20)
