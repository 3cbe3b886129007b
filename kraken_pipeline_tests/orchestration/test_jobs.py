from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.errors import DagsterExecutionInterruptedError

from kraken_pipeline.demo.archives import candles_name, write_csv, write_quarterly_zip
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.errors import Busy, InvalidRequest
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.orchestration import failures
from kraken_pipeline.orchestration.failures import explained
from kraken_pipeline.orchestration.jobs import ingest_job as jobs
from kraken_pipeline.orchestration.progress import listening
from kraken_pipeline.orchestration.runs import RunStatus, statuses
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.locks.locks import FileLocks, Locks
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow.progress import Progress
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.orchestration.conftest import definitions
from kraken_pipeline_tests.support.homes import (
    HOURS_AND_DAYS,
    Q1,
    SPRING,
    START,
    Shelf,
    digest_of,
    lake_of,
    oracle,
    rows_of,
    settings_of,
    stored,
)

pytestmark = pytest.mark.slow

Partition = tuple[str, str | None]


def ingest(instance: dg.DagsterInstance, settings: Settings, **config: Any) -> dg.ExecuteInProcessResult:
    """A run of the job, as the launchpad starts it."""
    job = definitions(settings).resolve_job_def("ingest")
    return job.execute_in_process(instance=instance, run_config=config, raise_on_error=False)


def materialised(result: dg.ExecuteInProcessResult) -> list[Partition]:
    found = []
    for event in result.get_asset_materialization_events():
        materialisation = event.step_materialization_data.materialization
        found.append((materialisation.asset_key.to_user_string(), materialisation.partition))
    return found


def status_of(instance: dg.DagsterInstance, settings: Settings) -> RunStatus:
    """The newest run."""
    return statuses(instance, Locks(FileLocks(settings.home / "locks")), 1)[0]


def test_it_reports_one_materialisation_for_every_partition_that_it_changed(
    instance: dg.DagsterInstance, settings: Settings, shelf: Shelf
) -> None:
    result = ingest(instance, settings, archive_dirs=[str(shelf.q1)], intervals="60,240,1440")
    assert result.success
    found = materialised(result)
    assert len(found) == len(set(found))
    tiers = {"XBTUSD": "tier1", "ADAEUR": "tier1", "ZORKUSD": "tier4"}
    expected: set[Partition] = set()
    for pair, tier in tiers.items():
        for name, intervals in {
            "candles": (60, 1440),
            "backfilled_candles": (240,),
            "coverage": (60, 240, 1440),
            "gaps": (60, 240, 1440),
        }.items():
            expected |= {(f"{tier}/{name}", f"{pair}|{minutes}") for minutes in intervals}
    expected |= {("tier1/completeness_report", None), ("tier4/completeness_report", None)}
    assert set(found) == expected
    assert list(instance.get_dynamic_partitions("tier1_assets")) == ["ADAEUR", "XBTUSD"]
    assert list(instance.get_dynamic_partitions("tier4_assets")) == ["ZORKUSD"]
    # The history of a partition leads to the run.
    record = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(["tier1", "candles"]), asset_partitions=["XBTUSD|60"]), limit=1
    ).records[0]
    assert record.run_id == result.run_id
    assert record.asset_materialization is not None
    rows = record.asset_materialization.metadata["dagster/partition_row_count"].value
    assert rows == len(oracle("XBTUSD", 60, START, Q1.end))


def test_a_second_run_reports_none(instance: dg.DagsterInstance, settings: Settings, shelf: Shelf) -> None:
    ingest(instance, settings, archive_dirs=[str(shelf.q1)])
    result = ingest(instance, settings, archive_dirs=[str(shelf.q1)])
    assert result.success
    assert materialised(result) == []
    outcome = status_of(instance, settings).outcome
    assert (outcome["files_taken_before"], outcome["files_failed"]) == (6, 0)


def test_what_it_stores_is_what_was_traded(instance: dg.DagsterInstance, settings: Settings, shelf: Shelf) -> None:
    ingest(instance, settings, archive_dirs=[str(shelf.q1), str(shelf.q2)], tier="TIER1", start="2023-03-28")
    with opened(settings) as stores:
        for pair in ("XBTUSD", "ADAEUR"):
            assert stored(stores, pair, 60) == oracle(pair, 60, START + 2 * 86_400, Q1.end + 91 * 86_400)
        assert {series.pair for series in stores.lake.series()} == {"XBTUSD", "ADAEUR"}


