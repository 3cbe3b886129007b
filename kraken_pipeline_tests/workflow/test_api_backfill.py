"""Backfilling against the demo exchange: what is asked for, in which order, how often, and what becomes of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.coverage.gaps import GapStatus
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.demo.archives import write_csv
from kraken_pipeline.demo.clock import FixedClock
from kraken_pipeline.demo.exchange import DemoExchange, LoggedRequest
from kraken_pipeline.demo.faults import Fault, HttpStatus, Refusal
from kraken_pipeline.demo.listing import DAY, Listing
from kraken_pipeline.demo.world import SECOND_NS, Burst, Outage, World
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.records import dead_letters, gap_records
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.backfill import backfill, planned, retry
from kraken_pipeline.workflow.backfill.exchange import connected
from kraken_pipeline.workflow.backfill.fetch import fetch_ohlc
from kraken_pipeline.workflow.backfill.outcome import BackfillOutcome
from kraken_pipeline.workflow.gaps.gaps import find_gaps, shown
from kraken_pipeline.workflow.gaps.snapshot import load_snapshot
from kraken_pipeline.workflow.progress import Progress, RunContext
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.exchanges import at
from kraken_pipeline_tests.support.homes import (
    closed_gaps,
    covered,
    letters,
    open_gaps,
    oracle,
    rows_of,
    run,
    spans,
    stored,
    write_lines,
)

pytestmark = pytest.mark.slow

HOUR = 3_600
START = 1_700_006_400 // DAY * DAY
NOW = START + 9 * DAY + 4 * HOUR + 34
XBT = Listing("XBTUSD", "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 28_000.0, 0.006, 300, START)
ADA = Listing("ADAEUR", "ADAEUR", "ADA/EUR", "ADA", "ZEUR", 6, 0.355, 55.0, 120, START, night=(2, 4))
ZORK = Listing("ZORKUSD", "ZORKUSD", "ZORK/USD", "ZORK", "ZUSD", 4, 2.5, 0.35, 40, START)
WORLD = World(7, (XBT, ADA, ZORK), NOW)
"""Two pairs of TIER1 and one of TIER4, nine days old."""


@pytest.fixture
def exchange() -> Iterator[DemoExchange]:
    """The world's exchange, whose clock stands still."""
    with DemoExchange(WORLD) as found:
        yield found


@pytest.fixture
def there(home: Path, exchange: DemoExchange) -> Iterator[Stores]:
    """An empty home that asks it."""
    with at(exchange, home) as stores:
        yield stores


def fill(stores: Stores, now: int = NOW, run_id: str = "run-one", **options: Any) -> BackfillOutcome:
    return backfill(stores, run_spec(**options), RunContext(run_id, now))


def give(
    stores: Stores, folder: Path, pair: str, interval: int, *days: tuple[float, float], world: World = WORLD
) -> None:
    """What archives have of a pair: so many days since the start of the world, without asking the exchange.

    A file answers for what lies before its last candle, which may have been cut; so it gets one more.
    """
    length = Interval(interval).seconds
    files = [
        write_csv(
            folder / f"{pair}-{interval}-{number}",
            world,
            pair,
            Interval(interval),
            start=bound(first),
            end=bound(last) + length,
        )
        for number, (first, last) in enumerate(days)
    ]
    run(stores, *files, now=world.now, api_backfill=False, intervals=interval)


def bound(days: float) -> int:
    return START + int(days * DAY)


def asked(exchange: DemoExchange, endpoint: str, pair: str | None = None) -> list[Mapping[str, str]]:
    """The queries of an endpoint, in order; without those that ask for a first trade."""
    return [
        each.params
        for each in exchange.requests
        if each.endpoint == endpoint and pair in (None, each.pair) and each.params.get("count") != "1"
    ]


def assert_whole(stores: Stores, pair: str, interval: int, start: int = START, world: World = WORLD) -> None:
    """From a moment on, everything is covered and as it happened."""
    end = Interval(interval).floor(world.now)
    assert any(span.start <= start and span.end == end for span in covered(stores, pair, interval))
    assert stored(stores, pair, interval, start, end) == oracle(pair, interval, start, end, world)


# --- what one request serves


def test_one_reply_of_ohlc_fills_several_gaps(there: Stores, exchange: DemoExchange, tmp_path: Path) -> None:
    give(there, tmp_path, "XBTUSD", 60, (0, 4), (4.5, 5), (6, 7))
    done = fill(there, intervals="60")
    assert [params["since"] for params in asked(exchange, "OHLC")] == [str(bound(4) - 1)]
    assert asked(exchange, "Trades") == []
    assert done.gaps == ()
    assert_whole(there, "XBTUSD", 60)
    assert {row.status for row in closed_gaps(there, "XBTUSD", 60)} == {GapStatus.FILLED}


