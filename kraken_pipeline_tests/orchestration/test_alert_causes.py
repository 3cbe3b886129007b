"""Each alert by its cause: it is active while the cause is there, and over when the cause is gone."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    TickData,
    TickStatus,
)
from pydantic import SecretStr

from kraken_pipeline.definitions import build_definitions
from kraken_pipeline.demo.archives import write_csv
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.faults import Fault, HttpStatus
from kraken_pipeline.errors import PipelineError
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.orchestration.instance import instance_of, state_of
from kraken_pipeline.orchestration.jobs.ingest_job import ingest_job
from kraken_pipeline.orchestration.monitoring.alerting import NO_CATALOG, look, look_or_say_that_it_is_lost
from kraken_pipeline.orchestration.schedules import schedules
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.pool_peaks import record_peak
from kraken_pipeline.storage.pools import Pool
from kraken_pipeline.storage.reply_cache.redis_cache import pool_stats, redis_pool
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow.backfill.exchange import connected
from kraken_pipeline.workflow.health.dagster_health import SILENT_SECONDS
from kraken_pipeline.workflow.page.report_page import write_page
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.publish import deliver
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.verify.repair import repair
from kraken_pipeline.workflow.verify.verification import verify
from kraken_pipeline.workflow.withdraw import resolve
from kraken_pipeline.workflow.withdraw.withdrawal import withdrawal
from kraken_pipeline_tests.orchestration.conftest import definitions
from kraken_pipeline_tests.support.clocks import clock_ahead
from kraken_pipeline_tests.support.daemons import CodeLocation, daemon_on, started_with_log
from kraken_pipeline_tests.support.exchanges import BEGIN, SUMMER
from kraken_pipeline_tests.support.homes import NOW, Q1, SPRING, START, Shelf, run, settings_of
from kraken_pipeline_tests.support.mounts import mount, mounted
from kraken_pipeline_tests.support.receivers import WARNINGS, Received, webhook
from kraken_pipeline_tests.support.servers import QuestDB, wait_for
from kraken_pipeline_tests.support.shell import TIMEOUT, program_on

pytestmark = [pytest.mark.slow, *WARNINGS]

HOURS = Series("XBTUSD", Interval.H1)
HOUR, DAY = 3_600, 86_400


@pytest.fixture
def hook() -> Iterator[Received]:
    with webhook() as found:
        yield found


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """An instance on disk: one in memory has no schedules."""
    with instance_of(settings_of(home)) as found:
        yield found


@pytest.fixture
def watched(home: Path, hook: Received) -> Settings:
    return settings_of(
        home,
        kraken_alert_urls=hook.url,
        kraken_max_gaps=1,
        kraken_breaker_failures=1,
        kraken_breaker_seconds=0.05,
        kraken_questdb_url="http://127.0.0.1:9",
        kraken_questdb_pg_url="postgresql://127.0.0.1:9/qdb",
        kraken_questdb_timeout_seconds=0.1,
    )


def active(settings: Settings, instance: dg.DagsterInstance) -> set[str]:
    """The alerts that are active after a look, but for the exchange and the QuestDB, at which nobody is."""
    names = {alert.name for alert in look(settings, instance, schedules(settings)).wrong}
    assert {"health:api", "health:questdb"} <= names
    return names - {"health:api", "health:questdb", "health:space"}


def named(settings: Settings, instance: dg.DagsterInstance, name: str) -> bool:
    """Whether an alert is active after a look."""
    return name in {alert.name for alert in look(settings, instance, schedules(settings)).wrong}


def assert_told(hook: Received, name: str, sentence: str) -> None:
    """The beginning of an alert was told once, with what to say about it, and then its end, once."""
    told = [text for _, text in hook.messages if f"- {name}: " in text]
    assert len(told) == 2, told
    begun, over = (re.split("^(?=Begun:|Over:)", text, flags=re.MULTILINE) for text in told)
    assert any(part.startswith("Begun:") and f"- {name}: " in part and sentence in part for part in begun)
    assert any(part.startswith("Over:") and f"- {name}: " in part for part in over)


def changed(settings: Settings, **more: Any) -> Settings:
    return settings.model_copy(update=more)


def test_a_pool_that_is_nearly_used_up_is_an_alert_until_an_hour_has_passed(
    watched: Settings, instance: dg.DagsterInstance, hook: Received, redis_url: str
) -> None:
    busy = changed(watched, kraken_cache_url=SecretStr(redis_url), kraken_cache_pool=2)
    assert not named(busy, instance, "health:redis pool")
    with opened(busy) as stores, closing(redis_pool(redis_url, 2, 5.0)) as pool:
        for connection in [pool.get_connection() for _ in range(2)]:
            pool.release(connection)
        record_peak(stores.catalog, Pool.REDIS, pool_stats(pool))
    assert named(busy, instance, "health:redis pool")
    with clock_ahead(2 * HOUR):
        assert not named(busy, instance, "health:redis pool")
    assert_told(hook, "health:redis pool", "at most 2 of 2 connections")


def test_an_exchange_whose_requests_fail_is_an_alert_until_enough_succeed(
    watched: Settings, instance: dg.DagsterInstance, hook: Received
) -> None:
    is_down = False
    outage = Fault(HttpStatus(503), times=None, condition=lambda: is_down)
    with DemoExchange(SUMMER, faults=[outage]) as exchange:
        asked = changed(
            watched,
            kraken_api_url=exchange.url,
            kraken_api_attempts=1,
            kraken_api_rate=5_000.0,
            kraken_breaker_failures=6,
            kraken_cache_replies_seconds=0.0,
            kraken_cache_assets_seconds=0.0,
        )

        def ask(times: int, settings: Settings = asked) -> None:
            """Asks for the same candles again and again."""
            with opened(settings) as stores, connected(stores) as connection:
                for _ in range(times):
                    with suppress(PipelineError):
                        connection.ohlc(HOURS, BEGIN, until=BEGIN)

        names = ("health:api", "health:exchange", "health:requests", "health:cache")
        assert not {*names} & {alert.name for alert in look(asked, instance, ()).wrong}
        ask(10)  # the list of pairs and candles each time, since no reply is used again
        is_down = True
        ask(3)
        assert {*names} <= {alert.name for alert in look(asked, instance, ()).wrong}
        is_down = False
        time.sleep(asked.kraken_breaker_seconds)
        ask(25)
        ask(80, changed(asked, kraken_cache_replies_seconds=300.0, kraken_cache_assets_seconds=300.0))
        assert not {*names} & {alert.name for alert in look(asked, instance, ()).wrong}
    sentences = ("503", "the circuit is", "more than 10% failed", "lookups in the last day were hits: below 50%")
    for name, sentence in zip(names, sentences, strict=True):
        assert_told(hook, name, sentence)


def test_a_series_with_many_gaps_is_an_alert_until_an_archive_fills_one(
    watched: Settings, instance: dg.DagsterInstance, hook: Received, shelf: Shelf
) -> None:
    with opened(watched) as stores:
        run(stores, shelf.q1, api_backfill=False)
        assert not named(watched, instance, "health:series")
        run(stores, shelf.q3, run_id="run-two", api_backfill=False)
        assert named(watched, instance, "health:series")
        run(stores, shelf.q2, run_id="run-three", api_backfill=False)
        assert not named(watched, instance, "health:series")
    assert_told(hook, "health:series", "series have more than 1 gaps")


def test_candles_that_questdb_does_not_get_are_an_alert_until_it_has_them(
    watched: Settings, instance: dg.DagsterInstance, hook: Received, shelf: Shelf, questdb: QuestDB
) -> None:
    with opened(watched) as stores:
        run(stores, shelf.q1, resampling=False, intervals="1440", now=int(time.time()))
        assert deliver(stores, RunContext("publish", int(time.time()))).pending
    assert not named(watched, instance, "outbox:late")
    with clock_ahead(HOUR + 60):
        assert named(watched, instance, "outbox:late")
        reached = changed(
            watched, kraken_questdb_url=SecretStr(questdb.http_url), kraken_questdb_pg_url=SecretStr(questdb.pg_url)
        )
        patient = changed(reached, kraken_questdb_timeout_seconds=60.0)
        with opened(patient) as stores:
            assert not deliver(stores, RunContext("publish", int(time.time()))).pending
        assert not named(patient, instance, "outbox:late")
    assert_told(hook, "outbox:late", "kraken-pipeline publish")


def test_completeness_that_falls_is_an_alert_until_what_was_lost_is_back(
    watched: Settings, instance: dg.DagsterInstance, hook: Received, shelf: Shelf
) -> None:
    spec = run_spec(tier="TIER1")
    with opened(watched) as stores:

        def report(minutes: int) -> None:
            write_page(stores, spec, NOW + 60 * minutes)

        run(stores, shelf.q1, shelf.q2, api_backfill=False)
        report(0)
        assert not named(watched, instance, "completeness:TIER1")
        for path in (watched.home / "lake" / "interval=60" / "pair=XBTUSD").iterdir():
            path.unlink()
        verify(stores, run_spec(), RunContext("verify", NOW))
        report(1)
        assert named(watched, instance, "completeness:TIER1")
        repair(stores, run_spec(archive_dirs=[shelf.q1, shelf.q2]), RunContext("repair", NOW))
        report(2)
        assert not named(watched, instance, "completeness:TIER1")
    assert_told(hook, "completeness:TIER1", "completeness fell from ")


def test_archives_that_contradict_each_other_are_an_alert_until_one_is_withdrawn(
    watched: Settings, instance: dg.DagsterInstance, hook: Received, tmp_path: Path
) -> None:
    spike = Defect(DefectKind.SPIKE, "XBTUSD", Interval.H4, START + 2 * 86_400)
    for interval in (Interval.H1, Interval.H4):
        write_csv(tmp_path, SPRING, "XBTUSD", interval, start=START, end=Q1.end, defects=[spike])
    name = "conflict:XBTUSD 60 240"
    with opened(watched) as stores:
        run(stores, tmp_path, api_backfill=False)
        assert named(watched, instance, name)
        resolve.resolve(stores, withdrawal(reason="a spike", file="XBTUSD_240.csv"), RunContext("resolve", NOW))
        assert not named(watched, instance, name)
    assert_told(hook, name, "kraken-pipeline reconcile --pairs XBTUSD")


def test_a_disk_that_fills_is_an_alert_until_there_is_space(
    watched: Settings, instance: dg.DagsterInstance, hook: Received, empty_home: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1g", "none") as disk:
        there = changed(watched, kraken_pipeline_home=Path(shutil.copytree(empty_home, disk / "home")))
        assert named(there, instance, "health:space")
        mount("-o", "remount,size=4g", str(disk))
        assert not named(there, instance, "health:space")
    assert_told(hook, "health:space", "GiB free")


def test_damage_is_an_alert_until_it_is_repaired(watched: Settings, instance: dg.DagsterInstance, shelf: Shelf) -> None:
    with opened(watched) as stores:
        run(stores, shelf.q1, resampling=False)
        for path in (watched.home / "lake" / "interval=60" / "pair=XBTUSD").iterdir():
            path.unlink()
        verify(stores, run_spec(), RunContext("verify", NOW))
        assert "health:files" in active(watched, instance)
        repair(stores, run_spec(archive_dirs=[shelf.q1]), RunContext("repair", NOW))
        assert "health:files" not in active(watched, instance)


def ingest(instance: dg.DagsterInstance, settings: Settings, **config: Any) -> bool:
    job = definitions(settings).resolve_job_def(ingest_job.name)
    return job.execute_in_process(instance=instance, run_config=config, raise_on_error=False).success


def test_a_run_that_failed_and_one_with_failed_files_are_alerts_until_one_is_well(
    watched: Settings, instance: dg.DagsterInstance, shelf: Shelf, tmp_path: Path, hook: Received
) -> None:
    assert not ingest(instance, watched, pairs="NOSUCHUSD")
    assert active(watched, instance) == {"run:ingest"}
    assert "kraken-pipeline status says why" in hook.all
    assert ingest(instance, watched, archive_dirs=[str(shelf.q1.parent)], intervals="1440", api_backfill=False)
    assert "run:ingest" not in active(watched, instance)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "Kraken_OHLCVT_Q4_2022.zip").write_bytes(b"no archive")
    ingest(instance, watched, archive_dirs=[str(broken)], api_backfill=False)
    assert "run:ingest" in active(watched, instance)
    assert "could not ingest 1 file;" in hook.all


def begun_at(instance: dg.DagsterInstance, name: str, moment: float) -> InstigatorState:
    """The state of a schedule that is on since a moment."""
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("kraken_pipeline"), "__repository__")
    origin = RemoteInstigatorOrigin(repository, name)
    state = InstigatorState(
        origin, InstigatorType.SCHEDULE, InstigatorStatus.RUNNING, ScheduleInstigatorData("0 6 * * *", moment)
    )
    instance.add_instigator_state(state)
    return state


@pytest.mark.process
def test_a_schedule_whose_job_does_not_succeed_is_an_alert_until_a_daemon_has_run_it(
    watched: Settings, instance: dg.DagsterInstance, hook: Received, shelf: Shelf, tmp_path: Path
) -> None:
    """It is switched on ten days ago, due five days ago, and there was no daemon to start its run."""
    job = "verify_lake"
    name = f"schedule:{job}"
    due = datetime.now(UTC) - timedelta(days=5)
    late = changed(watched, kraken_verify_cron=f"0 6 {due.day} {due.month} *")
    variables = {
        "KRAKEN_DAGSTER_STORAGE": instance.root_directory,
        "KRAKEN_VERIFY_CRON": late.kraken_verify_cron,
    }
    with opened(late) as stores:
        run(stores, shelf.q1, resampling=False, intervals="1440", api_backfill=False)  # there is something to verify
    location = CodeLocation(late.home, variables, "kraken_pipeline_tests.support.scheduled_location")
    try:
        location.start()
        workspace = location.workspace(tmp_path)
        assert not named(late, instance, name), "it is not on"
        arguments = ("schedule", "start", job, "-w", str(workspace))
        switching = program_on(late.home, *arguments, program="dagster", **variables)
        log = tmp_path / "switching.log"
        assert started_with_log(log, switching, ahead=-10 * DAY).wait(TIMEOUT) == 0, log.read_text()
        with clock_ahead(-10 * DAY + HOUR):
            assert not named(late, instance, name), "it was just switched on"
        assert named(late, instance, name)
        with daemon_on(workspace, late.home, variables) as check_daemon:

            def succeeded() -> Sequence[dg.DagsterRun]:
                check_daemon()
                return instance.get_runs(dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.SUCCESS]))

            wait_for(lambda: len(succeeded()) > 0, "the run of a schedule", TIMEOUT)
        assert not named(late, instance, name)
        (done,) = instance.get_runs(dg.RunsFilter(job_name=job))
        assert done.tags["dagster/schedule_name"] == job
    finally:
        location.close()
    assert_told(hook, name, f"{job} was due at ")


def test_a_schedule_that_has_nothing_to_do_or_was_just_switched_on_is_not_late(
    watched: Settings, instance: dg.DagsterInstance
) -> None:
    state = begun_at(instance, "verify_lake", time.time() - 10 * 86_400)
    begun_at(instance, "prove_by_trade_ids", time.time() - 60)
    assert {name for name in active(watched, instance) if name.startswith("schedule:")} == {"schedule:verify_lake"}

    def skip(reason: str) -> None:
        data = TickData(
            state.instigator_origin_id,
            state.name,
            InstigatorType.SCHEDULE,
            TickStatus.SKIPPED,
            time.time(),
            selector_id=state.selector_id,
        )
        instance.create_tick(data.with_reason(reason))

    skip("run 12345678 is still at work")
    assert "schedule:verify_lake" in active(watched, instance)
    skip("the lake is empty: ingest archives")
    assert "schedule:verify_lake" not in active(watched, instance)


@pytest.mark.process
def test_a_daemon_that_was_stopped_is_an_alert_until_it_runs_again(
    watched: Settings, instance: dg.DagsterInstance, hook: Received
) -> None:
    variables, long = {"DAGSTER_HOME": instance.root_directory}, SILENT_SECONDS + 60
    names = {f"daemon:{name.lower()}" for name in state_of(instance).needed}

    def silent() -> set[str]:
        found = {alert.name for alert in look(watched, instance, ()).wrong}
        return {name for name in found if name.startswith("daemon:")}

    def wait_for_reports(check_daemon: Callable[[], None]) -> None:
        def have_reported() -> bool:
            check_daemon()
            state = state_of(instance)
            return state.needed_heartbeats.keys() == state.needed and not state.silent(time.time())

        wait_for(have_reported, "a heartbeat of each daemon", TIMEOUT)

    assert {"daemon:sensor", "daemon:scheduler"} <= names
    with daemon_on(None, watched.home, variables) as check_daemon:
        wait_for_reports(check_daemon)
        assert silent() == set()
    assert silent() == set(), "it may be starting again"
    with clock_ahead(long):
        assert silent() == names
        with daemon_on(None, watched.home, variables, ahead=long) as check_daemon:
            wait_for_reports(check_daemon)
            assert silent() == set()
    for name in names:
        assert_told(hook, name, "start dagster-daemon again")


def test_a_catalog_that_cannot_be_opened_is_told_once_and_its_return_as_well(
    watched: Settings, instance: dg.DagsterInstance, hook: Received
) -> None:
    gone = watched.model_copy(
        update={
            "kraken_catalog_url": SecretStr("postgresql://me:secret@127.0.0.1:9/kraken"),
            "kraken_catalog_patience_seconds": 0.1,
        }
    )
    _, cursor = look_or_say_that_it_is_lost(gone, instance, (), "")
    assert cursor == NO_CATALOG
    _, cursor = look_or_say_that_it_is_lost(gone, instance, (), cursor)
    assert [title for title, _ in hook.messages] == ["kraken-pipeline: catalog (begun)"]
    assert "secret" not in hook.all
    _, cursor = look_or_say_that_it_is_lost(watched, instance, (), cursor)
    assert cursor == ""
    assert hook.messages[1][0] == "kraken-pipeline: catalog (over)"


def test_the_sensors_are_there_where_somebody_is_to_be_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, hook: Received, instance: dg.DagsterInstance
) -> None:
    def sensors() -> dict[str, dg.SensorDefinition]:
        return {sensor.name: sensor for sensor in build_definitions().sensors or []}

    assert {"alerts", "alert_of_failure"} & set(sensors()) == set()
    monkeypatch.setenv("KRAKEN_ALERT_URLS", hook.url)
    monkeypatch.setenv("KRAKEN_PIPELINE_HOME", str(home))
    monkeypatch.setenv("KRAKEN_API_URL", "http://127.0.0.1:9")
    found = sensors()
    assert {"alerts", "alert_of_failure"} < set(found)
    context = dg.build_sensor_context(instance=instance)
    result = found["alerts"](context)
    assert "1 message was sent" in str(result.skip_reason)  # type: ignore[union-attr]
    assert "health:api" in hook.all
    assert not ingest(instance, settings_of(home), pairs="NOSUCHUSD")
    (record,) = instance.get_run_records(limit=1)
    failed = dg.build_run_status_sensor_context(
        "alert_of_failure", _event_of(instance, record.dagster_run), instance, record.dagster_run
    ).for_run_failure()
    found["alert_of_failure"](failed)
    assert "run:ingest" in hook.messages[-1][0]


def _event_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterEvent:
    (entry,) = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert entry.dagster_event is not None
    return entry.dagster_event
