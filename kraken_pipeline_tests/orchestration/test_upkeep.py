from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.demo.clock import FixedClock
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.faults import Fault, HttpStatus, Refusal, SystemState
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.orchestration import steps
from kraken_pipeline.orchestration.jobs import maintenance_jobs as upkeep
from kraken_pipeline.orchestration.runs import RunStatus, statuses
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.locks.locks import FileLocks, Locks
from kraken_pipeline.storage.records.dead_letters import operations
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec
from kraken_pipeline_tests.orchestration.conftest import definitions
from kraken_pipeline_tests.support.exchanges import (
    ARCHIVED,
    BEGIN,
    NOW,
    PAIRS,
    REACH,
    SUMMER,
    UNCONTRADICTED,
    asked,
    copied,
    happened,
    stop_clock,
    write_home,
    write_hours,
)
from kraken_pipeline_tests.support.homes import covered, digest_of, evidence_of, lake_of, rows_of, settings_of, stored
from kraken_pipeline_tests.support.lakes import rewritten
from kraken_pipeline_tests.support.pages import parsed

pytestmark = pytest.mark.slow

Partition = tuple[str, str | None]
HOUR = 3_600
REFUSED = Refusal("EQuery:Unknown asset pair")
JOBS = [job.name for job in upkeep.MAINTENANCE_JOBS]
BACKFILL, REPORT, VALIDATE, CLEANUP, RETRY = JOBS
HEADS = ["AssetPairs", "AssetPairs", "SystemStatus"]
"""What every run asks for first; there are two classes of pairs."""


@pytest.fixture(scope="module")
def hours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the hours of the first five days; only to be copied."""
    folder = tmp_path_factory.mktemp("hours")
    return write_home(folder / "home", write_hours(folder / "archives"))


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> Iterator[DemoExchange]:
    stop_clock(monkeypatch, NOW, steps)
    with DemoExchange(SUMMER, clock=FixedClock(NOW)) as exchange:
        yield exchange


@pytest.fixture
def settings(hours: Path, tmp_path: Path, exchange: DemoExchange) -> Settings:
    """A copy of that home, which can ask the exchange."""
    return settings_of(copied(hours, tmp_path), kraken_api_url=exchange.url)


def ran(instance: dg.DagsterInstance, settings: Settings, job: str, **config: Any) -> dg.ExecuteInProcessResult:
    """A run of a job, as a schedule starts it."""
    found = definitions(settings).resolve_job_def(job)
    return found.execute_in_process(instance=instance, run_config=config, raise_on_error=False)


def materialised(result: dg.ExecuteInProcessResult) -> dict[Partition, dict[str, Any]]:
    """Asset and partition → metadata as plain values."""
    found: dict[Partition, dict[str, Any]] = {}
    for event in result.get_asset_materialization_events():
        each = event.step_materialization_data.materialization
        assert (each.asset_key.to_user_string(), each.partition) not in found
        values = {name: value.value for name, value in each.metadata.items()}
        found[each.asset_key.to_user_string(), each.partition] = values
    return found


def status_of(instance: dg.DagsterInstance, settings: Settings) -> RunStatus:
    """The newest run."""
    return statuses(instance, Locks(FileLocks(settings.home / "locks")), 1)[0]


def changed(*intervals: int, pairs: tuple[str, ...] = PAIRS) -> set[Partition]:
    """The partitions that a backfill of series of TIER1 reports, and the report of their tier."""
    names = ("backfilled_candles", "coverage", "gaps")
    found: set[Partition] = {
        (f"tier1/{name}", f"{pair}|{minutes}") for name in names for pair in pairs for minutes in intervals
    }
    return found | {("tier1/completeness_report", None)}


def archived_to(pair: str) -> int:
    """Where the archive's evidence ends: at the start of its last candle."""
    return int(happened(pair, 60, BEGIN, ARCHIVED)[-1][0])


def sentence_of(instance: dg.DagsterInstance, settings: Settings) -> str:
    """What the newest run failed with."""
    status = status_of(instance, settings)
    assert status.status == "FAILURE"
    return str(status.error).splitlines()[0]


