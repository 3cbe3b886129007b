"""Quiet time that is hard to believe, in a world with an outage and an exchange whose OHLC once lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import polars as pl
import pytest

from kraken_pipeline.coverage.quiet import MARGIN
from kraken_pipeline.coverage.ranges import Span, lies_in
from kraken_pipeline.demo.archives import write_csv
from kraken_pipeline.demo.clock import FixedClock
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.faults import Fault, Refusal
from kraken_pipeline.demo.listing import DAY, Listing
from kraken_pipeline.demo.world import Outage, World
from kraken_pipeline.kraken.incidents import Incident, IncidentKind
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import SuspicionState
from kraken_pipeline.storage.exchange_state import incident_records
from kraken_pipeline.storage.lake.lake import Lake
from kraken_pipeline.storage.records import proof_records
from kraken_pipeline.storage.records.evidence_records import Extent
from kraken_pipeline.storage.records.proof_records import SuspicionRecord
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.explain.explain import explain
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile import quiet_search, suspicion
from kraken_pipeline.workflow.reconcile.activity import Activity
from kraken_pipeline.workflow.reconcile.quiet_evidence import QuietEvidence
from kraken_pipeline.workflow.reconcile.reconcile import mark_everything, reconcile_changes
from kraken_pipeline_tests.support.homes import covered, oracle, run, settings_of, stored

pytestmark = pytest.mark.slow

HOUR = 3_600
START = 1_680_307_200 + 6 * HOUR  # 2023-04-01
NOW = START + 25 * DAY + 1_800
DOWN = Outage(START + 10 * DAY, START + 10 * DAY + 3 * HOUR)
LIE = START + 15 * DAY + 9 * HOUR
WORLD = World(
    5,
    [
        Listing("XBTUSD", "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 28_000.0, 0.006, 1_500, START),
        Listing("ETHUSD", "XETHZUSD", "ETH/USD", "XETH", "ZUSD", 2, 1_900.0, 0.1, 1_200, START),
        # Who sleeps at night is no sign of an outage.
        Listing("ZORKUSD", "ZORKUSD", "ZORK/USD", "ZORK", "ZUSD", 4, 2.5, 0.35, 400, START, night=(1, 8)),
    ],
    NOW,
    outages=[DOWN],
)
PAIRS = "XBTUSD,ETHUSD,ZORKUSD"


@pytest.fixture(scope="module")
def exchange() -> Iterator[DemoExchange]:
    lies = [Defect(DefectKind.FALSE_QUIET, "XBTUSD", Interval.H1, LIE)]
    with DemoExchange(WORLD, clock=FixedClock(NOW), defects=lies) as exchange:
        yield exchange


def suspicions(stores: Stores) -> list[tuple[str | None, Span, SuspicionState]]:
    with stores.catalog.read() as connection:
        return [(each.pair, each.span, each.state) for each in proof_records.suspicions_of(connection)]


OUTAGE = (None, Span(DOWN.start, DOWN.end))
LULL = ("ETHUSD", Span(START + 14 * DAY + 3 * HOUR, START + 14 * DAY + 6 * HOUR))
"""This world has a tenth of a day's trades in one moment at times, and none after it: true, and hard to believe."""
LONE = ("XBTUSD", Span(LIE, LIE + HOUR))
UNPROVEN, TRADED = SuspicionState.UNPROVEN, SuspicionState.TRADED
DOUBTED = [(*OUTAGE, UNPROVEN), (*LULL, UNPROVEN), (*LONE, UNPROVEN)]


def test_a_lone_quiet_hour_and_the_silence_of_all_pairs_are_marked_and_stay_covered(
    home: Path, exchange: DemoExchange
) -> None:
    with opened(settings_of(home, kraken_api_url=exchange.url, kraken_max_requests_per_gap=0)) as stores:
        run(stores, now=NOW, pairs=PAIRS, intervals="60", lookback_days=30)
        assert suspicions(stores) == DOUBTED
        assert covered(stores, "XBTUSD", 60) == (Span(START, Interval.H1.floor(NOW)),)


def calendar(stores: Stores, start: int, end: int) -> None:
    """Lets the exchange have told of a maintenance."""
    window = Incident("maintenance 21", IncidentKind.MAINTENANCE, "Upgrade", start, end, False, True)
    with stores.catalog.write() as connection:
        incident_records.record_reported(connection, [window], start - HOUR)


