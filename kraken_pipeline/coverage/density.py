"""Density: where the ids of a pair's trades count as consecutive, so that an absent id is an absent trade.

Kraken numbers the trades of a pair one by one. That was recorded since 2021; what is older is held against its ids only
where a test has shown that they are consecutive.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kraken_pipeline.coverage.ranges import Span, Spans, clip, normalise, subtract
from kraken_pipeline.market.interval import Interval

DENSE_SINCE = 1_609_459_200
"""2021-01-01: from here on ids count as consecutive until that is disproved; before, that is tested year by year."""
SPARSE = 3
"""So many separate gaps in one page are no loss of the exchange's: its numbers of that time count something else."""
APART_SECONDS = 3_600
"""Seconds that lie at least between two runs that find the same ids absent, before these ids count as not existing."""


@dataclass(frozen=True, slots=True, order=True)
class AbsentIds:
    """Ids that are absent between two trades.

    Attributes:
        first: The first of them.
        last: The last of them.
        start: The second of the trade before them, since the epoch.
        end: The second of the trade after them.
        parts: In how many places they are absent: one where the two trades follow each other in the page.
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
        """How many they are."""
        return self.last - self.first + 1

    @property
    def span(self) -> Span:
        """The seconds in which a trade with such an id was made, if there was one."""
        return Span(self.start, max(self.start, self.end) + 1)

    @property
    def minutes(self) -> Span:
        """The whole minutes around it: their trades cannot be counted by ids."""
        minute = Interval.M1
        return Span(minute.floor(self.span.start), minute.floor(self.span.end - 1) + minute.seconds)

    @property
    def ids(self) -> Span:
        """The ids as a range."""
        return Span(self.first, self.last + 1)

    @staticmethod
    def of_page(absent: Sequence[AbsentIds]) -> list[AbsentIds]:
        """Return what of a page is to be put on record: each gap, or one entry where they are many.

        Args:
            absent: The gaps of one page, in order of their ids.
        """
        if len(absent) < SPARSE:
            return list(absent)
        parts = sum(each.parts for each in absent)
        return [AbsentIds(absent[0].first, absent[-1].last, absent[0].start, absent[-1].end, parts)]


@dataclass(frozen=True, slots=True)
class Absence:
    """What is on record of absent ids.

    Attributes:
        absent: Which.
        run_id: The run that was the first to find them absent.
        seen_at: When, in seconds since the epoch.
        confirmed_at: When another run found the same, so that they count as not existing; None before that.
    """

    absent: AbsentIds
    run_id: str
    seen_at: int
    confirmed_at: int | None = None

    def is_due(self, now: int) -> bool:
        """Tell whether they are to be asked for again."""
        return self.confirmed_at is None and now >= self.seen_at + APART_SECONDS


@dataclass(frozen=True, slots=True)
class Density:
    """What is known of how the trades of a pair are numbered.

    Attributes:
        tested: Where a test has shown that ids are consecutive.
        sparse: Ids that do not exist: the exchange left them out again when it was asked again.
    """

    tested: Spans = ()
    sparse: tuple[AbsentIds, ...] = ()

    def holes(self, absent: Iterable[AbsentIds]) -> list[AbsentIds]:
        """Return those absent ids that are absent trades."""
        sparse = normalise(known.ids for known in self.sparse)
        return [each for each in absent if self.is_held(each.span) and subtract((each.ids,), clip(sparse, each.ids))]

    def is_held(self, span: Span) -> bool:
        """Tell whether trades of a span are held against their ids."""
        return all(part.start >= DENSE_SINCE for part in subtract((span,), self.tested))
