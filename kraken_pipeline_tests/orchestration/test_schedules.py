from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from kraken_pipeline.definitions import build_definitions
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.orchestration.jobs.maintenance_jobs import MAINTENANCE_JOBS
from kraken_pipeline.orchestration.runs import BEGINNING_SECONDS
from kraken_pipeline.orchestration.schedules import schedules
from kraken_pipeline.settings import load_settings
from kraken_pipeline.storage.locks.locks import FileLocks, Locks
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.homes import settings_of

pytestmark = pytest.mark.slow

BACKFILL, REPORT, VALIDATE, CLEANUP = (
    "backfill_gaps_incremental",
    "report_data_completeness",
    "validate_recent_data",
    "cleanup_old_gap_records",
)
HEALTH = "check_health"
PROVE = "prove_by_trade_ids"
JOB_OF = {PROVE: "prove"}
JOBS = {job.name: job for job in MAINTENANCE_JOBS}
MONDAY = datetime(2023, 8, 7, 6, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def _on_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as found:
        yield found


@pytest.fixture
def instance(_on_disk: dg.DagsterInstance) -> Iterator[dg.DagsterInstance]:
    """An instance on disk, without runs: a tick cannot look into one in memory."""
    yield _on_disk
    _on_disk.wipe()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose lake knows a pair; no schedule looks any further into it."""
    with opened(settings_of(tmp_path / "home")) as stores:
        stores.lake.asset_ids.register([parse_pair("XBTUSD")])
    return tmp_path / "home"


def found(home: Path, **more: Any) -> dict[str, dg.ScheduleDefinition]:
    """The schedules by name."""
    made = schedules(settings_of(home, **more))
    assert len({each.name for each in made}) == len(made)
    return {each.name: each for each in made}


def tick(instance: dg.DagsterInstance, schedule: dg.ScheduleDefinition) -> dg.RunRequest | str:
    """What a tick asks for, or why it asks for nothing."""
    context = dg.build_schedule_context(instance=instance, scheduled_execution_time=MONDAY)
    told = schedule.evaluate_tick(context)
    if told.skip_message is not None:
        assert list(told.run_requests or []) == []
        return told.skip_message
    (request,) = told.run_requests or []
    return request


def config_of(instance: dg.DagsterInstance, schedule: dg.ScheduleDefinition) -> dict[str, Any]:
    """What a tick asks its job for."""
    request = tick(instance, schedule)
    assert isinstance(request, dg.RunRequest)
    return dict(request.run_config)


def test_there_are_seven_each_of_its_job_in_utc(home: Path) -> None:
    made = found(home)
    assert {name: each.cron_schedule for name, each in made.items()} == {
        BACKFILL: "*/15 * * * *",
        REPORT: "0 6 * * *",
        VALIDATE: "30 5 * * *",
        CLEANUP: "0 4 * * 0",
        "verify_lake": "0 3 * * *",
        PROVE: "0 2 * * *",
        HEALTH: "*/10 * * * *",
    }
    for name, each in made.items():
        assert (each.job_name, each.execution_timezone) == (JOB_OF.get(name, name), "UTC")
        assert each.description


def test_their_times_are_settings(home: Path) -> None:
    made = found(
        home,
        kraken_backfill_cron="0 * * * *",
        kraken_report_cron="1 2 * * 1-5",
        kraken_validate_cron="0 0 1 * *",
        kraken_cleanup_cron="0 3 * * sat",
        kraken_verify_cron="7 1 * * *",
        kraken_prove_cron="8 1 * * *",
        kraken_health_cron="* * * * *",
    )
    assert [each.cron_schedule for each in made.values()] == [
        *("0 * * * *", "1 2 * * 1-5", "0 0 1 * *", "0 3 * * sat", "7 1 * * *", "8 1 * * *", "* * * * *")
    ]


def test_only_the_cleaning_up_is_on_by_default(home: Path) -> None:
    assert {name for name, each in found(home).items() if is_on(each)} == {CLEANUP}


def test_one_setting_turns_all_of_them_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRAKEN_SCHEDULES", "true")
    assert all(is_on(each) for each in schedules(load_settings()))


def is_on(schedule: dg.ScheduleDefinition) -> bool:
    return schedule.default_status is dg.DefaultScheduleStatus.RUNNING


def test_tier_intervals_lookback_and_retention_are_those_of_the_settings(
    instance: dg.DagsterInstance, home: Path
) -> None:
    made = found(
        home,
        kraken_schedule_tier="tier1",
        kraken_schedule_intervals="60, 1440",
        kraken_schedule_lookback_days=30,
        kraken_gap_retention_days=14,
    )
    recent = run_spec(tier="TIER1", intervals=[60, 1440], lookback_days=30)
    assert run_spec(config_of(instance, made[BACKFILL])) == recent
    assert run_spec(config_of(instance, made[VALIDATE])) == recent
    assert run_spec(config_of(instance, made[REPORT])) == run_spec(tier="TIER1", intervals=[60, 1440])
    assert config_of(instance, made[CLEANUP]) == {"retention_days": 14}


def test_by_default_they_work_on_everything_of_the_last_seven_days(instance: dg.DagsterInstance, home: Path) -> None:
    made = found(home)
    for name in (BACKFILL, VALIDATE, REPORT):
        assert run_spec(config_of(instance, made[name])) == run_spec()
    assert run_spec().lookback_days == 7
    assert config_of(instance, made[CLEANUP]) == {"retention_days": 90}


@pytest.mark.parametrize("more", [{}, {"kraken_schedule_tier": "Tier2", "kraken_schedule_intervals": "1,60"}])
def test_what_a_tick_asks_for_is_valid_for_its_job(
    instance: dg.DagsterInstance, home: Path, more: dict[str, str]
) -> None:
    for name, schedule in found(home, **more).items():
        job = build_definitions().resolve_job_def(JOB_OF.get(name, name))
        assert dg.validate_run_config(job, config_of(instance, schedule)) is not None


def test_health_is_looked_at_while_the_lake_is_empty_the_catalog_away_and_another_look_at_work(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    away = {"kraken_catalog_url": "postgresql://me@127.0.0.1:9/kraken", "kraken_catalog_patience_seconds": 300}
    schedule = found(tmp_path / "nothing", **away)[HEALTH]
    run = instance.create_run_for_job(
        build_definitions().resolve_job_def(HEALTH), status=dg.DagsterRunStatus.NOT_STARTED
    )
    event = dg.DagsterEvent(BEGUN.value, HEALTH, message="it has begun")
    instance.report_dagster_event(event, run.run_id)
    began = time.monotonic()
    assert config_of(instance, schedule) == {}
    assert time.monotonic() - began < 60
    assert not (tmp_path / "nothing").exists()


def test_of_an_empty_lake_a_tick_says_how_to_begin(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    for name, schedule in found(tmp_path / "fresh").items():
        if name == HEALTH:
            continue
        told = tick(instance, schedule)
        assert isinstance(told, str)
        assert told.startswith("the lake is empty: ingest archives, or name pairs")


# --- one at a time


def a_run(instance: dg.DagsterInstance, job: str, *events: dg.DagsterEventType) -> str:
    """A run that got so far."""
    run = instance.create_run_for_job(JOBS[job], status=dg.DagsterRunStatus.NOT_STARTED)
    for event in events:
        instance.report_dagster_event(dg.DagsterEvent(event.value, job, message=event.value), run.run_id)
    return str(run.run_id)


BEGUN = dg.DagsterEventType.RUN_START


def test_a_tick_is_skipped_while_a_run_of_the_same_job_is_at_work(instance: dg.DagsterInstance, home: Path) -> None:
    made = found(home)
    run_id = a_run(instance, BACKFILL, BEGUN)
    with Locks(FileLocks(home / "locks")).run(run_id):
        assert tick(instance, made[BACKFILL]) == f"run {run_id[:8]} is still at work"
        # Another job is held up by nothing.
        assert isinstance(tick(instance, made[REPORT]), dg.RunRequest)
    assert isinstance(tick(instance, made[BACKFILL]), dg.RunRequest), "it was killed"


def test_so_is_it_while_one_is_being_cancelled(instance: dg.DagsterInstance, home: Path) -> None:
    schedule = found(home)[BACKFILL]
    run_id = a_run(instance, BACKFILL, BEGUN, dg.DagsterEventType.RUN_CANCELING)
    with Locks(FileLocks(home / "locks")).run(run_id):
        assert isinstance(tick(instance, schedule), str)
    assert isinstance(tick(instance, schedule), dg.RunRequest)


@pytest.mark.parametrize("events", [(), (dg.DagsterEventType.PIPELINE_STARTING,)])
def test_so_is_it_while_one_is_about_to_begin_but_not_for_ever(
    instance: dg.DagsterInstance,
    home: Path,
    events: tuple[dg.DagsterEventType, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schedule = found(home)[VALIDATE]
    run_id = a_run(instance, VALIDATE, *events)
    assert tick(instance, schedule) == f"run {run_id[:8]} is still at work"
    later = time.time() + BEGINNING_SECONDS
    monkeypatch.setattr(time, "time", lambda: later)
    assert isinstance(tick(instance, schedule), dg.RunRequest), "its process is gone, before it could take its lock"


@pytest.mark.parametrize(
    "end", [dg.DagsterEventType.RUN_SUCCESS, dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_CANCELED]
)
def test_a_run_that_has_ended_holds_up_nothing(
    instance: dg.DagsterInstance, home: Path, end: dg.DagsterEventType
) -> None:
    a_run(instance, CLEANUP, BEGUN, end)
    assert isinstance(tick(instance, found(home)[CLEANUP]), dg.RunRequest)


def test_a_night_proves_within_its_own_budget(instance: dg.DagsterInstance, home: Path) -> None:
    schedule = found(home, kraken_schedule_tier="tier1", kraken_prove_requests=77)[PROVE]
    assert config_of(instance, schedule) == {"tier": "TIER1", "budget": 77}
