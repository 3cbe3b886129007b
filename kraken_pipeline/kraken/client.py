"""Requests to Kraken's public API: retry → breaker → limiter → HTTP, outermost first.

A breaker outside the retry would take 15 requests for 5 failures. What is shared with other processes (limiter,
breaker, counters) is passed in.
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
"""Characters of a reply that an error quotes."""
LARGEST_REPLY = 32 << 20
"""Bytes of a reply, unpacked. The largest of Kraken's, AssetPairs with 1,400 pairs, has less than two million."""
LARGEST_PACKED = 8 << 20
"""Bytes of a reply as it comes."""
PATIENCE = 2
"""How many times as long as for its next part is waited for all of an answer."""
_PIECE = 1 << 16
_REDIRECTS = 3


class Limits(Protocol):
    """Permits to make a request, shared by all processes."""

    def acquire(self, endpoint: str) -> None:
        """Waits for a permit."""

    def throttled(self, endpoint: str, until: float | None = None) -> None:
        """Takes note that the exchange complained."""


class Circuit(Protocol):
    """Whether requests may be made at all, as all processes see it."""

    def admit(self) -> None:
        """Lets a request pass, or raises `CircuitOpen`."""

    def succeeded(self) -> None:
        """Takes note of an answer."""

    def failed(self) -> None:
        """Takes note of a failure."""


class RequestCounts(Protocol):
    """Counts that all processes share."""

    def add(self, name: str, count: int = 1) -> None:
        """Counts something."""


