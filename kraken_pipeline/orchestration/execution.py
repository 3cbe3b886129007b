"""Executes jobs in this process, as runs of the code location that the workspace serves.

The UI and the run-status sensors know a run by its origin: code location, repository and job. Only runs that were
launched through a code server have one; `dagster.execute_job` gives none, so its runs appear in the list of runs, but
not on the page of their job, on the timeline or on the overview. The origin consists of names, so this module states it
without starting a server. It needs two private names of Dagster for that; a test fails when either is gone.
"""

from __future__ import annotations

import logging
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from typing import Any, TextIO, cast

import dagster as dg
from dagster._core.execution.api import execute_run
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin

from kraken_pipeline.logs import LOGGER
from kraken_pipeline.orchestration.run_records import spec_tags
from kraken_pipeline.orchestration.runs import RESUMES_TAG
from kraken_pipeline.workflow.run_spec import RunSpec

CODE_LOCATION = "kraken_pipeline"
"""The name of the code location in `workspace.yaml`."""
REPOSITORY = "__repository__"
"""Dagster's name of the repository of a `Definitions` object."""
BEGUN_BY_TAG = "kraken/begun_by"
"""The tag that identifies the run of one call of `execute`."""
_EVENT_LOST = "Exception while writing logger call to event log"


def execute(
    instance: dg.DagsterInstance,
    job: Callable[[], dg.JobDefinition],
    spec: RunSpec | None,
    resumes: str | None = None,
    *,
    config: Mapping[str, Any] | None = None,
) -> str:
    """Run a job in this process as an ordinary Dagster run, and return its id, whether it succeeded or not.

    Args:
        instance: The Dagster instance that records the run.
        job: Returns the job with its resources; a module-level function, which Dagster can import again.
        spec: The run spec, for jobs that use one.
        resumes: The id of the run that it resumes.
        config: The run config, for other jobs.

    Raises:
        KeyboardInterrupt: Ctrl-C arrived before the run's first step or after its last one.
    """
    tags = {BEGUN_BY_TAG: uuid.uuid4().hex}
    if spec is not None:
        tags |= spec_tags(spec)
    if resumes:
        tags[RESUMES_TAG] = resumes
    run_config = dict(config or {}) if spec is None else spec.as_config()
    # The result is not used as a context manager: that would open the stores again, which may be what failed.
    try:
        with redirect_stderr(cast("TextIO", _WithoutStatements(sys.stderr))):
            result = _executed(instance, job, run_config, tags)
    except KeyboardInterrupt:  # before the run's first step, or after its last one
        for run in instance.get_runs(dg.RunsFilter(tags={BEGUN_BY_TAG: tags[BEGUN_BY_TAG]})):
            _cancel(instance, run)
        raise
    if any(_is_interruption(event) for event in result.all_events):
        _cancel(instance, result.dagster_run)
    return str(result.run_id)


def _executed(
    instance: dg.DagsterInstance,
    job: Callable[[], dg.JobDefinition],
    run_config: Mapping[str, Any],
    tags: Mapping[str, str],
) -> dg.JobExecutionResult:
    """Create a run with its origin, and execute it."""
    reconstructable = dg.reconstructable(job)
    definition = reconstructable.get_definition()
    origin = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(CODE_LOCATION), REPOSITORY)
    run = instance.create_run_for_job(
        definition,
        run_config=run_config,
        tags={**definition.run_tags, **tags},
        remote_job_origin=origin.get_job_origin(definition.name),
        job_code_origin=reconstructable.get_python_origin(),
    )
    return execute_run(reconstructable, run, instance)


class _WithoutStatements:
    """A wrapper of standard error that drops the SQL that Dagster writes when its history cannot be written.

    Args:
        stream: The stream that receives everything else.
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
    """Check whether an event reports the interruption of a run, which Dagster treats as a failure."""
    reason = event.job_failure_data.failure_reason if event.is_job_failure else None
    return reason is not None and reason.name == "UNEXPECTED_TERMINATION"


def _cancel(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    if run.status is not dg.DagsterRunStatus.SUCCESS:
        instance.report_run_canceled(run, "Stopped by Ctrl-C or SIGTERM; run the same command to continue.")
