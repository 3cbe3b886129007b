from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from kraken_pipeline.definitions import build_definitions
from kraken_pipeline.orchestration.jobs.ingest_job import ingest_job
from kraken_pipeline.orchestration.jobs.maintenance_jobs import backfill_job
from kraken_pipeline.orchestration.sensors import (
    BACKFILL_LATER_TAG,
    auto_gap_fill_sensor,
    drop_folder_sensor,
    evaluate,
)
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.orchestration.conftest import definitions
from kraken_pipeline_tests.support.homes import Shelf, settings_of

pytestmark = pytest.mark.slow


@pytest.fixture
def drop(settings: Settings) -> Path:
    (settings.home / "drop").mkdir(parents=True, exist_ok=True)
    return settings.home / "drop"


def requests_of(result: dg.SensorResult) -> list[dg.RunRequest]:
    return list(result.run_requests or [])


def test_all_new_files_of_a_tick_become_one_run_and_their_pairs_partitions(
    settings: Settings, drop: Path, shelf: Shelf
) -> None:
    shutil.copy(shelf.q1, drop)
    shutil.copy(shelf.minutes, drop)
    result = evaluate(settings, None)
    (request,) = requests_of(result)
    assert request.job_name == "ingest"
    assert request.run_key
    added = {each.partitions_def_name: list(each.partition_keys) for each in result.dynamic_partitions_requests or []}
    assert added == {"tier1_assets": ["ADAEUR", "XBTUSD"], "tier4_assets": ["ZORKUSD"]}


def test_an_empty_folder_is_skipped_with_the_reason(settings: Settings, drop: Path) -> None:
    result = evaluate(settings, None)
    assert requests_of(result) == []
    assert result.skip_reason is not None
    assert f"nothing new in {drop}" in str(result.skip_reason)


def test_nothing_new_is_skipped(settings: Settings, drop: Path, shelf: Shelf) -> None:
    shutil.copy(shelf.minutes, drop)
    first = evaluate(settings, None)
    second = evaluate(settings, first.cursor)
    assert requests_of(second) == []
    assert second.cursor == first.cursor


def test_a_file_that_still_grows_is_no_reason_for_a_run(home: Path, shelf: Shelf) -> None:
    settings = settings_of(home, kraken_settle_seconds=60)
    (settings.home / "drop").mkdir(exist_ok=True)
    path = Path(shutil.copy(shelf.minutes, settings.home / "drop"))
    waiting = evaluate(settings, None)
    assert requests_of(waiting) == []
    assert "1 still grow" in str(waiting.skip_reason)
    changed = path.stat().st_mtime - 61
    os.utime(path, (changed, changed))
    assert len(requests_of(evaluate(settings, waiting.cursor))) == 1


def test_another_file_is_another_run(settings: Settings, drop: Path, shelf: Shelf) -> None:
    shutil.copy(shelf.minutes, drop)
    first = evaluate(settings, None)
    shutil.copy(shelf.q1, drop)
    second = evaluate(settings, first.cursor)
    (one,), (two,) = requests_of(first), requests_of(second)
    assert one.run_key != two.run_key


def test_changed_content_under_the_same_name_and_size_is_another_run(
    settings: Settings, drop: Path, shelf: Shelf
) -> None:
    path = Path(shutil.copy(shelf.minutes, drop))
    first = evaluate(settings, None)
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    assert len(requests_of(evaluate(settings, first.cursor))) == 1


def test_the_same_file_dropped_again_is_asked_for_again_under_a_new_key(
    settings: Settings, drop: Path, shelf: Shelf
) -> None:
    cursor, keys = None, []
    for _ in range(3):
        path = Path(shutil.copy(shelf.minutes, drop))
        asked = evaluate(settings, cursor)
        keys += [request.run_key for request in requests_of(asked)]
        path.unlink()  # as a run moves it away
        cursor = evaluate(settings, asked.cursor).cursor
    assert len(set(keys)) == 3


def test_what_was_moved_to_ingested_is_not_new(settings: Settings, drop: Path, shelf: Shelf) -> None:
    path = Path(shutil.copy(shelf.minutes, drop))
    first = evaluate(settings, None)
    (drop / "ingested").mkdir()
    path.rename(drop / "ingested" / path.name)
    assert requests_of(evaluate(settings, first.cursor)) == []


def test_an_archive_that_cannot_be_read_is_a_reason_for_a_run_once(settings: Settings, drop: Path) -> None:
    # The run puts it on record as FAILED; without one, nobody would hear of it.
    (drop / "Kraken_OHLCVT_Q2_2023.zip").write_bytes(b"broken")
    first = evaluate(settings, None)
    assert len(requests_of(first)) == 1
    assert requests_of(evaluate(settings, first.cursor)) == []


def test_the_cursor_stays_small(settings: Settings, drop: Path) -> None:
    for number in range(300):
        (drop / f"K{number}USD_60.csv").write_text("1680307200,1,2,1,2,3,4\n")
    result = evaluate(settings, None)
    assert len(requests_of(result)) == 1
    assert len(str(result.cursor)) < 100
    json.loads(str(result.cursor))