def test_an_outage_that_the_exchange_has_told_of_needs_no_other_proof(home: Path, exchange: DemoExchange) -> None:
    with opened(settings_of(home, kraken_api_url=exchange.url)) as stores:
        calendar(stores, DOWN.start, DOWN.end)
        before = len(exchange.requests)
        run(stores, now=NOW, pairs=PAIRS, intervals="60", lookback_days=30)
        assert (*OUTAGE, SuspicionState.EXCHANGE_DOWN) in suspicions(stores)
        asked = [each for each in exchange.requests[before:] if each.endpoint == "Trades"]
        spans = [int(each.params["since"]) // 10**9 for each in asked if each.params.get("count") != "1"]
        assert [since for since in spans if DOWN.start - HOUR < since < DOWN.end] == []
        found = explain(stores, "XBTUSD", 60, iso(DOWN.start + HOUR), NOW)
        told = "Upgrade (from 2023-04-11T06:00:00Z to 2023-04-11T09:00:00Z)"
        assert found.sentence.endswith(f"; exchange down, as its status reported: {told}")


def test_a_quiet_time_that_is_only_in_part_in_the_calendar_says_so(home: Path, exchange: DemoExchange) -> None:
    with opened(settings_of(home, kraken_api_url=exchange.url, kraken_max_requests_per_gap=0)) as stores:
        calendar(stores, DOWN.start, DOWN.start + HOUR + 600)
        run(stores, now=NOW, pairs=PAIRS, intervals="60", lookback_days=30)
        assert suspicions(stores) == DOUBTED
        found = explain(stores, "XBTUSD", 60, iso(DOWN.start + HOUR), NOW)
        assert "; exchange down for a part of it, as its status reported: Upgrade" in found.sentence
        beyond = explain(stores, "XBTUSD", 60, iso(DOWN.start + 2 * HOUR), NOW)
        assert "exchange down" not in beyond.sentence


def test_what_a_run_that_was_killed_did_not_look_at_is_left_to_the_next(
    home: Path, exchange: DemoExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with opened(settings_of(home, kraken_api_url=exchange.url, kraken_max_requests_per_gap=0)) as stores:
        with monkeypatch.context() as patch:
            patch.setattr(suspicion, "look", die)
            with pytest.raises(KeyboardInterrupt):
                run(stores, now=NOW, pairs=PAIRS, intervals="60", lookback_days=30)
        assert covered(stores, "XBTUSD", 60) == (Span(START, Interval.H1.floor(NOW)),)
        assert suspicions(stores) == []
        run(stores, now=NOW, run_id="run-two", pairs=PAIRS, intervals="60", lookback_days=30)
        assert suspicions(stores) == DOUBTED


def test_the_trades_prove_the_one_and_heal_the_other_for_a_request_each(home: Path, exchange: DemoExchange) -> None:
    with opened(settings_of(home, kraken_api_url=exchange.url, kraken_max_requests_per_gap=0)) as stores:
        run(stores, now=NOW, pairs=PAIRS, intervals="60", lookback_days=30)
    before = len(exchange.requests)
    with opened(settings_of(home, kraken_api_url=exchange.url)) as stores:
        run(stores, now=NOW, run_id="run-two", pairs=PAIRS, intervals="60", lookback_days=30)
        asked = [str(each.pair) for each in exchange.requests[before:] if each.endpoint == "Trades"]
        assert sorted(asked) == ["ETHUSD", "ETHUSD", "XBTUSD", "XBTUSD"]  # of the outage, the two busiest
        assert suspicions(stores) == [
            (*OUTAGE, SuspicionState.EXCHANGE_DOWN),
            (*LULL, SuspicionState.PROVEN_QUIET),
            (*LONE, TRADED),
        ]
        assert stored(stores, "XBTUSD", 60) == oracle("XBTUSD", 60, START, Interval.H1.floor(NOW), WORLD)
    before = len(exchange.requests)
    with opened(settings_of(home, kraken_api_url=exchange.url)) as stores:
        run(stores, now=NOW, run_id="run-three", pairs=PAIRS, intervals="60", lookback_days=30)
    assert len(exchange.requests) == before


def test_what_the_trades_have_answered_for_is_not_asked_again_while_it_takes_another_pair(
    home: Path, exchange: DemoExchange
) -> None:
    with opened(settings_of(home, kraken_api_url=exchange.url, kraken_max_requests_per_gap=0)) as stores:
        run(stores, now=NOW, pairs=PAIRS, intervals="60", lookback_days=30)
    with opened(settings_of(home, kraken_api_url=exchange.url)) as stores:
        run(stores, now=NOW, run_id="run-two", pairs="XBTUSD", intervals="60", lookback_days=30)
        before = len(exchange.requests)
        run(stores, now=NOW, run_id="run-three", pairs="XBTUSD", intervals="60", lookback_days=30)
        assert len(exchange.requests) == before
        assert suspicions(stores) == [(*OUTAGE, UNPROVEN), (*LULL, UNPROVEN), (*LONE, TRADED)]


def test_what_failed_again_and_again_waits_as_any_gap_does(home: Path) -> None:
    with DemoExchange(WORLD, clock=FixedClock(NOW)) as broken:
        with opened(settings_of(home, kraken_api_url=broken.url, kraken_max_requests_per_gap=0)) as stores:
            run(stores, now=NOW, pairs=PAIRS, intervals="60", lookback_days=30)
        broken.inject(Fault(Refusal("EGeneral:Internal error"), endpoint="Trades", times=None))
        asked = []
        with opened(settings_of(home, kraken_api_url=broken.url)) as stores:
            for number, now in enumerate([NOW, NOW, NOW, NOW, NOW, NOW + DAY]):
                before = len(broken.requests)
                run(stores, now=now, run_id=f"run-{number}", pairs=PAIRS, intervals="60", lookback_days=30)
                asked.append(any(each.endpoint == "Trades" for each in broken.requests[before:]))
            assert suspicions(stores) == [(*OUTAGE, UNPROVEN), (*LULL, UNPROVEN)]
        assert asked == [True, True, True, False, False, True]


def test_a_budget_that_is_spent_leaves_them_as_they_are(home: Path, exchange: DemoExchange) -> None:
    with opened(settings_of(home, kraken_api_url=exchange.url, kraken_max_requests_per_gap=0)) as stores:
        run(stores, now=NOW, pairs=PAIRS, intervals="60", lookback_days=30)
    with opened(settings_of(home, kraken_api_url=exchange.url)) as stores:
        run(stores, now=NOW, run_id="run-two", pairs=PAIRS, intervals="60", lookback_days=30, budget=1)
        assert {state for *_, state in suspicions(stores)} == {UNPROVEN}


def test_an_archive_that_has_trades_there_ends_the_suspicion_of_an_outage(
    home: Path, tmp_path: Path, exchange: DemoExchange
) -> None:
    other = World(6, [WORLD.listing("ETHUSD")], NOW)  # where nothing was ever down
    archive = write_csv(tmp_path, other, "ETHUSD", Interval.H1, start=DOWN.start - DAY, end=DOWN.end + DAY)
    with opened(settings_of(home, kraken_api_url=exchange.url, kraken_max_requests_per_gap=0)) as stores:
        run(stores, now=NOW, pairs=PAIRS, intervals="60", lookback_days=30)
        run(stores, archive, now=NOW, run_id="run-two", intervals="60", api_backfill=False)
        # What is left of it is the silence of single pairs.
        assert [each[:2] for each in suspicions(stores)] == [("XBTUSD", OUTAGE[1]), LULL, LONE]


def test_an_archive_that_has_the_candle_heals_it(home: Path, tmp_path: Path, exchange: DemoExchange) -> None:
    archive = write_csv(tmp_path, WORLD, "XBTUSD", Interval.H1, start=START, end=NOW)
    with opened(settings_of(home, kraken_api_url=exchange.url, kraken_max_requests_per_gap=0)) as stores:
        run(stores, now=NOW, pairs=PAIRS, intervals="60", lookback_days=30)
        run(stores, archive, now=NOW, run_id="run-two", intervals="60", api_backfill=False)
        assert suspicions(stores) == [(*OUTAGE, UNPROVEN), (*LULL, UNPROVEN), (*LONE, TRADED)]


def test_two_runs_that_search_the_same_ranges_record_a_suspicion_once(
    home: Path, exchange: DemoExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the second knew at its beginning was nothing, because the first had recorded nothing by then."""
    known = proof_records.suspicions_of
    look = suspicion.look
    before: list[None] = []

    def looking(*given: Any) -> int:
        before.append(None)
        return look(*given)

    def remembered(*given: Any) -> list[SuspicionRecord]:
        if not before:
            return known(*given)
        before.clear()
        return []

    with opened(settings_of(home, kraken_api_url=exchange.url, kraken_max_requests_per_gap=0)) as stores:
        run(stores, now=NOW, pairs=PAIRS, intervals="60", lookback_days=30)
        assert suspicions(stores) == DOUBTED
        mark_everything(stores, ["XBTUSD", "ETHUSD"], NOW)
        with monkeypatch.context() as patched:
            patched.setattr(suspicion, "look", looking)
            patched.setattr(proof_records, "suspicions_of", remembered)
            reconcile_changes(stores, ["XBTUSD", "ETHUSD"], RunContext("run-two", NOW))
        assert suspicions(stores) == DOUBTED


def test_silence_that_reaches_over_the_edge_of_two_reads_is_one() -> None:
    """Minutes are read a year at a time; two hours before the new year and two after it are one silence."""
    begin, new_year, end = 1_640_995_200, 1_672_531_200, 1_704_067_200
    series = Series("XBTUSD", Interval.M1)
    silence = Span(new_year - 7_200, new_year + 7_200)
    times = pl.int_range(begin, end, 60, dtype=pl.Int64, eager=True)
    times = times.filter(~lies_in((silence,), times))
    reads: list[tuple[int, int]] = []

    def read(_: Series, start: int, end: int) -> pl.DataFrame:
        reads.append((start, end))
        found = times.filter((times >= start) & (times < end))
        return pl.DataFrame({"time": found}).select("time", trade_count=pl.lit(1, pl.Int32()), source=pl.lit("CSV"))

    lake = cast("Lake", SimpleNamespace(activity=read))
    activity = Activity(lake, {series: Extent(len(times), begin, end - 60)})
    evidence = cast("QuietEvidence", SimpleNamespace(activity=activity))
    margin = 2 * MARGIN
    stretches, silent = quiet_search._candidates(evidence, series, (Span(begin + margin, end - margin),))
    assert reads == [(begin, new_year), (new_year, end)]
    assert silence in stretches
    assert silence in silent
    assert silent[0].start >= begin
    assert silent[-1].end <= end, "what lies beyond the time that was read is not known to be silent"
