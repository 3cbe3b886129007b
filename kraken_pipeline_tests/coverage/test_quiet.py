from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kraken_pipeline.coverage.quiet import LONE_TRADES, NEIGHBOURS, all_quiet, lone_quiet, long_quiet, quiet_candidates
from kraken_pipeline.coverage.ranges import Span, Spans, intersect, whole_candles
from kraken_pipeline.market.interval import Interval
from kraken_pipeline_tests.support.samples import real_file

pytestmark = pytest.mark.slow

HOUR, DAY = 3_600, 86_400
WHOLE = (Span(0, 1_000 * HOUR),)
A_DAY = 24


def lone(numbers: Iterable[int], trades: int = LONE_TRADES, answered: Spans = WHOLE) -> list[int]:
    """The hours that are hard to believe quiet, where the others of some numbers have trades."""
    hours = sorted(numbers)
    times = pl.Series([hour * HOUR for hour in hours], dtype=pl.Int64())
    counts = pl.Series([trades] * len(hours), dtype=pl.Int32())
    found = lone_quiet(times, counts, answered, Interval.H1)
    return [hour for span in found for hour in range(span.start // HOUR, span.end // HOUR)]


def test_one_or_two_hours_without_a_trade_in_a_busy_day_are_hard_to_believe() -> None:
    busy = set(range(60))
    assert lone(busy) == []
    assert lone(busy - {30}) == [30]
    assert lone(busy - {30, 31}) == [30, 31]
    assert lone(busy - {30, 31, 32}) == []


def test_they_are_not_where_the_neighbours_are_quiet_or_slow_or_unknown() -> None:
    busy = set(range(60))
    assert lone(busy - {30, 30 + NEIGHBOURS}) == []
    assert lone(busy - {30, 30 - NEIGHBOURS}) == []
    assert lone(busy - {30, 31 + NEIGHBOURS}) == [30, 31 + NEIGHBOURS]
    assert lone(busy - {30}, trades=LONE_TRADES - 1) == []
    assert lone(busy - {NEIGHBOURS - 1}) == []
    assert lone(busy - {59 - NEIGHBOURS + 1}) == []


def test_only_where_one_source_alone_has_answered() -> None:
    assert lone(set(range(60)) - {20, 40}, answered=(Span(35 * HOUR, 50 * HOUR),)) == [40]


# --- long quiet time

H1, H4, D1 = Interval.H1, Interval.H4, Interval.D1
EVER = (Span(0, 1_000 * DAY),)


def long(
    counts: NDArray[np.int64],
    interval: Interval = H1,
    doubtful: Spans = EVER,
    covered: Spans = EVER,
) -> Spans:
    """The candles that are hard to believe quiet, of some numbers of trades; where none is, there is no candle."""
    (places,) = np.nonzero(counts)
    end = len(counts) * interval.seconds
    times = pl.Series(places * interval.seconds, dtype=pl.Int64())
    trades = pl.Series(counts[places], dtype=pl.Int32())
    within = (Span(0, end),)
    return long_quiet(times, trades, intersect(covered, within), intersect(doubtful, within), interval)


def hours(first: int, count: int) -> Spans:
    return (Span(first * HOUR, (first + count) * HOUR),)


def test_a_day_without_a_trade_is_hard_to_believe_of_a_market_that_trades_every_hour() -> None:
    counts = np.ones(28 * A_DAY, np.int64)
    counts[300 : 300 + A_DAY] = 0
    assert long(counts) == hours(300, A_DAY)
    counts[300 : 300 + A_DAY + 6] = 0
    assert long(counts) == hours(300, A_DAY + 6)


def test_the_bound_is_twenty_trades_that_are_usual_by_the_quieter_of_the_days_around() -> None:
    for trades, length, is_found in ((1, 19, False), (1, 20, True), (2, 9, False), (4, 10, True)):
        counts = np.full(28 * A_DAY, trades, np.int64)
        counts[300 : 300 + length] = 0
        assert bool(long(counts)) is is_found


def test_where_every_hour_is_busy_a_single_one_is_enough_and_where_bursts_come_it_takes_several() -> None:
    busy = np.full(28 * A_DAY, 20, np.int64)
    busy[300] = 0
    assert long(busy) == hours(300, 1)
    bursts = np.zeros(28 * A_DAY, np.int64)
    bursts[::4] = 100
    bursts[300] = 0  # seven hours, where three are usual
    assert long(bursts) == ()
    bursts[300:340] = 0
    assert long(bursts) == hours(297, 43)


def test_nights_and_weekends_are_no_doubt_and_what_else_is_missing_hides_nothing() -> None:
    counts = np.full((28, A_DAY), 30, np.int64)
    counts[:, 1:7] = 0
    with_weekends = counts.copy()
    with_weekends[5::7] = with_weekends[6::7] = 0
    assert long(counts.ravel()) == long(with_weekends.ravel()) == ()
    for day in (9, 12, 16):
        counts[day, 8:20] = 0
    assert long(counts.ravel()) == tuple(span for day in (9, 12, 16) for span in hours(day * A_DAY + 8, 12))


def test_it_is_looked_for_only_where_one_source_has_answered_and_other_days_are_known() -> None:
    counts = np.full(28 * A_DAY, 30, np.int64)
    counts[300:320] = 0
    assert long(counts, doubtful=hours(310, 5)) == hours(310, 5)
    assert long(counts, doubtful=hours(400, 50)) == ()
    assert long(counts, covered=(Span(250 * HOUR, 400 * HOUR),)) == ()
    # Before the first candle of all nothing was listed; after the last one it is as elsewhere.
    counts[:100] = 0
    counts[600:] = 0
    assert long(counts) == (*hours(300, 20), *hours(600, 72))


def test_coarser_candles_are_looked_at_as_they_are_and_finer_ones_by_the_hour() -> None:
    days = np.full(28, 25, np.int64)
    days[14] = 0
    assert long(days, D1) == (Span(14 * DAY, 15 * DAY),)
    halves = np.full(28 * 6, 6, np.int64)
    halves[80:84] = 0
    assert long(halves, H4) == (Span(80 * 4 * HOUR, 84 * 4 * HOUR),)
    quarters = np.full(28 * 96, 7, np.int64)
    quarters[1_001:1_009] = 0  # from a quarter past on: two hours, of which one is whole
    assert long(quarters, Interval.M15) == (Span(1_001 * 900, 1_009 * 900),)


@pytest.mark.parametrize("seed", range(40))
def test_quarters_of_an_hour_have_suspicious_quiet_time_exactly_where_the_hours_that_they_add_up_to_have(
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    quarters = rng.poisson(float(rng.choice([0.1, 0.5, 3.0, 9.0])), 40 * 96)
    for first in rng.integers(0, len(quarters), 5):
        quarters[first : first + int(rng.choice([5, 24, 96, 200]))] = 0
    cuts = sorted(rng.integers(0, 40 * A_DAY, 4).tolist())
    covered = (Span(0, cuts[0] * HOUR), Span(cuts[1] * HOUR, 40 * DAY)) if seed % 2 else EVER
    doubtful = intersect(covered, (Span(cuts[2] * HOUR + 900, cuts[3] * HOUR + 1_800),) if seed % 3 else EVER)
    of_quarters = long(quarters, Interval.M15, doubtful, covered)
    of_hours = long(quarters.reshape(-1, 4).sum(axis=1), H1, whole_candles(doubtful, H1), covered)
    assert whole_candles(of_quarters, H1) == of_hours


@given(st.integers(0, 2**32 - 1), st.floats(0.02, 40.0), st.sampled_from([H1, H4, D1]))
def test_what_a_steady_market_does_by_chance_is_never_doubted(seed: int, rate: float, interval: Interval) -> None:
    """Forty examples of a year and more: far below one in 500 million times."""
    random = np.random.default_rng(seed)
    assert long(random.poisson(rate, 400 * DAY // interval.seconds), interval) == ()


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.9), st.floats(1.0, 60.0))
def test_nor_is_what_one_does_that_trades_in_bursts(seed: int, share: float, mean: float) -> None:
    """Some hours have none, others many: hardly one lull in five hundred is doubted."""
    random = np.random.default_rng(seed)
    is_active = random.random(365 * A_DAY) < share
    counts = np.where(is_active, random.geometric(1 / mean, 365 * A_DAY), 0)
    lulls = int((np.diff((counts == 0).astype(int)) == 1).sum())
    assert len(long(counts)) <= 1 + lulls / 500


def test_nor_is_a_lull_of_the_busiest_of_them() -> None:
    """Nine hours in ten are active: the fourteen hours that a lull is compared with often all have trades by chance."""
    for seed in range(60):
        random = np.random.default_rng(seed)
        counts = np.where(random.random(365 * A_DAY) < 0.9, random.geometric(1 / 60, 365 * A_DAY), 0)
        lulls = int((np.diff((counts == 0).astype(int)) == 1).sum())
        assert len(long(counts)) <= 1 + lulls / 500, seed


@given(st.integers(0, 2**32 - 1), st.floats(6.0, 200.0), st.integers(12, 72), st.integers(8 * A_DAY, 20 * A_DAY))
def test_half_a_day_of_a_busy_market_is_always_noticed(seed: int, rate: float, length: int, first: int) -> None:
    counts = np.random.default_rng(seed).poisson(rate, 32 * A_DAY)
    counts[[first - 1, first + length]] = 1
    counts[first : first + length] = 0
    (found,) = long(counts)
    assert (found.start, found.end) == (first * HOUR, (first + length) * HOUR)


def read_csv(name: str) -> tuple[pl.Series, pl.Series]:
    names = ["time", "open", "high", "low", "close", "volume", "trades"]
    rows = pl.read_csv(real_file(name), has_header=False, new_columns=names)
    return rows["time"], rows["trades"].cast(pl.Int64)


@pytest.mark.real_files
@pytest.mark.parametrize(
    ("name", "interval", "doubted"),
    [
        # A new pair of which one hour in five is quiet; and Kraken's outage of January 2018.
        ("STORJUSD_60.csv", H1, ()),
        ("ADAUSD_1440.csv", D1, ()),
        ("XBTCAD_720.csv", Interval.H12, (Span(1_515_672_000, 1_515_801_600),)),
        ("XBTCAD_1440.csv", D1, (Span(1_515_715_200, 1_515_801_600),)),
    ],
)
def test_of_real_files_only_an_outage_is_doubted_and_a_day_that_is_deleted_nearly_always(
    name: str, interval: Interval, doubted: Spans
) -> None:
    times, trades = read_csv(name)
    reach = (Span(times[0], times[-1] + interval.seconds),)
    assert long_quiet(times, trades, reach, reach, interval) == doubted
    deleted = range(D1.ceil(times[0]) + 9 * DAY, times[-1] - 9 * DAY, 13 * DAY)
    noticed = 0
    for day in deleted:
        kept = ~times.is_between(day, day + DAY, closed="left")
        noticed += bool(long_quiet(times.filter(kept), trades.filter(kept), reach, (Span(day, day + DAY),), interval))
    assert noticed >= 0.9 * len(deleted)


# --- outages

Market = tuple[NDArray[np.int64], NDArray[np.bool_]]


def market(trades: int, days: int = 20, quiet: Iterable[int] = (), night: range = range(0)) -> Market:
    """So many trades each hour, but in some hours and at night."""
    counts = np.full(days * A_DAY, trades, np.int64)
    counts[list(quiet)] = 0
    for hour in night:
        counts[hour::A_DAY] = 0
    return counts, np.ones(days * A_DAY, np.bool_)


def silent(*markets: Market) -> list[tuple[int, int]]:
    return [(span.start // HOUR, span.end // HOUR) for span in all_quiet(0, Interval.H1, markets)]


def test_the_silence_of_all_markets_at_a_usual_time_is_an_outage() -> None:
    hours = range(200, 204)
    assert silent(market(10, quiet=hours), market(3, quiet=hours)) == [(200, 204)]
    assert silent(market(10, quiet=hours), market(3, quiet=hours[:-1])) == [(200, 203)]
    assert silent(market(10, quiet=hours), market(3)) == []


def test_a_night_in_which_all_sleep_is_none() -> None:
    night = range(1, 5)
    assert silent(market(10, night=night), market(30, night=night)) == []
    # Unless one of them does not sleep as a rule.
    awake = market(10, quiet=range(10 * A_DAY + 1, 10 * A_DAY + 5))
    assert silent(awake, market(30, night=night)) == [(241, 245)]


def test_too_few_trades_to_tell_are_none_and_one_market_alone_never_is() -> None:
    assert silent(market(4, quiet=[200, 201]), market(5, quiet=[200, 201])) == []
    assert silent(market(100, quiet=[200])) == []
    assert silent() == []


def test_who_is_not_covered_is_not_asked() -> None:
    counts, covered = market(50, quiet=range(200, 203))
    covered[200:203] = False
    others = [market(10, quiet=range(198, 206)), market(10, quiet=range(198, 206))]
    assert silent((counts, covered), *others) == [(200, 203)]


# --- where to look for it


@pytest.mark.parametrize("seed", range(60))
def test_nothing_is_found_outside_the_candidates(seed: int) -> None:
    """Markets of every activity, with holes of an hour to ten days, and doubtful time cut anywhere."""
    rng = np.random.default_rng(seed)
    interval = (Interval.M15, Interval.H1, Interval.H4, Interval.D1)[seed % 4]
    length, days = interval.seconds, int(rng.integers(20, 60))
    begin = 140 * DAY
    starts = np.arange(begin, begin + days * DAY, length)
    busy = rng.random(len(starts)) < rng.choice([0.02, 0.3, 0.9, 0.999])
    if rng.random() < 0.5:
        busy &= (starts // DAY) % 7 < 5
    for _ in range(rng.integers(1, 6)):
        first = begin + int(rng.integers(0, days * DAY))
        busy &= (starts < first) | (starts >= first + int(rng.choice([HOUR, 6 * HOUR, DAY, 2 * DAY, 10 * DAY])))
    busy[rng.integers(0, len(busy))] = True
    times = pl.Series(starts[busy], dtype=pl.Int64())
    trades = pl.Series(rng.integers(1, int(rng.choice([2, 12, 400])), len(times)), dtype=pl.Int32())
    cuts = sorted(set(rng.integers(0, days * DAY // length, 8).tolist()))
    bounds = zip(cuts[::2], cuts[1::2], strict=False)
    covered = tuple(Span(begin + first * length, begin + last * length) for first, last in bounds)
    covered = covered if rng.random() < 0.5 else (Span(begin, begin + days * DAY),)
    asked = Span(begin + int(rng.integers(0, 20)) * HOUR, begin + (days - int(rng.integers(0, 9))) * DAY)
    doubtful = intersect(covered, (asked,))
    found = long_quiet(times, trades, covered, doubtful, interval)
    reach = Span(begin - 20 * DAY, begin + (days + 20) * DAY)
    candidates = quiet_candidates(times, trades, reach, interval)
    assert intersect(found, candidates) == found
    assert long_quiet(times, trades, covered, intersect(doubtful, candidates), interval) == found


def test_a_market_without_a_long_silence_has_no_candidates() -> None:
    every_hour = pl.Series(range(10 * DAY, 60 * DAY, HOUR), dtype=pl.Int64())
    tens = pl.Series([10] * len(every_hour), dtype=pl.Int32())
    reach = Span(10 * DAY, 60 * DAY)
    assert quiet_candidates(every_hour, tens, reach, H1) == ()
    silent = every_hour.filter(every_hour != 30 * DAY)
    assert quiet_candidates(silent, tens[1:], reach, H1) == ()  # an hour with ten trades is short of twenty
    silent = silent.filter(silent != 30 * DAY + HOUR)
    assert quiet_candidates(silent, tens[2:], reach, H1) == (Span(30 * DAY, 30 * DAY + 2 * HOUR),)
    cut = silent.filter(silent < 58 * DAY)
    assert quiet_candidates(cut, tens[: len(cut)], reach, H1)[-1] == Span(58 * DAY, 1 << 33)
