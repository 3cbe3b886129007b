from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.orchestration.jobs.ingest_job import ingest_job
from kraken_pipeline.orchestration.progress import (
    PROGRESS_TAG,
    finish,
    listening,
    outcome_of,
    part_tags,
    progress_of,
    watcher,
)
from kraken_pipeline.orchestration.run_records import SPEC_TAG
from kraken_pipeline.orchestration.runs import RESUMES_TAG, RunStatus, find_run, statuses, unfinished
from kraken_pipeline.orchestration.sensors import end_lost_runs
from kraken_pipeline.storage.locks.locks import FileLocks, Locks
from kraken_pipeline.workflow.progress import DEALING, READING, Progress, Work
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec

pytestmark = pytest.mark.slow

DAY = RunSpec(intervals=(1440,))


@pytest.fixture
def locks(tmp_path: Path) -> Locks:
    return Locks(FileLocks(tmp_path / "locks"))


def a_run(
    instance: dg.DagsterInstance,
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED,
    spec: RunSpec | None = None,
    **tags: str,
) -> str:
    """A run that got so far."""
    spec = spec or run_spec()
    run = instance.create_run_for_job(
        ingest_job,
        run_config=spec.as_config(),
        tags={SPEC_TAG: spec.model_dump_json(exclude_defaults=True), **tags},
        status=dg.DagsterRunStatus.NOT_STARTED,
    )
    events = {
        dg.DagsterRunStatus.STARTED: dg.DagsterEventType.RUN_START,
        dg.DagsterRunStatus.SUCCESS: dg.DagsterEventType.RUN_SUCCESS,
        dg.DagsterRunStatus.FAILURE: dg.DagsterEventType.RUN_FAILURE,
        dg.DagsterRunStatus.CANCELED: dg.DagsterEventType.RUN_CANCELED,
        dg.DagsterRunStatus.CANCELING: dg.DagsterEventType.RUN_CANCELING,
    }
    for event_type in dict.fromkeys((dg.DagsterEventType.RUN_START, events[status])):
        event = dg.DagsterEvent(event_type.value, ingest_job.name, message=f"it is {event_type.value}")
        instance.report_dagster_event(event, run.run_id)
    return str(run.run_id)


def shown(instance: dg.DagsterInstance, locks: Locks) -> list[tuple[str, str]]:
    return [(each.run_id, each.status) for each in statuses(instance, locks, None)]


# --- how a run stands


def test_a_run_at_work_is_started_and_one_whose_process_is_gone_interrupted(
    instance: dg.DagsterInstance, locks: Locks
) -> None:
    run_id = a_run(instance)
    assert shown(instance, locks) == [(run_id, "INTERRUPTED")]
    with locks.run(run_id):
        assert shown(instance, locks) == [(run_id, "STARTED")]
    assert shown(instance, locks) == [(run_id, "INTERRUPTED")]


def test_a_cancellation_that_nobody_finished_is_an_interruption(instance: dg.DagsterInstance, locks: Locks) -> None:
    run_id = a_run(instance, dg.DagsterRunStatus.CANCELING)
    assert shown(instance, locks) == [(run_id, "INTERRUPTED")]


def test_a_run_whose_process_is_gone_at_two_ticks_is_ended(instance: dg.DagsterInstance, locks: Locks) -> None:
    lost, cancelled, alive = (
        a_run(instance),
        a_run(instance, dg.DagsterRunStatus.CANCELING),
        a_run(instance),
    )
    with locks.run(alive):
        first = end_lost_runs(instance, locks, None)
        assert {status for _, status in shown(instance, locks)} == {"INTERRUPTED", "STARTED"}
        late = a_run(instance)
        second = end_lost_runs(instance, locks, first.cursor)
        assert set(shown(instance, locks)) == {
            (lost, "FAILURE"),
            (cancelled, "CANCELED"),
            (alive, "STARTED"),
            (late, "INTERRUPTED"),
        }
        with locks.run(late):  # it had not got its lock yet
            third = end_lost_runs(instance, locks, second.cursor)
    assert third.cursor == "[]"
    assert "every run that has begun has its process" in str(third.skip_reason)
    failed = find_run(instance, locks, lost)
    assert failed.error is not None
    assert failed.error.startswith("the process of the run is gone")


def test_runs_that_have_ended_keep_their_status(instance: dg.DagsterInstance, locks: Locks) -> None:
    ended = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
    made = [(a_run(instance, status), status.value) for status in ended]
    assert shown(instance, locks) == made[::-1]


