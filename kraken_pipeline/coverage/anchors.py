"""Anchors: a check of candles against the exchange's trade ids, without any other candle.

A pair's trades are numbered one by one. The first trade at or after a moment, with its id, is an *anchor*; two anchors
give the number of trades between them, which is the sum of the trade counts of any interval that covers the span. Where
the two differ, more anchors between them lead to the candle that is short: `search` returns the ones it needs next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from kraken_pipeline.coverage.density import DENSE_SINCE, SPARSE, Absence, AbsentIds
from kraken_pipeline.coverage.ranges import Span, Spans, clip, normalise, subtract
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import as_datetime

_DAY, _HOUR = 86_400, 3_600


class Spacing(StrEnum):
    """The distance between the first anchors of a proof. They lie on calendar edges, so that all runs share them."""

    DAY = "1d"
    MONTH = "1mo"
    QUARTER = "3mo"


class Depth(StrEnum):
    """The length down to which a difference is searched."""

    MINUTE = "minute"
    DAY = "day"

    @property
    def seconds(self) -> int:
        """The length in seconds."""
        return _DAY if self is Depth.DAY else 60


class CountVerdict(StrEnum):
    """The result of comparing the trades that candles count with the difference of two trade ids."""

    PROVEN = "proven"
    SHORT = "short"
    OVER = "over"
    UNANCHORED = "unanchored"


@dataclass(frozen=True, slots=True)
class Anchor:
    """The first trade at or after a moment.

    Attributes:
        moment: The moment in seconds since the epoch, on a minute.
        trade_id: The id of the trade; if no trade had followed at the time of the request, that of the newest plus one.
        trade_time: The time of the trade in whole seconds since the epoch; None if no trade had followed.
        asked_at: The time of the request in seconds since the epoch; later than the moment.
        listed: The number of trades in a full page from the moment on; None if only the first trade was requested.
        numbered: The number of ids from the first to the last of them, inclusive; equal to `listed` if ids are dense.
    """

    moment: int
    trade_id: int
    trade_time: int | None
    asked_at: int
    listed: int | None = None
    numbered: int | None = None

    @property
    def is_probed(self) -> bool:
        """Whether a full page of trades was requested from the anchor's moment on."""
        return self.listed is not None


def _era(moment: int) -> int:
    """Return the year of a moment; all years since 2021 are one era."""
    return min(as_datetime(moment).year, as_datetime(DENSE_SINCE).year)


def _year(year: int) -> int:
    return int(datetime(year, 1, 1, tzinfo=UTC).timestamp())


def probes(span: Span, until: int) -> tuple[int, ...]:
    """Return the moments at which full pages test whether ids are dense in the era of a span; none since 2021.

    Args:
        span: A calendar span within one year.
        until: The last moment that can be requested.
    """
    if span.start >= DENSE_SINCE:
        return ()
    year = _era(span.start)
    return tuple(moment for moment in (_year(year), _year(year + 1)) if moment <= until)


def tested_years(anchors: Mapping[int, Anchor], absences: Iterable[Absence]) -> Spans:
    """Return the years before 2021 for which full pages at both ends have shown that ids are consecutive.

    Args:
        anchors: Moment → its anchor.
        absences: The records of absent ids; a confirmed one excludes its year.
    """
    disproved = {_era(absence.absent.start) for absence in absences if absence.confirmed_at is not None}
    dense = {moment for moment, anchor in anchors.items() if anchor.is_probed and anchor.listed == anchor.numbered}
    years = (as_datetime(moment).year for moment in dense if moment < DENSE_SINCE)
    return normalise(
        Span(_year(year), _year(year + 1))
        for year in years
        if year not in disproved and {_year(year), _year(year + 1)} <= dense
    )


def is_sparse(span: Span, absent: Iterable[AbsentIds]) -> bool:
    """Return whether ids of the era of a span are known not to be dense.

    Before 2021 any absent id shows that; since then only many in one page do.

    Args:
        span: A calendar span.
        absent: The absent ids, confirmed or not.
    """
    era = _era(span.start)
    return any(_era(hole.start) == era and (hole.parts >= SPARSE or hole.start < DENSE_SINCE) for hole in absent)


# --- spans to compare


@dataclass(frozen=True, slots=True)
class Stretch:
    """A span to count, and the intervals that cover all of it with candles that begin and end on its edges."""

    span: Span
    intervals: tuple[Interval, ...]


def stretches(
    coverage: Mapping[Interval, Spans], within: Span, spacing: Spacing, absent: Iterable[AbsentIds] = ()
) -> tuple[Stretch, ...]:
    """Return the stretches of a pair that can be counted: the covered parts of calendar spans.

    A calendar span that an interval covers whole is one stretch. Where coverage begins or ends within a calendar span,
    its whole days are one stretch, so that intervals share their anchors, and the finest interval is counted up to the
    edges of its coverage.

    Args:
        coverage: Interval → its coverage, on its grid.
        within: The requested span; calendar spans that reach beyond it are included whole.
        spacing: The length of the calendar spans.
        absent: The absent ids; the minutes that they touch cannot be counted. Gaps of sparse ids are not cut out: all
            of their time is unanchored.
    """
    unknown = normalise(ids.minutes for ids in absent if ids.parts < SPARSE)
    known = {interval: subtract(spans, unknown) for interval, spans in coverage.items() if interval <= Interval.D1}
    hull = [edge for spans in known.values() if spans for edge in (spans[0].start, spans[-1].end)]
    if not hull:
        return ()
    found: list[Stretch] = []
    for base in _calendar(Span(min(hull), max(hull)), spacing):
        if base.overlaps(within):
            found += _within(base, known)
    return tuple(found)


