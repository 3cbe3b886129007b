"""Each alert by its cause: it is active while the cause is there, and over when the cause is gone."""

from __future__ import annotations

import shutil
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
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
from dagster._daemon.types import DaemonHeartbeat
from pydantic import SecretStr

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.definitions import build_definitions
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.orchestration.instance import instance_of
from kraken_pipeline.orchestration.jobs.ingest_job import ingest_job
from kraken_pipeline.orchestration.monitoring.alerting import NO_CATALOG, look, look_or_say_that_it_is_lost
from kraken_pipeline.orchestration.schedules import schedules
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.states import ContradictionState
from kraken_pipeline.storage.exchange_state import counters
from kraken_pipeline.storage.records import publications
from kraken_pipeline.storage.records.report_records import ReportRecord, keep_report
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.backfill.circuit import breaker_of
from kraken_pipeline.workflow.health.dagster_health import SILENT_SECONDS
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.verify.repair import repair
from kraken_pipeline.workflow.verify.verification import verify
from kraken_pipeline_tests.orchestration.conftest import definitions
from kraken_pipeline_tests.support.homes import NOW, Shelf, run, settings_of
from kraken_pipeline_tests.support.receivers import WARNINGS, Received, webhook

pytestmark = [pytest.mark.slow, *WARNINGS]

HOURS = Series("XBTUSD", Interval.H1)
HOUR = 3_600
Act = Callable[[Stores], None]


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


def put(stores: Stores, table: sa.Table, **values: Any) -> None:
    with stores.catalog.write() as connection:
        connection.execute(sa.insert(table).values(**values))


def count(stores: Stores, **counts: int) -> None:
    with stores.catalog.write() as connection:
        counters.add_to(connection, {name.replace("_", ".", 1): value for name, value in counts.items()}, time.time())


def use_pool(stores: Stores) -> None:
    with stores.catalog.write() as connection:
        counters.raise_to(connection, "questdb_pool", 45, time.time())


def let_an_hour_pass(stores: Stores) -> None:
    with stores.catalog.write() as connection:
        connection.execute(sa.update(schema.counters).values(hour=schema.counters.c.hour - 2 * HOUR))


def lose_candles(stores: Stores) -> None:
    for start in (0, 10 * HOUR):
        put(
            stores,
            schema.gaps,
            pair="XBTUSD",
            interval=60,
            start=start,
            end=start + HOUR,
            missing_candles=1,
            overflow_candles=0,
            route="OHLC",
            status="DETECTED",
            attempts=0,
            detected_at=1,
        )


def fill(stores: Stores) -> None:
    with stores.catalog.write() as connection:
        connection.execute(sa.update(schema.gaps).values(closed_at=2))


def enqueue(stores: Stores) -> None:
    with stores.catalog.write() as connection:
        publications.enqueue(connection, [(HOURS, Span(0, HOUR))], int(time.time()) - HOUR - 60)


def deliver(stores: Stores) -> None:
    with stores.catalog.write() as connection:
        ids = list(connection.scalars(sa.select(schema.publications.c.id)))
        publications.deliver(connection, ids, HOUR)


def contradict(stores: Stores) -> None:
    put(
        stores,
        schema.contradictions,
        pair="XBTUSD",
        fine=1,
        coarse=60,
        start=0,
        end=HOUR,
        fine_trades=3,
        coarse_trades=4,
        state=ContradictionState.CONFLICT,
        reason="they differ",
        made_at=1,
        changed_at=1,
    )


def settle(stores: Stores) -> None:
    with stores.catalog.write() as connection:
        connection.execute(sa.update(schema.contradictions).values(state=ContradictionState.SETTLED))


def report(percent: float) -> Act:
    def act(stores: Stores) -> None:
        numbers = {"completeness_pct": percent, "selection": {}}
        with stores.catalog.write() as connection:
            keep_report(connection, ReportRecord("TIER1", int(time.time()), numbers))

    return act


def both(*acts: Act) -> Act:
    def act(stores: Stores) -> None:
        for one in acts:
            one(stores)

    return act


def fail_requests(stores: Stores) -> None:
    breaker_of(stores).failed()


def answer(stores: Stores) -> None:
    breaker = breaker_of(stores)
    time.sleep(0.06)
    breaker.admit()
    breaker.succeeded()


@pytest.mark.parametrize(
    ("begin", "end", "name", "sentence"),
    [
        (use_pool, let_an_hour_pass, "health:questdb pool", "at most 45 of 50 connections"),
        (
            lambda stores: count(stores, cache_misses=30),
            lambda stores: count(stores, cache_hits=60),
            "health:cache",
            "0% of 30 lookups",
        ),
        (
            lambda stores: count(stores, api_requests=30, api_errors=10),
            lambda stores: count(stores, api_requests=300),
            "health:requests",
            "more than 10% failed",
        ),
        (lose_candles, fill, "health:series", "series have more than 1 gaps: XBTUSD 60"),
        (fail_requests, answer, "health:exchange", "the circuit is"),
        (enqueue, deliver, "outbox:late", "kraken-pipeline publish"),
        (both(report(99.5), report(97.0)), report(99.45), "completeness:TIER1", "fell from 99.50 % to 97.00 %"),
        (contradict, settle, "conflict:XBTUSD 1 60", "kraken-pipeline reconcile --pairs XBTUSD"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_alert_is_active_while_its_cause_is_there(
    watched: Settings, instance: dg.DagsterInstance, hook: Received, begin: Act, end: Act, name: str, sentence: str
) -> None:
    with opened(watched) as stores:
        assert active(watched, instance) == set()
        told_before = len(hook.messages)
        begin(stores)
        assert active(watched, instance) == {name}
        assert active(watched, instance) == {name}
        end(stores)
        assert active(watched, instance) == set()
    begun, over = [text for _, text in hook.messages[told_before:]]
    assert f"Begun:\n- {name}: " in begun
    assert sentence in begun
    assert f"Over:\n- {name}: " in over


def test_a_disk_that_fills_is_an_alert_until_there_is_space(
    watched: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", ("total", "used", "free"))
    free = 1 << 30
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 40, 0, free))
    assert "health:space" in {alert.name for alert in look(watched, instance, ()).wrong}
    free = 1 << 35
    assert "health:space" not in {alert.name for alert in look(watched, instance, ()).wrong}


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


def test_a_schedule_whose_job_does_not_succeed_is_an_alert_until_it_does(
    watched: Settings, instance: dg.DagsterInstance
) -> None:
    name = "cleanup_old_gap_records"
    assert f"schedule:{name}" not in active(watched, instance), "it is not on"
    begun_at(instance, name, time.time() - 10 * 86_400)
    assert f"schedule:{name}" in active(watched, instance)
    assert definitions(watched).resolve_job_def(name).execute_in_process(instance=instance).success
    assert f"schedule:{name}" not in active(watched, instance)


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


def test_a_silent_daemon_is_an_alert_until_it_reports(watched: Settings, instance: dg.DagsterInstance) -> None:
    for age, expected in ((1, set[str]()), (SILENT_SECONDS + 5, {"daemon:sensor"}), (0, set[str]())):
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - age, "SENSOR", "daemon", []))
        assert active(watched, instance) == expected


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