def test_trades_are_paged_through_once_for_several_intervals(there: Stores, exchange: DemoExchange) -> None:
    fill(there, pairs="XBTUSD", intervals="5,15,60,1440")
    since = [int(params["since"]) for params in asked(exchange, "Trades")]
    assert since == sorted(set(since))
    assert since[0] == START * SECOND_NS
    # What lies within the newest 720 of five minutes is asked for as such, and makes the others.
    assert [params["interval"] for params in asked(exchange, "OHLC")] == ["5"]
    for interval in (5, 15, 60, 1440):
        assert_whole(there, "XBTUSD", interval)


def test_half_days_come_from_four_hours(there: Stores, exchange: DemoExchange, tmp_path: Path) -> None:
    give(there, tmp_path, "XBTUSD", 720, (0, 5))
    done = fill(there, intervals="720")
    assert [params["interval"] for params in asked(exchange, "OHLC")] == ["240"]
    assert done.gaps == ()
    assert_whole(there, "XBTUSD", 720)
    assert stored(there, "XBTUSD", 240) == oracle("XBTUSD", 240, bound(5), Interval.H4.floor(NOW), WORLD)


def test_what_follows_from_a_reply_is_resampled_in_the_same_run(
    there: Stores, exchange: DemoExchange, tmp_path: Path
) -> None:
    give(there, tmp_path, "XBTUSD", 60, (0, 5))
    done = fill(there, intervals="60,240,1440")
    assert [params["interval"] for params in asked(exchange, "OHLC")] == ["60"]
    assert [each.series.interval for each in done.filled] == [60, 240, 1440]
    for interval in (60, 240, 1440):
        assert_whole(there, "XBTUSD", interval)
    sources = there.lake.read(Series("XBTUSD", Interval.H1))["source"].to_list()
    assert (sources[0], sources[-1]) == ("CSV", "OHLC")


def test_a_quiet_row_of_ohlc_is_evidence_and_no_candle(there: Stores, exchange: DemoExchange, tmp_path: Path) -> None:
    give(there, tmp_path, "ADAEUR", 60, (0, 5))
    fill(there, intervals="60")
    night = bound(7) + 2 * HOUR
    assert stored(there, "ADAEUR", 60, night, night + 2 * HOUR) == []
    assert any(night in span for span in covered(there, "ADAEUR", 60))
    assert_whole(there, "ADAEUR", 60)


# --- which gaps, and in which order


def test_tiers_come_first_and_within_one_what_is_lost_first_or_is_newest(
    there: Stores, exchange: DemoExchange, tmp_path: Path
) -> None:
    give(there, tmp_path, "ZORKUSD", 60, (0, 4))
    give(there, tmp_path, "XBTUSD", 60, (0, 6))
    give(there, tmp_path, "ADAEUR", 60, (0, 5))
    fetches = planned(there, run_spec(intervals="60"), NOW)
    fill(there, intervals="60")
    order = ["ADAEUR", "XBTUSD", "ZORKUSD"]
    assert [each.series.pair for each in fetches] == order
    assert [each.pair for each in exchange.requests if each.endpoint == "OHLC"] == order


def test_what_is_planned_asks_for_nothing_and_writes_nothing(
    there: Stores, exchange: DemoExchange, tmp_path: Path
) -> None:
    give(there, tmp_path, "XBTUSD", 60, (0, 6))
    before = (open_gaps(there, "XBTUSD", 60), covered(there, "XBTUSD", 60))
    (fetch,) = planned(there, run_spec(intervals="60,1440"), NOW)
    assert fetch.as_json() == {
        "pair": "XBTUSD",
        "interval": 60,
        "source": "OHLC",
        "start": "2023-11-21T00:00:00Z",
        "end": "2023-11-24T04:00:00Z",
        "spans": 1,
        "requests": 1,
        "serves": [60],
        "expires_at": "2023-12-21T01:00:00Z",
    }
    assert exchange.requests == ()
    assert (open_gaps(there, "XBTUSD", 60), covered(there, "XBTUSD", 60)) == before


@pytest.mark.parametrize(("days", "oldest"), [(1, 7.5), (5, 3), (9, 1)])
def test_what_is_older_than_the_lookback_is_left_alone(
    there: Stores, exchange: DemoExchange, tmp_path: Path, days: int, oldest: float
) -> None:
    give(there, tmp_path, "XBTUSD", 60, (0, 1), (2, 3), (5, 7.5))
    fill(there, intervals="60", lookback_days=days)
    (params,) = asked(exchange, "OHLC")
    # A gap of which a part is younger is filled whole if that costs no more.
    assert params["since"] == str(bound(oldest) - 1)
    assert_whole(there, "XBTUSD", 60, bound(oldest))


