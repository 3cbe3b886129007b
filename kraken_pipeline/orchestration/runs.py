"""Reads runs from Dagster's run storage, which is the only record of runs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.moment import iso
from kraken_pipeline.orchestration.progress import outcome_of, progress_of
from kraken_pipeline.orchestration.run_records import HEALTH_JOB, INGEST_JOB, SPEC_TAG
from kraken_pipeline.storage.locks.locks import Locks
from kraken_pipeline.workflow.progress import Progress
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec
from kraken_pipeline.workflow.side_by_side import PROCESS_KILLED

_OURS = "kraken_pipeline.errors."
_CRASHED = "ChildProcessCrashException"
"""Dagster's error for a step whose process was killed."""
RESUMES_TAG = "kraken/resumes"
INTERRUPTED = "INTERRUPTED"
_ASSET_JOB = "__ASSET_JOB"
UNFINISHED = ("FAILURE", "CANCELED", INTERRUPTED)
_BEGINNING = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]
_BEGUN = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
SEARCHED_RUNS = 50_000
"""The number of runs, the newest first, whose ids are searched for the beginning of an id: a run every 15 minutes for
more than a year. Only the ids are read."""
BEGINNING_SECONDS = 600.0
"""The time after which a run that has not started counts as dead: its process ended before it acquired its lock."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run as `status` shows it.

    Attributes:
        run_id: Dagster's id.
        job: The name of the job, such as `ingest`, or `assets` for a run of assets that the UI started.
        spec: The run spec; None if the run has none.
        status: Dagster's status, or INTERRUPTED for a run whose process is gone.
        progress: The progress of the run.
        outcome: The outcome of the run; empty until it finishes.
        started_at: The start, in seconds since the epoch; None before it.
        finished_at: The end, in seconds since the epoch; None before it.
        error: The error with its traceback, or the errors in the outcome; None without any.
        resumes: The id of the run that it resumes; None if it resumes none.
    """

    run_id: str
    job: str
    spec: RunSpec | None
    status: str
    progress: Progress
    outcome: Mapping[str, Any]
    started_at: float | None
    finished_at: float | None
    error: str | None
    resumes: str | None

    @property
    def percent(self) -> float:
        """The progress in per cent; 100 for a run that succeeded."""
        return 100.0 if self.status == "SUCCESS" else round(self.progress.percent, 1)

    def as_json(self) -> dict[str, object]:
        """Return the run as `status --json` shows it."""
        spec = self.spec
        ended = self.finished_at
        return {
            "run_id": self.run_id,
            "job": self.job,
            "tier": str(spec.tier) if spec else None,
            "intervals": [interval.value for interval in spec.intervals] if spec else [],
            "start": iso(spec.start) if spec and spec.start is not None else None,
            "end": iso(spec.end) if spec and spec.end is not None else None,
            "status": self.status,
            "progress_pct": self.percent,
            "started_at": iso(int(self.started_at)) if self.started_at else None,
            "finished_at": iso(int(ended)) if ended else None,
            "duration_s": round(ended - self.started_at, 3) if ended and self.started_at else None,
            "assets": list(spec.pairs) if spec else [],
            "files_total": self.progress.files_total,
            "files_ingested": self.progress.files_ingested,
            "candles_ingested": self.progress.candles,
            "error": self.error,
        }


def statuses(
    instance: dg.DagsterInstance, locks: Locks, limit: int | None, *, job: str | None = None
) -> list[RunStatus]:
    """Return the newest runs, of all jobs or of one, the newest first."""
    records = instance.get_run_records(dg.RunsFilter(job_name=job), limit=limit)
    return [_status(instance, locks, record) for record in records]


def _status(instance: dg.DagsterInstance, locks: Locks, record: dg.RunRecord) -> RunStatus:
    run = record.dagster_run
    status = str(run.status.value)
    if _is_gone(locks, record):
        status = INTERRUPTED
    outcome = outcome_of(dict(run.tags))
    return RunStatus(
        run_id=run.run_id,
        job="assets" if run.job_name == _ASSET_JOB else run.job_name,
        spec=_spec(run),
        status=status,
        progress=progress_of(dict(run.tags)),
        outcome=outcome,
        started_at=record.start_time,
        finished_at=record.end_time,
        error=_error(instance, run) if run.status is dg.DagsterRunStatus.FAILURE else _warnings(outcome),
        resumes=run.tags.get(RESUMES_TAG),
    )