def test_its_run_tells_what_was_asked_for_and_how_it_went(
    instance: dg.DagsterInstance, settings: Settings, shelf: Shelf, tmp_path: Path
) -> None:
    bad = Defect(DefectKind.GARBAGE, "ADAEUR", Interval.H1, release=candles_name(Q1))
    row = Defect(DefectKind.UNREADABLE, "XBTUSD", Interval.D1, START, release=candles_name(Q1))
    write_quarterly_zip(tmp_path / "in", SPRING, Q1, HOURS_AND_DAYS, defects=[bad, row])
    (tmp_path / "in" / "notes.txt").write_text("mine")
    (tmp_path / "in" / "Kraken_OHLCVT_Q3_2023.zip").write_bytes(b"broken")
    result = ingest(
        instance,
        settings,
        archive_dirs=[str(tmp_path / "in")],
        intervals="60,1440",
        pairs="XBTUSD,ADAEUR",
        end="2024-01-01",
    )
    assert result.success
    status = status_of(instance, settings)
    shown = status.as_json()
    assert list(shown) == [
        *("run_id", "job", "tier", "intervals", "start", "end", "status", "progress_pct", "started_at"),
        *("finished_at", "duration_s", "assets", "files_total", "files_ingested", "candles_ingested", "error"),
    ]
    with opened(settings) as stores:
        candles = sum(len(rows) for rows in lake_of(stores).values())
    assert shown | {"started_at": None, "finished_at": None, "duration_s": None, "error": None} == {
        "run_id": result.run_id,
        "job": "ingest",
        "tier": "ALL",
        "intervals": [60, 1440],
        "start": None,
        "end": "2024-01-01T00:00:00Z",
        "status": "SUCCESS",
        "progress_pct": 100.0,
        "started_at": None,
        "finished_at": None,
        "duration_s": None,
        "assets": ["XBTUSD", "ADAEUR"],
        "files_total": 4,
        "files_ingested": 3,
        "candles_ingested": candles,
        "error": None,
    }
    assert status.outcome["files_failed"] == 2
    assert (status.outcome["rows_rejected"], status.outcome["not_archives"]) == (1 + rejected(settings), 1)
    assert set(status.outcome["new_pairs"]) == {"ADAEUR (TIER1)", "XBTUSD (TIER1)"}
    assert "Kraken_OHLCVT_Q3_2023.zip: " in str(shown["error"])
    assert "Kraken_OHLCVT_Q1_2023.zip:ADAEUR_60.csv: " in str(shown["error"])
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags["kraken/failed_files"] == "2"
    outputs = {event.step_key: event for event in result.all_node_events if event.is_successful_output}
    said = outputs["fill_gaps_and_report"].step_output_data.metadata
    assert said["files_failed"].value == 2
    assert "Kraken_OHLCVT_Q3_2023.zip: " in str(said["errors"].value)
    (check,) = [each for each in result.get_asset_check_evaluations() if each.check_name == "files_readable"]
    assert (check.asset_key.path, check.passed, check.metadata["failed_files"].value) == (
        ["tier1", "candles"],
        False,
        2,
    )
    listed = str(check.metadata["failed"].value)
    assert "| Kraken_OHLCVT_Q3_2023.zip | " in listed
    assert "| Kraken_OHLCVT_Q1_2023.zip:ADAEUR_60.csv | " in listed
    assert status.spec == run_spec(
        archive_dirs=[tmp_path / "in"], intervals="60,1440", pairs="XBTUSD,ADAEUR", end="2024-01-01"
    )


def test_an_ingest_of_everything_passes_the_check_that_a_replaced_file_had_failed(
    instance: dg.DagsterInstance, settings: Settings, shelf: Shelf, tmp_path: Path
) -> None:
    def readable(**config: Any) -> dict[str, bool]:
        result = ingest(instance, settings, archive_dirs=[str(tmp_path)], intervals="1440", **config)
        assert result.success
        checks = [each for each in result.get_asset_check_evaluations() if each.check_name == "files_readable"]
        return {check.asset_key.path[0]: check.passed for check in checks}

    path = tmp_path / shelf.q1.name
    path.write_bytes(b"broken")
    assert readable() == dict.fromkeys(("tier1", "tier2", "tier3", "tier4"), False)
    assert readable(tier="TIER1") == {"tier1": False}
    shutil.copy(shelf.q1, path)
    assert readable(pairs="XBTUSD") == {}  # it has not seen the other files
    assert readable() == dict.fromkeys(("tier1", "tier2", "tier3", "tier4"), True)
    runs = instance.get_runs()
    assert [run.tags.get("kraken/failed_files") for run in runs] == [None, None, "1", "1"]