# --- what a run is asked to do


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"tier": "TIER9"}, "tier='TIER9': Input should be 'TIER1'"),
        ({"intervals": [7]}, "interval 7 does not exist; allowed are 1, 5, 15"),
        ({"lookback_days": 0}, "lookback_days=0: Input should be greater than or equal to 1"),
        ({"max_gaps_per_asset": 101}, "max_gaps_per_asset=101: Input should be less than or equal to 100"),
        ({"budget": -1}, "budget=-1: Input should be greater than or equal to 0"),
    ],
)
@pytest.mark.parametrize("job", [BACKFILL, REPORT, VALIDATE])
def test_a_wrong_value_is_refused_before_there_is_a_run(
    instance: dg.DagsterInstance, settings: Settings, job: str, config: dict[str, Any], sentence: str
) -> None:
    assert sentence in refused(instance, settings, job, **config)


@pytest.mark.parametrize(
    ("job", "config", "sentence"),
    [
        (CLEANUP, {"retention_days": 0}, "retention_days=0: at least one day is kept"),
        (CLEANUP, {"retention_days": "long"}, "retention_days"),
        (RETRY, {"ids": "all"}, "ids"),
        *((job, {"pear": "XBTUSD"}, "pear") for job in JOBS),
    ],
)
def test_so_is_a_wrong_value_of_the_others_and_what_no_job_knows(
    instance: dg.DagsterInstance, settings: Settings, job: str, config: dict[str, Any], sentence: str
) -> None:
    assert sentence in refused(instance, settings, job, **config)


def refused(instance: dg.DagsterInstance, settings: Settings, job: str, **config: Any) -> str:
    """Why there was no run."""
    with pytest.raises(Exception) as refusal:  # noqa: PT011 - Dagster's own error, around ours
        ran(instance, settings, job, **config)
    assert instance.get_runs() == []
    said: list[str] = []
    error: BaseException | None = refusal.value
    while error is not None:
        said.append(str(error))
        error = error.__cause__
    return "\n".join(said)


@pytest.mark.parametrize("job", [BACKFILL, REPORT, VALIDATE])
def test_the_launchpad_shows_the_options_of_a_run(job: str) -> None:
    mapping = definitions(settings_of(Path("nowhere"))).resolve_job_def(job).config_mapping
    assert mapping is not None
    shown = mapping.config_schema.config_type
    assert isinstance(shown, dg.Shape)
    assert set(shown.fields) == set(RunSpec.model_fields)


# --- backfill_gaps_incremental


def test_a_backfill_fills_what_ohlc_reaches_and_reports_every_partition_that_changed(
    instance: dg.DagsterInstance, settings: Settings, exchange: DemoExchange
) -> None:
    result = ran(instance, settings, BACKFILL, intervals="60,240,1440")
    assert result.success
    assert asked(exchange) == [*HEADS[:2], "OHLC ADAEUR 60", "OHLC XBTUSD 60", HEADS[2]]
    found = materialised(result)
    assert set(found) == changed(60, 240, 1440)
    with opened(settings) as stores:
        for pair in PAIRS:
            for minutes in (60, 240, 1440):
                newest = happened(pair, minutes, REACH)
                # Days and thirds of them begin where the hours do: at midnight.
                assert stored(stores, pair, minutes)[-len(newest) :] == newest
                told = found["tier1/backfilled_candles", f"{pair}|{minutes}"]
                assert told["candles_stored"] >= len(newest)
                gaps = found["tier1/gaps", f"{pair}|{minutes}"]
                assert gaps["missing_candles"] == (REACH - Interval(minutes).floor(archived_to(pair))) // (minutes * 60)
                assert told["coverage_pct"] == found["tier1/coverage", f"{pair}|{minutes}"]["coverage_pct"]
    assert {check.check_name: check.passed for check in result.get_asset_check_evaluations()} == {
        "candle_rules": True,
        "few_gaps": True,
        "intervals_agree": True,
    }
    assert list(instance.get_dynamic_partitions("tier1_assets")) == list(PAIRS)


def test_its_run_tells_what_was_asked_for_and_how_it_went(
    instance: dg.DagsterInstance, settings: Settings, exchange: DemoExchange
) -> None:
    ran(instance, settings, BACKFILL, intervals="60", pairs="XBTUSD")
    status = status_of(instance, settings)
    assert (status.job, status.status) == (BACKFILL, "SUCCESS")
    assert status.spec == run_spec(intervals="60", pairs="XBTUSD")
    assert status.outcome == {"requests": 4, "fetches_failed": 0, **UNCONTRADICTED, "errors": [], "notes": []}
    assert (status.progress.phase, status.progress.requests_done, status.progress.requests_left) == ("done", 4, 0)
    assert len(exchange.requests) == 4
    assert status.as_json()["candles_ingested"] == len(happened("XBTUSD", 60, REACH))
    # Nothing is missing within the lookback any more, so nothing is asked for.
    again = ran(instance, settings, BACKFILL, intervals="60", pairs="XBTUSD")
    assert (again.success, materialised(again), len(exchange.requests)) == (True, {}, 4)
    assert status_of(instance, settings).outcome["requests"] == 0