def _is_gone(locks: Locks, record: dg.RunRecord) -> bool:
    run = record.dagster_run
    return run.status in _BEGUN and not (_is_probing(record) or locks.is_running(run.run_id))


def _is_probing(record: dg.RunRecord) -> bool:
    """Check whether a run is a recent health check; it holds no lock, because a lock may need the catalog."""
    return record.dagster_run.job_name == HEALTH_JOB and (
        record.create_timestamp.timestamp() > time.time() - BEGINNING_SECONDS
    )


def _spec(run: dg.DagsterRun) -> RunSpec | None:
    if SPEC_TAG in run.tags:
        return run_spec(json.loads(run.tags[SPEC_TAG]))
    if run.job_name == INGEST_JOB:
        return run_spec(run.run_config)
    return None


def _warnings(outcome: Mapping[str, Any]) -> str | None:
    errors = outcome.get("errors") or []
    return "; ".join(errors) or None


def _error(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """Return the sentence of the first failed step, and the traceback if there is one."""
    for event_type in (dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE):
        for entry in instance.all_logs(run.run_id, of_type=event_type):
            event = entry.dagster_event
            if event is None:
                continue
            failure = getattr(event.event_specific_data, "user_failure_data", None)
            error = getattr(event.event_specific_data, "error", None)
            trace = error.to_string() if error is not None else (event.message or "")
            while error is not None and error.cause is not None and not error.message.startswith(_OURS):
                error = error.cause  # Dagster wraps the pipeline's error, which has the sentence
            sentence = (
                failure.description if failure is not None else _said(error.message, error.cls_name) if error else None
            )
            return f"{sentence.strip()}\n{trace}" if sentence else trace
    return "it failed without an event that says why"


def _said(message: str, class_name: str | None) -> str:
    """Return the message of an error; one of the pipeline's errors is a sentence and loses its class name."""
    if class_name == _CRASHED:
        return PROCESS_KILLED
    return message.partition(": ")[2] if message.startswith(_OURS) else message


def find_run(instance: dg.DagsterInstance, locks: Locks, run_id: str) -> RunStatus:
    """Return the run with this id, or the run whose id begins with this text among the newest SEARCHED_RUNS runs.

    Raises:
        InvalidRequest: No run matches, or more than one does.
    """
    record = instance.get_run_record_by_id(run_id) if run_id else None
    if record is None:
        ids = instance.get_run_ids(limit=SEARCHED_RUNS) if run_id else ()
        found = [known for known in ids if known.startswith(run_id)]
        if len(found) != 1:
            many = f"{len(found)} runs begin" if found else "no run begins"
            raise InvalidRequest(f"{many} with {run_id!r}; `kraken-pipeline status` lists them")
        record = instance.get_run_record_by_id(found[0])
        assert record is not None  # noqa: S101 - for the type checker
    return _status(instance, locks, record)


def at_work(instance: dg.DagsterInstance, locks: Locks, job: str) -> str | None:
    """Return the id of a job's unfinished run; a killed run does not count, because it holds no lock."""
    since = time.time() - BEGINNING_SECONDS
    for record in instance.get_run_records(dg.RunsFilter(job_name=job, statuses=[*_BEGINNING, *_BEGUN])):
        run = record.dagster_run
        is_beginning = run.status in _BEGINNING and record.create_timestamp.timestamp() > since
        if is_beginning or locks.is_running(run.run_id):
            return run.run_id
    return None


def without_process(instance: dg.DagsterInstance, locks: Locks) -> list[dg.DagsterRun]:
    """Return the runs that have begun and not ended, and whose process is gone: nobody holds their lock."""
    records = instance.get_run_records(dg.RunsFilter(statuses=_BEGUN))
    return [record.dagster_run for record in records if _is_gone(locks, record)]


def unfinished(statuses_: Sequence[RunStatus]) -> list[RunStatus]:
    """Return the ingests that failed, were cancelled or were killed, and that no later run completed or resumed."""
    made_up: set[str] = set()
    found: list[RunStatus] = []
    done: list[RunSpec | None] = []
    for run in statuses_:  # the newest first
        if run.job != INGEST_JOB:
            continue
        if run.status == "SUCCESS":
            done.append(run.spec)
            made_up.update([run.resumes] if run.resumes else [])
        elif run.status in UNFINISHED and run.run_id not in made_up and run.spec not in done:
            found.append(run)
        elif run.status in UNFINISHED and run.resumes:
            made_up.add(run.resumes)
    return found
