"""Gaps: the expected time that is not covered, and the records of gaps over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from kraken_pipeline.coverage.overlaps import Overlaps
from kraken_pipeline.coverage.ranges import Span, Spans, clip, intersect, normalise, span, subtract
from kraken_pipeline.market.interval import Interval

ATTEMPTS = 3
"""The number of consecutive failures after which a gap counts as FAILED."""
RETRY_SECONDS = 900
LONGEST_RETRY_SECONDS = 86_400
OHLC_CANDLES = 720
"""The number of closed candles that an OHLC reply reaches back."""


class GapStatus(StrEnum):
    """The status of a gap."""

    DETECTED = "DETECTED"
    BACKFILLING = "BACKFILLING"
    FILLED = "FILLED"
    UNFILLABLE = "UNFILLABLE"
    FAILED = "FAILED"


def expected_span(first_known: int, now: int, interval: Interval, start: int | None, end: int | None) -> Spans:
    """Return the expected time of a series: whole candles from its beginning to the last one that is closed.

    Args:
        first_known: The start of the pair's first known candle of any interval.
        now: The current time. All times are seconds since the epoch.
        interval: The series' interval.
        start: The beginning to use instead of `first_known`.
        end: The latest end, exclusive.
    """
    begin = interval.floor(first_known) if start is None else interval.ceil(start)
    return span(begin, interval.floor(now if end is None else min(now, end)))


def missing(expected: Spans, covered: Spans) -> Spans:
    """Return the gaps of a series; they lie on the interval's grid if both sets do."""
    return subtract(expected, covered)


def next_try(failures: int, last: int) -> int:
    """Return the time of the next retry: at once until the gap counts as FAILED, then after a delay that doubles.

    The delay grows up to a day.

    Args:
        failures: The number of consecutive failed attempts.
        last: The time of the last attempt, in seconds since the epoch.
    """
    if failures < ATTEMPTS:
        return last
    return last + min(LONGEST_RETRY_SECONDS, RETRY_SECONDS << min(failures - ATTEMPTS, 10))


def overflow(gap: Span, interval: Interval, now: int) -> int:
    """Return the number of candles of a gap that lie before the newest 720, out of the reach of OHLC."""
    reach = interval.floor(now) - OHLC_CANDLES * interval.seconds
    return max(0, (min(gap.end, reach) - gap.start) // interval.seconds)


@dataclass(frozen=True, slots=True)
class GapRecord:
    """A record of a gap.

    Attributes:
        span: The missing range.
        detected_at: The time at which any part of it was first found missing, in seconds since the epoch.
        status: The status of the gap.
    """

    span: Span
    detected_at: int
    status: GapStatus


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision of the open records of a series.

    Attributes:
        open: The present gaps; each has the age of the oldest record that it overlaps.
        filled: The parts of the old records that are no longer missing.
    """

    open: tuple[GapRecord, ...]
    filled: tuple[GapRecord, ...]


def revise(records: Sequence[GapRecord], gaps: Spans, judged: Spans, now: int) -> Revision:
    """Update the open records of a series to its present gaps.

    Args:
        records: The open records, disjoint.
        gaps: The present gaps, within `judged`.
        judged: The range that was examined; records outside it are kept as they are.
        now: The current time, in seconds since the epoch.
    """
    beyond: list[Span] = []
    filled: list[GapRecord] = []
    for record in records:
        beyond += subtract((record.span,), judged)
        within = subtract(intersect((record.span,), judged), clip(gaps, record.span))
        filled += [GapRecord(span, record.detected_at, GapStatus.FILLED) for span in within]
    current = normalise((*gaps, *beyond))
    older = Overlaps(records, lambda record: record.span)
    return Revision(tuple(_aged(span, older.over(span), now) for span in current), tuple(filled))


def _aged(gap: Span, older: Sequence[GapRecord], now: int) -> GapRecord:
    return GapRecord(gap, min((record.detected_at for record in older), default=now), GapStatus.DETECTED)
