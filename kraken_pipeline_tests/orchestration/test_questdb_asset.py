"""Publishing as Dagster sees it: with every run, as an asset with its check, and by a sensor."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.definitions import build_definitions
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.market.tier import TIERS
from kraken_pipeline.orchestration.jobs.publish_job import publish_job
from kraken_pipeline.orchestration.runs import RunStatus, statuses
from kraken_pipeline.orchestration.sensors import delivery
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.locks.locks import FileLocks, Locks
from kraken_pipeline.storage.questdb.client import open_questdb
from kraken_pipeline.storage.questdb.tables import create_table
from kraken_pipeline.storage.records import publications
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow import pair_groups
from kraken_pipeline.workflow.publish import differences
from kraken_pipeline.workflow.triggers.pending_ranges import PENDING_SECONDS
from kraken_pipeline_tests.orchestration.conftest import definitions
from kraken_pipeline_tests.support.homes import Q1, START, Shelf, lake_of, oracle, run, settings_of
from kraken_pipeline_tests.support.servers import QuestDB

pytestmark = pytest.mark.slow

NOBODY_URLS = {
    "kraken_questdb_url": "http://kraken:a-secret@127.0.0.1:9",
    "kraken_questdb_pg_url": "postgresql://kraken:a-secret@127.0.0.1:9/qdb",
    "kraken_questdb_timeout_seconds": 0.2,
}
XBT = Series("XBTUSD", Interval.H1)
Partition = tuple[str, str | None]


def urls_of(server: QuestDB) -> dict[str, Any]:
    pool = {"kraken_questdb_pool_min": 1, "kraken_questdb_pool": 4}
    return {"kraken_questdb_url": server.http_url, "kraken_questdb_pg_url": server.pg_url, **pool}


def known(patch: pytest.MonkeyPatch, home: Path, **more: Any) -> Settings:
    """Settings with a QuestDB, which definitions see, too."""
    for name in ("kraken_questdb_url", "kraken_questdb_pg_url"):
        patch.setenv(name.upper(), more[name])
    return settings_of(home, **more)


@pytest.fixture
def published(questdb: QuestDB, home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An empty home that publishes to an empty QuestDB."""
    return known(monkeypatch, home, **urls_of(questdb))


