"""A world of 200 days, archives of the first 150 with holes, and one command: everything is there, for the least."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from kraken_pipeline.coverage.ranges import Span, Spans, normalise, span, subtract
from kraken_pipeline.demo.archives import candles_name, write_quarterly_zip
from kraken_pipeline.demo.clock import FixedClock
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.exchange import DemoExchange, LoggedRequest
from kraken_pipeline.demo.listing import DAY, demo_listings
from kraken_pipeline.demo.world import SECOND_NS, World
from kraken_pipeline.market.candle import seconds_of
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.quarter import Quarter
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.report.report import make_report
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.homes import Done, oracle, run, settings_of, stored

pytestmark = pytest.mark.slow

INTERVALS = (Interval.M1, Interval.H1, Interval.H12, Interval.D1)
START = Quarter(2022, 4).start + 45 * DAY
CUT = START + 150 * DAY
NOW = START + 200 * DAY + 45_296
QUARTERS = (Quarter(2022, 4), Quarter(2023, 1), Quarter(2023, 2))
MISSING = QUARTERS[1]
# The minutes of one pair and quarter, and the hours and days of others.
HOLES = (
    ("ADAEUR", Interval.M1, QUARTERS[0]),
    ("XDGUSD", Interval.H1, QUARTERS[0]),
    ("ETHUSD", Interval.D1, QUARTERS[2]),
)
WORLD = World(
    11,
    [replace(listing, trades_per_day=max(40, listing.trades_per_day // 8)) for listing in demo_listings(START)],
    NOW,
)
PAIRS = tuple(WORLD.listings)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    for quarter in QUARTERS:
        if quarter != MISSING:
            holes = [
                Defect(DefectKind.MISSING_MEMBER, pair, interval, release=candles_name(quarter))
                for pair, interval, where in HOLES
                if where == quarter
            ]
            cut = CUT if quarter.end > CUT else None
            write_quarterly_zip(folder, WORLD, quarter, INTERVALS, cut=cut, defects=holes)
    return folder


@pytest.fixture(scope="module")
def exchange() -> Iterator[DemoExchange]:
    with DemoExchange(WORLD, clock=CLOCK) as exchange:
        yield exchange


CLOCK = FixedClock(NOW)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, exchange: DemoExchange) -> Iterator[Stores]:
    home = tmp_path_factory.mktemp("home")
    with opened(settings_of(home, kraken_api_url=exchange.url)) as stores:
        yield stores


@pytest.fixture(scope="module")
def first(stores: Stores, exchange: DemoExchange, archives: Path) -> tuple[Done, Sequence[LoggedRequest]]:
    done = run(stores, archives, now=NOW, complete=True, intervals=list(INTERVALS))
    return done, exchange.requests


def test_it_is_complete_and_every_candle_is_what_happened(
    stores: Stores, first: tuple[Done, Sequence[LoggedRequest]]
) -> None:
    made = make_report(stores, run_spec(intervals=list(INTERVALS)), NOW)
    assert (made.percent, made.overall.gaps, made.overall.series) == (100.0, 0, len(PAIRS) * len(INTERVALS))
    for pair in PAIRS:
        for interval in INTERVALS:
            assert stored(stores, pair, interval) == oracle(pair, interval, START, interval.floor(NOW), WORLD), pair


def test_it_takes_the_least_requests_that_its_routes_can_and_none_of_them_twice(
    first: tuple[Done, Sequence[LoggedRequest]],
) -> None:
    done, requests = first
    asked = [(each.endpoint, tuple(sorted(each.params.items()))) for each in requests]
    assert len(set(asked)) == len(asked)
    assert {each.outcome for each in requests} == {"ok"}
    for pair in PAIRS:
        own = [each for each in requests if each.pair == pair]
        ohlc = [each for each in own if each.endpoint == "OHLC"]
        assert [each.params["interval"] for each in ohlc] == ["1"], "the newest minutes, of which the rest is made"
        paged = [each for each in own if each.endpoint == "Trades" and each.params["since"] != "0"]
        assert len(paged) == sum(least_pages(pair, gap) for gap in minutes_to_page(pair)), pair
        assert len(own) == 1 + len(paged) + 1, "and one for its first trade"
    others = [each.endpoint for each in requests if each.pair is None]
    assert sorted(others) == ["AssetPairs", "AssetPairs", "SystemStatus"]
    assert done.backfilled is not None
    assert done.backfilled.requests == len(requests)


def minutes_to_page(pair: str) -> Spans:
    """The minutes that neither an archive nor the newest 720 have."""
    begin = Interval.M1.floor(WORLD.listings[pair].first_trade)
    minutes = [
        WORLD.candles(name, Interval.M1, QUARTERS[-1].start, CUT).select(seconds_of(pl.col("time"))).to_series()[-1]
        for name in PAIRS
    ]
    known = [Span(QUARTERS[0].start, QUARTERS[0].end), Span(QUARTERS[2].start, max(minutes) + 60)]
    if pair == "ADAEUR":
        known = known[1:]
    reach = Interval.M1.floor(NOW) - 720 * 60
    return subtract(span(begin, reach), normalise(known))


def least_pages(pair: str, gap: Span) -> int:
    """How many pages of 1,000 trades it takes to see every trade of a gap and one that lies behind it."""
    times: NDArray[np.int64] = np.sort(WORLD.trades(pair, gap.start * SECOND_NS, NOW * SECOND_NS)["time"].to_numpy())
    pages, at = 1, 0
    while (last := min(at + 1_000, len(times)) - 1) >= 0 and times[last] < gap.end * SECOND_NS:
        is_full, nothing_new = last + 1 - at == 1_000, pages > 1 and last + 1 - at <= 1
        if not is_full and nothing_new:
            break
        pages, at = pages + 1, int(np.searchsorted(times, times[last]))
    return pages


def test_a_second_run_asks_for_nothing_and_one_later_for_the_newest_candles_alone(
    stores: Stores, exchange: DemoExchange, archives: Path, first: tuple[Done, Sequence[LoggedRequest]]
) -> None:
    before = len(exchange.requests)
    run(stores, archives, now=NOW, complete=True, intervals=list(INTERVALS), run_id="run-two")
    assert len(exchange.requests) == before
    CLOCK.advance(2 * 3_600)
    later = NOW + 2 * 3_600
    run(stores, archives, now=later, complete=True, intervals=list(INTERVALS), run_id="run-three")
    asked = sorted(
        (each.endpoint, each.pair or "", each.params.get("interval", "")) for each in exchange.requests[before:]
    )
    assert asked == [*(("OHLC", pair, "1") for pair in sorted(PAIRS)), ("SystemStatus", "", "")]
    for pair in PAIRS:
        for interval in INTERVALS:
            assert stored(stores, pair, interval) == oracle(pair, interval, START, interval.floor(later), WORLD)
