from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from urllib.parse import urlsplit

import pytest

from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.faults import (
    Delay,
    Effect,
    Fault,
    FaultScript,
    HalfBody,
    HttpStatus,
    Refusal,
    Reset,
    SystemState,
    Tampering,
    ThrottledReply,
)
from kraken_pipeline.demo.listing import DAY, demo_listings
from kraken_pipeline.demo.world import SECOND_NS, World
from kraken_pipeline_tests.demo.asking import PATIENCE_S, ask, ask_for_error

START = 1_762_819_200 - 5 * DAY
NOW = START + 2 * DAY
SINCE = (NOW - 3_600) * SECOND_NS
TOO_MANY = "EGeneral:Too many requests"


@pytest.fixture(scope="module")
def world() -> World:
    return World(3, demo_listings(START), NOW)


@contextmanager
def response_to(exchange: DemoExchange, path: str, timeout: float = PATIENCE_S) -> Iterator[HTTPResponse]:
    """A response whose body is not read yet."""
    with closing(HTTPConnection(urlsplit(exchange.url).netloc, timeout=timeout)) as connection:
        connection.request("GET", f"/0/public/{path}")
        with connection.getresponse() as response:
            yield response


def outcomes(exchange: DemoExchange) -> list[str]:
    return [request.outcome for request in exchange.requests]


@pytest.mark.parametrize("status", [502, 503, 504, 520, 521, 522])
def test_the_cdn_answers_with_a_page(world: World, status: int) -> None:
    with DemoExchange(world, faults=[Fault(HttpStatus(status))]) as exchange:
        with response_to(exchange, "Time") as response:
            assert response.status == status
            assert response.getheader("Content-Type", "").startswith("text/html")
            assert response.read().startswith(b"<!DOCTYPE html>")
        ask(exchange, "Time")
        assert outcomes(exchange) == [f"HTTP {status}", "ok"]


def test_a_connection_is_reset(world: World) -> None:
    with DemoExchange(world, faults=[Fault(Reset())]) as exchange:
        with pytest.raises(ConnectionResetError), response_to(exchange, "Time"):
            pass
        ask(exchange, "Time")
        assert outcomes(exchange) == ["reset", "ok"]


def test_an_answer_comes_later_than_the_client_waits_and_the_server_does_not_wait_to_stop(world: World) -> None:
    begun = time.monotonic()
    with DemoExchange(world, faults=[Fault(Delay(10 * PATIENCE_S))]) as exchange:
        with pytest.raises(TimeoutError), response_to(exchange, "Time", timeout=0.05):
            pass
        ask(exchange, "Time")
        assert outcomes(exchange) == ["delay", "ok"]
    assert time.monotonic() - begun < PATIENCE_S


def test_a_short_delay_ends_in_the_right_answer(world: World) -> None:
    with DemoExchange(world, faults=[Fault(Delay(0.05))]) as exchange:
        begun = time.monotonic()
        assert ask(exchange, "Time")["unixtime"] == NOW
        assert time.monotonic() - begun >= 0.05


def test_an_answer_breaks_off_in_the_middle(world: World) -> None:
    with DemoExchange(world, faults=[Fault(HalfBody())]) as exchange:
        with response_to(exchange, "OHLC?pair=XBTUSD") as response:
            length = int(response.getheader("Content-Length", "0"))
            with pytest.raises(IncompleteRead) as broken:
                response.read()
        assert len(broken.value.partial) == length // 2
        assert outcomes(exchange) == ["half a body"]


@pytest.mark.parametrize(
    "code",
    [
        "EAPI:Rate limit exceeded",
        TOO_MANY,
        "EService:Unavailable",
        "EService:Busy",
        "EService:Timeout",
        "EService:Deadline elapsed",
        "EGeneral:Internal error",
        "EGeneral:Temporary lockout",
        "EService:Market in cancel_only mode",
    ],
)
def test_any_code_of_krakens_can_be_the_answer(world: World, code: str) -> None:
    with DemoExchange(world, faults=[Fault(Refusal(code))]) as exchange:
        assert ask_for_error(exchange, "OHLC", pair="XBTUSD") == code
        ask(exchange, "OHLC", pair="XBTUSD")
        assert outcomes(exchange) == [code, "ok"]


def test_throttling_names_the_time_to_wait_for(world: World) -> None:
    with DemoExchange(world, faults=[Fault(ThrottledReply(7))], timer=lambda: 1_000.9) as exchange:
        assert ask_for_error(exchange, "Time") == "EService:Throttled:1007"


