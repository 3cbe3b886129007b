"""Anchors: what the exchange's numbers of trades say of candles, without any other candle.

A pair's trades are numbered one by one. The first trade at or after a moment, with its id, is an *anchor*; two anchors
give the number of trades between them, which is the sum of the trade counts of any interval that covers the span. Where
the two differ, more anchors between them lead to the candle that is short: `search` says which it needs next.
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
    """The distance between the first anchors of a proof. They lie on the calendar, so that all runs share them."""

    DAY = "1d"
    MONTH = "1mo"
    QUARTER = "3mo"


class Depth(StrEnum):
    """Down to what a difference is searched."""

    MINUTE = "minute"
    DAY = "day"

    @property
    def seconds(self) -> int:
        """Its length in seconds."""
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
        moment: In seconds since the epoch, on a minute.
        trade_id: Its id; where none has followed when it was asked for, that of the newest trade plus one.
        trade_time: When it was made, in whole seconds since the epoch; None where none had followed.
        asked_at: When the exchange was asked, in seconds since the epoch; later than the moment.
        listed: How many trades a full page from there listed; None where only the first one was asked for.
        numbered: How many ids lie between the first and the last of them, both included: as many, where ids are dense.
    """

    moment: int
    trade_id: int
    trade_time: int | None
    asked_at: int
    listed: int | None = None
    numbered: int | None = None

    @property
    def is_probed(self) -> bool:
        """Whether a full page of trades was asked for from the anchor's moment on."""
        return self.listed is not None


def _era(moment: int) -> int:
    """The year of a moment; all since 2021 are one era."""
    return min(as_datetime(moment).year, as_datetime(DENSE_SINCE).year)


def _year(year: int) -> int:
    return int(datetime(year, 1, 1, tzinfo=UTC).timestamp())


def probes(span: Span, until: int) -> tuple[int, ...]:
    """Return the moments at which full pages test whether ids are dense in the era of a span: none since 2021.

    Args:
        span: A span of the calendar, which lies in one year.
        until: The last moment that can be asked about.
    """
    if span.start >= DENSE_SINCE:
        return ()
    year = _era(span.start)
    return tuple(moment for moment in (_year(year), _year(year + 1)) if moment <= until)


def tested_years(anchors: Mapping[int, Anchor], absences: Iterable[Absence]) -> Spans:
    """Return the years before 2021 of which full pages at both ends have shown that ids are consecutive.

    Args:
        anchors: Moment → what is known of it.
        absences: Ids that are absent: those that were so again speak against their year.
    """
    disproved = {_era(each.absent.start) for each in absences if each.confirmed_at is not None}
    dense = {moment for moment, anchor in anchors.items() if anchor.is_probed and anchor.listed == anchor.numbered}
    years = (as_datetime(moment).year for moment in dense if moment < DENSE_SINCE)
    return normalise(
        Span(_year(year), _year(year + 1))
        for year in years
        if year not in disproved and {_year(year), _year(year + 1)} <= dense
    )


def is_sparse(span: Span, absent: Iterable[AbsentIds]) -> bool:
    """Tell whether ids of the era of a span are known not to be dense: before 2021 by any absent, since then by many.

    Args:
        span: A span of the calendar.
        absent: The ids that are absent, whether that was confirmed or not.
    """
    era = _era(span.start)
    return any(_era(each.start) == era and (each.parts >= SPARSE or each.start < DENSE_SINCE) for each in absent)


# --- what to compare


@dataclass(frozen=True, slots=True)
class Stretch:
    """A span to be counted, and the intervals that cover it whole and have candles that begin and end with it."""

    span: Span
    intervals: tuple[Interval, ...]


def stretches(
    coverage: Mapping[Interval, Spans], within: Span, spacing: Spacing, absent: Iterable[AbsentIds] = ()
) -> tuple[Stretch, ...]:
    """Return what of a pair can be counted: parts of the calendar, as far as they are covered.

    A calendar's span that an interval covers whole is one stretch. Where coverage begins or ends within one, its whole
    days are one, so that intervals share their anchors, and the finest interval is counted to its very edges.

    Args:
        coverage: Interval → what is covered, on its grid.
        within: What is asked for; spans of the calendar that reach beyond it are taken whole.
        spacing: The calendar.
        absent: Ids that are absent: the minutes that they touch cannot be counted.
    """
    unknown = normalise(each.minutes for each in absent)
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
    """The spans of the calendar that hold any of a span."""
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


# --- where they differ

Counted = Callable[[Interval, Span], int | None]
"""Gives how many trades the candles of an interval count in a span; None where they do not cover it whole."""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A candle, or a day, of which ids and candles count other trades.

    Attributes:
        interval: The finest interval that differs.
        span: The span that was searched down to.
        by_ids: How many trades ids count.
        counted: How many the candles do.
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
    """The state of a search for the candles whose trades differ from their ids.

    Attributes:
        needs: The moments whose anchors it needs next, in order of time; none where it has come to its end.
        found: What it has found so far, in order of time.
    """

    needs: list[int] = field(default_factory=list)
    found: list[Discrepancy] = field(default_factory=list)


def search(
    span: Span, intervals: Sequence[Interval], ids: Mapping[int, int], counted: Counted, depth: int = 60
) -> Searched:
    """Look for where ids and candles differ, as far as the anchors at hand tell.

    It has no memory: called again with the anchors that it needed, it goes on where it was. A search for one missing
    trade in a year needs about twenty.

    Args:
        span: Where; both edges are needed first.
        intervals: Which candles, the finest first.
        ids: Moment → the id of the first trade at or after it.
        counted: Gives what candles count.
        depth: How long what is found is, in seconds, where no candle is longer.
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
    """Where a span is halved: on a day, an hour, or else on the grid of what is searched for; None for a single one."""
    if span.seconds <= length:
        return None
    for grid in (_DAY, _HOUR, length):
        if grid % length == 0 and (span.seconds >= 2 * grid or grid == length):
            middle = (span.start + span.end + grid) // (2 * grid) * grid
            if span.start < middle < span.end:
                return middle
    middle = (span.start // length + 1) * length  # of a span that is not on the grid
    return middle if middle < span.end else None
