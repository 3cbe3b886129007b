from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import dagster as dg
import pytest

from kraken_pipeline.orchestration.sensors import drop_folder_sensor, evaluate
from kraken_pipeline.settings import Settings
from kraken_pipeline_tests.homes import Shelf, settings_of


@pytest.fixture
def drop(settings: Settings) -> Path:
    settings.drop.mkdir(parents=True, exist_ok=True)
    return settings.drop


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
    settings.drop.mkdir(exist_ok=True)
    path = Path(shutil.copy(shelf.minutes, settings.drop))
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
