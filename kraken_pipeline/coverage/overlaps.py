"""A search for the items that overlap a span, without a scan of all items."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Generic, TypeVar

from kraken_pipeline.coverage.ranges import Span

T = TypeVar("T")
_FEW = 8
"""The number of items that are looked through as they are: an index of so few costs more than it saves."""


class Overlaps(Generic[T]):
    """Items indexed by their spans, which may overlap each other and come in any order.

    Args:
        items: The items.
        span_of: Returns the span of an item.
    """

    def __init__(self, items: Iterable[T], span_of: Callable[[T], Span]) -> None:
        self._items = tuple(items)
        self._span_of = span_of
        if len(self._items) <= _FEW:
            return
        spans = [span_of(item) for item in self._items]
        self._order = sorted(range(len(spans)), key=lambda place: spans[place].start)
        self._starts = [spans[place].start for place in self._order]
        self._reach = list(accumulate((spans[place].end for place in self._order), max))

    def over(self, span: Span) -> list[T]:
        """Return the items that overlap a span, in the order in which they were given."""
        start, end = span.start, span.end
        if len(self._items) <= _FEW:
            return [item for item in self._items if (its := self._span_of(item)).start < end and start < its.end]
        # No item before `first` reaches far enough, and none from `last` on begins early enough.
        first, last = bisect_right(self._reach, start), bisect_left(self._starts, end)
        found = (self._items[place] for place in sorted(self._order[first:last]))
        return [item for item in found if self._span_of(item).overlaps(span)]
