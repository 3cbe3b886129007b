from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kraken_pipeline.coverage.quiet import LONE_TRADES, NEIGHBOURS, all_quiet, lone_quiet
from kraken_pipeline.coverage.ranges import Span, Spans
from kraken_pipeline.market.interval import Interval

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