def _within(base: Span, known: Mapping[Interval, Spans]) -> Iterator[Stretch]:
    units: dict[Span, list[Interval]] = {}
    edges: dict[Span, list[Interval]] = {}
    for interval in sorted(known):
        for run in clip(known[interval], base):
            whole = run if run == base else _on_grid(run, _DAY)
            if whole is None:
                continue
            units.setdefault(whole, []).append(interval)
            for edge in subtract((run,), (whole,)):
                inner = _on_grid(edge, interval.seconds)
                if inner is not None and (inner in edges or not any(inner.overlaps(other) for other in edges)):
                    edges.setdefault(inner, []).append(interval)
    for unit, intervals in sorted((units | edges).items()):
        yield Stretch(unit, tuple(intervals))


def _on_grid(span: Span, seconds: int) -> Span | None:
    start, end = -(-span.start // seconds) * seconds, span.end // seconds * seconds
    return Span(start, end) if start < end else None


def _calendar(span: Span, spacing: Spacing) -> Iterator[Span]:
    """Yield the calendar spans that overlap a span."""
    at = _floor(span.start, spacing)
    while at < span.end:
        until = _floor(at + {Spacing.DAY: 1, Spacing.MONTH: 32, Spacing.QUARTER: 93}[spacing] * _DAY, spacing)
        yield Span(at, until)
        at = until


def _floor(moment: int, spacing: Spacing) -> int:
    if spacing is Spacing.DAY:
        return moment // _DAY * _DAY
    day = as_datetime(moment)
    month = day.month if spacing is Spacing.MONTH else day.month - (day.month - 1) % 3
    return int(datetime(day.year, month, 1, tzinfo=UTC).timestamp())


# --- the search for differences

Counted = Callable[[Interval, Span], int | None]
"""A function that returns the trade count of an interval's candles in a span; None if they cover only a part of it."""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A candle, or a day, for which ids and candles give different trade counts.

    Attributes:
        interval: The finest interval that differs.
        span: The span at which the search ended.
        by_ids: The number of trades by ids.
        counted: The number of trades by candles.
    """

    interval: Interval
    span: Span
    by_ids: int
    counted: int

    @property
    def is_short(self) -> bool:
        """Whether the candles count fewer trades than there are ids."""
        return self.counted < self.by_ids


@dataclass(slots=True)
class Searched:
    """The state of a search for the candles whose trade counts differ from their ids.

    Attributes:
        needs: The moments whose anchors the search needs next, in order of time; empty when it has ended.
        found: The discrepancies found so far, in order of time.
    """

    needs: list[int] = field(default_factory=list)
    found: list[Discrepancy] = field(default_factory=list)


def search(
    span: Span, intervals: Sequence[Interval], ids: Mapping[int, int], counted: Counted, depth: int = 60
) -> Searched:
    """Search for differences between ids and candles, as far as the available anchors allow.

    It keeps no state: called again with the anchors that it needed, it continues from there. A search for one missing
    trade in a year needs about twenty anchors.

    Args:
        span: The span to search; the anchors of both edges are needed first.
        intervals: The intervals to count, the finest first.
        ids: Moment → the id of the first trade at or after it.
        counted: Returns the trades that candles count.
        depth: The length of a discrepancy in seconds, unless the candle is longer.
    """
    done = Searched([edge for edge in (span.start, span.end) if edge not in ids])
    if not done.needs:
        _visit(span, intervals, ids, counted, depth, done)
    return done


def _visit(
    span: Span, intervals: Sequence[Interval], ids: Mapping[int, int], counted: Counted, depth: int, done: Searched
) -> None:
    by_ids = ids[span.end] - ids[span.start]
    counts = ((interval, counted(interval, span)) for interval in intervals)
    wrong = next(((interval, count) for interval, count in counts if count is not None and count != by_ids), None)
    if wrong is None:
        return
    interval, count = wrong
    middle = _middle(span, max(depth, interval.seconds))
    if middle is None:
        done.found.append(Discrepancy(interval, span, by_ids, count))
    elif middle not in ids:
        done.needs.append(middle)
    else:
        for part in (Span(span.start, middle), Span(middle, span.end)):
            _visit(part, intervals, ids, counted, depth, done)


def _middle(span: Span, length: int) -> int | None:
    """Return the middle of a span: on a day, on an hour, or else on a multiple of `length`; None if it is too short."""
    if span.seconds <= length:
        return None
    for grid in (_DAY, _HOUR, length):
        if grid % length == 0 and (span.seconds >= 2 * grid or grid == length):
            middle = (span.start + span.end + grid) // (2 * grid) * grid
            if span.start < middle < span.end:
                return middle
    middle = (span.start // length + 1) * length  # the span is not on the grid
    return middle if middle < span.end else None
