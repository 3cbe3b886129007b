"""Requests to Kraken's public API: retry → breaker → limiter → HTTP, outermost first.

A breaker outside the retry would need 15 requests to count 5 failures. The limiter, breaker and counters are shared
with other processes and are passed in.
"""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from pydantic import BaseModel, ConfigDict, ValidationError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from kraken_pipeline.errors import (
    AnswerTooSlow,
    CircuitOpen,
    ExchangeUnavailable,
    LastingError,
    Maintenance,
    RedirectRefused,
    ReplyTooLarge,
    Throttled,
    UnusableReply,
)
from kraken_pipeline.kraken.faults import error_of

_PREFIX = "/0/public/"
_SHOWN = 200
"""The number of bytes of a reply that an error quotes."""
LARGEST_REPLY = 32 << 20
"""The size limit of an unpacked reply, in bytes. Kraken's largest, AssetPairs with 1,400 pairs, is under 2 million."""
LARGEST_PACKED = 8 << 20
"""The size limit of a reply as received, in bytes."""
PATIENCE = 2
"""The time limit for a whole answer, as a multiple of the time-out for its next part."""
_PIECE = 1 << 16
_REDIRECTS = 3


class Limits(Protocol):
    """Permits to make a request, shared by all processes."""

    def acquire(self, endpoint: str) -> None:
        """Wait for a permit."""

    def throttled(self, endpoint: str, until: float | None = None) -> None:
        """Record that the exchange throttled a request."""


class Circuit(Protocol):
    """A circuit breaker, shared by all processes."""

    def admit(self) -> None:
        """Admit a request, or raise `CircuitOpen`."""

    def succeeded(self) -> None:
        """Record an answer."""

    def failed(self) -> None:
        """Record a failure."""


class RequestCounts(Protocol):
    """Counters, shared by all processes."""

    def add(self, name: str, count: int = 1) -> None:
        """Add to a counter."""


