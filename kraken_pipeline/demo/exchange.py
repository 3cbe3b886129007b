"""Server of Kraken's public REST API for a world: `/0/public/{Time,SystemStatus,AssetPairs,OHLC,Trades}`."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import parse_qsl, urlsplit

from kraken_pipeline.demo.clock import FixedClock, MovingClock
from kraken_pipeline.demo.defects import Defect
from kraken_pipeline.demo.faults import (
    Delay,
    Fault,
    FaultScript,
    HalfBody,
    HttpStatus,
    LeftOut,
    Oversized,
    Redirect,
    Refusal,
    Reset,
    SystemState,
    Tampering,
    ThrottledReply,
    Trickle,
)
from kraken_pipeline.demo.replies import PER_PAIR, RefusedError, Replies
from kraken_pipeline.demo.tampering import Change, changed
from kraken_pipeline.demo.throttle import Throttle
from kraken_pipeline.demo.world import SECOND_NS, World
from kraken_pipeline.errors import InvalidRequest

_PREFIX = "/0/public/"
_LOOPBACK = "127.0.0.1"
_JSON = "application/json; charset=utf-8"
_HTML = "text/html; charset=UTF-8"


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request that reached the server.

    Attributes:
        time: The time of arrival, by the server's timer (seconds since the epoch).
        endpoint: `OHLC`, `Trades`, …
        pair: The altname of the pair that it names in any spelling; None if it names no existing pair.
        params: Its query.
        outcome: `ok`, an error code, `HTTP 520`, or the fault that hit it: `reset`, `delay`, `half a body`,
            `oversized`, `bomb`, `trickle`, `redirect`, or the text of a `Tampering`.
    """

    time: float
    endpoint: str
    pair: str | None
    params: Mapping[str, str]
    outcome: str


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer to a request, and the way to send it."""

    outcome: str
    body: bytes
    status: int = 200
    content_type: str = _JSON
    date: int = 0  # the exchange's time, in seconds since the epoch
    delay: float = 0.0
    resets: bool = False
    breaks_off: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds_a_byte: float = 0.0


class DemoExchange:
    """The demo exchange's server, used as a context manager.

    ::

        with DemoExchange(world) as exchange:
            urlopen(f"{exchange.url}/0/public/OHLC?pair=XBTUSD&interval=60")
    """

    def __init__(
        self,
        world: World,
        *,
        clock: Callable[[], int] | None = None,
        timer: Callable[[], float] = time.time,
        faults: Iterable[Fault] = (),
        throttle: Throttle | None = None,
        defects: Sequence[Defect] = (),
        host: str = _LOOPBACK,
        port: int = 0,
    ) -> None:
        """Prepare a server; it starts to listen when the context is entered.

        Args:
            world: The world with the trades.
            clock: Returns the exchange's time, in nanoseconds since the epoch; by default it stands at `world.now`.
            timer: Returns the time of requests, in seconds since the epoch, for the log, the duration of faults and
                the throttle. It is the wall clock, unless a test simulates that too.
            faults: The faults to inject.
            throttle: The rate limit for callers; None for no limit.
            defects: False statements of OHLC (`DefectKind.FALSE_QUIET`).
            host: The address to listen on.
            port: The port; 0 for one that the system chooses.
        """
        self._replies = Replies(world, defects)
        self._clock = clock or FixedClock(world.now)
        self._timer = timer
        self._script = FaultScript(faults)
        self._throttle = throttle
        self._address = (host, port)
        self._log: list[LoggedRequest] = []
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        """Start to listen, and answer requests in separate threads."""
        self._server = _Server(self._address, self)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and close all connections."""
        if self._server is not None:
            self._server.stop()

    @property
    def url(self) -> str:
        """The URL of the server, without a slash at the end.

        Raises:
            InvalidRequest: The server does not listen yet.
        """
        if self._server is None:
            raise InvalidRequest("the demo exchange listens only within its context: with DemoExchange(world) as …")
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def requests(self) -> tuple[LoggedRequest, ...]:
        """All requests so far, in order of arrival."""
        return tuple(self._log)

    def inject(self, fault: Fault) -> None:
        """Add a fault from now on."""
        self._script.add(fault)

    def answer(self, endpoint: str, params: Mapping[str, str], caller: str) -> _Answer:
        """Return the answer to a request, and log the request."""
        pair = self._replies.pair_asked_for(params)
        now = self._timer()
        answer = replace(self._decide(endpoint, params, pair, caller=caller, now=now), date=self._clock() // SECOND_NS)
        self._log.append(LoggedRequest(now, endpoint, pair, params, answer.outcome))
        return answer

    def _decide(
        self, endpoint: str, params: Mapping[str, str], pair: str | None, *, caller: str, now: float
    ) -> _Answer:
        match self._script.hit(endpoint, pair, now):
            case HttpStatus(status):
                page = f"<!DOCTYPE html><html><head><title>api.kraken.com | {status}</title></head></html>"
                return _Answer(f"HTTP {status}", page.encode(), status, _HTML)
            case Reset():
                return _Answer("reset", b"", resets=True)
            case Refusal(code):
                return _refused(code)
            case ThrottledReply(seconds):
                return _refused(f"EService:Throttled:{int(now) + seconds}")
            case Delay(seconds):
                return replace(self._reply(endpoint, params), outcome="delay", delay=seconds)
            case HalfBody():
                return replace(self._reply(endpoint, params), outcome="half a body", breaks_off=True)
            case Oversized() | Trickle() | Redirect() as how:
                return _handed_over(self._reply(endpoint, params), how)
            case SystemState() | LeftOut() | Tampering() as change:
                return self._reply(endpoint, params, change)
        counted_by = pair if endpoint in PER_PAIR else None
        if self._throttle is not None and not self._throttle.admits(caller, counted_by, now):
            return _refused("EGeneral:Too many requests")
        return self._reply(endpoint, params)

    def _reply(self, endpoint: str, params: Mapping[str, str], change: Change | None = None) -> _Answer:
        try:
            result = self._replies.result(endpoint, params, self._clock())
        except RefusedError as refusal:
            return _refused(refusal.code)
        if change is not None:
            result = changed(result, change)
        outcome = str(change) if isinstance(change, Tampering) else "ok"
        return _Answer(outcome, json.dumps({"error": [], "result": result}).encode())


def _handed_over(answer: _Answer, how: Oversized | Trickle | Redirect) -> _Answer:
    """Return an answer that is sent in an unusual way."""
    match how:
        case Trickle(seconds):
            return replace(answer, outcome="trickle", seconds_a_byte=seconds)
        case Redirect(location):
            return replace(answer, outcome="redirect", status=302, body=b"", headers={"Location": location})
        case Oversized(size, is_packed):
            body = answer.body.ljust(size)
            if not is_packed:
                return replace(answer, outcome="oversized", body=body)
            return replace(answer, outcome="bomb", body=gzip.compress(body, 1), headers={"Content-Encoding": "gzip"})


def _refused(code: str) -> _Answer:
    # Without a `result`, as Kraken leaves it out.
    return _Answer(code, json.dumps({"error": [code]}).encode())


def serve(
    world: World,
    *,
    host: str = _LOOPBACK,
    port: int = 8_080,
    announce: Callable[[str], None],
    throttle: Throttle | None = None,
) -> None:
    """Serve in the foreground until interrupted, with a clock that starts at the world's present.

    Args:
        world: The world with the trades.
        host: The address to listen on.
        port: The port; 0 for one that the system chooses.
        announce: Is called with the URL as soon as the server answers.
        throttle: The rate limit for callers; None for no limit.
    """
    with (
        contextlib.suppress(KeyboardInterrupt),
        DemoExchange(world, clock=MovingClock(world.now), throttle=throttle, host=host, port=port) as exchange,
    ):
        announce(exchange.url)
        while True:  # Ctrl-C does not interrupt waiting for a lock once Polars has handlers of its own
            time.sleep(3_600)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # the default of 5 refuses clients that start at the same time

    def __init__(self, address: tuple[str, int], exchange: DemoExchange) -> None:
        self.exchange = exchange
        self.stopping = threading.Event()
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        if _is_to_be_reset(request):
            request.close()  # an orderly shutdown would send FIN first
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Some faults are meant to make the client give up.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def stop(self) -> None:
        """Stop listening and close all connections, even if an answer is still being delayed."""
        self.stopping.set()
        self.shutdown()
        self.server_close()
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Trickling:
    """A stream that writes one byte at a time, with a pause before each, until the server stops."""

    def __init__(self, stream: BufferedIOBase, seconds: float, stopping: threading.Event) -> None:
        self._stream, self._seconds, self._stopping = stream, seconds, stopping

    def write(self, data: bytes) -> int:
        for byte in data:
            if self._stopping.wait(self._seconds):
                break
            self._stream.write(bytes([byte]))
            self._stream.flush()
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _is_to_be_reset(connection: socket.socket) -> bool:
    return bool(struct.unpack("ii", connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))[0])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections alive
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        params = dict(parse_qsl(url.query, keep_blank_values=True))
        answer = self.server.exchange.answer(url.path.removeprefix(_PREFIX), params, self.client_address[0])
        if answer.delay:
            self.server.stopping.wait(answer.delay)
        if answer.resets:
            # A linger time of zero makes the system send RST when the socket closes.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        if answer.seconds_a_byte:
            self.wfile = cast("BufferedIOBase", _Trickling(self.wfile, answer.seconds_a_byte, self.server.stopping))
        self.send_response_only(answer.status)
        self.send_header("Date", self.date_time_string(answer.date))
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if answer.breaks_off:
            self.wfile.write(answer.body[: len(answer.body) // 2])
            self.close_connection = True
        else:
            self.wfile.write(answer.body)

    def log_message(self, *_: Any) -> None:
        """Log nothing; the requests are in `DemoExchange.requests`."""
