from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.months import (
    MOST_MONTHS,
    ROUTES,
    Breakdown,
    Months,
    State,
    breakdown,
    months_of,
    seconds_between,
)
from kraken_pipeline.coverage.proof import Proven
from kraken_pipeline.coverage.ranges import Span, Spans, intersect, normalise, subtract
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.market.interval import Interval


def at(year: int, month: int, day: int = 1, hour: int = 0) -> int:
    return int(datetime(year, month, day, hour, tzinfo=UTC).timestamp())


YEARS = Months(2019 * 12 + 10, 40)
"""November 2019 to February 2023: both ends cut a year, and one February has 29 days."""
FIRST, LAST = at(2019, 11), at(2023, 3)


def sets(interval: Interval, *, reach: int = 0) -> st.SearchStrategy[Spans]:
    """Sets on an interval's grid, some of them beyond the months."""
    low, high = (FIRST - reach) // interval.seconds, (LAST + reach) // interval.seconds
    moments = st.lists(st.integers(low, high), max_size=12, unique=True)
    return moments.map(
        lambda found: normalise(
            Span(start * interval.seconds, end * interval.seconds)
            for start, end in zip(*[iter(sorted(found))] * 2, strict=False)
        )
    )


def month_of(time: int) -> int:
    moment = datetime.fromtimestamp(time, UTC)
    return moment.year * 12 + moment.month - 1 - YEARS.first


def counted(spans: Spans, interval: Interval) -> list[int]:
    """The model: every candle by itself."""
    counts = [0] * YEARS.count
    for each in spans:
        for time in range(each.start, each.end, interval.seconds):
            if 0 <= month_of(time) < YEARS.count:
                counts[month_of(time)] += 1
    return counts


def broken(interval: Interval = Interval.D1, **given: object) -> Breakdown:
    nothing: dict[str, Any] = {
        "expected": (),
        "covered": (),
        "proven": Proven(),
        "legs": {},
        "conflicts": [],
        "candles": {},
    }
    return breakdown(interval, YEARS, **{**nothing, **given})


def test_months_begin_where_the_calendar_says() -> None:
    edges = YEARS.edges.tolist()
    assert len(edges) == YEARS.count + 1
    assert (edges[0], edges[3], edges[4], edges[-1]) == (at(2019, 11), at(2020, 2), at(2020, 3), LAST)
    assert YEARS.years == ((2019, 0, 2), (2020, 2, 12), (2021, 14, 12), (2022, 26, 12), (2023, 38, 2))


def test_months_reach_from_the_first_instant_to_the_last() -> None:
    assert months_of([(), (Span(at(2020, 1, 31), at(2020, 3, 1)),), (Span(at(2019, 12, 31, 23), at(2020, 1)),)]) == (
        Months(2019 * 12 + 11, 3)
    )
    assert months_of([(), ()]) == Months(0, 0)
    assert months_of([(Span(-at(3000, 1), at(2023, 3)),)]) == Months(2023 * 12 + 2 - MOST_MONTHS, MOST_MONTHS)


@pytest.mark.parametrize("interval", [Interval.H12, Interval.D1, Interval.W1, Interval.D15])
@given(data=st.data())
def test_candles_are_counted_in_the_month_in_which_they_start(interval: Interval, data: st.DataObject) -> None:
    spans = data.draw(sets(interval, reach=90 * 86_400))
    assert broken(interval, expected=spans).expected.tolist() == counted(spans, interval)


@given(data=st.data())
def test_what_is_expected_is_covered_or_missing_in_each_month(data: st.DataObject) -> None:
    interval = Interval.H12
    expected = data.draw(sets(interval))
    covered = intersect(expected, data.draw(sets(interval)))
    rest = subtract(expected, covered)
    by_trades = intersect(rest, data.draw(sets(interval)))
    legs = {Route.TRADES: by_trades, Route.NONE: subtract(rest, by_trades)}
    found = broken(interval, expected=expected, covered=covered, legs=legs)
    assert (found.covered + found.missing.sum(axis=0) == found.expected).all()
    assert found.missing[ROUTES.index(Route.TRADES)].tolist() == counted(by_trades, interval)


