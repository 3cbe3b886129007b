"""Scripted faults of the demo exchange: effects, and the requests that they hit.

A `Fault` hits the requests that match it. It skips the first `after` of them, and ends after `times` hits or
`seconds` after its first hit::

    Fault(HttpStatus(520), endpoint="OHLC")                    the first OHLC request
    Fault(Reset(), pair="ADAEUR", after=2, times=3)            the third to fifth request about ADAEUR
    Fault(HttpStatus(503), times=None, seconds=120)            an outage of two minutes
    Fault(Refusal("EGeneral:Too many requests"), times=None, seconds=20)
    Fault(SystemState("maintenance"), endpoint="SystemStatus", times=None, condition=event.is_set)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class Refusal:
    """A Kraken error in its envelope, with HTTP 200: `EService:Busy`."""

    code: str


@dataclass(frozen=True, slots=True)
class ThrottledReply:
    """The error `EService:Throttled:<unix time>`, with a time `seconds` from now."""

    seconds: int


@dataclass(frozen=True, slots=True)
class HttpStatus:
    """An HTTP error of the CDN with an HTML page, such as 502, 503, 504, 520, 521, 522."""

    status: int


@dataclass(frozen=True, slots=True)
class Reset:
    """A connection that is reset before an answer."""


@dataclass(frozen=True, slots=True)
class Delay:
    """The right answer, but `seconds` late: longer than the client waits."""

    seconds: float


@dataclass(frozen=True, slots=True)
class HalfBody:
    """An answer that breaks off in the middle; then the connection closes."""


@dataclass(frozen=True, slots=True)
class Oversized:
    """The right answer, padded with blanks to `size` bytes; packed with gzip, it is a decompression bomb."""

    size: int
    is_packed: bool = False


@dataclass(frozen=True, slots=True)
class Trickle:
    """The right answer, sent as one byte every `seconds` seconds, headers included."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Redirect:
    """A redirect to another location."""

    location: str


@dataclass(frozen=True, slots=True)
class SystemState:
    """A SystemStatus with another status: `maintenance`, `cancel_only` or `post_only`, and with announcements."""

    status: str
    upcoming_maintenance: tuple[Mapping[str, Any], ...] | None = None
    emergency: tuple[Mapping[str, Any], ...] | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Trades that are left out of a page: those with the ids from `first` to `last`, or one in `every` of them."""

    first: int
    last: int
    every: int = 1


class Tampering(StrEnum):
    """A change that makes a reply wrong, or adds fields to it. Two change times of trades, and are for Trades only."""

    LAST_MISSING = "the result has no `last`"
    LAST_ZERO = "`last` is 0"
    NO_ROWS = "the result has no rows"
    EXCHANGED = "neighbouring rows are swapped"
    LATER_THAN_LAST = "the last row is later than `last`"
    FROM_THE_FUTURE = "the last row is of the next hour, and `last` with it"
    GROWN = "rows and the result have more fields, prices are numbers, and `last` is text"


Effect = (
    Refusal
    | ThrottledReply
    | HttpStatus
    | Reset
    | Delay
    | HalfBody
    | Oversized
    | Trickle
    | Redirect
    | SystemState
    | LeftOut
    | Tampering
)


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Fault:
    """An effect, and the requests that it hits.

    Attributes:
        effect: The effect on these requests.
        endpoint: `OHLC`, `Trades`, …; None for all.
        pair: The altname of the requested pair, in any spelling; None for all.
        after: The number of matching requests before the first hit.
        times: The number of hits; None for no limit.
        seconds: The duration from the first hit on, by the server's timer; None for no limit.
        condition: Returns whether the fault is active; while it is false, nothing is hit.
    """

    effect: Effect
    endpoint: str | None = None
    pair: str | None = None
    after: int = 0
    times: int | None = 1
    seconds: float | None = None
    condition: Callable[[], bool] = _always

    def fits(self, endpoint: str, pair: str | None) -> bool:
        """Return whether requests to an endpoint about a pair match."""
        return self.endpoint in (None, endpoint) and self.pair in (None, pair)


@dataclass(slots=True)
class _Course:
    """The progress of a fault."""

    fault: Fault
    seen: int = 0
    hits: int = 0
    first_hit: float = 0.0

    def is_due(self, now: float) -> bool:
        fault = self.fault
        begun = self.seen > fault.after
        spent = fault.times is not None and self.hits >= fault.times
        over = fault.seconds is not None and self.hits > 0 and now >= self.first_hit + fault.seconds
        return begun and not spent and not over and fault.condition()


class FaultScript:
    """The faults of a server with the progress of each; thread-safe."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        """Set the faults; if several are due, the first one in order hits."""
        self._courses = [_Course(fault) for fault in faults]
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """Add a fault, which counts requests from now on."""
        with self._lock:
            self._courses.append(_Course(fault))

    def hit(self, endpoint: str, pair: str | None, now: float) -> Effect | None:
        """Count a request, and return the effect that hits it; None if none does.

        Args:
            endpoint: The requested endpoint.
            pair: The altname of the requested pair; None if the request names none.
            now: The time of the request, in seconds.
        """
        with self._lock:
            fitting = [course for course in self._courses if course.fault.fits(endpoint, pair)]
            for course in fitting:
                course.seen += 1
            for course in fitting:
                if course.is_due(now):
                    if course.hits == 0:
                        course.first_hit = now
                    course.hits += 1
                    return course.fault.effect
        return None
