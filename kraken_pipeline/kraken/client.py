"""Requests to Kraken's public API: retry → breaker → limiter → HTTP, outermost first.

A breaker outside the retry would take 15 requests for 5 failures. What is shared with other processes (limiter,
breaker, counters) is passed in.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

import requests
from pydantic import BaseModel, ConfigDict, ValidationError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from kraken_pipeline.errors import CircuitOpen, ExchangeUnavailable, LastingError, Maintenance, Throttled, UnusableReply
from kraken_pipeline.kraken.faults import error_of

_PREFIX = "/0/public/"
_SHOWN = 200
"""Characters of a reply that an error quotes."""


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


class Counts(Protocol):
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
        timeout: How long an answer is waited for, in seconds.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        limiter: Limits,
        breaker: Circuit,
        counters: Counts,
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
        self._session = requests.Session()
        self._session.headers["User-Agent"] = "kraken_pipeline"
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
        try:
            reply = self._session.get(f"{self._url}{_PREFIX}{endpoint}", params=dict(params), timeout=self._timeout)
            content = reply.content
        except requests.RequestException as error:
            raise ExchangeUnavailable(f"{asked}: {_reason(error)}") from error
        self._compare_clocks(reply.headers.get("Date"), sent_at)
        if reply.status_code == requests.codes.too_many_requests:
            raise Throttled(f"{asked}: HTTP 429")
        if reply.status_code != requests.codes.ok:
            raise ExchangeUnavailable(f"{asked}: HTTP {reply.status_code}, {_quoted(content)}")
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

    def _compare_clocks(self, date: str | None, sent_at: float) -> None:
        """Takes note of what time it was there when it answered, and here in the middle of the request."""
        try:
            self.told_time = parsedate_to_datetime(date or "").timestamp()
        except (ValueError, OverflowError):
            self.told_time = self.ahead = None
        else:
            # A whole second is told: half of one passed since then, on the average.
            self.ahead = (sent_at + time.time()) / 2 - (self.told_time + 0.5)


def _asked(endpoint: str, params: Mapping[str, str | int]) -> str:
    return f"{endpoint} {' '.join(f'{name}={value}' for name, value in params.items())}".rstrip()


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    return f"the connection failed ({type(error).__name__})"


def _quoted(content: bytes) -> str:
    return repr(content[:_SHOWN].decode("utf-8", "replace"))