@pytest.mark.parametrize(
    ("fault", "hit"),
    [
        (Fault(HttpStatus(503)), [1]),
        (Fault(HttpStatus(503), after=2), [3]),
        (Fault(HttpStatus(503), times=None, after=3), [4, 5, 6]),
        (Fault(HttpStatus(503), endpoint="OHLC", times=2), [2, 3]),
        (Fault(HttpStatus(503), pair="XBTUSD", times=None), [2, 4]),
        (Fault(HttpStatus(503), endpoint="OHLC", pair="ETHUSD"), [3]),
        (Fault(HttpStatus(503), endpoint="Trades", pair="ETHUSD", times=None, after=1), [6]),
    ],
)
def test_a_fault_hits_exactly_the_requests_that_it_is_about(fault: Fault, hit: list[int]) -> None:
    script = FaultScript([fault])
    requests = [
        ("Time", None),
        ("OHLC", "XBTUSD"),
        ("OHLC", "ETHUSD"),
        ("Trades", "XBTUSD"),
        ("Trades", "ETHUSD"),
        ("Trades", "ETHUSD"),
    ]
    effects = [script.hit(endpoint, pair, 0.0) for endpoint, pair in requests]
    assert [number for number, effect in enumerate(effects, start=1) if effect is not None] == hit


def test_a_pair_is_meant_in_every_spelling(world: World) -> None:
    with DemoExchange(world, faults=[Fault(Refusal("EService:Busy"), pair="XBTUSD")]) as exchange:
        ask(exchange, "OHLC", pair="XETHZUSD")
        assert ask_for_error(exchange, "OHLC", pair="XXBTZUSD") == "EService:Busy"


@pytest.mark.parametrize("effect", [HttpStatus(503), Refusal(TOO_MANY)])
def test_a_period_begins_with_the_first_hit_and_ends_with_the_time(effect: Effect) -> None:
    script = FaultScript([Fault(effect, times=None, seconds=120, after=1)])
    moments = [0.0, 500.0, 500.1, 619.9, 620.0, 1_000.0]
    hits = [script.hit("Trades", "XBTUSD", now) is not None for now in moments]
    assert hits == [False, True, True, True, False, False]


def test_a_fault_can_last_while_a_condition_holds(world: World) -> None:
    in_maintenance = threading.Event()
    maintenance = [
        Fault(SystemState("maintenance"), endpoint="SystemStatus", times=None, condition=in_maintenance.is_set),
        Fault(Refusal("EService:Unavailable"), endpoint="OHLC", times=None, condition=in_maintenance.is_set),
    ]
    with DemoExchange(world, faults=maintenance) as exchange:
        assert ask(exchange, "SystemStatus")["status"] == "online"
        in_maintenance.set()
        assert ask(exchange, "SystemStatus")["status"] == "maintenance"
        assert ask_for_error(exchange, "OHLC", pair="XBTUSD") == "EService:Unavailable"
        in_maintenance.clear()
        assert ask(exchange, "SystemStatus")["status"] == "online"
        ask(exchange, "OHLC", pair="XBTUSD")


def test_of_several_faults_that_are_due_the_first_one_hits() -> None:
    script = FaultScript([Fault(Reset()), Fault(HalfBody(), times=2)])
    assert [script.hit("Time", None, 0.0) for _ in range(4)] == [Reset(), HalfBody(), HalfBody(), None]


def test_a_fault_can_be_added_while_the_server_runs(world: World) -> None:
    with DemoExchange(world) as exchange:
        ask(exchange, "Time")
        exchange.inject(Fault(Refusal("EService:Busy")))
        assert ask_for_error(exchange, "Time") == "EService:Busy"


def without_last(result: dict[str, object]) -> bool:
    return "last" not in result


def with_last_zero(result: dict[str, object]) -> bool:
    return result["last"] == 0


def without_rows(result: dict[str, object]) -> bool:
    return result["XXBTZUSD"] == [] and "last" in result


@pytest.mark.parametrize("endpoint", ["OHLC", "Trades"])
@pytest.mark.parametrize(
    ("tampering", "is_tampered"),
    [
        (Tampering.LAST_MISSING, without_last),
        (Tampering.LAST_ZERO, with_last_zero),
        (Tampering.NO_ROWS, without_rows),
    ],
)
def test_a_reply_can_lack_what_it_should_have(
    world: World, endpoint: str, tampering: Tampering, is_tampered: Callable[[dict[str, object]], bool]
) -> None:
    with DemoExchange(world, faults=[Fault(tampering)]) as exchange:
        assert is_tampered(ask(exchange, endpoint, pair="XBTUSD", since=SINCE))
        assert not is_tampered(ask(exchange, endpoint, pair="XBTUSD", since=SINCE))
        assert outcomes(exchange) == [tampering.value, "ok"]


def test_what_is_refused_anyway_is_not_tampered_with(world: World) -> None:
    with DemoExchange(world, faults=[Fault(Tampering.LAST_MISSING)]) as exchange:
        assert ask_for_error(exchange, "OHLC", pair="NOSUCH") == "EQuery:Unknown asset pair"


def test_a_client_that_goes_away_does_no_harm(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    with DemoExchange(world, faults=[Fault(Delay(0.1))]) as exchange:
        with socket.create_connection(urlsplit(exchange.url).netloc.split(":")) as client:  # type: ignore[arg-type]
            client.sendall(b"GET /0/public/OHLC?pair=XBTUSD HTTP/1.1\r\n\r\n")
        ask(exchange, "Time")
    assert capfd.readouterr().err == ""