def test_minutes_that_were_fetched_on_the_way_to_hours_are_a_changed_partition_too(
    instance: dg.DagsterInstance, settings: Settings, exchange: DemoExchange
) -> None:
    result = ran(instance, settings, BACKFILL, intervals="60", pairs="ADAEUR", lookback_days=60)
    assert "Trades ADAEUR" in asked(exchange)
    found = materialised(result)
    assert set(found) == changed(60, pairs=("ADAEUR",)) | {("tier1/backfilled_candles", "ADAEUR|1")}
    minutes = found["tier1/backfilled_candles", "ADAEUR|1"]
    with opened(settings) as stores:
        assert minutes["candles_stored"] == len(stored(stores, "ADAEUR", 1)) > 0
        assert stored(stores, "ADAEUR", 60) == happened("ADAEUR", 60)
    # Nobody asked for minutes: what is missing of them is counted, and not put on record.
    assert 0 < minutes["coverage_pct"] < 100
    assert minutes["gaps"] > 0
    assert found["tier1/backfilled_candles", "ADAEUR|60"]["coverage_pct"] == 100.0


def test_a_dry_run_asks_for_nothing_and_writes_nothing(
    instance: dg.DagsterInstance, settings: Settings, exchange: DemoExchange
) -> None:
    before = digest_of(settings.home)
    result = ran(instance, settings, BACKFILL, intervals="60", dry_run=True)
    assert result.success
    assert (materialised(result), exchange.requests) == ({}, ())
    assert digest_of(settings.home) == before
    assert status_of(instance, settings).outcome["requests"] == 0
    logged = [event.user_message for event in instance.all_logs(result.run_id)]
    assert any("| OHLC of ADAEUR 60 | 1 | 1 |" in message for message in logged)


def test_without_the_api_it_only_resamples(
    instance: dg.DagsterInstance, settings: Settings, exchange: DemoExchange
) -> None:
    result = ran(instance, settings, BACKFILL, intervals="60,240", api_backfill=False)
    assert exchange.requests == ()
    assert set(materialised(result)) == changed(240)


def test_of_an_empty_lake_it_says_how_to_begin(instance: dg.DagsterInstance, home: Path) -> None:
    settings = settings_of(home)
    assert not ran(instance, settings, BACKFILL).success
    assert sentence_of(instance, settings).startswith("the lake is empty: ingest archives first, or name the pairs")


def test_a_pair_that_is_named_is_fetched_from_its_first_trade_on_and_becomes_a_partition(
    instance: dg.DagsterInstance, home: Path, exchange: DemoExchange
) -> None:
    settings = settings_of(home, kraken_api_url=exchange.url)
    result = ran(instance, settings, BACKFILL, intervals="1,60", pairs="ADAEUR")
    assert result.success
    assert set(materialised(result)) == changed(1, 60, pairs=("ADAEUR",))
    assert list(instance.get_dynamic_partitions("tier1_assets")) == ["ADAEUR"]
    with opened(settings) as stores:
        assert stored(stores, "ADAEUR", 1) == happened("ADAEUR", 1)


def test_a_fetch_that_fails_is_told_and_the_others_are_done(
    instance: dg.DagsterInstance, settings: Settings, exchange: DemoExchange
) -> None:
    exchange.inject(Fault(HttpStatus(520), endpoint="OHLC", pair="ADAEUR", times=3))
    result = ran(instance, settings, BACKFILL, intervals="60")
    assert result.success
    assert set(materialised(result)) == changed(60, pairs=("XBTUSD",))
    status = status_of(instance, settings)
    (error,) = status.outcome["errors"]
    assert error.startswith("OHLC of ADAEUR 60: OHLC pair=ADAEUR interval=60")
    assert "HTTP 520" in error
    assert (status.outcome["fetches_failed"], status.as_json()["error"]) == (1, error)
    # The next one makes up for it.
    assert set(materialised(ran(instance, settings, BACKFILL, intervals="60"))) == changed(60, pairs=("ADAEUR",))