def test_to_be_complete_there_is_no_lookback(there: Stores, exchange: DemoExchange, tmp_path: Path) -> None:
    give(there, tmp_path, "XBTUSD", 60, (0, 1), (2, 3), (5, 7.5))
    assert fill(there, intervals="60", complete=True, lookback_days=1).gaps == ()
    assert_whole(there, "XBTUSD", 60)


def test_only_so_many_gaps_of_a_series_are_filled_in_one_run_the_newest_first(
    there: Stores, exchange: DemoExchange, tmp_path: Path
) -> None:
    give(there, tmp_path, "XBTUSD", 60, (0, 3), (4, 5), (6, 7), (8, 9))
    done = fill(there, intervals="60", max_gaps_per_asset=2)
    assert [params["since"] for params in asked(exchange, "OHLC")] == [str(bound(7) - 1)]
    assert [gap.span for gap in done.gaps] == list(spans((bound(3), bound(4)), (bound(5), bound(6))))
    assert fill(there, intervals="60", max_gaps_per_asset=2, run_id="run-two").gaps == ()
    assert_whole(there, "XBTUSD", 60)


def test_a_window_of_time_is_filled_and_nothing_around_it(
    there: Stores, exchange: DemoExchange, tmp_path: Path
) -> None:
    give(there, tmp_path, "XBTUSD", 60, (0, 4))
    fill(there, intervals="60", start="2023-11-20", end="2023-11-21")
    (params,) = asked(exchange, "OHLC")
    assert params["since"] == str(bound(5) - 1)
    # The reply answers for more than was asked, and what it answers for is taken.
    assert [span.start for span in covered(there, "XBTUSD", 60)][-1] == bound(5)
    assert asked(exchange, "Trades") == []


# --- budgets


def test_a_budget_bounds_every_request_of_a_run_and_the_next_goes_on(there: Stores, exchange: DemoExchange) -> None:
    wanted: dict[str, Any] = {"pairs": "XBTUSD", "intervals": "1,60", "budget": 6}
    first = fill(there, **wanted)
    # Status, two lists, the first trade, the newest candles, one page.
    assert (first.requests, len(exchange.requests), first.failed) == (6, 6, ())
    assert first.notes == ("The budget of requests is spent; the rest is left to the next run.",)
    (paged, newest) = covered(there, "XBTUSD", 1)
    assert newest == Span(Interval.M1.floor(NOW) - 720 * 60, Interval.M1.floor(NOW))
    assert {gap.status for gap in first.gaps} == {GapStatus.DETECTED}
    assert {gap.failures for gap in first.gaps} == {0}

    second = fill(there, run_id="run-two", **wanted)

    assert asked(exchange, "Trades")[1]["since"] == str(paged.end * SECOND_NS)
    assert (second.gaps, second.failed) == ((), ())
    for interval in (1, 60):
        assert_whole(there, "XBTUSD", interval)
    queries = [(each.endpoint, tuple(each.params.items())) for each in exchange.requests if each.pair]
    assert len(set(queries)) == len(queries)


@pytest.mark.parametrize(("budget", "most"), [(0, 0), (1, 3), (3, 3), (4, 4), (5, 5)])
def test_a_budget_is_overrun_by_no_more_than_the_list_of_pairs_takes(
    there: Stores, exchange: DemoExchange, tmp_path: Path, budget: int, most: int
) -> None:
    give(there, tmp_path, "XBTUSD", 1, (0, 2))
    done = fill(there, intervals="1", budget=budget)
    assert done.requests == len(exchange.requests) == most
    assert "budget" in " ".join(done.notes)
    assert done.failed == ()


def test_a_gap_that_costs_too_much_is_not_paged_through(home: Path, exchange: DemoExchange, tmp_path: Path) -> None:
    with at(exchange, home, kraken_max_requests_per_gap=1) as stores:
        give(stores, tmp_path, "XBTUSD", 1, (0, 4))
        done = fill(stores, intervals="1")
        assert asked(exchange, "Trades") == []
        assert len(asked(exchange, "OHLC")) == 1
        (gap,) = done.gaps
        assert (gap.status, str(gap.route)) == (GapStatus.UNFILLABLE, "NONE")
        assert gap.required_csv_file is None, "the archive of this quarter is not published yet"


def test_a_gap_that_turns_out_to_cost_more_is_left_off_at_its_limit(home: Path, tmp_path: Path) -> None:
    # Three hundred trades a day are known, and then come three thousand.
    world = World(7, (replace(XBT, trades_per_day=3_000),), NOW)
    with DemoExchange(world) as exchange, at(exchange, home, kraken_max_requests_per_gap=3) as stores:
        give(stores, tmp_path, "XBTUSD", 1, (0, 5))
        before = covered(stores, "XBTUSD", 1)
        done = fill(stores, intervals="1")
        assert len(asked(exchange, "Trades")) == 3
        assert done.failed == ()
        paged = covered(stores, "XBTUSD", 1)[0]
        assert paged.end > before[0].end
        new = stored(stores, "XBTUSD", 1, before[0].end, paged.end)
        assert new == oracle("XBTUSD", 1, before[0].end, paged.end, world)


