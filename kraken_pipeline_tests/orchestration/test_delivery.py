"""The delivery of steps to workers: what the history says of a step, and which of its events count."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from dagster import DagsterEventType as Type
from dagster._core.execution.plan.objects import StepFailureData, StepSuccessData
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.execution.retries import RetryMode
from dagster._core.utils import make_new_run_id
from dagster._grpc.types import ExecuteStepArgs

from kraken_pipeline.errors import KilledAgain
from kraken_pipeline.orchestration.delivery.starts import MOST_STARTS, is_over, require_few_starts
from kraken_pipeline.settings import load_settings

if TYPE_CHECKING:
    from kraken_pipeline.orchestration.delivery.executor import CelerySteps

STEP = "work"
START, RETRY, AGAIN = Type.STEP_START, Type.STEP_UP_FOR_RETRY, Type.STEP_RESTARTED


def event(kind: Type, pid: int, key: str = STEP) -> dg.DagsterEvent:
    """What a process says of a step."""
    data: Any = None
    if kind is Type.STEP_SUCCESS:
        data = StepSuccessData(0.0)  # type: ignore[no-untyped-call]
    elif kind is Type.STEP_FAILURE:
        data = StepFailureData(None, None)  # type: ignore[no-untyped-call]
    return dg.DagsterEvent(kind.value, "job", step_key=key, event_specific_data=data, pid=pid)


def record(instance: dg.DagsterInstance, run_id: str, types: Sequence[Type], key: str = STEP) -> None:
    """Puts events of a step on record, as the processes of workers do."""
    for kind in types:
        instance.report_dagster_event(event(kind, os.getpid(), key), run_id)


def asked(instance: dg.DagsterInstance, run_id: str, retries: int = 0) -> ExecuteStepArgs:
    known = KnownExecutionState(previous_retry_attempts={STEP: retries} if retries else {})
    origin = dg.reconstructable(job_of_work).get_python_origin()
    return ExecuteStepArgs(origin, run_id, [STEP], None, known_state=known)


@pytest.mark.parametrize(
    ("types", "retries", "expected"),
    [
        ((), 0, False),
        ((START,), 0, False),  # its process was killed
        ((START, Type.STEP_SUCCESS), 0, True),
        ((START, Type.STEP_FAILURE), 0, True),
        ((START, RETRY), 0, True),  # delivered for the first try, which is over
        ((START, RETRY), 1, False),
        ((START, RETRY, AGAIN, RETRY), 1, True),
    ],
)
def test_a_step_is_over_if_it_ended_or_is_tried_anew(
    instance: dg.DagsterInstance, types: Sequence[Type], retries: int, expected: bool
) -> None:
    run = instance.create_run_for_job(job_of_work(), status=dg.DagsterRunStatus.STARTED)
    record(instance, run.run_id, types)
    record(instance, run.run_id, [START, Type.STEP_SUCCESS], key="another")
    assert is_over(instance, run, asked(instance, run.run_id, retries)) is expected


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.CANCELING])
def test_a_step_of_a_run_that_is_stopped_is_over(instance: dg.DagsterInstance, status: dg.DagsterRunStatus) -> None:
    run = instance.create_run_for_job(job_of_work(), status=status)
    assert is_over(instance, run, asked(instance, run.run_id))


@dg.op
def work(context: dg.OpExecutionContext) -> None:
    """Works on some pairs, unless its process was killed too often."""
    require_few_starts(context, [f"P{number}USD" for number in range(12)])


def job_of_work() -> dg.JobDefinition:
    @dg.job(name="job")
    def job() -> None:
        work()

    return job


@pytest.mark.parametrize(
    ("before", "is_refused"),
    [
        ([START] * (MOST_STARTS - 1), False),
        ([START] * MOST_STARTS, True),
        ([START] * MOST_STARTS + [RETRY], False),  # a passing error, and not a kill, ended the last of them
    ],
)
def test_a_step_is_refused_after_its_process_was_killed_three_times(
    instance: dg.DagsterInstance, before: Sequence[Type], is_refused: bool
) -> None:
    run_id = make_new_run_id()
    record(instance, run_id, before)
    done = job_of_work().execute_in_process(instance=instance, run_id=run_id, raise_on_error=False)
    assert done.success is not is_refused
    if is_refused:
        (failure,) = done.get_step_failure_events()
        error = failure.step_failure_data.error
        assert error is not None
        assert error.cause is not None
        assert error.cause.cls_name == KilledAgain.__name__
        assert f"{MOST_STARTS} processes were killed in a row" in error.cause.message
        assert "P9USD and 2 more" in error.cause.message


# --- which events count


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "CelerySteps":
    """An executor that has asked no broker for anything."""
    monkeypatch.setenv("KRAKEN_PIPELINE_HOME", str(tmp_path))
    monkeypatch.setenv("KRAKEN_CELERY_URL", "redis://127.0.0.1:9/0")
    # It makes the Celery app, which needs the settings.
    from kraken_pipeline.orchestration.delivery.executor import CelerySteps

    return CelerySteps(load_settings(), RetryMode.ENABLED)


def test_of_a_killed_process_nothing_counts_and_of_one_that_hung_not_the_end(steps: "CelerySteps") -> None:
    killed = [event(START, 1), event(Type.LOGS_CAPTURED, 1)]
    at_work = [event(START, 2), event(Type.LOGS_CAPTURED, 2)]
    hung = [event(Type.STEP_SUCCESS, 1)]
    done = [event(Type.STEP_SUCCESS, 2)]
    found = [other for one in (*killed, *at_work, *hung, *done, *hung) for other in steps._released(one)]
    assert found == [*at_work, *done]
