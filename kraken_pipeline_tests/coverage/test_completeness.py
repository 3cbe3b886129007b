from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.completeness import SeriesCompleteness, by_interval, by_tier, percentage, shown, total
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.market.tier import Tier


def complete(
    pair: str, interval: Interval, expected: int, covered: int, *, tier: Tier = Tier.TIER1, candles: int = 0
) -> SeriesCompleteness:
    return SeriesCompleteness(Series(pair, interval), tier, expected, covered, candles, gaps=1, unfillable=1)


@pytest.mark.parametrize(
    ("part", "whole", "percent"),
    [(0, 7, 0.0), (7, 7, 100.0), (2, 3, 66.66), (999_999, 1_000_000, 99.99), (0, 0, None)],
)
def test_percent_is_rounded_down_to_two_digits(part: int, whole: int, percent: float | None) -> None:
    assert percentage(part, whole) == percent


@given(st.integers(1, 10**12).flatmap(lambda whole: st.tuples(st.integers(0, whole), st.just(whole))))
def test_only_what_is_whole_is_a_hundred_percent(counted: tuple[int, int]) -> None:
    part, whole = counted
    percent = percentage(part, whole)
    assert percent is not None
    assert (percent == 100.0) == (part == whole)
    exact = Fraction(100 * part, whole)
    assert exact - Fraction(1, 100) < round(percent * 100) / Fraction(100) <= exact


def test_what_is_proven_has_a_percentage_of_its_own() -> None:
    series = [
        replace(complete("XBTUSD", interval, 100, 90), proven=30, verified=20, conflicts=1)
        for interval in (Interval.H1, Interval.D1)
    ]
    assert (series[0].proven_percent, series[0].verified_percent) == (30.0, 20.0)
    found = total(series)
    assert (found.proven, found.proven_percent, found.percent, found.conflicts) == (60, 30.0, 90.0, 2)
    assert (found.verified, found.verified_percent) == (40, 20.0)


def test_quiet_candles_are_the_covered_ones_without_a_trade() -> None:
    series = complete("XBTUSD", Interval.H1, 100, 90, candles=70)
    assert (series.quiet, series.percent) == (20, 90.0)


def test_a_total_sums_its_series_and_weighs_them_by_what_is_expected() -> None:
    found = total(
        [
            complete("XBTUSD", Interval.H1, 900, 900, candles=800),
            complete("XBTUSD", Interval.D1, 100, 50, candles=50),
            complete("ADAUSD", Interval.D1, 0, 0),
        ]
    )
    assert (found.series, found.pairs, found.expected, found.covered, found.candles) == (3, 2, 1_000, 950, 850)
    assert (found.quiet, found.gaps, found.unfillable, found.percent) == (100, 3, 3, 95.0)


def test_of_no_series_everything_is_complete() -> None:
    assert (total([]).percent, total([]).proven_percent, total([]).verified_percent) == (None, None, None)
    nothing = complete("XBTUSD", Interval.H1, 0, 0)
    assert (nothing.percent, nothing.proven_percent, nothing.verified_percent) == (None, None, None)
    assert [shown(each) for each in (None, 0.0, 99.99)] == ["–", "0.00 %", "99.99 %"]  # noqa: RUF001 - a dash
    assert by_interval([]) == {}


def test_totals_come_by_tier_and_by_interval_the_finest_first() -> None:
    series = [
        complete("FOOUSD", Interval.H1, 10, 5, tier=Tier.TIER4),
        complete("XBTUSD", Interval.D1, 10, 10),
        complete("XBTUSD", Interval.H1, 10, 9),
        complete("ETHUSD", Interval.H1, 10, 9),
    ]
    assert list(by_interval(series)) == [Interval.H1, Interval.D1]
    assert by_interval(series)[Interval.H1].covered == 23
    tiers = by_tier(series)
    assert list(tiers) == [Tier.TIER1, Tier.TIER4]
    assert tiers[Tier.TIER1][Interval.H1].percent == 90.0
    assert tiers[Tier.TIER4][Interval.H1].pairs == 1
