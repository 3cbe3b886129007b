"""Findings from Dagster's storage: failed runs, schedules without a success, silent daemons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, ScheduleInstigatorData, TickStatus
from dagster._utils.schedules import reverse_cron_string_iterator

from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.orchestration.monitoring.run_metrics import last_success
from kraken_pipeline.orchestration.run_records import JOBS
from kraken_pipeline.orchestration.runs import INTERRUPTED, statuses
from kraken_pipeline.storage.locks.locks import Locks
from kraken_pipeline.workflow.alerts.alert import Finding
from kraken_pipeline.workflow.health.dagster_health import DagsterState

RUN, SCHEDULE, DAEMON = "run", "schedule", "daemon"
_ENDED = ("SUCCESS", "FAILURE", INTERRUPTED)
_LOOKED_AT = 5
"""The newest runs of a job of which the first one that has ended counts: others are at work, or were cancelled."""
_STILL_AT_WORK = "still at work"


def failed_runs(instance: dg.DagsterInstance, locks: Locks) -> Iterator[Finding]:
    """Yield the jobs whose last run failed, was killed, or could not ingest some files."""
    for job in JOBS:
        ended = [run for run in statuses(instance, locks, _LOOKED_AT, job=job) if run.status in _ENDED]
        if not ended:
            continue
        run = ended[0]
        files = run.outcome.get("files_failed", 0)
        if run.status != "SUCCESS":
            how = "was killed" if run.status == INTERRUPTED else "failed"
            sentence = f"run {run.run_id[:8]} {how}; kraken-pipeline status says why. Run it again: it continues"
            yield Finding(f"{RUN}:{job}", sentence)
        elif files:
            sentence = (
                f"run {run.run_id[:8]} could not ingest {quantity(files, 'file')}; kraken-pipeline status says why"
            )
            yield Finding(f"{RUN}:{job}", sentence)


def late_schedules(
    instance: dg.DagsterInstance, schedules: Sequence[dg.ScheduleDefinition], hours: float, now: float
) -> Iterator[Finding]:
    """Yield the schedules that are on, and whose job has not succeeded for some hours after it was due.

    A tick that had nothing to do counts as a success, and one that waits for a run of the same job does not.
    """
    states = {state.name: state for state in instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE)}
    for schedule in schedules:
        state = states.get(schedule.name)
        if state is None or not _is_on(state, schedule):
            continue
        due = _due(schedule, now - 3_600 * hours)
        data = state.instigator_data
        began = data.start_timestamp if isinstance(data, ScheduleInstigatorData) else None
        if due < (began or 0.0) or (last_success(instance, schedule.job_name) or 0.0) >= due:
            continue
        if not _had_nothing_to_do(instance, state, due):
            yield Finding(
                f"{SCHEDULE}:{schedule.name}",
                f"{schedule.job_name} was due at {iso(int(due))} and has not succeeded since; look at its runs "
                "(kraken-pipeline status), and whether the daemon runs",
            )


def _is_on(state: InstigatorState, schedule: dg.ScheduleDefinition) -> bool:
    is_on_by_default = schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    is_default = state.status is InstigatorStatus.DECLARED_IN_CODE
    return state.status is InstigatorStatus.RUNNING or (is_default and is_on_by_default)


def _due(schedule: dg.ScheduleDefinition, before: float) -> float:
    """Return the last time before a moment at which a schedule was due, in seconds since the epoch."""
    return next(reverse_cron_string_iterator(before, str(schedule.cron_schedule), "UTC")).timestamp()


def _had_nothing_to_do(instance: dg.DagsterInstance, state: InstigatorState, since: float) -> bool:
    ticks = instance.get_ticks(
        state.instigator_origin_id, state.selector_id, after=since, statuses=[TickStatus.SKIPPED]
    )
    return any(_STILL_AT_WORK not in (tick.skip_reason or "") for tick in ticks)


def silent_daemons(state: DagsterState, now: float) -> Iterator[Finding]:
    """Yield the daemons that have run, are needed, and have not reported for some time."""
    for name, beat in state.silent(now).items():
        yield Finding(
            f"{DAEMON}:{name.lower()}",
            f"it has not reported since {iso(int(beat))}, so schedules and sensors do not run; "
            "start dagster-daemon again",
        )
