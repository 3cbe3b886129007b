"""Gaps: what is expected and not covered, and what becomes of the record of a gap over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from kraken_pipeline.coverage.overlaps import Overlaps
from kraken_pipeline.coverage.ranges import Span, Spans, clip, intersect, normalise, span, subtract
from kraken_pipeline.market.interval import Interval

ATTEMPTS = 3
"""Failures one after another until a gap counts as FAILED."""
RETRY_SECONDS = 900
LONGEST_RETRY_SECONDS = 86_400
OHLC_CANDLES = 720
"""How many closed candles an OHLC reply reaches back."""


class GapStatus(StrEnum):
    """How a gap stands."""

    DETECTED = "DETECTED"
    BACKFILLING = "BACKFILLING"
    FILLED = "FILLED"
    UNFILLABLE = "UNFILLABLE"
    FAILED = "FAILED"


def expected_span(first_known: int, now: int, interval: Interval, start: int | None, end: int | None) -> Spans:
    """What a series should have: whole candles from its beginning to the last one that is closed.

    Args:
        first_known: Where the pair's first known candle of any interval starts.
        now: The moment of asking. All times are seconds since the epoch.
        interval: The series' interval.
        start: Where to begin instead.
        end: Where to end at the latest (that moment itself is left out).
    """
    begin = interval.floor(first_known) if start is None else interval.ceil(start)
    return span(begin, interval.floor(now if end is None else min(now, end)))


def missing(expected: Spans, covered: Spans) -> Spans:
    """The gaps of a series; on the interval's grid where both sets are."""
    return subtract(expected, covered)


def next_try(failures: int, last: int) -> int:
    """When a gap may be tried again: at once until it counts as FAILED, then at a distance that doubles up to a day.

    Args:
        failures: How many attempts failed one after another.
        last: When the last one was made, in seconds since the epoch.
    """
    if failures < ATTEMPTS:
        return last
    return last + min(LONGEST_RETRY_SECONDS, RETRY_SECONDS << min(failures - ATTEMPTS, 10))


def overflow(gap: Span, interval: Interval, now: int) -> int:
    """How many candles of a gap lie before the newest 720, out of the reach of OHLC."""
    reach = interval.floor(now) - OHLC_CANDLES * interval.seconds
    return max(0, (min(gap.end, reach) - gap.start) // interval.seconds)


@dataclass(frozen=True, slots=True)
class GapRecord:
    """A gap as it is on record.

    Attributes:
        span: The missing range.
        detected_at: When any of it was first found missing, in seconds since the epoch.
        status: How it stands.
    """

    span: Span
    detected_at: int
    status: GapStatus


@dataclass(frozen=True, slots=True)
class Revision:
    """What to do with the open records of a series.

    Attributes:
        open: The gaps there are now; each has the age of the oldest record that it overlaps.
        filled: The parts of the old ones that are missing no more.
    """

    open: tuple[GapRecord, ...]
    filled: tuple[GapRecord, ...]


def revise(records: Sequence[GapRecord], gaps: Spans, judged: Spans, now: int) -> Revision:
    """Brings the open records of a series up to what is missing now.

    Args:
        records: The open records, disjoint.
        gaps: What is missing now, within `judged`.
        judged: The range that was looked at; what records say outside of it stays as it is.
        now: The moment of asking.
    """
    beyond: list[Span] = []
    filled: list[GapRecord] = []
    for record in records:
        beyond += subtract((record.span,), judged)
        within = subtract(intersect((record.span,), judged), clip(gaps, record.span))
        filled += [GapRecord(each, record.detected_at, GapStatus.FILLED) for each in within]
    current = normalise((*gaps, *beyond))
    older = Overlaps(records, lambda record: record.span)
    return Revision(tuple(_aged(each, older.over(each), now) for each in current), tuple(filled))


def _aged(gap: Span, older: Sequence[GapRecord], now: int) -> GapRecord:
    return GapRecord(gap, min((record.detected_at for record in older), default=now), GapStatus.DETECTED)