# --- nothing twice


def test_a_second_run_asks_for_nothing_and_a_later_one_for_what_is_new(home: Path, tmp_path: Path) -> None:
    clock = FixedClock(NOW)
    with DemoExchange(WORLD, clock=clock) as exchange, at(exchange, home) as stores:
        give(stores, tmp_path, "XBTUSD", 1, (0, 9))
        fill(stores, intervals="1,60")
        before = len(exchange.requests)
        assert fill(stores, intervals="1,60", run_id="run-two").requests == 0
        assert len(exchange.requests) == before

        clock.advance(2 * HOUR)
        fill(stores, now=NOW + 2 * HOUR, intervals="1,60", run_id="run-three")
        new: Sequence[LoggedRequest] = exchange.requests[before:]
        assert [(each.endpoint, each.params.get("since")) for each in new] == [
            ("SystemStatus", None),
            ("OHLC", str(Interval.M1.floor(NOW) - 1)),
        ]
        assert stored(stores, "XBTUSD", 60) == oracle("XBTUSD", 60, START, NOW // HOUR * HOUR + 2 * HOUR, WORLD)


def test_what_another_run_is_fetching_is_left_to_it(there: Stores, exchange: DemoExchange) -> None:
    with there.locks.fetch("trades.XBTUSD"):
        done = fill(there, pairs="XBTUSD", intervals="1")
    assert asked(exchange, "Trades") == []
    assert (done.failed, done.notes) == ((), ("another run is fetching trades.XBTUSD",))
    assert {gap.attempts for gap in done.gaps} == {0}
    assert fill(there, pairs="XBTUSD", intervals="1", run_id="run-two").gaps == ()
    assert_whole(there, "XBTUSD", 1)


# --- pairs that come and go


def test_a_named_pair_without_history_is_filled_from_its_first_trade_on(there: Stores, exchange: DemoExchange) -> None:
    done = fill(there, pairs="ZORKUSD", intervals="1,60,1440,10080")
    assert (done.gaps, done.failed) == ((), ())
    for interval in (1, 60, 1440, 10080):
        true = oracle("ZORKUSD", interval, 0, Interval(interval).floor(NOW), WORLD)
        assert stored(there, "ZORKUSD", interval) == true
    assert rows_of(there, schema.listings, "pair", "first_trade", "delisted_at") == [("ZORKUSD", START, None)]
    assert [pair.name for pair in there.lake.asset_ids.pairs()] == ["ZORKUSD"]


def test_a_pair_that_nobody_lists_is_refused_by_its_name(there: Stores) -> None:
    with pytest.raises(InvalidRequest, match="neither the lake nor the exchange has it"):
        fill(there, pairs="NONEUSD", intervals="60")
    assert there.lake.asset_ids.pairs() == []


def test_without_the_api_a_pair_that_nobody_knows_is_refused(there: Stores, exchange: DemoExchange) -> None:
    with pytest.raises(InvalidRequest, match="XBTUSD is unknown"):
        fill(there, pairs="XBTUSD", intervals="60", api_backfill=False)
    assert exchange.requests == ()


def test_of_a_pair_that_is_listed_no_more_nothing_is_expected_after_its_last_evidence(
    home: Path, tmp_path: Path
) -> None:
    world = World(7, (XBT, replace(ZORK, delisted=bound(6))), NOW)
    with DemoExchange(world) as exchange, at(exchange, home) as stores:
        give(stores, tmp_path, "ZORKUSD", 60, (0, 3), (4, 5), world=world)
        give(stores, tmp_path, "XBTUSD", 60, (0, 8), world=world)
        last = covered(stores, "ZORKUSD", 60)[-1].end
        done = fill(stores, intervals="60")
        (note,) = done.notes
        assert note.startswith(
            "ZORKUSD is not in the exchange's list of pairs: no requests for it are made until it is back"
        )
        assert done.failed == ()
        assert [gap.route for gap in done.gaps if gap.series.pair == "ZORKUSD"] == ["OHLC", "OHLC"]
        assert asked(exchange, "OHLC", "ZORKUSD") == []
        lists = len(asked(exchange, "AssetPairs"))
        assert fill(stores, now=NOW + DAY - 1, intervals="60", run_id="run-two").notes == ()
        assert len(asked(exchange, "AssetPairs")) == lists, "the first list says the same for a day"
        done = fill(stores, now=NOW + DAY, intervals="60", run_id="run-three")
        assert done.notes == ("ZORKUSD is no longer listed: nothing is expected after its last evidence",)
        assert done.failed == ()
        assert asked(exchange, "OHLC", "ZORKUSD") == []
        (gap,) = [gap for gap in done.gaps if gap.series.pair == "ZORKUSD"]
        before, after = covered(stores, "ZORKUSD", 60)
        assert (gap.series.pair, gap.span) == ("ZORKUSD", Span(before.end, after.start))
        assert gap.status is GapStatus.UNFILLABLE
        assert covered(stores, "ZORKUSD", 60)[-1].end == last
        # It is said once.
        assert fill(stores, now=NOW + DAY, intervals="60", run_id="run-four").notes == ()


def test_where_the_list_of_pairs_cannot_be_had_anew_nothing_is_taken_for_delisted_and_the_run_goes_on(
    home: Path, exchange: DemoExchange, tmp_path: Path
) -> None:
    with at(exchange, home, kraken_api_attempts=1) as stores:
        give(stores, tmp_path, "XBTUSD", 60, (0, 8))
        fill(stores, intervals="60")  # the list is known from now on
        rows = [f"{START + hour * HOUR},1.5,2.5,0.5,2.0,12.25,3" for hour in range(5)]
        run(stores, write_lines(tmp_path / "NEWUSD_60.csv", rows), now=NOW, api_backfill=False)
        exchange.inject(Fault(HttpStatus(503), endpoint="AssetPairs", times=None))
        done = fill(stores, intervals="60", run_id="run-two")
        assert any("AssetPairs" in note for note in done.notes)
        assert rows_of(stores, schema.listings, "pair", "delisted_at") == [("XBTUSD", None)] * (
            len(rows_of(stores, schema.listings, "pair"))
        )
        assert [row.status for row in open_gaps(stores, "NEWUSD", 60)] == [GapStatus.DETECTED]


def test_coverage_by_a_reply_that_was_kept_is_as_old_as_the_reply(there: Stores) -> None:
    later = int(time.time()) + 1_000
    wanted = (Span(NOW // HOUR * HOUR - 5 * HOUR, NOW // HOUR * HOUR),)
    there.lake.asset_ids.register([parse_pair("XBTUSD")])
    with connected(there) as asked_once:
        for number in range(2):
            fetch_ohlc(there, asked_once, Series("XBTUSD", Interval.H1), wanted, RunContext(f"run-{number}", later))
        assert asked_once.requests == 1 + 2, "the reply, and the list of pairs"
    (verified,) = {verified for (verified,) in rows_of(there, schema.grants, "verified_at")}
    assert verified <= time.time()


def test_a_pair_that_is_listed_again_is_expected_and_filled_again(home: Path, tmp_path: Path) -> None:
    gone = World(7, (XBT, replace(ZORK, delisted=bound(6))), NOW)
    with DemoExchange(gone) as exchange, at(exchange, home) as stores:
        give(stores, tmp_path, "ZORKUSD", 60, (0, 5), world=gone)
        fill(stores, now=NOW - DAY, pairs="ZORKUSD", intervals="60", run_id="run-zero")
        assert not load_snapshot(stores, run_spec(), NOW).is_delisted("ZORKUSD")
        assert fill(stores, pairs="ZORKUSD", intervals="60").gaps == ()
        assert load_snapshot(stores, run_spec(), NOW).is_delisted("ZORKUSD")
    with DemoExchange(WORLD) as exchange, at(exchange, home) as stores:
        assert fill(stores, pairs="ZORKUSD", intervals="60", run_id="run-two").gaps == ()
        assert not load_snapshot(stores, run_spec(), NOW).is_delisted("ZORKUSD")
        assert stored(stores, "ZORKUSD", 60, bound(5)) == oracle("ZORKUSD", 60, bound(5), Interval.H1.floor(NOW), WORLD)


def test_a_first_trade_that_comes_after_a_candle_is_not_believed(home: Path, tmp_path: Path) -> None:
    late = World(7, (replace(XBT, first_trade=bound(3)),), NOW)
    with DemoExchange(late) as exchange, at(exchange, home) as stores:
        give(stores, tmp_path, "XBTUSD", 1, (0, 1))
        done = fill(stores, intervals="1", complete=True)
        (failure,) = done.failed
        assert failure.startswith("the first trade of XBTUSD: Kraken says that it was at 2023-11-18T00:00:00Z, but")
        assert rows_of(stores, schema.listings, "pair", "first_trade") == []
        assert covered(stores, "XBTUSD", 1)[0].start >= START, "nothing is said to have been quiet before"


# --- what fails


def test_a_gap_has_failed_after_three_runs_and_is_taken_up_again_at_a_growing_distance(
    home: Path, tmp_path: Path
) -> None:
    clock = FixedClock(NOW)
    with DemoExchange(WORLD, clock=clock) as exchange, at(exchange, home) as stores:
        give(stores, tmp_path, "XBTUSD", 60, (0, 9))
        exchange.inject(Fault(HttpStatus(502), endpoint="OHLC", times=None, condition=lambda: clock() < end))
        end = (NOW + 4 * HOUR) * SECOND_NS
        moment = NOW

        def after(seconds: int) -> tuple[int, GapStatus]:
            """How many attempts another run makes, and how the gap stands then."""
            nonlocal moment
            moment += seconds
            clock.advance(seconds)
            before = len(asked(exchange, "OHLC"))
            (gap,) = fill(stores, now=moment, run_id=f"run-{moment}", intervals="60", end=NOW // HOUR * HOUR).gaps
            (row,) = open_gaps(stores, "XBTUSD", 60)
            assert row.status is gap.status
            assert "HTTP 502" in str(gap.error)
            return (len(asked(exchange, "OHLC")) - before) // 3, gap.status

        assert after(0) == (1, GapStatus.DETECTED)
        assert after(10) == (1, GapStatus.DETECTED)
        assert letters(stores) == []
        assert after(10) == (1, GapStatus.FAILED)
        assert after(899) == (0, GapStatus.FAILED)
        assert after(1) == (1, GapStatus.FAILED)
        assert after(1_799) == (0, GapStatus.FAILED)
        assert after(1) == (1, GapStatus.FAILED)
        assert after(3_599) == (0, GapStatus.FAILED)
        (letter,) = letters(stores)
        assert (letter["pair"], letter["interval"], letter["location"]) == ("XBTUSD", 60, "OHLC of XBTUSD 60")
        assert "HTTP 502" in letter["reason"]
        clock.advance(3_601 + 2 * HOUR)
        assert fill(stores, now=moment + 3_601 + 2 * HOUR, intervals="60", run_id="run-last").gaps == ()
        assert letters(stores) == [], "it succeeded after all"
        assert [row.status for row in closed_gaps(stores, "XBTUSD", 60)] == [GapStatus.FILLED]


def test_a_paging_that_gets_further_each_time_has_not_failed_however_often_it_ends_in_an_error(home: Path) -> None:
    busy = World(7, (replace(XBT, trades_per_day=900),), NOW)
    with DemoExchange(busy) as exchange, at(exchange, home, kraken_api_attempts=1) as stores:
        fill(stores, pairs="XBTUSD", intervals="60", budget=4)  # its first trade, and since when it is traded
        left = []
        for number in range(3):
            exchange.inject(Fault(HttpStatus(503), endpoint="Trades", after=1))
            done = fill(stores, pairs="XBTUSD", intervals="1", run_id=f"run-{number}")
            assert len(done.failed) == 1
            (gap,) = done.gaps
            assert (gap.status, gap.failures) == (GapStatus.DETECTED, 0)
            left.append(gap.missing_candles)
        assert left == sorted(left, reverse=True)
        assert len(set(left)) == 3
        assert listed(stores) == []


def test_a_run_that_is_to_be_complete_does_not_wait_for_the_next_try(home: Path, tmp_path: Path) -> None:
    faults = [Fault(HttpStatus(502), endpoint="OHLC", times=9)]
    with DemoExchange(WORLD, faults=faults) as exchange, at(exchange, home) as stores:
        give(stores, tmp_path, "XBTUSD", 60, (0, 9))
        for number in range(3):
            (gap,) = fill(stores, intervals="60", run_id=f"run-{number}").gaps
        assert gap.status is GapStatus.FAILED
        assert fill(stores, intervals="60", run_id="run-four").requests == 0
        assert fill(stores, intervals="60", complete=True, run_id="run-five").gaps == ()


def test_a_gap_is_being_backfilled_while_a_run_is_at_it(there: Stores, exchange: DemoExchange, tmp_path: Path) -> None:
    give(there, tmp_path, "XBTUSD", 1, (0, 1), (2, 3))
    seen: list[set[str]] = []

    def watch(progress: Progress) -> None:
        if progress.phase == "paging through trades" and progress.requests_done:
            seen.append({f"{row.status} {row.route}" for row in open_gaps(there, "XBTUSD", 1)})

    backfill(there, run_spec(intervals="1", lookback_days=9), RunContext("run-one", NOW, watch))
    assert {"BACKFILLING TRADES"} in seen
    assert open_gaps(there, "XBTUSD", 1) == []


def test_the_mark_of_a_killed_run_counts_for_nothing_where_no_run_is_at_work(there: Stores, tmp_path: Path) -> None:
    give(there, tmp_path, "XBTUSD", 60, (0, 1), (2, 3))
    series = Series("XBTUSD", Interval.H1)
    with there.catalog.write() as connection:
        gap_records.mark(connection, series, spans((START + DAY, START + 2 * DAY)), GapStatus.BACKFILLING)

    def statuses() -> list[GapStatus]:
        spec = run_spec(intervals="60")
        snapshot = load_snapshot(there, spec, NOW)
        return [row.status for row in shown(there, find_gaps(there, spec, snapshot), snapshot)]

    assert statuses() == [GapStatus.DETECTED] * 2
    with there.locks.run("0ff1ce"):
        assert statuses() == [GapStatus.BACKFILLING, GapStatus.DETECTED]


def test_progress_says_how_many_requests_are_done_and_left(there: Stores, exchange: DemoExchange) -> None:
    seen: list[Progress] = []
    backfill(there, run_spec(pairs="XBTUSD", intervals="1"), RunContext("run-one", NOW, seen.append))
    done = [each.requests_done for each in seen]
    assert done == sorted(done)
    assert seen[-1].requests_done == len(exchange.requests)
    assert all(each.requests_done <= each.requests_total for each in seen)
    assert any(each.requests_left for each in seen)
    assert seen[-1].candles == len(stored(there, "XBTUSD", 1))


def test_what_failed_for_good_is_done_again_by_retry(there: Stores, exchange: DemoExchange, tmp_path: Path) -> None:
    give(there, tmp_path, "XBTUSD", 60, (0, 8))
    exchange.inject(Fault(Refusal("EGeneral:Invalid arguments"), endpoint="OHLC", times=2))
    (gap,) = fill(there, intervals="60").gaps
    assert operations(there) == [("XBTUSD 60", gap.span, "OHLC")]

    again = retry(there, listed(there), RunContext("run-two", NOW))
    assert len(again.failed) == 1
    assert "Invalid arguments" in again.failed[0]
    assert operations(there) == [("XBTUSD 60", gap.span, "OHLC")], "it is the same one, and there is one"

    last = retry(there, listed(there), RunContext("run-three", NOW))
    assert (last.failed, last.gaps, last.requests) == ((), (), 2)
    assert operations(there) == []
    assert_whole(there, "XBTUSD", 60)
    assert there.lake.series() == [Series("XBTUSD", Interval.H1)]


def test_trades_that_failed_for_good_are_paged_through_by_retry(there: Stores, exchange: DemoExchange) -> None:
    exchange.inject(Fault(Refusal("EGeneral:Permission denied"), endpoint="Trades", after=2))
    fill(there, pairs="XBTUSD", intervals="1,60")
    assert {(series, route) for series, _, route in operations(there)} == {("XBTUSD 1", "TRADES")}
    before = len(exchange.requests)

    done = retry(there, listed(there), RunContext("run-two", NOW))

    assert done.gaps == ()
    pages = [each.params for each in exchange.requests[before:] if each.endpoint == "Trades"]
    assert int(pages[0]["since"]) > START * SECOND_NS, "what was answered before is not asked again"
    assert_whole(there, "XBTUSD", 1)
    assert operations(there) == []


def test_retry_tries_nothing_while_the_exchange_is_away(there: Stores, exchange: DemoExchange, tmp_path: Path) -> None:
    give(there, tmp_path, "XBTUSD", 60, (0, 8))
    exchange.inject(Fault(Refusal("EGeneral:Invalid arguments"), endpoint="OHLC"))
    fill(there, intervals="60")
    exchange.inject(Fault(HttpStatus(503), times=3))
    done = retry(there, listed(there), RunContext("run-two", NOW))
    assert done.failed == ()
    assert "Nothing was retried" in done.notes[0]
    assert len(operations(there)) == 1
    assert retry(there, [], RunContext("run-three", NOW)) == BackfillOutcome()


def listed(stores: Stores) -> list[dead_letters.Operation]:
    with stores.catalog.read() as connection:
        return dead_letters.operations(connection, None)


def operations(stores: Stores) -> list[tuple[str, Span, str]]:
    return [(str(each.series), each.span, each.route) for each in listed(stores)]


# --- replies with something wrong in them


def spoil(monkeypatch: pytest.MonkeyPatch, exchange: DemoExchange, time: int) -> None:
    """Lets OHLC have a negative volume at a moment."""
    genuine = exchange._replies.result

    def spoilt(endpoint: str, params: Mapping[str, str], now_ns: int) -> dict[str, Any]:
        result = genuine(endpoint, params, now_ns)
        for row in result.get(XBT.key, ()) if endpoint == "OHLC" else ():
            if row[0] == time:
                row[6] = "-1.0"
        return result

    monkeypatch.setattr(exchange._replies, "result", spoilt)


def test_a_row_that_is_no_candle_is_a_dead_letter_and_its_slot_stays_a_gap(
    home: Path, exchange: DemoExchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = bound(8) + 5 * HOUR
    spoil(monkeypatch, exchange, bad)
    with at(exchange, home, kraken_max_requests_per_gap=0) as stores:
        give(stores, tmp_path, "XBTUSD", 60, (0, 8))
        done = fill(stores, intervals="60")
        assert done.failed == ()
        assert done.notes == ("OHLC of XBTUSD 60: 1 row is not a candle",)
        (letter,) = letters(stores)
        assert (letter["location"], letter["reason"]) == ("OHLC of XBTUSD 60", "volume is negative")
        (gap,) = done.gaps
        assert (gap.span, gap.status) == (Span(bad, bad + HOUR), GapStatus.UNFILLABLE)
        assert bad not in [row[0] for row in stored(stores, "XBTUSD", 60)]

        before = len(exchange.requests)
        fill(stores, intervals="60", run_id="run-two")
        assert len(exchange.requests) == before, "it is not asked for again in the same way"
        assert len(letters(stores)) == 1


def test_what_ohlc_has_no_candle_for_is_made_of_trades(
    there: Stores, exchange: DemoExchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(there, tmp_path, "XBTUSD", 60, (0, 8))
    bad = bound(8) + 5 * HOUR
    spoil(monkeypatch, exchange, bad)
    assert fill(there, intervals="60").gaps == ()
    assert asked(exchange, "Trades")[0]["since"] == str(bad * SECOND_NS)
    assert_whole(there, "XBTUSD", 60)
    (row,) = there.lake.read(Series("XBTUSD", Interval.H1), bad, bad + HOUR)["source"].to_list()
    assert row == "RESAMPLED"


def test_a_minute_with_more_trades_in_an_instant_than_a_page_holds_gets_no_coverage_and_is_told(
    home: Path, tmp_path: Path
) -> None:
    crowded = bound(4) + 1_234
    world = World(7, (XBT,), NOW, bursts=[Burst("XBTUSD", crowded * SECOND_NS + 5, 1_500)])
    with DemoExchange(world) as exchange, at(exchange, home) as stores:
        done = fill(stores, pairs="XBTUSD", intervals="1,60")
        minute = Interval.M1.floor(crowded)
        assert [gap.span for gap in done.gaps if gap.series.interval is Interval.M1] == [Span(minute, minute + 60)]
        assert any("more trades in one nanosecond" in note for note in done.notes)
        assert [letter["reason"] for letter in letters(stores)] == [
            "more trades in one nanosecond than a page holds; that minute stays without coverage"
        ]
        true = [row for row in oracle("XBTUSD", 1, START, Interval.M1.floor(NOW), world) if row[0] != minute]
        assert stored(stores, "XBTUSD", 1) == true
        before = len(asked(exchange, "Trades"))
        again = fill(stores, pairs="XBTUSD", intervals="1,60", run_id="run-two")
        assert len(asked(exchange, "Trades")) == before, "it is not asked for again"
        # The hour around it is not made of minutes; OHLC has it.
        assert [gap.series.interval for gap in again.gaps] == [Interval.M1]
        hour = Interval.H1.floor(crowded)
        assert stored(stores, "XBTUSD", 60) == oracle("XBTUSD", 60, START, Interval.H1.floor(NOW), world)
        assert stores.lake.read(Series("XBTUSD", Interval.H1), hour, hour + 1)["source"].to_list() == ["OHLC"]


def test_a_page_without_trades_is_believed_when_one_from_the_last_known_trade_bears_it_out(home: Path) -> None:
    # Nobody has traded for a day and a half, so that no reply of OHLC knows of a later trade either.
    first = bound(4) + HOUR + 34
    world = World(7, (XBT,), NOW, outages=[Outage(first - HOUR, NOW)])
    clock = FixedClock(first)
    with DemoExchange(world, clock=clock) as exchange, at(exchange, home) as stores:
        fill(stores, now=first, pairs="XBTUSD", intervals="1")
        before = len(asked(exchange, "Trades"))
        clock.advance(36 * HOUR)
        now = first + 36 * HOUR
        assert fill(stores, now=now, intervals="1", run_id="run-two").gaps == ()
        (whole,) = covered(stores, "XBTUSD", 1)
        assert whole.end == Interval.M1.floor(now)
        last = stored(stores, "XBTUSD", 1)[-1][0]
        assert [int(each["since"]) // SECOND_NS for each in asked(exchange, "Trades")[before:]] == [
            Interval.M1.floor(first),
            last,
        ]


def test_lines_of_an_archive_that_disagree_are_kept_beside_what_the_api_says(
    there: Stores, exchange: DemoExchange, tmp_path: Path
) -> None:
    # An archive counts for more, where both know a candle with the same number of trades.
    (hour,) = oracle("XBTUSD", 60, bound(8), bound(8) + HOUR, WORLD)
    line = f"{int(hour[0])},{hour[1]},{hour[2]},{hour[3]},{hour[4]},{hour[5] * 1.001},{int(hour[6])}"
    give(there, tmp_path, "XBTUSD", 60, (0, 8))
    run(there, write_lines(tmp_path / "other" / "XBTUSD_60.csv", [line]), now=NOW, api_backfill=False, intervals=60)
    fill(there, intervals="60")
    (kept,) = stored(there, "XBTUSD", 60, bound(8), bound(8) + HOUR)
    assert kept[5] == pytest.approx(hour[5] * 1.001)
