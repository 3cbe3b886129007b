"""Sets of ranges as sets of integers: slow, and beyond doubt."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from hypothesis import strategies as st

from kraken_pipeline.coverage.ranges import Span, Spans, normalise

ENDS = st.integers(0, 50)
LOOSE_SPANS = st.lists(
    st.tuples(ENDS, ENDS).filter(lambda ends: ends[0] != ends[1]).map(lambda ends: Span(min(ends), max(ends))),
    max_size=8,
)
"""Spans that overlap, touch and come in any order."""
SETS = LOOSE_SPANS.map(normalise)


def instants(spans: Iterable[Span]) -> set[int]:
    """Every instant of some spans."""
    return {time for each in spans for time in range(each.start, each.end)}


def model(held: set[int]) -> Spans:
    """The one way to write a set of instants as ranges."""
    starts = sorted(time for time in held if time - 1 not in held)
    ends = sorted(time + 1 for time in held if time + 1 not in held)
    return tuple(Span(start, end) for start, end in zip(starts, ends, strict=True))


def is_a_set(spans: Spans) -> bool:
    """Whether it is sorted, disjoint and not adjacent."""
    return all(left.end < right.start for left, right in itertools.pairwise(spans))
