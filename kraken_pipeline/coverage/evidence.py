"""Evidence: grants, and the coverage that follows from grants and refutations.

**Covered = union of grants less refutations.** Inside coverage an absent candle means that there was no trade.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kraken_pipeline.coverage.ranges import Span, Spans, normalise, subtract

MIXED = "MIXED"
RECOVERED = "RECOVERED"
"""The source of a grant for candles of trades whose catalog was lost.

It is no longer known whether all their trades were read, so they do not prove themselves as minutes of trades do.
"""


@dataclass(frozen=True, slots=True)
class Grant:
    """A record that one source answered for a range: an archive file, a reply, paged trades, or finer candles.

    Attributes:
        span: The range, on the interval's grid.
        source: A `market.candle.Source`, or RECOVERED.
        verified_at: The time of the answer, in seconds since the epoch.
        trades: The number of trades that the source counts in the range.
        id: The number of the record, which grows with time; 0 before it is recorded.
    """

    span: Span
    source: str
    verified_at: int
    trades: int = 0
    id: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class CoveredRange:
    """A range of coverage, merged from the grants that overlap or touch.

    Attributes:
        span: The range.
        source: The grants' source, or MIXED if they have several.
        verified_at: The time of the latest grant, in seconds since the epoch.
    """

    span: Span
    source: str
    verified_at: int


def coverage(grants: Iterable[Grant], refuted: Spans = ()) -> tuple[CoveredRange, ...]:
    """Return the coverage of one series, sorted, disjoint and not adjacent.

    Args:
        grants: The grants of the series, in any order.
        refuted: The refuted time that has not changed since.
    """
    ordered = sorted(grants, key=lambda grant: grant.span)
    covered: list[CoveredRange] = []
    reaching: list[Grant] = []  # grants that begin before the range ends and may reach into it
    index = 0
    for whole in subtract(normalise(grant.span for grant in ordered), refuted):
        while index < len(ordered) and ordered[index].span.start < whole.end:
            reaching.append(ordered[index])
            index += 1
        reaching = [grant for grant in reaching if grant.span.end > whole.start]
        sources = {grant.source for grant in reaching}
        source = sources.pop() if len(sources) == 1 else MIXED
        covered.append(CoveredRange(whole, source, max(grant.verified_at for grant in reaching)))
    return tuple(covered)


def answered(start: int, end: int, unanswered: Spans) -> Spans:
    """Return the part of `[start, end)` that a source answered for: all but the unanswered spans."""
    return subtract((Span(start, end),), unanswered) if start < end else ()