def test_it_makes_the_drop_folder_and_reads_the_settings_of_the_environment(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    context = dg.build_sensor_context(instance=instance)
    data = drop_folder_sensor().evaluate_tick(context)
    assert data.skip_message is not None
    assert (tmp_path / "home" / "drop").is_dir()


def test_its_runs_do_not_ask_the_exchange(settings: Settings, drop: Path, shelf: Shelf) -> None:
    shutil.copy(shelf.minutes, drop)
    (request,) = requests_of(evaluate(settings, None))
    assert run_spec(request.run_config) == run_spec(api_backfill=False)
    assert request.tags[BACKFILL_LATER_TAG] == "true"
    assert dg.validate_run_config(ingest_job, request.run_config)


# --- a backfill after each ingest


def ingested(
    instance: dg.DagsterInstance,
    settings: Settings,
    shelf: Shelf,
    tags: Mapping[str, str] | None = None,
    **config: Any,
) -> dg.SensorResult | dg.RunRequest | dg.SkipReason:
    """What follows an ingest that went well."""
    job = definitions(settings).resolve_job_def("ingest")
    config = {"archive_dirs": [str(shelf.q1)], **config}
    result = job.execute_in_process(instance=instance, run_config=config, tags=tags)
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    (event,) = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_SUCCESS)
    assert event.dagster_event is not None
    with dg.build_run_status_sensor_context("auto_gap_fill", event.dagster_event, instance, run) as context:
        told = auto_gap_fill_sensor(settings)(context)
    assert isinstance(told, dg.RunRequest | dg.SkipReason)
    return told


LATER = {BACKFILL_LATER_TAG: "true"}


def test_an_ingest_that_leaves_the_requests_to_it_is_followed_by_a_backfill_of_the_same_series(
    instance: dg.DagsterInstance, settings: Settings, shelf: Shelf
) -> None:
    selection = {"tier": "TIER1", "intervals": "60,1440", "pairs": "XBTUSD,ADAEUR"}
    told = ingested(instance, settings, shelf, LATER, api_backfill=False, **selection)
    assert isinstance(told, dg.RunRequest)
    assert told.run_key == f"after-{instance.get_runs(limit=1)[0].run_id}"
    wanted = run_spec(tier="TIER1", intervals=[60, 1440], pairs=["XBTUSD", "ADAEUR"])
    assert run_spec(told.run_config) == wanted
    assert dg.validate_run_config(backfill_job, told.run_config)


def test_what_the_drop_folder_starts_is_followed_by_a_backfill_of_everything(
    instance: dg.DagsterInstance, settings: Settings, drop: Path, shelf: Shelf
) -> None:
    shutil.copy(shelf.minutes, drop)
    (request,) = requests_of(evaluate(settings, None))
    told = ingested(instance, settings, shelf, request.tags, archive_dirs=None, **dict(request.run_config))
    assert isinstance(told, dg.RunRequest)
    assert run_spec(told.run_config) == run_spec()


@pytest.mark.parametrize(
    ("config", "tags", "reason"),
    [
        ({"dry_run": True}, {}, "the ingest was a dry run"),
        ({"dry_run": True, "api_backfill": False}, LATER, "the ingest was a dry run"),
        ({"api_backfill": False}, {}, "the ingest was started without a backfill: api_backfill is off"),
    ],
)
def test_a_dry_run_or_one_that_a_user_wanted_without_requests_is_not(
    instance: dg.DagsterInstance,
    settings: Settings,
    shelf: Shelf,
    config: dict[str, bool],
    tags: dict[str, str],
    reason: str,
) -> None:
    told = ingested(instance, settings, shelf, tags, intervals="1440", **config)
    assert isinstance(told, dg.SkipReason)
    assert told.skip_message == reason


def test_one_that_asked_itself_is_followed_only_while_something_is_left_to_request(
    instance: dg.DagsterInstance, settings: Settings, shelf: Shelf
) -> None:
    told = ingested(instance, settings, shelf, intervals="1440")  # nobody answers
    assert isinstance(told, dg.RunRequest)
    # All that is missing is older than the lookback.
    told = ingested(instance, settings, shelf, intervals="1440", end="2023-10-01")
    assert isinstance(told, dg.SkipReason)
    assert "left none for a backfill" in str(told.skip_message)


def test_it_is_off_unless_a_setting_turns_it_on(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert auto_gap_fill_sensor(settings).default_status is dg.DefaultSensorStatus.STOPPED
    monkeypatch.setenv("KRAKEN_AUTO_GAP_FILL", "true")
    assert auto_gap_fill_sensor(load_settings()).default_status is dg.DefaultSensorStatus.RUNNING


def test_it_looks_at_ingests_alone_and_starts_backfills() -> None:
    repository = build_definitions().get_repository_def()
    sensor = repository.get_sensor_def("auto_gap_fill")
    assert isinstance(sensor, dg.RunStatusSensorDefinition)
    assert [target.job_name for target in sensor.targets] == ["backfill_gaps_incremental"]
