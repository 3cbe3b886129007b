from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kraken_pipeline.coverage.anchors import CountVerdict, Depth, Spacing
from kraken_pipeline.coverage.density import APART_SECONDS
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.demo.archives import write_csv, write_quarterly_zip
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.listing import DAY, Listing
from kraken_pipeline.demo.world import SECOND_NS, Burst, World
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.quarter import Quarter
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.exchange_state import listings
from kraken_pipeline.storage.records import anchors, density_records, evidence_records, proof_records, refutations
from kraken_pipeline.storage.records.trade_counts import TradeCount
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.backfill.backfill import backfill
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.proof.counting import cost, said
from kraken_pipeline.workflow.proof.prove import ProveOutcome, prove
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.homes import covered, oracle, run, settings_of, stored

pytestmark = pytest.mark.slow

PAIR = "XBTUSD"
MINUTES = Series(PAIR, Interval.M1)
BEGIN = Quarter(2023, 3).start
DAYS = 16
NOW = BEGIN + 60 * DAY + 1_234
END = BEGIN + DAYS * DAY


def listing(first: int = BEGIN) -> Listing:
    return Listing(PAIR, "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 28_000.0, 0.006, 90, first)


def world(begin: int = BEGIN, **more: Any) -> World:
    return World(3, (listing(begin),), NOW if begin == BEGIN else begin + 60 * DAY, **more)


@contextmanager
def asking(folder: Path, told: World, knows: World, *intervals: int, begin: int = BEGIN) -> Iterator[Any]:
    """The stores of a home with archives of some days, and an exchange that knows a world."""
    for minutes in intervals or (1, 60):
        interval = Interval(minutes)
        write_csv(folder / "in", told, PAIR, interval, start=begin, end=begin + DAYS * DAY)
    with DemoExchange(knows) as exchange:
        settings = settings_of(folder / "home", kraken_api_url=exchange.url, kraken_breaker_failures=1_000)
        with opened(settings) as stores:
            run(stores, folder / "in", now=knows.now, api_backfill=False)
            yield stores, exchange


def proven(stores: Stores, run_id: str = "one", now: int = NOW, **how: Any) -> ProveOutcome:
    return prove(stores, run_spec(), RunContext(run_id, now), **how)


def verdicts(counts: tuple[TradeCount, ...]) -> set[CountVerdict]:
    return {count.verdict for count in counts}


def place_of(knows: World, day: int) -> int:
    """The place of a trade in the middle of a day."""
    return int(knows.trades(PAIR, (BEGIN + day * DAY + 43_200) * SECOND_NS, NOW * SECOND_NS)["id"][0])


def test_what_is_counted_alike_is_reconciled_though_there_is_one_interval_only(tmp_path: Path) -> None:
    with asking(tmp_path, world(), world(), 1) as (stores, exchange):
        with stores.catalog.read() as connection:
            assert not proof_records.added_up(connection).get(MINUTES, None)
        done = proven(stores)
        assert verdicts(done.counts) == {CountVerdict.PROVEN}
        assert done.failed == ()
        with stores.catalog.read() as connection:
            found = proof_records.proofs_of(connection)
        first = int(world().trades(PAIR, 0, NOW * SECOND_NS)["time"][0]) // SECOND_NS
        (whole,) = found[MINUTES].reconciled
        assert whole.start == Interval.M1.floor(first)
        assert whole.end > END - DAY
        assert found[MINUTES].verified == ()
        days = found[Series(PAIR, Interval.D1)].reconciled
        assert days, "what is made of minutes that are counted follows"
        assert len(exchange.requests) == done.requests


def test_a_run_says_what_it_would_cost_and_asks_for_just_that(tmp_path: Path) -> None:
    with asking(tmp_path, world(), world()) as (stores, exchange):
        spec = run_spec()
        expected = cost(stores, spec, Spacing.QUARTER, NOW)
        assert exchange.requests == ()
        proven(stores)
        trades = [each for each in exchange.requests if each.endpoint == "Trades"]
        assert len(trades) == expected.requests > 0
        nothing = cost(stores, spec, Spacing.QUARTER, NOW)
        assert nothing.requests == nothing.searches == 0
        assert said(nothing, 1.0) == "No requests are needed: every span that can be counted has been counted."
        # Days share the anchors of quarters, and whatever begins within a day takes all of it.
        days = cost(stores, run_spec(start=BEGIN + 3 * DAY + 60, end=BEGIN + 4 * DAY), Spacing.DAY, NOW)
        assert (days.requests, days.spans) == (2, 1)


def test_candles_that_count_too_many_trades_are_reported_and_left(tmp_path: Path) -> None:
    hour = BEGIN + 5 * DAY
    told = world(bursts=[Burst(PAIR, (hour + 30) * SECOND_NS, 3)])
    with asking(tmp_path, told, world()) as (stores, _):
        before = stored(stores, PAIR, 1)
        done = proven(stores)
        (found,) = [count for count in done.counts if count.span.seconds == 60]
        assert (found.verdict, found.span.start, (found.counted or 0) - (found.by_ids or 0)) == (
            CountVerdict.OVER,
            hour,
            3,
        )
        assert "kraken-pipeline resolve --span --pair XBTUSD --interval 1 --start 2023-07-06T00:00:00Z" in found.action
        assert done.refuted == 0
        assert stored(stores, PAIR, 1) == before


def test_ids_that_are_absent_are_no_proof_of_missing_trades_and_are_settled_in_two_runs(tmp_path: Path) -> None:
    lost = place_of(world(), 5)
    knows = world(lacks={PAIR: [lost]})
    with asking(tmp_path, knows, knows) as (stores, exchange):
        before = stored(stores, PAIR, 1)
        done = proven(stores)
        assert done.refuted == 0
        (hole,) = [count for count in done.counts if count.verdict is CountVerdict.UNANCHORED]
        assert f"none of the exchange's pages has id {lost} of its trades" in hole.action
        assert hole.action.endswith("the request is repeated in an hour")
        assert verdicts(done.counts) == {CountVerdict.PROVEN, CountVerdict.UNANCHORED}, "all around it is counted"
        asked = len(exchange.requests)
        proven(stores, "two", NOW + APART_SECONDS - 1)
        assert len(exchange.requests) == asked
        again = proven(stores, "two", NOW + APART_SECONDS)
        (hole,) = [count for count in again.counts if count.verdict is CountVerdict.UNANCHORED]
        assert hole.action.endswith("its ids are not consecutive there")
        with stores.catalog.read() as connection:
            (settled,) = density_records.absences_of(connection, PAIR)
        assert (settled.absent.first, settled.absent.last) == (lost, lost)
        assert settled.confirmed_at == NOW + APART_SECONDS
        asked = len(exchange.requests)
        assert proven(stores, "three", NOW + 99_999).counts
        assert len([each for each in exchange.requests[asked:] if each.endpoint == "Trades"]) <= 1
        assert stored(stores, PAIR, 1) == before


def test_ids_that_the_exchange_lists_after_all_are_forgotten_and_the_candle_is_filled(tmp_path: Path) -> None:
    lost = place_of(world(), 5)
    lacking = world(lacks={PAIR: [lost]})
    with asking(tmp_path, lacking, lacking) as (stores, _):
        proven(stores)
    with DemoExchange(world()) as whole:
        settings = settings_of(tmp_path / "home", kraken_api_url=whole.url)
        with opened(settings) as stores:
            done = proven(stores, "two", NOW + APART_SECONDS)
            assert CountVerdict.UNANCHORED not in verdicts(done.counts)
            assert done.refuted == 1
            assert stored(stores, PAIR, 1, BEGIN, END - DAY) == oracle(PAIR, 1, BEGIN, END - DAY, world())


def test_before_2021_ids_are_tested_before_they_are_relied_on(tmp_path: Path) -> None:
    begin = Quarter(2019, 2).start
    dense, sparse = world(begin), world(begin, skips_ids={PAIR: 100})
    now = begin + 60 * DAY
    for name, knows, verdict in (("a", dense, CountVerdict.PROVEN), ("b", sparse, CountVerdict.UNANCHORED)):
        with asking(tmp_path / name, dense, knows, begin=begin) as (stores, exchange):
            done = proven(stores, now=now)
            assert verdicts(done.counts) == {verdict}, name
            pages = [each for each in exchange.requests if each.params.get("count") == "1000"]
            assert pages[0].params["since"] == str(Quarter(2019, 1).start * SECOND_NS)
            asked = len(exchange.requests)
            proven(stores, "two", now=now)
            assert len(exchange.requests) == asked


@pytest.mark.parametrize("ahead", [90, 3_600])
def test_what_is_not_over_by_the_exchanges_clock_is_left_to_the_next_run(tmp_path: Path, ahead: int) -> None:
    with asking(tmp_path, world(), world()) as (stores, _):
        everything = run_spec(pairs=[PAIR], complete=True, intervals=[1])
        backfill(stores, everything, RunContext("fill", NOW))
        assert covered(stores, PAIR, 1)[-1].end > NOW - 120, "up to the newest minute that the exchange has"
        done = proven(stores, now=NOW + ahead)
        assert (done.failed, done.notes) == ((), ())
        assert verdicts(done.counts) == {CountVerdict.PROVEN}
        assert max(count.span.end for count in done.counts) == Interval.M1.floor(NOW - 60)
        assert NOW - 5 <= done.now <= NOW + 5


def test_down_to_days_a_day_is_found_and_filled(tmp_path: Path) -> None:
    told = world(lacks={PAIR: [place_of(world(), 5)]})
    with asking(tmp_path, told, world()) as (stores, _):
        done = proven(stores, depth=Depth.DAY)
        (found,) = [count for count in done.counts if count.verdict is CountVerdict.SHORT]
        assert (found.span.start, found.span.seconds) == (BEGIN + 5 * DAY, DAY)
        assert stored(stores, PAIR, 1, BEGIN, END - DAY) == oracle(PAIR, 1, BEGIN, END - DAY, world())


def test_hours_without_minutes_are_searched_down_to_the_hour(tmp_path: Path) -> None:
    told = world(lacks={PAIR: [place_of(world(), 5)]})
    with asking(tmp_path, told, world(), 60) as (stores, _):
        done = proven(stores)
        (found,) = [count for count in done.counts if count.verdict is CountVerdict.SHORT]
        assert (found.series.interval, found.span.seconds) == (Interval.H1, 3_600)
        assert stored(stores, PAIR, 60, BEGIN, END - DAY) == oracle(PAIR, 60, BEGIN, END - DAY, world())


def test_what_a_killed_proof_had_taken_back_is_filled_by_the_next_one(tmp_path: Path) -> None:
    place = place_of(world(), 5)
    minute = Interval.M1.floor(int(world().trades(PAIR, 0, NOW * SECOND_NS)["time"][place - 1]) // SECOND_NS)
    with asking(tmp_path, world(lacks={PAIR: [place]}), world(), 1) as (stores, exchange):
        reason = "ids of trades count 1 trades there, and its candles 0"
        times = {MINUTES: stores.lake.times(MINUTES)}
        with stores.catalog.write() as connection:
            refutations.refute(connection, [(MINUTES, Span(minute, minute + 60), None, reason)], NOW)
            evidence_records.renew(connection, times)
        done = proven(stores)
        assert verdicts(done.counts) == {CountVerdict.PROVEN}
        assert [each.params["since"] for each in exchange.requests if each.params.get("count") == "1000"] == [
            str(minute * SECOND_NS)
        ]
        assert stored(stores, PAIR, 1, BEGIN, END - DAY) == oracle(PAIR, 1, BEGIN, END - DAY, world())


def test_an_anchor_that_a_page_disproves_is_put_right(tmp_path: Path) -> None:
    with asking(tmp_path, world(), world(), 1) as (stores, _):
        proven(stores)
        with stores.catalog.write() as connection:
            known = anchors.anchors_of(connection, PAIR)
            wrong = max(moment for moment, anchor in known.items() if moment % DAY == 0 and anchor.trade_id > 1)
            row = known[wrong]
            anchors.keep_anchors(connection, PAIR, [type(row)(wrong, row.trade_id + 1, row.trade_time, row.asked_at)])
            connection.execute(sa.delete(schema.trade_counts))
        done = proven(stores, "two")
        assert done.refuted == 0
        with stores.catalog.read() as connection:
            assert anchors.anchors_of(connection, PAIR)[wrong].trade_id == row.trade_id
        assert verdicts(done.counts) == {CountVerdict.PROVEN}


def test_of_a_pair_that_is_listed_no_more_nothing_is_asked(tmp_path: Path) -> None:
    with asking(tmp_path, world(), world()) as (stores, exchange):
        with stores.catalog.write() as connection:
            for moment in (NOW - DAY, NOW):  # gone is what two lists lack
                listings.record_listed(connection, [], [PAIR], moment)
        done = proven(stores)
        assert verdicts(done.counts) == {CountVerdict.UNANCHORED}
        assert {count.action for count in done.counts} == {f"{PAIR} is delisted: the exchange has no trades of it"}
        assert exchange.requests == ()


def test_an_end_after_the_newest_trade_is_its_id_plus_one(tmp_path: Path) -> None:
    still = Listing("ZORKUSD", "ZORKUSD", "ZORK/USD", "ZORK", "ZUSD", 4, 2.5, 0.35, 0, BEGIN + DAY)
    quarter = Quarter.of(BEGIN)
    last = Burst(PAIR, (quarter.end - 30) * SECOND_NS, 1)
    both = World(3, (listing(), still), quarter.end + 20 * DAY, bursts=[last])
    write_quarterly_zip(tmp_path / "in", both, quarter, [Interval.M1, Interval.D1])
    with (
        DemoExchange(both) as exchange,
        opened(settings_of(tmp_path / "home", kraken_api_url=exchange.url)) as stores,
    ):
        run(stores, tmp_path / "in", now=both.now, api_backfill=False)
        done = prove(stores, run_spec(pairs="ZORKUSD"), RunContext("one", both.now))
        with stores.catalog.read() as connection:
            found = anchors.anchors_of(connection, "ZORKUSD")
        assert (found[quarter.start].trade_id, found[quarter.start].trade_time) == (1, BEGIN + DAY)
        assert (found[quarter.end].trade_id, found[quarter.end].trade_time) == (2, None)
        assert found[quarter.end].asked_at > quarter.end
        assert {(count.verdict, count.by_ids) for count in done.counts} == {(CountVerdict.PROVEN, 1)}
