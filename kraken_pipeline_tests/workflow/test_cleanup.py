"""What is deleted after a while, and what never is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from kraken_pipeline.coverage.gaps import GapStatus
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.exchange_state.counters import Counters
from kraken_pipeline.storage.records import gap_records, refutations
from kraken_pipeline.storage.records.gap_records import Attempt
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.cleanup import CleanupOutcome, clean_up
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.verify.repair import repair
from kraken_pipeline.workflow.verify.verification import verify
from kraken_pipeline_tests.support import damaging
from kraken_pipeline_tests.support.homes import (
    NOW,
    Q1,
    Q3,
    Shelf,
    closed_gaps,
    evidence_of,
    lake_of,
    open_gaps,
    rows_of,
    run,
    settings_of,
)

pytestmark = pytest.mark.slow

DAY = 86_400
RETENTION = 90
NOTHING = CleanupOutcome(0, 0, 0)


def test_records_of_gaps_go_when_they_were_filled_long_enough_ago(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, shelf.q3, intervals="60,1440")
    run(stores, shelf.q2, intervals="60,1440", now=NOW + 100, run_id="run-two")
    filled = sum(
        len(closed_gaps(stores, pair, interval)) for pair in ("XBTUSD", "ADAEUR", "ZORKUSD") for interval in (60, 1440)
    )
    assert filled >= 6
    assert clean_up(stores, RETENTION, NOW + 100 + RETENTION * DAY) == NOTHING
    assert clean_up(stores, RETENTION, NOW + 101 + RETENTION * DAY).gaps == filled
    assert closed_gaps(stores, "XBTUSD", 60) == []
    assert clean_up(stores, RETENTION, NOW + 101 + RETENTION * DAY) == NOTHING


def test_open_gaps_candles_and_evidence_stay_however_old_they_are(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, shelf.q3, intervals="60,1440")
    before = (lake_of(stores), evidence_of(stores), open_gaps(stores, "XBTUSD", 60))
    assert Span(Q1.end, Q3.start) in [row.span for row in before[2]]
    clean_up(stores, RETENTION, NOW + 10_000 * DAY)
    assert (lake_of(stores), evidence_of(stores), open_gaps(stores, "XBTUSD", 60)) == before


def test_attempts_go_where_what_they_tried_is_covered_and_stay_where_routes_depend_on_them(
    stores: Stores, shelf: Shelf
) -> None:
    run(stores, shelf.q1, shelf.q3, intervals="60")
    series = Series("XBTUSD", Interval.H1)
    covered, missing = Span(Q1.end - 2 * DAY, Q1.end - DAY), Span(Q1.end + DAY, Q1.end + 2 * DAY)
    across = Span(Q1.end - DAY, Q1.end + DAY)
    made = [
        Attempt(span, "OHLC", None, error, moment)
        for span in (covered, missing, across)
        for error in (None, "EService:Busy")
        for moment in (NOW - RETENTION * DAY - 1, NOW)
    ]
    with stores.catalog.write() as connection:
        connection.execute(sa.delete(schema.attempts))
        gap_records.add_attempts(connection, {series: made}, "run-one")
    before = set(rows_of(stores, schema.attempts, "start", "end", "error", "made_at"))
    done = clean_up(stores, RETENTION, NOW)
    assert done == CleanupOutcome(0, 2, 0)
    left = set(rows_of(stores, schema.attempts, "start", "end", "error", "made_at"))
    assert {row[0] for row in before - left} == {covered.start}
    assert {row[3] for row in before - left} == {NOW - RETENTION * DAY - 1}


def test_counts_go_by_the_hour(stores: Stores) -> None:
    moments = [NOW - RETENTION * DAY - 2 * 3_600, NOW - RETENTION * DAY, NOW]
    for moment in moments:
        counters = Counters(stores.catalog, clock=lambda moment=moment: float(moment))  # type: ignore[misc]
        counters.add("api.requests", 3)
        counters.flush()
    assert clean_up(stores, RETENTION, NOW) == CleanupOutcome(0, 0, 1)
    assert rows_of(stores, schema.counters, "hour", "value") == [
        (hour, 3) for hour in (0, *(moment // 3_600 * 3_600 for moment in moments[1:]))
    ], "hour 0 has the sum of what was forgotten"


def test_a_gap_that_is_found_again_after_its_record_is_gone_is_a_new_one(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, shelf.q3, intervals="60")
    run(stores, shelf.q2, intervals="60", now=NOW + 100, run_id="run-two")
    clean_up(stores, 1, NOW + 10 * DAY)
    hour = Q1.end + 5 * DAY
    with stores.catalog.write() as connection:
        refutations.refute(connection, [(Series("XBTUSD", Interval.H1), Span(hour, hour + 3_600), None, "a test")], NOW)
    run(stores, shelf.minutes, intervals="60", now=NOW + 11 * DAY, run_id="run-three")
    assert all(row.status is not GapStatus.FILLED for row in open_gaps(stores, "XBTUSD", 60))


def test_an_empty_home_has_nothing_to_delete(stores: Stores, tmp_path: Path) -> None:
    assert clean_up(stores, 1, NOW) == NOTHING


def test_what_was_set_aside_and_what_gave_way_goes_only_where_a_setting_says_when(home: Path, shelf: Shelf) -> None:
    day = int(time.time())
    with opened(settings_of(home)) as stores:
        run(stores, shelf.complete, intervals="60", now=day - 40 * DAY)
        run(stores, shelf.q1, shelf.q2, intervals="60", now=day - 40 * DAY, run_id="run-two")
        ledger = list((stores.lake.home / "replaced").rglob("*.parquet"))
        damaging.flip(home / "lake/interval=60/pair=XBTUSD/candles.parquet")
        repair(stores, run_spec(api_backfill=False), RunContext("repair", day))
        aside = list((home / "damaged").rglob("*.parquet.*"))
        assert ledger
        assert len(aside) == 1
        assert clean_up(stores, RETENTION, day).files == 0
    with opened(settings_of(home, kraken_aside_retention_days=30)) as stores:
        assert clean_up(stores, RETENTION, day).files == len(ledger)
        assert aside[0].exists()
        by_repair = list((stores.lake.home / "replaced").rglob("*.parquet"))
        assert clean_up(stores, RETENTION, day + 31 * DAY).files == 1 + len(by_repair)
        assert not any(path.exists() for path in (*ledger, *aside))
        assert verify(stores, run_spec(), RunContext("verify", day)).status == "ok"