class _Envelope(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    error: list[str]
    result: Any = None


class Client:
    """Asks one exchange, and answers with results or errors, never with one that looks like the other.

    Args:
        url: The exchange, without a slash at the end.
        limiter: Gives permits.
        breaker: Stops everybody while the exchange is down.
        counters: Told of requests, retries and errors.
        attempts: How often a request is made that fails for a reason that can pass.
        first_wait: The wait before the second attempt, in seconds; each further one doubles it, with jitter.
        longest_wait: The longest wait between two attempts. Where Kraken asks for a longer one, there is none.
        timeout: How long the next part of an answer is waited for, in seconds; for all of it `PATIENCE` times as long.
        sleep: Waits so many seconds.
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
        self.told_time: float | None = None
        """The exchange's time when it last answered, as the reply's `Date` says; None where that said none."""
        self.ahead: float | None = None
        """By how many seconds the clock here was ahead of that time."""

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()

    def ask(self, endpoint: str, **params: str | int) -> Any:
        """The `result` of a request.

        Args:
            endpoint: `OHLC`, `Trades`, ….
            params: The query.

        Raises:
            ExchangeUnavailable: There was no answer, after all attempts.
            ExchangeRefused: Kraken says that the request is wrong.
            UnusableReply: The answer has neither an error nor a result.
        """
        return self._retrying(self._attempt, endpoint, params)

    def _can_pass(self, error: BaseException) -> bool:
        """Whether another attempt can succeed soon: not while the circuit is open, in maintenance or locked out."""
        if isinstance(error, Throttled) and error.wait_until is not None:
            return error.wait_until - time.time() <= self._longest_wait
        return isinstance(error, ExchangeUnavailable) and not isinstance(error, CircuitOpen | Maintenance)

    def _count_retry(self, _: RetryCallState) -> None:
        self._counters.add("api.retries")

    def _attempt(self, endpoint: str, params: Mapping[str, str | int]) -> Any:
        self._breaker.admit()
        self._limiter.acquire(endpoint)
        self.requests += 1
        self._counters.add("api.requests")
        asked = _asked(endpoint, params)
        try:
            result = self._fetch(endpoint, params, asked)
        except Throttled as error:
            self._counters.add("api.errors")
            self._limiter.throttled(endpoint, error.wait_until)
            self._breaker.succeeded()  # it answers, and it is the limiter's to do as it says
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
            raise ExchangeUnavailable(f"{asked}: the answer is no JSON, {_quoted(content)}") from None
        try:
            envelope = _Envelope.model_validate(body)
        except ValidationError:
            raise UnusableReply(f"{asked}: the answer is not one of Kraken's, {_quoted(content)}") from None
        # What begins with W is a warning beside a result.
        if codes := [code for code in envelope.error if not code.startswith("W") or envelope.result is None]:
            raise error_of(codes, asked, time.time())
        if envelope.result is None:
            raise UnusableReply(f"{asked}: the answer has neither an error nor a result, {_quoted(content)}")
        return envelope.result

    def _in_time(self, url: str, params: Mapping[str, str | int], asked: str) -> _Reply:
        """The answer of a request, if all of it comes in time.

        A server that sends a byte now and then, be it of its headers, keeps any time-out of a socket from passing. So
        the request is made by a thread that is left to itself, with its connections, where it takes too long.
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
        """Takes note of what time it was there when it answered, and here in the middle of the request."""
        try:
            self.told_time = parsedate_to_datetime(date or "").timestamp()
        except (ValueError, OverflowError):
            self.told_time = self.ahead = None
        else:
            # A whole second is told: half of one passed since then, on the average.
            self.ahead = (sent_at + time.time()) / 2 - (self.told_time + 0.5)


@dataclass(frozen=True, slots=True)
class _Reply:
    """An answer: HTTP's status, what the `Date` header says, the body unpacked."""

    status: int
    date: str | None
    content: bytes


def _session() -> requests.Session:
    session = requests.Session()
    # What is packed otherwise could not be unpacked piece by piece here.
    session.headers.update({"User-Agent": "kraken_pipeline", "Accept-Encoding": "gzip"})
    return session


def _answer(
    session: requests.Session, url: str, params: Mapping[str, str | int], asked: str, timeout: float, until: float
) -> _Reply:
    """Makes a request, and follows where its own address leads.

    Raises:
        ExchangeUnavailable: There is no answer, or half of one.
        AnswerTooSlow: It is not here by `until`, of the monotonic clock.
        ReplyTooLarge: It is larger than any of Kraken's.
        RedirectRefused: It sends us to another address.
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
                f"{asked}: the answer sends us to {where.scheme}://{where.netloc}, which is not where KRAKEN_API_URL "
                "points; if Kraken has moved, set it to the new address"
            )
        url, query = target, None
    raise ExchangeUnavailable(f"{asked}: the answer leads from one address to the next")


def _pieces(raw: Any, asked: str, until: float) -> Iterator[bytes]:
    """The body as it comes, piece by piece."""
    size = 0
    while piece := raw.read1(_PIECE, decode_content=False):
        size += len(piece)
        if size > LARGEST_PACKED:
            raise ReplyTooLarge(f"{asked}: the answer is larger than {LARGEST_PACKED >> 20} MiB")
        if time.monotonic() > until:
            raise AnswerTooSlow(f"{asked}: the answer takes too long")
        yield piece


def _unpacked(pieces: Iterator[bytes], packed: str, asked: str) -> bytes:
    """A body unpacked, of which no more is ever in memory than a reply may have."""
    if packed == "identity":
        return b"".join(pieces)
    if packed != "gzip":
        raise UnusableReply(f"{asked}: the answer is packed with {packed:.40}, which nobody asked for")
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
        raise ExchangeUnavailable(f"{asked}: the answer breaks off")
    return bytes(content)


def _asked(endpoint: str, params: Mapping[str, str | int]) -> str:
    return f"{endpoint} {' '.join(f'{name}={value}' for name, value in params.items())}".rstrip()


def _reason(error: requests.RequestException | urllib3.exceptions.HTTPError) -> str:
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    return f"the connection failed ({type(error).__name__})"


def _quoted(content: bytes) -> str:
    return repr(content[:_SHOWN].decode("utf-8", "replace"))