def test_a_run_that_failed_without_a_reason_says_so(instance: dg.DagsterInstance, locks: Locks) -> None:
    a_run(instance, dg.DagsterRunStatus.FAILURE)
    (status,) = statuses(instance, locks, None)
    assert status.error == "it is PIPELINE_FAILURE"


def test_a_finished_run_tells_when_and_how_long(instance: dg.DagsterInstance, locks: Locks) -> None:
    a_run(instance, dg.DagsterRunStatus.SUCCESS)
    (status,) = statuses(instance, locks, None)
    told = status.as_json()
    assert str(told["started_at"]).endswith("Z")
    assert str(told["finished_at"]) >= str(told["started_at"])
    assert isinstance(told["duration_s"], float)
    assert told["progress_pct"] == 100.0


def test_only_the_newest_runs_are_listed_where_there_is_a_limit(instance: dg.DagsterInstance, locks: Locks) -> None:
    made = [a_run(instance, dg.DagsterRunStatus.SUCCESS) for _ in range(3)]
    assert [each.run_id for each in statuses(instance, locks, 2)] == made[:0:-1]


# --- finding one


def test_a_run_is_found_by_the_beginning_of_its_id(instance: dg.DagsterInstance, locks: Locks) -> None:
    run_id = a_run(instance)
    a_run(instance)
    assert find_run(instance, locks, run_id[:8]).run_id == run_id
    for unclear in ("", "zz"):
        with pytest.raises(InvalidRequest, match="kraken-pipeline status"):
            find_run(instance, locks, unclear)


def test_a_full_id_is_looked_up_and_the_beginning_of_one_searched_in_ids_alone(
    instance: dg.DagsterInstance, locks: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = a_run(instance)
    a_run(instance)
    monkeypatch.setattr(instance, "get_run_records", lambda *_, **__: pytest.fail("all runs are loaded"))
    monkeypatch.setattr(instance, "get_runs", lambda *_, **__: pytest.fail("all runs are loaded"))
    assert find_run(instance, locks, run_id[:8]).run_id == run_id
    monkeypatch.setattr(instance, "get_run_ids", lambda *_, **__: pytest.fail("all ids are read"))
    assert find_run(instance, locks, run_id).run_id == run_id


def test_the_beginning_of_two_ids_names_neither(instance: dg.DagsterInstance, locks: Locks) -> None:
    first = a_run(instance)
    while (second := a_run(instance))[0] != first[0]:
        pass
    assert first != second
    with pytest.raises(InvalidRequest, match=r"\d+ runs begin with"):
        find_run(instance, locks, first[0])


# --- what lies about


def left(instance: dg.DagsterInstance, locks: Locks) -> list[str]:
    return [each.run_id for each in unfinished(statuses(instance, locks, None))]


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED, None])
def test_a_run_that_failed_was_cancelled_or_killed_lies_about(
    instance: dg.DagsterInstance, locks: Locks, status: dg.DagsterRunStatus | None
) -> None:
    run_id = a_run(instance, status or dg.DagsterRunStatus.STARTED)
    assert left(instance, locks) == [run_id]


def test_a_run_at_work_does_not_lie_about(instance: dg.DagsterInstance, locks: Locks) -> None:
    with locks.run(a_run(instance)):
        assert left(instance, locks) == []


def test_a_later_success_with_the_same_configuration_makes_up_for_it(
    instance: dg.DagsterInstance, locks: Locks
) -> None:
    other = a_run(instance, dg.DagsterRunStatus.FAILURE, DAY)
    a_run(instance, dg.DagsterRunStatus.FAILURE)
    a_run(instance, dg.DagsterRunStatus.SUCCESS)
    assert left(instance, locks) == [other]


def test_an_earlier_success_does_not(instance: dg.DagsterInstance, locks: Locks) -> None:
    a_run(instance, dg.DagsterRunStatus.SUCCESS)
    failed = a_run(instance, dg.DagsterRunStatus.FAILURE)
    assert left(instance, locks) == [failed]


def test_a_chain_of_resumed_runs_is_made_up_for_by_its_last(instance: dg.DagsterInstance, locks: Locks) -> None:
    first = a_run(instance, dg.DagsterRunStatus.STARTED, DAY)
    second = a_run(instance, dg.DagsterRunStatus.FAILURE, DAY, **{RESUMES_TAG: first})
    a_run(instance, dg.DagsterRunStatus.SUCCESS, DAY, **{RESUMES_TAG: second})
    assert left(instance, locks) == []


