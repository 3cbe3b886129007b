"""A step that is tried again after its catalog went away reports what it did, in whichever try."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from kraken_pipeline.demo.archives import candles_name, write_quarterly_zip
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.errors import StoreUnavailable
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.orchestration.runs import RunStatus, statuses
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.locks.locks import FileLocks, Locks
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow import lake_write
from kraken_pipeline.workflow.ingest import batches, read_file
from kraken_pipeline.workflow.ingest import ingest as ingest_flow
from kraken_pipeline_tests.orchestration.conftest import definitions
from kraken_pipeline_tests.support.homes import (
    HOURS_AND_DAYS,
    Q1,
    SPRING,
    START,
    Shelf,
    evidence_of,
    files_of,
    lake_of,
    letters,
    settings_of,
)

pytestmark = pytest.mark.slow

GONE = "the catalog's server closed the connection: a test"


@pytest.fixture
def folder(tmp_path: Path, shelf: Shelf) -> Path:
    """Two quarters in twelve files; one fails, one has a bad row."""
    garbage = Defect(DefectKind.GARBAGE, "ADAEUR", Interval.H1, release=candles_name(Q1))
    row = Defect(DefectKind.UNREADABLE, "XBTUSD", Interval.D1, START, release=candles_name(Q1))
    write_quarterly_zip(tmp_path / "in", SPRING, Q1, HOURS_AND_DAYS, defects=[garbage, row])
    (tmp_path / "in" / shelf.q2.name).symlink_to(shelf.q2)
    return tmp_path / "in"


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_FILES", 2)


def ingested(instance: dg.DagsterInstance, settings: Settings, folder: Path) -> dg.ExecuteInProcessResult:
    config = {"archive_dirs": [str(folder)], "intervals": "60,1440"}
    job = definitions(settings).resolve_job_def("ingest")
    return job.execute_in_process(instance=instance, run_config=config, raise_on_error=False)


def reported(result: dg.ExecuteInProcessResult) -> Counter[tuple[str, str | None]]:
    found = [event.step_materialization_data.materialization for event in result.get_asset_materialization_events()]
    return Counter((each.asset_key.to_user_string(), each.partition) for each in found)


def told(instance: dg.DagsterInstance, settings: Settings) -> dict[str, Any]:
    """What the newest run says of itself."""
    run: RunStatus = statuses(instance, Locks(FileLocks(settings.home / "locks")), 1)[0]
    progress = run.progress
    counts = (progress.files_total, progress.files_done, progress.files_ingested, progress.candles, progress.bytes_done)
    return {"status": run.status, "counts": counts, "outcome": run.outcome}


def left(settings: Settings) -> dict[str, Any]:
    with opened(settings) as stores:
        gaps = evidence_of(stores)
        return {
            **gaps,
            "gaps": {row[:3] for row in gaps["gaps"]},
            "lake": lake_of(stores),
            "files": files_of(stores),
            "letters": sorted(str((each["pair"], each["line"], each["reason"])) for each in letters(stores)),
        }


def comparable(status: dict[str, Any]) -> dict[str, Any]:
    """Without the notes, which name runs."""
    return {**status, "outcome": {name: value for name, value in status["outcome"].items() if name != "notes"}}


def without_candles(status: dict[str, Any]) -> dict[str, Any]:
    done, ingested_, _, size = status["counts"][1:]
    return comparable(status) | {"counts": (done, ingested_, size)}


@pytest.mark.parametrize("when", ["before anything is written", "before the grants", "after everything is written"])
def test_a_step_that_is_tried_again_reports_what_it_did_before_it_was_interrupted(
    settings: Settings, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    undisturbed = settings_of(tmp_path / "undisturbed")
    with dg.DagsterInstance.ephemeral() as instance:
        expected_events = reported(ingested(instance, undisturbed, folder))
        expected = told(instance, undisturbed)
    assert expected["status"] == "SUCCESS"
    commits = 0
    commit, all_times = lake_write.commit, lake_write.all_times

    def interrupted(*given: Any) -> None:
        nonlocal commits
        commits += 1
        is_now = commits == 3
        if is_now and when == "before anything is written":
            raise StoreUnavailable(GONE)
        with pytest.MonkeyPatch.context() as patch:
            if is_now and when == "before the grants":
                patch.setattr(lake_write, "all_times", fail)
            commit(*given)
        if is_now and when == "after everything is written":
            raise StoreUnavailable(GONE)

    def fail(*given: Any) -> Any:
        all_times(*given)
        raise StoreUnavailable(GONE)

    monkeypatch.setattr(ingest_flow, "commit", interrupted)
    with dg.DagsterInstance.ephemeral() as instance:
        result = ingested(instance, settings, folder)
        assert result.success
        assert [event.step_key for event in result.all_events if event.is_step_up_for_retry] == ["ingest_files[0000]"]
        assert reported(result) == expected_events
        found = comparable(told(instance, settings))
    if when == "before the grants":  # what lies in the lake already is neither new nor changed in the second try
        found, expected = without_candles(found), without_candles(expected)
    assert found == comparable(expected)
    assert left(settings) == left(undisturbed)


def test_a_catalog_that_goes_away_while_a_file_is_read_fails_no_file(
    settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = read_file._note_rejects
    times = 0

    def interrupted(*given: Any) -> None:
        nonlocal times
        times += 1
        if times == 4:
            raise StoreUnavailable(GONE)
        take(*given)

    monkeypatch.setattr(read_file, "_note_rejects", interrupted)
    with dg.DagsterInstance.ephemeral() as instance:
        assert ingested(instance, settings, folder).success
        outcome = told(instance, settings)["outcome"]
    assert outcome["files_failed"] == 1
    assert not any(GONE in error for error in outcome["errors"])
    with opened(settings) as stores:
        assert not any(GONE in str(letter["reason"]) for letter in letters(stores))
        assert sum("FAILED" in row for row in files_of(stores)) == 1


def test_a_catalog_that_stays_away_ends_the_run_with_its_sentence(
    settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*given: Any) -> None:
        raise StoreUnavailable(GONE)

    monkeypatch.setattr(ingest_flow, "commit", gone)
    with dg.DagsterInstance.ephemeral() as instance:
        assert not ingested(instance, settings, folder).success
        run = statuses(instance, Locks(FileLocks(settings.home / "locks")), 1)[0]
    assert run.status == "FAILURE"
    assert run.error is not None
    assert run.error.startswith(GONE)
