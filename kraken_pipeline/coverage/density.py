"""Density: where the ids of a pair's trades count as consecutive, so that an absent id is an absent trade.

Kraken numbers the trades of a pair one by one. That was recorded since 2021; what is older is held against its ids only
where a test has shown that they are consecutive.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kraken_pipeline.coverage.ranges import Span, Spans, clip, normalise, subtract

DENSE_SINCE = 1_609_459_200
"""2021-01-01: from here on ids count as consecutive until that is disproved."""


@dataclass(frozen=True, slots=True, order=True)
class AbsentIds:
    """Ids that are absent between two trades that follow each other.

    Attributes:
        first: The first of them.
        last: The last of them.
        start: The second of the trade before them, since the epoch.
        end: The second of the trade after them.
    """

    first: int
    last: int
    start: int
    end: int

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
    def ids(self) -> Span:
        """The ids as a range."""
        return Span(self.first, self.last + 1)


@dataclass(frozen=True, slots=True)
class Density:
    """What is known of how the trades of a pair are numbered.

    Attributes:
        tested: Where a test has shown that ids are consecutive.
        sparse: Ids that do not exist: the exchange left them out again when it was asked again.
    """

    tested: Spans = ()
    sparse: tuple[AbsentIds, ...] = ()

    def is_dense(self, span: Span) -> bool:
        """Tell whether all ids of a span count as consecutive, so that their difference is a number of trades."""
        return self.is_held(span) and not any(absent.span.overlaps(span) for absent in self.sparse)

    def holes(self, absent: Iterable[AbsentIds]) -> list[AbsentIds]:
        """Return those absent ids that are absent trades."""
        sparse = normalise(known.ids for known in self.sparse)
        return [each for each in absent if self.is_held(each.span) and subtract((each.ids,), clip(sparse, each.ids))]

    def is_held(self, span: Span) -> bool:
        """Tell whether trades of a span are held against their ids."""
        return all(part.start >= DENSE_SINCE for part in subtract((span,), self.tested))
