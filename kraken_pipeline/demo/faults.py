"""What goes wrong on the way to Kraken, scripted: which requests are hit, and by what.

A `Fault` hits the requests that fit it, from the one after the first `after` on, until it has hit `times` or
`seconds` have passed since its first hit::

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
    """An error of Kraken's in its envelope, with HTTP 200: `EService:Busy`."""

    code: str


@dataclass(frozen=True, slots=True)
class ThrottledReply:
    """`EService:Throttled:<unix time>`, with the time so many seconds from now."""

    seconds: int


@dataclass(frozen=True, slots=True)
class HttpStatus:
    """A status of the CDN with a page in HTML, such as 502, 503, 504, 520, 521, 522."""

    status: int


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection is reset before an answer."""


@dataclass(frozen=True, slots=True)
class Delay:
    """The right answer, so many seconds late: beyond what the client waits."""

    seconds: float


@dataclass(frozen=True, slots=True)
class HalfBody:
    """The answer breaks off in the middle and the connection closes."""


@dataclass(frozen=True, slots=True)
class Oversized:
    """The right answer with blanks behind it, so many bytes long; packed with gzip, where it is a bomb."""

    size: int
    is_packed: bool = False


@dataclass(frozen=True, slots=True)
class Trickle:
    """The right answer, a byte every so many seconds, from the first of its headers on."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Redirect:
    """The answer sends the client elsewhere."""

    location: str


@dataclass(frozen=True, slots=True)
class SystemState:
    """What SystemStatus says: `maintenance`, `cancel_only` or `post_only`, and what it announces beside it."""

    status: str
    upcoming_maintenance: tuple[Mapping[str, Any], ...] | None = None
    emergency: tuple[Mapping[str, Any], ...] | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Trades that a page lacks: those with the ids from `first` to `last`."""

    first: int
    last: int


class Tampering(StrEnum):
    """A reply that is not what it should be, or that has grown; two are about times of trades, and for Trades alone."""

    LAST_MISSING = "the result has no `last`"
    LAST_ZERO = "`last` is 0"
    NO_ROWS = "the result has no rows"
    EXCHANGED = "neighbouring rows are exchanged"
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
    """An effect, and which requests it hits.

    Attributes:
        effect: What happens to them.
        endpoint: `OHLC`, `Trades`, …; None for every one.
        pair: The altname of what they ask for, however they spell it; None for every one.
        after: How many fitting requests pass before the first is hit.
        times: How many it hits; None for all that follow.
        seconds: How long it lasts from its first hit on, by the server's timer; None for as long as it takes.
        condition: It hits nothing while this is false.
    """

    effect: Effect
    endpoint: str | None = None
    pair: str | None = None
    after: int = 0
    times: int | None = 1
    seconds: float | None = None
    condition: Callable[[], bool] = _always

    def fits(self, endpoint: str, pair: str | None) -> bool:
        """Whether it is about such requests."""
        return self.endpoint in (None, endpoint) and self.pair in (None, pair)


@dataclass(slots=True)
class _Course:
    """How far a fault has come."""

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
    """The faults of a server and how far each has come; for several threads."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        """Take the faults in order; where several are due, the first one hits."""
        self._courses = [_Course(fault) for fault in faults]
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """One more, which counts requests from now on."""
        with self._lock:
            self._courses.append(_Course(fault))

    def hit(self, endpoint: str, pair: str | None, now: float) -> Effect | None:
        """What a request is hit by, if it is.

        Args:
            endpoint: What is asked.
            pair: About which pair (altname), if about one.
            now: The moment of asking, in seconds.
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
