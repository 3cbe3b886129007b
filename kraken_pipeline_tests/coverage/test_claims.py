"""Claims about a series depend on its candles and its spans alone, and are what plain Python makes of them."""

from __future__ import annotations

import hashlib
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.claims import SeriesClaims, SeriesTally, encoded
from kraken_pipeline.coverage.proof import NOTHING_PROVEN
from kraken_pipeline.coverage.ranges import Span, Spans, normalise
from kraken_pipeline.market.candle import EARLIEST_TIME
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline_tests.support.samples import candle, frame

pytestmark = pytest.mark.slow

SERIES = Series("XBTUSD", Interval.M1)
BASE = EARLIEST_TIME
SLOTS = st.integers(0, 40)
COVERED = st.lists(st.tuples(SLOTS, st.integers(1, 9)), max_size=5).map(
    lambda found: normalise(Span(BASE + 60 * start, BASE + 60 * (start + length)) for start, length in found)
)
TIMES = st.sets(SLOTS).map(lambda found: [BASE + 60 * slot for slot in sorted(found)])


def tallied(times: list[int], covered: Spans, cuts: list[int] | None = None) -> SeriesClaims:
    """The claims about candles that are added in parts."""
    tally = SeriesTally(SERIES, covered)
    edges = [0, *sorted(min(cut, len(times)) for cut in cuts or ()), len(times)]
    for start, end in pairwise(edges):
        tally.add(frame(candle(time, 1.5 + time % 7, trades=time % 11 + 1) for time in times[start:end]))
    assert tally.is_ordered
    return tally.claims((), NOTHING_PROVEN)


@given(TIMES, COVERED, st.lists(SLOTS, max_size=4))
def test_the_parts_in_which_candles_are_read_do_not_matter(times: list[int], covered: Spans, cuts: list[int]) -> None:
    assert tallied(times, covered, cuts) == tallied(times, covered)


@given(TIMES, COVERED)
def test_quiet_time_is_covered_time_without_a_candle(times: list[int], covered: Spans) -> None:
    slots = [time for span in covered for time in range(span.start, span.end, 60)]
    quiet = normalise(Span(time, time + 60) for time in slots if time not in times)
    found = tallied(times, covered)
    packed = b"".join(struct.pack("<qq", span.start, span.end) for span in quiet)
    assert (found.quiet.spans, found.quiet.candles) == (len(quiet), sum(time not in times for time in slots))
    assert found.quiet.sha256 == hashlib.sha256(packed).hexdigest()
    assert found.uncovered_rows == sum(time not in slots for time in times)
    assert found.rows == len(times)


def test_a_row_is_seven_fields_of_eight_bytes() -> None:
    rows = frame([(BASE, 1.5, 2.5, 0.5, 2.0, -0.0, 3, "CSV", 7), (BASE + 60, 1.0, 1.0, 1.0, 1.0, 1e-8, 1, "OHLC", 0)])
    assert encoded(rows) == struct.pack("<qdddddq", BASE, 1.5, 2.5, 0.5, 2.0, 0.0, 3) + struct.pack(
        "<qdddddq", BASE + 60, 1.0, 1.0, 1.0, 1.0, 1e-8, 1
    )


@pytest.mark.parametrize("times", [[60, 0], [0, 0], [0, 61]])
def test_candles_out_of_order_or_off_the_grid_are_noticed(times: list[int]) -> None:
    for parts in ([times], [[time] for time in times]):
        tally = SeriesTally(SERIES, ())
        for part in parts:
            tally.add(frame(candle(BASE + time) for time in part))
        assert not tally.is_ordered


@given(COVERED, COVERED)
def test_claims_that_cannot_be_true_together_are_named(covered: Spans, other: Spans) -> None:
    window = (Span(BASE, BASE + 6_000),)
    names = {name for name, _ in claiming(covered, gaps=other, verified=other).broken(window)}
    slots = {time for span in covered for time in range(span.start, span.end, 60)}
    others = {time for span in other for time in range(span.start, span.end, 60)}
    expected = {"gaps"} if slots & others else set()
    assert names == expected | ({"reconciled"} if others - slots else set())
    assert {name for name, _ in claiming(covered, verified=covered).broken(window)} == set()
    outside = {name for name, _ in claiming(covered).broken(())}
    assert outside == ({"covered"} if covered else set())


def claiming(covered: Spans, *, gaps: Spans = (), verified: Spans = ()) -> SeriesClaims:
    quiet = tallied([], ()).quiet
    return SeriesClaims(SERIES, 0, "", 0, covered, gaps, quiet, verified, verified)
