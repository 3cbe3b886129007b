"""What Dagster's history says of one step of a run: whether it is over, and how often it was started in vain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from kraken_pipeline.errors import KilledAgain

if TYPE_CHECKING:
    from dagster._grpc.types import ExecuteStepArgs

MOST_STARTS = 3
"""The number of times that a step is started whose process is killed each time. What kills a third process, such as a
lack of memory, kills a fourth one too."""
_NAMED = 10
_TYPE = dg.DagsterEventType
_STARTS = (_TYPE.STEP_START, _TYPE.STEP_RESTARTED)
_ENDS = (_TYPE.STEP_SUCCESS, _TYPE.STEP_FAILURE)


def step_lock(run_id: str, step_key: str) -> str:
    """Return the name of the lock of a step that is delivered to a worker, so that no two work on it."""
    return f"{run_id}.{step_key}"


def is_over(instance: dg.DagsterInstance, run: dg.DagsterRun, asked: ExecuteStepArgs) -> bool:
    """Check whether a step that is delivered is done, is not to be done any more, or was delivered for an earlier try.

    Args:
        instance: The instance that records the run.
        run: The run, as it is now.
        asked: Dagster's arguments of the execution of the step.
    """
    if run.is_finished or run.status is dg.DagsterRunStatus.CANCELING:
        return True
    (key,) = asked.step_keys_to_execute or ()
    events = _events(instance, asked.run_id, key)
    retries = asked.known_state.get_retry_state().get_attempt_count(key) if asked.known_state else 0
    return any(event in _ENDS for event in events) or events.count(_TYPE.STEP_UP_FOR_RETRY) != retries


def require_few_starts(context: dg.OpExecutionContext, members: Sequence[str]) -> None:
    """Check that the process of a step that has just started was not killed too often before.

    Args:
        context: The context of the step.
        members: What it works on, for the message.

    Raises:
        KilledAgain: MOST_STARTS processes began this step, and none of them ended it.
    """
    events = _events(context.instance, context.run_id, context.get_step_execution_context().step.key)
    starts = 0
    for event in events:
        starts = 0 if event is _TYPE.STEP_UP_FOR_RETRY else starts + (event in _STARTS)
    if starts > MOST_STARTS:
        more = f" and {len(members) - _NAMED} more" if len(members) > _NAMED else ""
        raise KilledAgain(
            f"{starts - 1} processes were killed in a row while they worked on {', '.join(members[:_NAMED])}{more}: "
            "see the logs of the workers and of their machines for the reason; if memory was short, give them more "
            "of it, or fewer processes, and run the same command again"
        )


def logged_before(context: dg.OpExecutionContext) -> set[tuple[dg.AssetKey, str]]:
    """Return the partitions that earlier processes of a step have materialised; empty if there were none.

    Args:
        context: The context of the step.
    """
    key = context.get_step_execution_context().step.key
    if sum(event in _STARTS for event in _events(context.instance, context.run_id, key)) <= 1:
        return set()
    entries = context.instance.all_logs(context.run_id, of_type=_TYPE.ASSET_MATERIALIZATION)
    found = (entry.dagster_event for entry in entries if entry.step_key == key)
    return {(event.asset_key, str(event.partition)) for event in found if event is not None and event.asset_key}


def _events(instance: dg.DagsterInstance, run_id: str, key: str) -> list[dg.DagsterEventType]:
    types = {*_STARTS, *_ENDS, _TYPE.STEP_UP_FOR_RETRY}
    entries = instance.all_logs(run_id, of_type=types)
    found = (entry.dagster_event for entry in entries if entry.step_key == key)
    return [event.event_type for event in found if event is not None]