@pytest.fixture
def away(home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An empty home whose QuestDB nobody is at."""
    return known(monkeypatch, home, **NOBODY_URLS)


def ran(instance: dg.DagsterInstance, settings: Settings, job: str, **config: Any) -> dg.ExecuteInProcessResult:
    found = definitions(settings).resolve_job_def(job)
    return found.execute_in_process(instance=instance, run_config=config, raise_on_error=False)


def ingested(instance: dg.DagsterInstance, settings: Settings, *paths: Path) -> dg.ExecuteInProcessResult:
    """An ingest of hours and days that asks nobody."""
    given = {"archive_dirs": [str(path) for path in paths], "intervals": "60,1440", "api_backfill": False}
    return ran(instance, settings, "ingest", **given)


def materialised(result: dg.ExecuteInProcessResult) -> dict[Partition, dict[str, Any]]:
    """Of QuestDB's assets: asset and partition → metadata as plain values."""
    found: dict[Partition, dict[str, Any]] = {}
    for event in result.get_asset_materialization_events():
        each = event.step_materialization_data.materialization
        if each.asset_key.path[-1] == "questdb_candles":
            values = {name: value.value for name, value in each.metadata.items()}
            found[each.asset_key.to_user_string(), each.partition] = values
    return found


def checks_of(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    found = [each for each in result.get_asset_check_evaluations() if each.check_name == "equals_lake"]
    by_asset = {each.asset_key.to_user_string(): each for each in found}
    assert len(by_asset) == len(found)
    return by_asset


def status_of(instance: dg.DagsterInstance, settings: Settings) -> RunStatus:
    return statuses(instance, Locks(FileLocks(settings.home / "locks")), 1)[0]


def counts(settings: Settings, interval: Interval = Interval.H1) -> dict[str, int]:
    with open_questdb(settings) as there:
        return there.counts(interval)


# --- what there is


def test_each_tier_has_the_asset_where_questdb_is(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    def assets() -> dict[str, Any]:
        graph = build_definitions().resolve_asset_graph()
        return {key.path[0]: graph.get(key) for key in graph.get_all_asset_keys() if key.path[-1] == "questdb_candles"}

    assert assets() == {}
    known(monkeypatch, home, **NOBODY_URLS)
    found = assets()
    assert set(found) == {tier.value.lower() for tier in TIERS}
    for tier, node in found.items():
        assert node.group_name == f"{tier}_publication"
        assert {parent.to_user_string() for parent in node.parent_keys} == {
            f"{tier}/candles",
            f"{tier}/backfilled_candles",
        }
        assert (
            node.partitions_def
            == definitions(settings_of(home)).resolve_asset_graph().get(dg.AssetKey([tier, "candles"])).partitions_def
        )
        assert {key.name for key in node.check_keys} == {"equals_lake"}
    repository = build_definitions().get_repository_def()
    sensor = repository.get_sensor_def("deliver_publications")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert [target.job_name for target in sensor.targets] == [publish_job.name]


# --- with every run


def test_an_ingest_publishes_what_it_changed_and_reports_it(
    instance: dg.DagsterInstance, published: Settings, shelf: Shelf
) -> None:
    result = ingested(instance, published, shelf.q1)
    assert result.success
    found = materialised(result)
    assert set(found) == {
        (f"{tier}/questdb_candles", f"{pair}|{minutes}")
        for tier, pair in (("tier1", "XBTUSD"), ("tier1", "ADAEUR"), ("tier4", "ZORKUSD"))
        for minutes in (60, 1440)
    }
    hours = found["tier1/questdb_candles", "XBTUSD|60"]
    assert (
        hours["candles_published"] == hours["dagster/partition_row_count"] == len(oracle("XBTUSD", 60, START, Q1.end))
    )
    assert "| 2023-03-26 | 2023-04-01 |" in hours["published"]
    assert {key: each.passed for key, each in checks_of(result).items()} == {
        "tier1/questdb_candles": True,
        "tier4/questdb_candles": True,
    }
    outcome = status_of(instance, published).outcome
    with opened(published) as stores:
        assert outcome["candles_published"] == sum(len(rows) for rows in lake_of(stores).values())
        assert differences(stores) == []
    assert (outcome["publications_owed"], outcome["errors"], outcome["notes"]) == (0, [], [])
    assert status_of(instance, published).progress.published == outcome["candles_published"]


def test_a_second_one_publishes_nothing_and_reports_nothing(
    instance: dg.DagsterInstance, published: Settings, shelf: Shelf
) -> None:
    ingested(instance, published, shelf.q1)
    result = ingested(instance, published, shelf.q1)
    assert result.success
    assert (materialised(result), checks_of(result)) == ({}, {})
    assert not status_of(instance, published).outcome.get("candles_published")


def test_where_questdb_is_away_an_ingest_succeeds_and_says_so(
    instance: dg.DagsterInstance, away: Settings, shelf: Shelf
) -> None:
    result = ingested(instance, away, shelf.q1)
    assert result.success
    assert (materialised(result), checks_of(result)) == ({}, {})
    status = status_of(instance, away)
    assert (status.status, status.outcome["errors"], status.as_json()["error"]) == ("SUCCESS", [], None)
    assert (status.outcome["candles_published"], status.outcome["publications_owed"]) == (0, 6)
    notes = [note for note in status.outcome["notes"] if "QuestDB" in note]
    assert len(notes) == 1
    assert notes[0].endswith("pending ranges stay pending")
    assert "a-secret" not in json.dumps(status.outcome)
    logged = "\n".join(entry.user_message for entry in instance.all_logs(result.run_id))
    assert "pending ranges stay pending" in logged
    assert "a-secret" not in logged


def test_a_table_that_is_broken_stops_neither_the_run_nor_the_others(
    instance: dg.DagsterInstance, published: Settings, questdb: QuestDB, shelf: Shelf
) -> None:
    questdb.execute(create_table(Interval.D1).replace("YEAR", "DAY"))
    result = ingested(instance, published, shelf.q1)
    assert result.success
    assert {partition for _, partition in materialised(result)} == {"XBTUSD|60", "ADAEUR|60", "ZORKUSD|60"}
    assert {each.passed for each in checks_of(result).values()} == {True}
    outcome = status_of(instance, published).outcome
    assert outcome["publications_owed"] == 3
    (note,) = [note for note in outcome["notes"] if "candles_1d" in note]
    assert "DROP TABLE candles_1d" in note


# --- the job of its own


def publishes(instance: dg.DagsterInstance, settings: Settings, **config: Any) -> RunStatus:
    ran(instance, settings, publish_job.name, **config)
    return status_of(instance, settings)


@pytest.fixture
def home_with_hours(home: Path, shelf: Shelf) -> Path:
    """A home whose candles QuestDB is owed."""
    with opened(settings_of(home)) as stores:
        run(stores, shelf.q1, intervals="60", resampling=False)
    return home


def test_its_steps_are_groups_of_tables_where_the_executor_distributes_them(
    instance: dg.DagsterInstance, home: Path, published: Settings, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_groups, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(pair_groups, "STEPS_OF_WORKER", 100)
    with opened(settings_of(home)) as stores:
        run(stores, shelf.q1, intervals="60,1440", api_backfill=False)
        lake = lake_of(stores)
    grouped = published.model_copy(update={"kraken_executor": "multiprocess"})
    for config, candles in (
        ({}, sum(len(rows) for rows in lake.values())),
        ({"rebuild": True, "verify": True}, sum(len(rows) for rows in lake.values())),
        ({}, 0),
    ):
        done = ran(instance, grouped, publish_job.name, **config)
        assert done.success
        outcome = status_of(instance, grouped).outcome
        assert (outcome["candles_published"], outcome["publications_owed"]) == (candles, 0)
        assert outcome["series_different"] == (0 if config else None)
        assert {partition for _, partition in materialised(done)} == (
            {f"{series.pair}|{series.interval.value}" for series in lake} if candles else set()
        )
        steps = {event.step_key for event in done.all_events if event.step_key and "[" in event.step_key}
        assert len(steps) == (3 if config else 2 if candles else 0), "empty tables need no step of their own"
    with opened(grouped) as stores:
        assert differences(stores) == []


def test_what_differs_is_told_by_the_groups_as_by_one_step(
    instance: dg.DagsterInstance, home_with_hours: Path, published: Settings, questdb: QuestDB
) -> None:
    assert publishes(instance, published).outcome["publications_owed"] == 0
    questdb.execute("UPDATE candles_1h SET close = close + 1 WHERE pair = 'XBTUSD'")
    found = [
        publishes(instance, published.model_copy(update={"kraken_executor": executor}), verify=True).outcome
        for executor in ("in_process", "multiprocess")
    ]
    assert found[0] == found[1]
    assert found[0]["series_different"] == 1


def test_the_job_delivers_rebuilds_and_compares(
    instance: dg.DagsterInstance, home_with_hours: Path, published: Settings, questdb: QuestDB
) -> None:
    status = publishes(instance, published, verify=True)
    assert (status.job, status.status, status.percent) == (publish_job.name, "SUCCESS", 100.0)
    with opened(published) as stores:
        candles = sum(len(rows) for rows in lake_of(stores).values())
    nothing: dict[str, list[str]] = {"errors": [], "notes": []}
    assert status.outcome == {
        "candles_published": candles,
        "publications_owed": 0,
        "series_different": 0,
        **nothing,
    }
    assert publishes(instance, published).outcome == {
        "candles_published": 0,
        "publications_owed": 0,
        "series_different": None,
        **nothing,
    }
    questdb.execute("TRUNCATE TABLE candles_1h")
    found = publishes(instance, published, verify=True)
    assert (found.outcome["series_different"], len(found.outcome["errors"])) == (3, 3)
    assert "XBTUSD 60: the lake has 1" in str(found.as_json()["error"])
    assert publishes(instance, published, rebuild=True, verify=True).outcome["candles_published"] == candles


def test_of_one_that_is_away_the_job_says_so_and_compares_nothing(
    instance: dg.DagsterInstance, home_with_hours: Path, away: Settings
) -> None:
    status = publishes(instance, away, verify=True)
    assert status.status == "SUCCESS"
    assert (status.outcome["publications_owed"], status.outcome["series_different"]) == (3, None)
    assert status.outcome["errors"][0].endswith("pending ranges stay pending")
    assert "a-secret" not in str(status)


# --- the asset


def materialise(
    instance: dg.DagsterInstance, settings: Settings, *, key: str | None = None, corners: tuple[str, str] | None = None
) -> dg.ExecuteInProcessResult:
    instance.add_dynamic_partitions("tier1_assets", ["ADAEUR", "XBTUSD"])
    tags = {}
    if corners is not None:
        tags = {"dagster/asset_partition_range_start": corners[0], "dagster/asset_partition_range_end": corners[1]}
    job = definitions(settings).resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(["tier1", "questdb_candles"])],
        partition_key=key,
        tags=tags,
        raise_on_error=False,
    )


def test_a_run_of_some_partitions_delivers_these(
    instance: dg.DagsterInstance, home_with_hours: Path, published: Settings
) -> None:
    result = materialise(instance, published, key="XBTUSD|60")
    assert result.success
    found = materialised(result)
    assert set(found) == {("tier1/questdb_candles", "XBTUSD|60")}
    candles = len(oracle("XBTUSD", 60, START, Q1.end))
    assert found["tier1/questdb_candles", "XBTUSD|60"]["candles_published"] == candles
    assert checks_of(result)["tier1/questdb_candles"].passed
    assert counts(published) == {"XBTUSD": candles}
    # The others are a rectangle of partitions; what is there already is not sent again.
    result = materialise(instance, published, corners=("ADAEUR|60", "XBTUSD|60"))
    assert result.success
    found = materialised(result)
    assert set(found) == {("tier1/questdb_candles", f"{pair}|60") for pair in ("ADAEUR", "XBTUSD")}
    assert found["tier1/questdb_candles", "XBTUSD|60"]["candles_published"] == 0
    assert found["tier1/questdb_candles", "XBTUSD|60"]["dagster/partition_row_count"] == candles
    assert found["tier1/questdb_candles", "ADAEUR|60"]["candles_published"] > 0
    assert checks_of(result)["tier1/questdb_candles"].passed
    assert set(counts(published)) == {"ADAEUR", "XBTUSD"}


def test_the_check_fails_where_questdb_differs_and_says_what_is_owed(
    instance: dg.DagsterInstance, home_with_hours: Path, published: Settings, questdb: QuestDB
) -> None:
    materialise(instance, published, key="XBTUSD|60")
    questdb.execute("TRUNCATE TABLE candles_1h")
    result = materialise(instance, published, key="XBTUSD|60")
    assert result.success
    check = checks_of(result)["tier1/questdb_candles"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    told = str(check.metadata["different"].value)
    assert "XBTUSD 60" in told
    assert "nothing" in told


def test_where_questdb_is_away_a_run_of_the_asset_fails_with_the_reason(
    instance: dg.DagsterInstance, home_with_hours: Path, away: Settings
) -> None:
    assert not materialise(instance, away, key="XBTUSD|60").success
    status = status_of(instance, away)
    assert str(status.error).splitlines()[0].endswith("pending ranges stay pending")
    assert "a-secret" not in str(status.error)


# --- the sensor


def owe(settings: Settings, made_at: float) -> None:
    with opened(settings) as stores, stores.catalog.write() as connection:
        publications.enqueue(connection, [(XBT, Span(START, START + 3_600))], int(made_at))


def skipped(told: dg.RunRequest | dg.SkipReason) -> str:
    assert isinstance(told, dg.SkipReason)
    return str(told.skip_message)


def test_where_nothing_is_owed_or_not_for_long_no_run_is_asked_for(
    instance: dg.DagsterInstance, published: Settings
) -> None:
    now = time.time()
    assert skipped(delivery(published, instance, now)) == "0 ranges are pending, none of them for long"
    owe(published, now)
    assert (
        skipped(delivery(published, instance, now + PENDING_SECONDS - 2))
        == "1 ranges are pending, none of them for long"
    )
    assert isinstance(delivery(published, instance, now + PENDING_SECONDS + 1), dg.RunRequest)


def test_while_questdb_is_away_no_run_is_asked_for(instance: dg.DagsterInstance, away: Settings) -> None:
    owe(away, 1_000_000)
    said = skipped(delivery(away, instance, time.time()))
    assert said.startswith(
        "1 ranges have been pending since 1970-01-12T13:46:40Z, and stay pending: QuestDB at 127.0.0.1:9"
    )
    assert "a-secret" not in said


def test_while_a_run_is_delivering_no_second_one_is_asked_for(
    instance: dg.DagsterInstance, published: Settings
) -> None:
    owe(published, 1_000_000)
    job = definitions(published).resolve_job_def(publish_job.name)
    begun = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    # Of one that was killed nobody holds the lock: it holds up nothing.
    assert isinstance(delivery(published, instance, time.time()), dg.RunRequest)
    with opened(published) as stores, stores.locks.run(begun.run_id):
        assert skipped(delivery(published, instance, time.time())) == f"run {begun.run_id[:8]} is publishing"
    instance.create_run_for_job(job, status=dg.DagsterRunStatus.NOT_STARTED)
    assert "is publishing" in skipped(delivery(published, instance, time.time()))


def test_what_it_asks_for_is_a_run_that_delivers(
    instance: dg.DagsterInstance, home_with_hours: Path, published: Settings
) -> None:
    told = delivery(published, instance, time.time())
    assert isinstance(told, dg.RunRequest)
    assert told.run_key is None, "the next tick may ask again"
    job = definitions(published).resolve_job_def(publish_job.name)
    assert job.execute_in_process(instance=instance, run_config=dict(told.run_config), tags=told.tags).success
    assert status_of(instance, published).outcome["publications_owed"] == 0
    assert skipped(delivery(published, instance, time.time())) == "0 ranges are pending, none of them for long"