# --- progress


def test_progress_is_written_when_the_phase_changes_and_read_back(instance: dg.DagsterInstance, locks: Locks) -> None:
    run_id = a_run(instance)
    heard: list[Progress] = []
    watch = watcher(instance, run_id)
    with listening(heard.append):
        watch(Progress("reading archives", files_total=10, bytes_total=200))
        watch(Progress("ingesting", files_total=10, files_done=2, candles=7, work={"ingesting": Work(8, 2, 2)}))
        watch(Progress("ingesting", files_total=10, files_done=3, candles=9, bytes_total=200, bytes_done=60))
    watch(Progress("ingesting", files_total=10, files_done=4, bytes_total=200))
    (status,) = statuses(instance, locks, None)
    # The third came too soon after the second to be worth a write.
    assert (status.progress.files_done, status.percent) == (2, 25.0)
    assert [each.files_done for each in heard] == [0, 2, 3]


def test_the_outcome_is_written_with_the_last_progress(instance: dg.DagsterInstance, locks: Locks) -> None:
    run_id = a_run(instance)
    finish(instance, run_id, Progress("done", files_total=3, files_done=3), {"files_failed": 1, "errors": ["why"]})
    (status,) = statuses(instance, locks, None)
    assert (status.progress.files_done, status.outcome["files_failed"], status.error) == (3, 1, "why")


def test_steps_at_the_same_time_add_up_to_the_progress_of_the_run_until_it_goes_on() -> None:
    expected = {"ingesting": Work(total=10.0), "reporting": Work(total=2.0)}
    before = Progress(READING, files_total=9, bytes_total=900, work=expected)
    of_step = Progress("ingesting", files_done=2, files_ingested=1, candles=50, bytes_done=200)
    tags = {PROGRESS_TAG: json.dumps(asdict(before))}
    for part, done in (("0000", 4.0), ("0001", 8.0)):
        work = {"ingesting": Work(total=done, done=done, taken=6.0)}
        tags |= part_tags(replace(of_step, work=work), part, 2)
    both = progress_of(tags)
    assert (both.phase, both.files_total, both.bytes_total) == ("ingesting", 9, 900)
    assert (both.files_done, both.files_ingested, both.candles, both.bytes_done) == (4, 2, 100, 400)
    # Two steps at the same time get on with half of the work of the run each.
    assert both.work == {"ingesting": Work(10.0, 6.0, 6.0), "reporting": Work(total=2.0)}
    later = replace(both, phase="resampling", candles=120)
    assert progress_of({**tags, PROGRESS_TAG: json.dumps(asdict(later))}) == later


def test_requests_of_steps_at_the_same_time_take_turns() -> None:
    expected = {"requesting candles": Work(total=10.0, is_remote=True)}
    tags = {PROGRESS_TAG: json.dumps(asdict(Progress(DEALING, requests_done=3, requests_total=13, work=expected)))}
    tags |= part_tags(Progress(), "001_XBTUSD", 2)
    assert progress_of(tags).phase == DEALING, "no group has begun"
    for part in ("001_XBTUSD", "002_ADAEUR"):
        work = {"requesting candles": Work(total=4.0, done=2.0, taken=4.0, is_remote=True)}
        tags |= part_tags(Progress("requesting candles", requests_done=2, published=7, work=work), part, 2)
    both = progress_of(tags)
    assert (both.phase, both.requests_done, both.requests_total, both.published) == ("requesting candles", 7, 13, 14)
    assert both.work == {"requesting candles": Work(10.0, 4.0, 4.0, is_remote=True)}
    later = replace(both, phase="finding gaps")
    assert progress_of({**tags, PROGRESS_TAG: json.dumps(asdict(later))}) == later


def test_a_run_without_tags_has_no_progress_and_no_outcome() -> None:
    assert progress_of({}) == Progress()
    assert outcome_of({}) == {}
    assert PROGRESS_TAG.startswith("kraken/")


def test_a_job_that_is_not_ours_has_no_selection(instance: dg.DagsterInstance, locks: Locks) -> None:
    @dg.job
    def something_else() -> None:
        """Of another code location."""

    something_else.execute_in_process(instance=instance)
    (status,) = statuses(instance, locks, None)
    told: dict[str, Any] = status.as_json()
    assert (told["job"], told["tier"], told["intervals"], told["assets"]) == ("something_else", None, [], [])
    assert isinstance(status, RunStatus)
    assert unfinished([status]) == []
