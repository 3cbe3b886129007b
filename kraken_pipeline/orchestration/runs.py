"""Runs: started from here, and read back from Dagster's run storage, which is the only record of them."""

from __future__ import annotations

import json
import logging
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any, TextIO, cast

import dagster as dg

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.logs import LOGGER
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.orchestration.health import health_job
from kraken_pipeline.orchestration.jobs.ingest_job import SPEC_TAG, ingest_job, spec_tags
from kraken_pipeline.orchestration.partitions import series_of
from kraken_pipeline.orchestration.progress import outcome_of, progress_of
from kraken_pipeline.storage.locks.locks import Locks
from kraken_pipeline.workflow.progress import Progress
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec

_OURS = "kraken_pipeline.errors."
_EVENT_LOST = "Exception while writing logger call to event log"
RESUMES_TAG = "kraken/resumes"
BEGUN_BY_TAG = "kraken/begun_by"
"""Finds the run of one call of `execute`."""
INTERRUPTED = "INTERRUPTED"
_ASSET_JOB = "__ASSET_JOB"
_CORNER_TAGS = ("dagster/partition", "dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
UNFINISHED = ("FAILURE", "CANCELED", INTERRUPTED)
_BEGINNING = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]
_BEGUN = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
BEGINNING_SECONDS = 600.0
"""A run that has not begun for so long has lost its process before it could take its lock."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run as `status` shows it.

    Attributes:
        run_id: Dagster's id.
        job: `ingest`, or `assets` for a run of assets that the UI started.
        spec: What it was asked to do; None for a run of assets.
        status: Dagster's status, or INTERRUPTED for a run whose process is gone.
        progress: How far it got.
        outcome: What it did in the end; empty until then.
        started_at: In seconds since the epoch; None before it began.
        finished_at: The same.
        error: What it failed with, with the traceback.
        resumes: The run that it continues.
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
        """How far it got; 100 for one that succeeded."""
        return 100.0 if self.status == "SUCCESS" else round(self.progress.percent, 1)

    def as_json(self) -> dict[str, object]:
        """As `status --json` shows it."""
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
    """The newest runs, of all jobs or of one, the newest first."""
    records = instance.get_run_records(dg.RunsFilter(job_name=job), limit=limit)
    return [_status(instance, locks, record) for record in records]


def _status(instance: dg.DagsterInstance, locks: Locks, record: dg.RunRecord) -> RunStatus:
    run = record.dagster_run
    status = str(run.status.value)
    if run.status in _BEGUN and not (_is_probing(record) or locks.is_running(run.run_id)):
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


def _is_probing(record: dg.RunRecord) -> bool:
    """Whether it is a look at the health, which takes no lock: it must not need the catalog that may hold it."""
    return record.dagster_run.job_name == health_job.name and (
        record.create_timestamp.timestamp() > time.time() - BEGINNING_SECONDS
    )


def _spec(run: dg.DagsterRun) -> RunSpec | None:
    if SPEC_TAG in run.tags:
        return run_spec(json.loads(run.tags[SPEC_TAG]))
    if run.job_name == ingest_job.name:
        return run_spec(run.run_config)
    return _spec_of_assets(run)


def _spec_of_assets(run: dg.DagsterRun) -> RunSpec | None:
    """What a run of assets works on, as far as its selection and the corners of its partitions tell."""
    tiers = {key.path[0].upper() for key in run.asset_selection or ()}
    if len(tiers) != 1:
        return None
    corners = [series_of(run.tags[tag]) for tag in _CORNER_TAGS if tag in run.tags]
    bounds = [corner.interval for corner in corners] or list(Interval)
    return run_spec(
        tier=tiers.pop(),
        intervals=[interval for interval in Interval if min(bounds) <= interval <= max(bounds)],
        pairs=[corners[0].pair] if len({corner.pair for corner in corners}) == 1 else None,
    )


def _warnings(outcome: Mapping[str, Any]) -> str | None:
    errors = outcome.get("errors") or []
    return "; ".join(errors) or None


def _error(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """The sentence of the first failed step, and the traceback where there is one."""
    for event_type in (dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE):
        for entry in instance.all_logs(run.run_id, of_type=event_type):
            event = entry.dagster_event
            if event is None:
                continue
            failure = getattr(event.event_specific_data, "user_failure_data", None)
            error = getattr(event.event_specific_data, "error", None)
            trace = error.to_string() if error is not None else (event.message or "")
            while error is not None and error.cause is not None and not error.message.startswith(_OURS):
                error = error.cause  # Dagster wraps what happened; a sentence of ours says what that was
            sentence = failure.description if failure is not None else _said(error.message) if error else None
            return f"{sentence.strip()}\n{trace}" if sentence else trace
    return "it failed, and left no event that says why"


def _said(message: str) -> str:
    """The message of an error, without its class where it is one of ours: those are sentences."""
    return message.partition(": ")[2] if message.startswith(_OURS) else message


def find_run(instance: dg.DagsterInstance, locks: Locks, run_id: str) -> RunStatus:
    """The run whose id begins like that.

    Raises:
        InvalidRequest: There is none, or more than one.
    """
    found = [record for record in instance.get_run_records() if record.dagster_run.run_id.startswith(run_id) and run_id]
    if len(found) != 1:
        many = f"{len(found)} runs begin" if found else "no run begins"
        raise InvalidRequest(f"{many} with {run_id!r}; `kraken-pipeline status` lists them")
    return _status(instance, locks, found[0])


def at_work(instance: dg.DagsterInstance, locks: Locks, job: str) -> str | None:
    """The run of a job that has not ended; one that was killed holds no lock, and holds up nothing."""
    since = time.time() - BEGINNING_SECONDS
    for record in instance.get_run_records(dg.RunsFilter(job_name=job, statuses=[*_BEGINNING, *_BEGUN])):
        run = record.dagster_run
        is_beginning = run.status in _BEGINNING and record.create_timestamp.timestamp() > since
        if is_beginning or locks.is_running(run.run_id):
            return run.run_id
    return None


def unfinished(statuses_: Sequence[RunStatus]) -> list[RunStatus]:
    """The ingests that failed, were cancelled or were killed, and that no later one has made up for."""
    made_up: set[str] = set()
    found: list[RunStatus] = []
    done: list[RunSpec | None] = []
    for run in statuses_:  # the newest first
        if run.job != ingest_job.name:
            continue
        if run.status == "SUCCESS":
            done.append(run.spec)
            made_up.update([run.resumes] if run.resumes else [])
        elif run.status in UNFINISHED and run.run_id not in made_up and run.spec not in done:
            found.append(run)
        elif run.status in UNFINISHED and run.resumes:
            made_up.add(run.resumes)
    return found


def execute(
    instance: dg.DagsterInstance,
    job: Callable[[], dg.JobDefinition],
    spec: RunSpec | None,
    resumes: str | None = None,
    *,
    config: Mapping[str, Any] | None = None,
) -> str:
    """Runs a job in this process, as a run like any other; returns its id, whatever became of it.

    Args:
        instance: Whose run it is.
        job: Gives the job with its resources; a function of a module, which Dagster can find again.
        spec: What it is to do, for jobs that take that.
        resumes: The run that it continues.
        config: What it is to do, for others.
    """
    told = {BEGUN_BY_TAG: uuid.uuid4().hex}
    if spec is not None:
        told |= spec_tags(spec)
    if resumes:
        told[RESUMES_TAG] = resumes
    run_config = dict(config or {}) if spec is None else spec.as_config()
    # The result is not entered: that would open the run's stores once more, which may be what it failed at.
    try:
        with redirect_stderr(cast("TextIO", _WithoutStatements(sys.stderr))):
            result = dg.execute_job(
                dg.reconstructable(job), instance=instance, run_config=run_config, tags=told, raise_on_error=False
            )
    except KeyboardInterrupt:  # before the run's steps, or behind them
        for run in instance.get_runs(dg.RunsFilter(tags={BEGUN_BY_TAG: told[BEGUN_BY_TAG]})):
            _cancel(instance, run)
        raise
    if any(_is_interruption(event) for event in result.all_events):
        _cancel(instance, result.dagster_run)
    return str(result.run_id)


class _WithoutStatements:
    """Standard error without the SQL that Dagster writes there when its history cannot be written.

    Args:
        stream: Where everything else goes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if text.startswith(_EVENT_LOST):
            logging.getLogger(LOGGER).debug(text.splitlines()[0])
            return len(text)
        return self._stream.write(text)


def _is_interruption(event: dg.DagsterEvent) -> bool:
    """Whether an event ends a run that was interrupted; Dagster takes that for a failure."""
    reason = event.job_failure_data.failure_reason if event.is_job_failure else None
    return reason is not None and reason.name == "UNEXPECTED_TERMINATION"


def _cancel(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    if run.status is not dg.DagsterRunStatus.SUCCESS:
        instance.report_run_canceled(run, "Stopped by Ctrl-C or SIGTERM; the same command goes on.")