def rejected(settings: Settings) -> int:
    """How many lines of garbage there were."""
    with opened(settings) as stores:
        rows = rows_of(stores, schema.files, "status", "rows_rejected")
    return sum(count for status, count in rows if status == "FAILED")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"tier": "TIER2"}, "nothing to work on for tier TIER2: the lake has nothing for it, and no archive in "),
        ({"pairs": "ETHUSD"}, "ETHUSD is unknown: neither the lake nor an archive in the folders has it"),
        ({"pairs": "XBTUSD", "tier": "TIER3"}, "XBTUSD is in TIER1, not in TIER3; "),
        ({"archive_dirs": ["/nowhere"]}, "there is no file or folder /nowhere; name one that holds Kraken's archives"),
    ],
)
def test_an_impossible_selection_fails_with_a_sentence_that_status_shows(
    instance: dg.DagsterInstance, home: Path, shelf: Shelf, config: dict[str, Any], sentence: str
) -> None:
    settings = settings_of(home, kraken_archive_dirs=(shelf.q1,))
    result = ingest(instance, settings, **config)
    assert not result.success
    status = status_of(instance, settings)
    assert (status.status, status.job) == ("FAILURE", "ingest")
    first, *trace = str(status.error).splitlines()
    assert first.startswith(sentence)
    assert any("Stack Trace" in line for line in trace)
    with opened(settings) as stores:
        assert stores.lake.series() == []
        assert rows_of(stores, schema.files, "id") == []


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"tier": "TIER9"}, "tier='TIER9': Input should be 'TIER1', 'TIER2', 'TIER3', 'TIER4' or 'ALL'"),
        ({"intervals": [7]}, "interval 7 does not exist; allowed are 1, 5, 15"),
        ({"lookback_days": 400}, "lookback_days=400: Input should be less than or equal to 365"),
        ({"start": "2024-01-01", "end": "2023-01-01"}, "end must be later than start"),
    ],
)
def test_a_wrong_value_is_refused_before_there_is_a_run(
    instance: dg.DagsterInstance, settings: Settings, config: dict[str, Any], sentence: str
) -> None:
    before = digest_of(settings.home)
    with pytest.raises(Exception) as refused:  # noqa: PT011 - Dagster's own error, around ours
        ingest(instance, settings, **config)
    causes: list[str] = []
    error: BaseException | None = refused.value
    while error is not None:
        causes.append(str(error))
        error = error.__cause__
    assert any(sentence in cause for cause in causes)
    assert instance.get_runs() == []
    assert digest_of(settings.home) == before


def test_an_unknown_option_is_refused_before_there_is_a_run(instance: dg.DagsterInstance, settings: Settings) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="pear"):
        ingest(instance, settings, pear="XBTUSD")
    assert instance.get_runs() == []


def test_an_archive_that_cannot_be_read_is_on_record_even_if_nothing_else_is_there(
    instance: dg.DagsterInstance, settings: Settings, tmp_path: Path
) -> None:
    broken = tmp_path / "Kraken_OHLCVT_Q2_2023.zip"
    broken.write_bytes(b"broken")
    ingest(instance, settings, archive_dirs=[str(broken)])
    with opened(settings) as stores:
        assert [row[:2] for row in rows_of(stores, schema.files, "name", "status")] == [(broken.name, "FAILED")]
    assert "is not a ZIP that can be read" in str(status_of(instance, settings).error)


def test_a_dry_run_writes_nothing(instance: dg.DagsterInstance, settings: Settings, shelf: Shelf) -> None:
    ingest(instance, settings, archive_dirs=[str(shelf.q1)], intervals="60")
    before = digest_of(settings.home)
    result = ingest(instance, settings, archive_dirs=[str(shelf.q1), str(shelf.q2)], dry_run=True)
    assert result.success
    assert materialised(result) == []
    assert digest_of(settings.home) == before


def test_files_are_worked_on_in_chunks_that_can_be_repeated_by_themselves(
    instance: dg.DagsterInstance, settings: Settings, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "CHUNK_FILES", 2)
    result = ingest(instance, settings, archive_dirs=[str(shelf.q1)], intervals="60,1440")
    steps = [event.step_key for event in result.all_events if event.event_type_value == "STEP_SUCCESS"]
    assert [step for step in steps if str(step).startswith("ingest_files")] == [
        f"ingest_files[{number:04d}]" for number in range(3)
    ]
    status = status_of(instance, settings)
    assert (status.progress.files_total, status.progress.files_done, status.progress.files_ingested) == (6, 6, 6)