class _Envelope(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    error: list[str]
    result: Any = None


class Client:
    """A client of one exchange. It returns results and raises errors; an error is never mistaken for a result.

    Args:
        url: The address of the exchange; a slash at the end is removed.
        limiter: Grants permits for requests.
        breaker: Stops the requests of all processes while the exchange is down.
        counters: Counts requests, retries and errors.
        attempts: The number of attempts for a request that fails for a temporary reason.
        first_wait: The wait before the second attempt, in seconds; each further one doubles it, with jitter.
        longest_wait: The longest wait between two attempts, in seconds. If Kraken asks for a longer one, there is no
            further attempt.
        timeout: The time-out for the next part of an answer, in seconds; the whole answer may take `PATIENCE` times
            as long.
        sleep: Waits the given number of seconds.

    Attributes:
        requests: The number of requests made.
        answers: The number of requests answered with a result.
    """

    def __init__(
        self,
        url: str,
        *,
        limiter: Limits,
        breaker: Circuit,
        counters: RequestCounts,
        attempts: int = 3,
        first_wait: float = 1.0,
        longest_wait: float = 60.0,
        timeout: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = url.rstrip("/")
        self._limiter = limiter
        self._breaker = breaker
        self._counters = counters
        self._timeout = timeout
        self._longest_wait = longest_wait
        self._session = _session()
        self._retrying = Retrying(
            stop=stop_after_attempt(attempts),
            wait=wait_exponential_jitter(multiplier=first_wait, max=longest_wait, jitter=first_wait),
            retry=retry_if_exception(self._can_pass),
            before_sleep=self._count_retry,
            sleep=sleep,
            reraise=True,
        )
        self.requests = 0
        self.answers = 0
        self.server_time: float | None = None
        """The exchange's time of its last answer, from the `Date` header; None if that had no valid date."""
        self.ahead: float | None = None
        """The seconds by which the local clock was ahead of that time; None if it is unknown."""

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def ask(self, endpoint: str, **params: str | int) -> Any:
        """Make a request and return its `result`.

        Args:
            endpoint: `OHLC`, `Trades`, ….
            params: The query.

        Raises:
            ExchangeUnavailable: There was no answer, after all attempts.
            ExchangeRefused: Kraken rejected the request as wrong.
            UnusableReply: The answer has neither an error nor a result.
        """
        return self._retrying(self._attempt, endpoint, params)

    def _can_pass(self, error: BaseException) -> bool:
        """Return whether a retry can succeed soon: not while the circuit is open, in maintenance or locked out."""
        if isinstance(error, Throttled) and error.wait_until is not None:
            return error.wait_until - time.time() <= self._longest_wait
        return isinstance(error, ExchangeUnavailable) and not isinstance(error, CircuitOpen | Maintenance)

    def _count_retry(self, _: RetryCallState) -> None:
        self._counters.add("api.retries")

    def _attempt(self, endpoint: str, params: Mapping[str, str | int]) -> Any:
        self._breaker.admit()
        before = time.monotonic()
        self._limiter.acquire(endpoint)
        self._counters.add("api.wait_ms", round(1_000 * (time.monotonic() - before)))
        self.requests += 1
        self._counters.add("api.requests")
        asked = _asked(endpoint, params)
        try:
            result = self._fetch(endpoint, params, asked)
        except Throttled as error:
            self._counters.add("api.errors")
            self._limiter.throttled(endpoint, error.wait_until)
            self._breaker.succeeded()  # the exchange is up; slowing down is the limiter's task
            raise
        except LastingError:
            self._counters.add("api.errors")
            self._breaker.succeeded()
            raise
        except ExchangeUnavailable:
            self._counters.add("api.errors")
            self._breaker.failed()
            raise
        self._breaker.succeeded()
        self.answers += 1
        return result

    def _fetch(self, endpoint: str, params: Mapping[str, str | int], asked: str) -> Any:
        sent_at = time.time()
        reply = self._in_time(f"{self._url}{_PREFIX}{endpoint}", params, asked)
        self._compare_clocks(reply.date, sent_at)
        content = reply.content
        if reply.status == requests.codes.too_many_requests:
            raise Throttled(f"{asked}: HTTP 429")
        if reply.status != requests.codes.ok:
            raise ExchangeUnavailable(f"{asked}: HTTP {reply.status}, {_quoted(content)}")
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            raise ExchangeUnavailable(f"{asked}: the answer is not JSON, {_quoted(content)}") from None
        try:
            envelope = _Envelope.model_validate(body)
        except ValidationError:
            raise UnusableReply(f"{asked}: the answer is not in Kraken's format, {_quoted(content)}") from None
        # A code that begins with W is a warning and comes with a result.
        if codes := [code for code in envelope.error if not code.startswith("W") or envelope.result is None]:
            raise error_of(codes, asked, time.time())
        if envelope.result is None:
            raise UnusableReply(f"{asked}: the answer has neither an error nor a result, {_quoted(content)}")
        return envelope.result

    def _in_time(self, url: str, params: Mapping[str, str | int], asked: str) -> _Reply:
        """Return the answer to a request, if all of it arrives in time.

        A server that sends a byte now and then, even of its headers, never triggers a socket's time-out. So a separate
        thread makes the request. If it takes too long, the thread is abandoned with its connections.
        """
        session, longest = self._session, PATIENCE * self._timeout
        outcome: list[_Reply | BaseException] = []

        def make() -> None:
            try:
                outcome.append(_answer(session, url, params, asked, self._timeout, time.monotonic() + longest))
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=make, name=f"kraken {asked}", daemon=True)
        thread.start()
        thread.join(longest)
        if not outcome:
            self._session = _session()
            raise AnswerTooSlow(f"{asked}: the answer takes longer than {longest:g} s")
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def _compare_clocks(self, date: str | None, sent_at: float) -> None:
        """Record the exchange's time of the answer, and how far the local clock was ahead in mid-request."""
        try:
            self.server_time = parsedate_to_datetime(date or "").timestamp()
        except (ValueError, OverflowError):
            self.server_time = self.ahead = None
        else:
            # The header has whole seconds: on average, half a second has passed since then.
            self.ahead = (sent_at + time.time()) / 2 - (self.server_time + 0.5)


@dataclass(frozen=True, slots=True)
class _Reply:
    """An answer: the HTTP status, the `Date` header, and the unpacked body."""

    status: int
    date: str | None
    content: bytes


def _session() -> requests.Session:
    session = requests.Session()
    # Only gzip can be unpacked piece by piece here.
    session.headers.update({"User-Agent": "kraken_pipeline", "Accept-Encoding": "gzip"})
    return session


def _answer(
    session: requests.Session, url: str, params: Mapping[str, str | int], asked: str, timeout: float, until: float
) -> _Reply:
    """Make a request, following redirects within the same scheme and host.

    Raises:
        ExchangeUnavailable: There is no answer, or only a part of one.
        AnswerTooSlow: The answer is not complete by `until`, on the monotonic clock.
        ReplyTooLarge: The answer is larger than any of Kraken's.
        RedirectRefused: The answer redirects to another scheme or host.
    """
    query: dict[str, str | int] | None = dict(params)
    for _ in range(_REDIRECTS):
        try:
            with closing(session.get(url, params=query, timeout=timeout, stream=True, allow_redirects=False)) as reply:
                if not reply.is_redirect:
                    pieces = _pieces(reply.raw, asked, until)
                    packed = reply.headers.get("Content-Encoding", "identity").lower()
                    return _Reply(reply.status_code, reply.headers.get("Date"), _unpacked(pieces, packed, asked))
                target = urljoin(url, reply.headers["Location"])
        except requests.RequestException as error:
            raise ExchangeUnavailable(f"{asked}: {_reason(error)}") from error
        except urllib3.exceptions.HTTPError as error:
            raise ExchangeUnavailable(f"{asked}: {_reason(error)}") from error
        if urlsplit(target)[:2] != urlsplit(url)[:2]:
            where = urlsplit(target)
            raise RedirectRefused(
                f"{asked}: the answer redirects to {where.scheme}://{where.netloc}, another address than "
                "KRAKEN_API_URL; if Kraken has moved, set KRAKEN_API_URL to the new address"
            )
        url, query = target, None
    raise ExchangeUnavailable(f"{asked}: the answer redirects too often")


def _pieces(raw: Any, asked: str, until: float) -> Iterator[bytes]:
    """Yield the body as received, piece by piece."""
    size = 0
    while piece := raw.read1(_PIECE, decode_content=False):
        size += len(piece)
        if size > LARGEST_PACKED:
            raise ReplyTooLarge(f"{asked}: the answer is larger than {LARGEST_PACKED >> 20} MiB")
        if time.monotonic() > until:
            raise AnswerTooSlow(f"{asked}: the answer takes too long")
        yield piece


def _unpacked(pieces: Iterator[bytes], packed: str, asked: str) -> bytes:
    """Unpack a body, never holding more of it in memory than the size limit of a reply."""
    if packed == "identity":
        return b"".join(pieces)
    if packed != "gzip":
        raise UnusableReply(f"{asked}: the answer is packed with {packed:.40}, which was not requested")
    unpacking = zlib.decompressobj(wbits=31)
    content = bytearray()
    try:
        for piece in pieces:
            rest = piece
            while rest:
                content += unpacking.decompress(rest, LARGEST_REPLY + 1 - len(content))
                if len(content) > LARGEST_REPLY:
                    raise ReplyTooLarge(f"{asked}: the answer is larger than {LARGEST_REPLY >> 20} MiB when unpacked")
                rest = unpacking.unconsumed_tail
    except zlib.error as error:
        raise ExchangeUnavailable(f"{asked}: the answer cannot be unpacked ({error})") from None
    if not unpacking.eof:
        raise ExchangeUnavailable(f"{asked}: the answer is incomplete")
    return bytes(content)


def _asked(endpoint: str, params: Mapping[str, str | int]) -> str:
    return f"{endpoint} {' '.join(f'{name}={value}' for name, value in params.items())}".rstrip()


def _reason(error: requests.RequestException | urllib3.exceptions.HTTPError) -> str:
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    return f"the connection failed ({type(error).__name__})"


def _quoted(content: bytes) -> str:
    return repr(content[:_SHOWN].decode("utf-8", "replace"))
