"""Density: the time in which the ids of a pair's trades count as consecutive, so that an absent id is an absent trade.

Kraken numbers the trades of a pair one by one. That was recorded since 2021; older trades are checked against their
ids only where a test has shown that these are consecutive.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kraken_pipeline.coverage.ranges import Span, Spans, clip, normalise, subtract
from kraken_pipeline.market.interval import Interval

DENSE_SINCE = 1_609_459_200
"""2021-01-01: from here on ids count as consecutive until disproved; earlier years are tested one by one."""
SPARSE = 3
"""This many separate gaps in one page are no lost trades: the ids of that time count something else."""
APART_SECONDS = 3_600
"""The least number of seconds between two runs that find the same ids absent before these count as nonexistent."""


@dataclass(frozen=True, slots=True, order=True)
class AbsentIds:
    """Ids that are absent between two trades.

    Attributes:
        first: The first absent id.
        last: The last absent id.
        start: The time of the trade before them, in seconds since the epoch.
        end: The time of the trade after them, in seconds since the epoch.
        parts: The number of gaps in the page in which they are absent, this one included.
    """

    first: int
    last: int
    start: int
    end: int
    parts: int = 1

    def __str__(self) -> str:
        return f"id {self.first}" if self.first == self.last else f"ids {self.first} to {self.last}"

    @property
    def count(self) -> int:
        """The number of ids from the first to the last."""
        return self.last - self.first + 1

    @property
    def span(self) -> Span:
        """The span in which a trade with such an id was made, if it exists."""
        return Span(self.start, max(self.start, self.end) + 1)

    @property
    def minutes(self) -> Span:
        """The whole minutes around the span; their trades cannot be counted by ids."""
        minute = Interval.M1
        return Span(minute.floor(self.span.start), minute.floor(self.span.end - 1) + minute.seconds)

    @property
    def ids(self) -> Span:
        """The ids as a half-open range."""
        return Span(self.first, self.last + 1)


@dataclass(frozen=True, slots=True)
class Absence:
    """A record of absent ids.

    Attributes:
        absent: The absent ids.
        run_id: The first run that found them absent.
        seen_at: The time of that, in seconds since the epoch.
        confirmed_at: The time at which another run found the same, after which they count as nonexistent; None before.
    """

    absent: AbsentIds
    run_id: str
    seen_at: int
    confirmed_at: int | None = None

    def is_due(self, now: int) -> bool:
        """Return whether the ids are due to be requested again."""
        return self.confirmed_at is None and now >= self.seen_at + APART_SECONDS


def by_page(absent: Iterable[AbsentIds], trades: int) -> list[list[AbsentIds]]:
    """Group absent ids so that one page from the first of a group shows whether any of the group has appeared.

    Args:
        absent: The absent ids, in order.
        trades: The number of trades in a page.
    """
    groups: list[list[AbsentIds]] = []
    for ids in absent:
        if groups and ids.last < groups[-1][0].first + trades:
            groups[-1].append(ids)
        else:
            groups.append([ids])
    return groups


@dataclass(frozen=True, slots=True)
class Density:
    """The density of the trade ids of a pair.

    Attributes:
        tested: The time for which a test has shown that ids are consecutive.
        sparse: Ids that do not exist: the exchange omitted them again in a second reply.
    """

    tested: Spans = ()
    sparse: tuple[AbsentIds, ...] = ()

    def holes(self, absent: Iterable[AbsentIds]) -> list[AbsentIds]:
        """Return the absent ids that are absent trades."""
        sparse = normalise(known.ids for known in self.sparse)
        return [hole for hole in absent if self.is_held(hole.span) and subtract((hole.ids,), clip(sparse, hole.ids))]

    def is_held(self, span: Span) -> bool:
        """Return whether trades of a span are checked against their ids."""
        return all(part.start >= DENSE_SINCE for part in subtract((span,), self.tested))