def test_progress_is_about_the_whole_run_and_time_is_left_until_it_is_done(
    instance: dg.DagsterInstance, settings: Settings, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "CHUNK_FILES", 2)
    seen: list[Progress] = []
    with listening(seen.append):
        assert ingest(instance, settings, archive_dirs=[str(shelf.q1)], api_backfill=False).success
    running, last = [made for made in seen if made.files_total and not made.is_done], seen[-1]
    phases = ["reading archives", "ingesting", "resampling", "reconciling", "finding gaps", "reporting"]
    assert list(dict.fromkeys(made.phase for made in running)) == phases
    assert all(made.seconds_left for made in running)
    assert max(made.percent for made in running) <= 99
    assert (last.phase, last.percent, last.seconds_left) == ("done", 100, 0)
    # Each step knows the work of the whole run, and adds to what the steps before have done.
    read = [made.work["ingesting"] for made in running if made.phase == "ingesting"]
    assert len(read) == 3
    assert {round(work.total, 6) for work in read} == {round(read[0].total, 6)}
    assert [work.done for work in read] == sorted({work.done for work in read})
    assert read[-1].done == pytest.approx(read[-1].total)
    assert set(last.work) == {"ingesting", *phases[2:]}
    assert all(work.taken for work in last.work.values())


def test_a_run_holds_its_lock_for_as_long_as_it_works(
    instance: dg.DagsterInstance, settings: Settings, shelf: Shelf
) -> None:
    locks = Locks(FileLocks(settings.home / "locks"))
    seen: list[str] = []

    @dg.success_hook
    def look(context: dg.HookContext) -> None:
        seen.append(f"{statuses(instance, locks, 1)[0].status} {locks.is_running(context.run_id)}")

    job = definitions(settings).resolve_job_def("ingest").with_hooks({look})
    result = job.execute_in_process(
        instance=instance, run_config={"archive_dirs": [str(shelf.q1)], "intervals": "1440"}
    )
    assert set(seen) == {"STARTED True"}
    assert not locks.is_running(result.run_id)
    assert list((settings.home / "locks" / "runs").iterdir()) == []


def test_what_passes_by_itself_may_be_retried_and_what_lasts_may_not() -> None:
    with pytest.raises(dg.Failure) as lasting, explained():
        raise InvalidRequest("a sentence")
    assert (lasting.value.description, lasting.value.allow_retries) == ("a sentence", False)
    with pytest.raises(dg.Failure) as passing, explained():
        raise Busy("later")
    assert (passing.value.description, passing.value.allow_retries) == ("later", True)
    with pytest.raises(ZeroDivisionError), explained():
        _ = 1 // 0


def test_an_op_is_tried_again_after_what_passes_by_itself_and_never_after_ctrl_c(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(failures, "WAIT", 0)
    faults: list[BaseException] = []
    tried: list[str] = []

    @dg.op
    def work() -> None:
        with explained(retried=True):
            tried.append("once")
            if faults:
                raise faults.pop()

    @dg.job
    def job() -> None:
        work()

    faults += [Busy("later"), Busy("later")]
    assert job.execute_in_process(raise_on_error=False).success
    assert len(tried) == 3
    tried.clear()
    faults += [InvalidRequest("never")]
    assert not job.execute_in_process(raise_on_error=False).success
    assert len(tried) == 1
    tried.clear()
    faults += [DagsterExecutionInterruptedError()]
    assert not job.execute_in_process(raise_on_error=False).success
    assert len(tried) == 1


def test_the_last_word_of_a_check_is_that_of_the_whole_tier(
    instance: dg.DagsterInstance, settings: Settings, tmp_path: Path
) -> None:
    """The UI shows the last evaluation: a conflict is not hidden behind a series that agrees."""
    spike = Defect(DefectKind.SPIKE, "ADAEUR", Interval.H4, START + 86_400)
    for pair in ("ADAEUR", "XBTUSD"):
        for minutes in (60, 240):
            defects = [spike] if pair == spike.pair else []
            write_csv(tmp_path / "files", SPRING, pair, Interval(minutes), start=START, end=Q1.end, defects=defects)
    result = ingest(instance, settings, archive_dirs=[str(tmp_path / "files")], intervals="60,240", api_backfill=False)
    evaluations = [each for each in result.get_asset_check_evaluations() if each.check_name == "intervals_agree"]
    assert {each.partition: each.passed for each in evaluations[:-1]} == {
        "ADAEUR|60": False,
        "ADAEUR|240": False,
        "XBTUSD|60": True,
        "XBTUSD|240": True,
    }
    assert (evaluations[-1].partition, evaluations[-1].passed) == (None, False)
    assert evaluations[-1].metadata["conflicts"].value == 1  # which both of its sides have