@given(data=st.data())
def test_a_contradiction_counts_in_each_month_that_it_touches(data: st.DataObject) -> None:
    spans = [each for some in data.draw(st.lists(sets(Interval.H1), max_size=3)) for each in some]
    edges = YEARS.edges.tolist()
    months = [Span(start, end) for start, end in pairwise(edges)]
    touched = [sum(month.overlaps(each) for each in spans) for month in months]
    assert broken(conflicts=spans).conflicts.tolist() == touched


@given(spans=sets(Interval.H1), cuts=st.lists(st.integers(FIRST, LAST), min_size=2, unique=True))
def test_seconds_lie_between_any_edges(spans: Spans, cuts: list[int]) -> None:
    cuts.sort()
    expected = [sum(part.seconds for part in intersect(spans, (Span(a, b),))) for a, b in pairwise(cuts)]
    assert seconds_between(spans, np.array(cuts)).tolist() == expected


def test_quiet_is_what_is_covered_without_a_candle_and_never_less_than_nothing() -> None:
    year = (Span(at(2020, 1), at(2021, 1)),)
    candles = {2020: [31, 20, 400, *[0] * 9], 2021: [5] * 12}  # more than are covered: rows that nobody answers for
    found = broken(expected=year, covered=year, candles=candles)
    assert found.candles[2:14].tolist() == [31, 20, 31, *[0] * 9]
    assert found.quiet[2:5].tolist() == [0, 9, 0]
    assert not found.candles[14:].any()


def test_months_that_nobody_has_counted_are_not_called_quiet() -> None:
    year = (Span(at(2020, 1), at(2021, 1)),)
    found = broken(expected=year, covered=year, candles=None)
    assert set(found.candles.tolist()) == set(found.quiet.tolist()) == {-1}
    assert set(found.states[2:14].tolist()) == {State.COVERED}


def test_a_month_has_the_state_that_most_needs_to_be_seen() -> None:
    edges = YEARS.edges.tolist()

    def month(place: int, days: int = 0) -> Span:
        return Span(edges[place], edges[place] + days * 86_400 if days else edges[place + 1])

    found = broken(
        expected=(Span(edges[2], edges[10]),),
        covered=(Span(edges[2], edges[6]), Span(edges[9], edges[10])),
        proven=Proven((Span(edges[2], edges[5]),), (month(3), month(4))),
        legs={
            Route.OHLC: (month(6, 3),),
            Route.TRADES: (Span(edges[6] + 3 * 86_400, edges[7]),),
            Route.RESAMPLE: (month(7),),
            Route.NONE: (month(8),),
        },
        conflicts=[month(9, 1)],
        candles={2020: [10, 10, 0, 0, *[10] * 8]},
        # Of what is missing or in conflict it is not said, of what is quiet or proven it is.
        suspicious=(Span(edges[4], edges[4] + 86_400), month(9, 1)),
    )
    assert [State(each) for each in found.states[:11]] == [
        State.NOTHING,
        State.NOTHING,
        State.RECONCILED,
        State.VERIFIED,
        State.SUSPICIOUS,
        State.QUIET,
        State.TRADES,  # more of it than of OHLC
        State.RESAMPLE,
        State.NONE,
        State.CONFLICT,
        State.NOTHING,
    ]


def test_no_months_make_an_empty_breakdown() -> None:
    none: dict[str, Any] = {
        "expected": (),
        "covered": (),
        "proven": Proven(),
        "legs": {},
        "conflicts": [],
        "candles": {},
    }
    found = breakdown(Interval.D1, Months(0, 0), **none)
    assert found.states.shape == found.covered.shape == (0,)
