"""Evidence: what answered for a range, what was refuted, and the coverage that follows.

**Covered = union of grants less refutations.** Inside coverage an absent candle means that nobody traded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kraken_pipeline.coverage.ranges import Span, Spans, normalise, subtract

MIXED = "MIXED"
RECOVERED = "RECOVERED"
"""The source of a grant for candles that say to be made of trades and outlived their catalog.

Nobody knows any more whether all their trades were read, so they do not prove themselves as minutes of trades do.
"""


@dataclass(frozen=True, slots=True)
class Grant:
    """A range that something answered for: an archive file, a reply, trades paged through it, finer candles.

    Attributes:
        span: The range, on the interval's grid.
        source: A `market.candle.Source`, or RECOVERED.
        verified_at: When it answered, in seconds since the epoch.
        trades: How many trades it counts there.
        id: The number of its record, which grows with time; 0 before it is on record.
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
        source: The grants' source, or MIXED where they have several.
        verified_at: When the latest of them answered, in seconds since the epoch.
    """

    span: Span
    source: str
    verified_at: int


def coverage(grants: Iterable[Grant], refuted: Spans = ()) -> tuple[CoveredRange, ...]:
    """The coverage of one series, sorted, disjoint and not adjacent.

    Args:
        grants: What answered, in any order.
        refuted: What was refuted and has not changed since.
    """
    ordered = sorted(grants, key=lambda grant: grant.span)
    covered: list[CoveredRange] = []
    reaching: list[Grant] = []  # those that begin before the range ends and may reach into it
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
    """What a source that reaches over `[start, end)` answered for, without the spans that it did not."""
    return subtract((Span(start, end),), unanswered) if start < end else ()