def test_in_maintenance_nothing_is_attempted_and_nothing_has_failed(
    instance: dg.DagsterInstance, settings: Settings, exchange: DemoExchange
) -> None:
    exchange.inject(Fault(SystemState("maintenance"), endpoint="SystemStatus"))
    result = ran(instance, settings, BACKFILL, intervals="60")
    assert (result.success, materialised(result), asked(exchange)) == (True, {}, ["SystemStatus"])
    status = status_of(instance, settings)
    assert (status.outcome["fetches_failed"], status.as_json()["error"]) == (0, None)
    (note,) = status.outcome["notes"]
    assert note.startswith("No requests were made, and the gaps stay as they are: Kraken is in maintenance")
    with opened(settings) as stores:
        assert rows_of(stores, schema.attempts, "route", "error") == []


# --- report_data_completeness


def test_the_report_is_a_materialisation_of_each_tier_that_has_pairs(
    instance: dg.DagsterInstance, settings: Settings, exchange: DemoExchange
) -> None:
    found = materialised(ran(instance, settings, REPORT, intervals="60"))
    assert list(found) == [("tier1/completeness_report", None)]
    told = found["tier1/completeness_report", None]
    assert (told["pairs"], told["gaps"]) == (2, 2)
    assert told["candles"] == sum(len(happened(pair, 60, BEGIN, archived_to(pair))) for pair in PAIRS)
    status = status_of(instance, settings)
    assert (status.status, status.progress.phase, status.outcome) == ("SUCCESS", "done", {"errors": [], "notes": []})
    assert exchange.requests == ()
    path = settings.home / "reports" / "completeness-tier1.html"
    assert told["page"] == str(path)
    assert told["picture"].startswith("![Shares of the states of TIER1")
    assert parsed(path.read_text(encoding="utf-8")).all("h1")[0].text == "Completeness of TIER1"
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_report_of_some_pairs_or_days_leaves_the_page_of_the_tier_and_names_it(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    told = materialised(ran(instance, settings, REPORT, pairs="ADAEUR"))["tier1/completeness_report", None]
    assert "page" not in told
    assert not (settings.home / "reports").exists()
    ran(instance, settings, REPORT, intervals="60")
    path = settings.home / "reports" / "completeness-tier1.html"
    before = path.read_bytes()
    for narrowed in ({"pairs": "ADAEUR"}, {"end": "2023-07-01"}):
        told = materialised(ran(instance, settings, REPORT, **narrowed))["tier1/completeness_report", None]
        assert told["page"] == str(path)
        assert "picture" not in told
    assert path.read_bytes() == before


def test_the_report_may_be_of_some_pairs(instance: dg.DagsterInstance, settings: Settings) -> None:
    found = materialised(ran(instance, settings, REPORT, pairs="ADAEUR"))
    assert found["tier1/completeness_report", None]["pairs"] == 1
    assert materialised(ran(instance, settings, REPORT, tier="TIER3")) == {}
    assert not ran(instance, settings, REPORT, pairs="ETHUSD").success
    assert sentence_of(instance, settings).startswith("ETHUSD is unknown")


# --- validate_recent_data


@pytest.fixture(scope="module")
def recent(hours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the hours that OHLC reaches; only to be copied."""
    home = copied(hours, tmp_path_factory.mktemp("recent"))
    with pytest.MonkeyPatch.context() as patch, DemoExchange(SUMMER, clock=FixedClock(NOW)) as exchange:
        stop_clock(patch, NOW, steps)
        with dg.DagsterInstance.ephemeral() as instance:
            assert ran(instance, settings_of(home, kraken_api_url=exchange.url), BACKFILL, intervals="60").success
    return home


def test_stored_candles_are_compared_with_a_fresh_reply(
    instance: dg.DagsterInstance, recent: Path, tmp_path: Path, exchange: DemoExchange
) -> None:
    settings = settings_of(copied(recent, tmp_path), kraken_api_url=exchange.url)
    with opened(settings) as stores:
        before = lake_of(stores), evidence_of(stores)
        result = ran(instance, settings, VALIDATE, intervals="60,1440", lookback_days=3)
        assert (lake_of(stores), evidence_of(stores)) == before
        assert rows_of(stores, schema.conflicts, "pair") == []
    assert result.success
    assert materialised(result) == {}
    # What was fetched moments ago is asked for again; of days there is nothing to compare.
    assert [each for each in asked(exchange) if "OHLC" in each] == ["OHLC ADAEUR 60", "OHLC XBTUSD 60"]
    status = status_of(instance, settings)
    outcome = {"fetches_failed": 0, "candles_different": 0, "errors": [], "notes": []}
    assert status.outcome == {"requests": len(exchange.requests), **outcome}
    assert (status.progress.phase, status.progress.requests_done) == ("done", len(exchange.requests))
    (message,) = [event.user_message for event in instance.all_logs(result.run_id) if "differ\n" in event.user_message]
    assert "| ADAEUR 60 | 71 | 0 |" in message


def test_a_candle_that_differs_is_a_conflict_on_record(
    instance: dg.DagsterInstance, recent: Path, tmp_path: Path, exchange: DemoExchange
) -> None:
    settings = settings_of(copied(recent, tmp_path), kraken_api_url=exchange.url)
    at = int(happened("XBTUSD", 60)[-1][0])
    is_last = pl.int_range(pl.len()) == pl.len() - 1
    wrong = pl.when(is_last).then(pl.col("trade_count") + 1).otherwise(pl.col("trade_count"))
    with opened(settings) as stores:
        series = Series("XBTUSD", Interval.H1)
        rewritten(stores.lake, series, lambda candles: candles.with_columns(wrong.alias("trade_count")))
    assert ran(instance, settings, VALIDATE, intervals="60").success
    status = status_of(instance, settings)
    assert status.outcome["candles_different"] == 1
    assert status.outcome["notes"] == ["XBTUSD 60: 1 candles differ"]
    with opened(settings) as stores:
        ((pair, interval, start, end),) = rows_of(stores, schema.conflicts, "pair", "interval", "start", "end")
    assert (pair, interval, start, end) == ("XBTUSD", 60, at, at + HOUR)


@pytest.mark.parametrize("config", [{"dry_run": True}, {"api_backfill": False}])
def test_where_nothing_may_be_asked_nothing_is_compared(
    instance: dg.DagsterInstance, settings: Settings, exchange: DemoExchange, config: dict[str, Any]
) -> None:
    assert ran(instance, settings, VALIDATE, **config).success
    assert exchange.requests == ()
    assert status_of(instance, settings).outcome["requests"] == 0


def test_an_exchange_that_does_not_answer_leaves_the_validation_to_the_next_run(
    instance: dg.DagsterInstance, hours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_clock(monkeypatch, NOW, steps)
    settings = settings_of(copied(hours, tmp_path))
    assert ran(instance, settings, VALIDATE, intervals="60", lookback_days=40).success
    outcome = status_of(instance, settings).outcome
    assert (outcome["fetches_failed"], outcome["candles_different"]) == (0, 0)
    assert outcome["notes"][0].startswith("The rest is left to the next run: SystemStatus")


# --- cleanup_old_gap_records


def test_records_of_gaps_are_deleted_when_they_were_filled_long_ago(
    instance: dg.DagsterInstance, recent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(copied(recent, tmp_path))
    columns = ("pair", "start", "closed_at")
    with opened(settings) as stores:
        before = rows_of(stores, schema.gaps, *columns)
        kept = lake_of(stores), rows_of(stores, schema.coverage, "pair", "start", "end")
        stop_clock(monkeypatch, NOW + 90 * DAY, steps)
        assert ran(instance, settings, CLEANUP).success
        assert rows_of(stores, schema.gaps, *columns) == before
        assert status_of(instance, settings).outcome["gap_records_deleted"] == 0
        stop_clock(monkeypatch, NOW + 90 * DAY + 1, steps)
        assert ran(instance, settings, CLEANUP).success
        # What is still missing is still on record, however old.
        left = rows_of(stores, schema.gaps, *columns)
        assert left == [row for row in before if row[2] is None]
        assert len(left) == len(PAIRS)
        assert (lake_of(stores), rows_of(stores, schema.coverage, "pair", "start", "end")) == kept
    status = status_of(instance, settings)
    assert (status.outcome["gap_records_deleted"], status.progress.phase) == (len(before) - len(left), "done")
    assert status.outcome["gap_records_deleted"] > 0


def test_how_long_they_are_kept_may_be_said(
    instance: dg.DagsterInstance, recent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(copied(recent, tmp_path), kraken_gap_retention_days=10)
    stop_clock(monkeypatch, NOW + 11 * DAY, steps)
    assert ran(instance, settings, CLEANUP, retention_days=12).success
    assert status_of(instance, settings).outcome["gap_records_deleted"] == 0
    assert ran(instance, settings, CLEANUP).success
    assert status_of(instance, settings).outcome["gap_records_deleted"] > 0


# --- retry_dead_letters


@pytest.fixture
def given_up(instance: dg.DagsterInstance, settings: Settings, exchange: DemoExchange) -> Settings:
    """A home in which the hours of both pairs were refused for good."""
    for pair in PAIRS:
        exchange.inject(Fault(REFUSED, endpoint="OHLC", pair=pair))
    ran(instance, settings, BACKFILL, intervals="60")
    assert status_of(instance, settings).outcome["fetches_failed"] == 2
    return settings


def failed_for_good(settings: Settings) -> dict[str, int]:
    """Pair → the id of its operation."""
    with opened(settings) as stores, stores.catalog.read() as connection:
        return {each.series.pair: each.id for each in operations(connection, None)}


def test_what_failed_for_good_is_done_again(instance: dg.DagsterInstance, given_up: Settings) -> None:
    assert set(failed_for_good(given_up)) == set(PAIRS)
    result = ran(instance, given_up, RETRY)
    assert result.success
    assert failed_for_good(given_up) == {}
    with opened(given_up) as stores:
        for pair in PAIRS:
            assert stored(stores, pair, 60)[-1] == happened(pair, 60)[-1]
            assert Span(REACH, NOW - 1_234) in covered(stores, pair, 60)
    assert {("tier1/backfilled_candles", f"{pair}|60") for pair in PAIRS} <= set(materialised(result))
    status = status_of(instance, given_up)
    assert (status.outcome["fetches_failed"], status.progress.phase) == (0, "done")
    assert status.spec is not None
    assert status.spec.pairs == PAIRS


def test_only_those_that_are_named_are(
    instance: dg.DagsterInstance, given_up: Settings, exchange: DemoExchange
) -> None:
    known = failed_for_good(given_up)
    before = len(exchange.requests)
    assert ran(instance, given_up, RETRY, ids=[known["ADAEUR"]]).success
    assert [each.pair for each in exchange.requests[before:] if each.endpoint == "OHLC"] == ["ADAEUR"]
    assert failed_for_good(given_up) == {"XBTUSD": known["XBTUSD"]}


def test_what_is_refused_again_stays_a_dead_letter(
    instance: dg.DagsterInstance, given_up: Settings, exchange: DemoExchange
) -> None:
    exchange.inject(Fault(REFUSED, endpoint="OHLC", pair="XBTUSD"))
    assert ran(instance, given_up, RETRY).success
    assert set(failed_for_good(given_up)) == {"XBTUSD"}
    assert status_of(instance, given_up).outcome["fetches_failed"] == 1


def test_of_minutes_that_only_led_to_what_had_failed_no_gaps_are_told(
    instance: dg.DagsterInstance, settings: Settings, exchange: DemoExchange
) -> None:
    exchange.inject(Fault(REFUSED, endpoint="Trades", pair="ADAEUR"))
    ran(instance, settings, BACKFILL, intervals="60", pairs="ADAEUR", lookback_days=60)
    assert set(failed_for_good(settings)) == {"ADAEUR"}
    found = materialised(ran(instance, settings, RETRY))
    assert set(found) == changed(60, pairs=("ADAEUR",)) | {("tier1/backfilled_candles", "ADAEUR|1")}
    assert found["tier1/gaps", "ADAEUR|60"]["gaps"] == 0


def test_a_number_that_is_no_operation_fails_with_a_sentence(
    instance: dg.DagsterInstance, settings: Settings, exchange: DemoExchange
) -> None:
    assert not ran(instance, settings, RETRY, ids=[7, 5]).success
    assert sentence_of(instance, settings).startswith("5, 7: no failed fetch has that number")
    assert exchange.requests == ()


def test_where_nothing_failed_nothing_is_asked_for(
    instance: dg.DagsterInstance, settings: Settings, exchange: DemoExchange
) -> None:
    result = ran(instance, settings, RETRY)
    assert (result.success, materialised(result), exchange.requests) == (True, {}, ())
