"""Dagster runs that commands execute in their own process, with progress and result on the terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.console import Console

from kraken_pipeline.cli import report_tables, run_tables, terminal
from kraken_pipeline.cli.layout import say
from kraken_pipeline.cli.options import present
from kraken_pipeline.cli.output import err, out, print_json
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.stores import opened, opened_locks, require_writable
from kraken_pipeline.workflow.ingest.scan import require_folders
from kraken_pipeline.workflow.report.report import make_report
from kraken_pipeline.workflow.run_spec import RunSpec

if TYPE_CHECKING:
    from kraken_pipeline.orchestration.runs import RunStatus

Result = TypeVar("Result")


def is_well(run: RunStatus) -> bool:
    """Check whether a run succeeded without any failed file or fetch."""
    return run.status == "SUCCESS" and not run.outcome.get("files_failed") and not run.outcome.get("fetches_failed")


@contextmanager
def loading_dagster(settings: Settings, *, as_json: bool) -> Iterator[None]:
    """Show activity while Dagster is imported, and keep its log off the terminal."""
    require_writable(settings)
    # The import takes seconds, and only the commands that start or list runs need it.
    if not os.environ.get("KRAKEN_LOG_LEVEL"):  # an empty variable counts as not set
        os.environ["KRAKEN_LOG_LEVEL"] = "CRITICAL"  # the command line reports events itself
    with terminal.progress_bar(err if as_json else out):
        yield


def ingest_archives(settings: Settings, spec: RunSpec, resume: str | None, *, as_json: bool) -> RunStatus:
    """Run the job `ingest`, or resume an earlier run of it with that run's own configuration."""
    unfinished: list[RunStatus] = []
    with loading_dagster(settings, as_json=as_json):
        from kraken_pipeline.definitions import bound_ingest  # noqa: PLC0415
        from kraken_pipeline.orchestration import runs  # noqa: PLC0415
        from kraken_pipeline.orchestration.instance import instance_of  # noqa: PLC0415

        require_folders(settings, spec)
        with instance_of(settings) as instance, opened_locks(settings) as locks:
            if resume is not None:
                earlier = runs.find_run(instance, locks, resume)
                if earlier.job != "ingest":
                    raise InvalidRequest(
                        f"run {earlier.run_id} is a run of {earlier.job}; only an ingest can be resumed"
                    )
                if earlier.spec is None or earlier.status not in runs.UNFINISHED:
                    raise InvalidRequest(f"run {earlier.run_id} is {earlier.status}; there is nothing to resume")
                spec, resume = earlier.spec, earlier.run_id
            else:
                unfinished = runs.unfinished(runs.statuses(instance, locks, 50, job="ingest"))
    for run in unfinished:
        say(
            err if as_json else out,
            f"Run {run.run_id[:8]} is {run.status}; this run ingests what it left of the same files. To repeat it "
            f"with its own configuration: kraken-pipeline ingest --resume {run.run_id[:8]}",
            "yellow",
        )
    require_folders(settings, spec)  # those of a resumed run
    return executed(settings, bound_ingest, spec, resume, as_json=as_json)


def executed(
    settings: Settings,
    job: Callable[[], Any],
    spec: RunSpec | None,
    resume: str | None = None,
    *,
    as_json: bool,
    config: dict[str, Any] | None = None,
) -> RunStatus:
    """Run a job in this process, and show its progress and its result."""
    done = run_job(settings, job, spec, resume, console=err if as_json else out, config=config)
    if as_json:
        print_json({**done.as_json(), "outcome": dict(done.outcome)})
    else:
        run_tables.ran(out, done.as_json(), done.outcome, spec)
        if done.status == "SUCCESS" and spec is not None:
            with terminal.progress_bar(out, "reporting"), opened(settings) as stores:
                made = make_report(stores, spec, present())
            report_tables.report(out, made)
    return done


def run_job(
    settings: Settings,
    job: Callable[[], Any],
    spec: RunSpec | None,
    resume: str | None = None,
    *,
    console: Console,
    config: dict[str, Any] | None = None,
) -> RunStatus:
    """Run a job in this process, and show its progress.

    Args:
        settings: The settings.
        job: Returns the job with its resources.
        spec: The run spec, for jobs that use one.
        resume: The id of the run that it resumes.
        console: The console for the progress.
        config: The run config, for other jobs.

    Raises:
        KeyboardInterrupt: The run was cancelled.
    """
    from kraken_pipeline.orchestration import execution, progress, runs  # noqa: PLC0415
    from kraken_pipeline.orchestration.instance import instance_of  # noqa: PLC0415

    with (
        terminal.progress_bar(console) as listener,
        progress.listening(listener),
        instance_of(settings) as instance,
    ):
        run_id = execution.execute(instance, job, spec, resume, config=config)
        with opened_locks(settings) as locks:
            done = runs.find_run(instance, locks, run_id)
    if done.status == "CANCELED":
        raise KeyboardInterrupt
    return done


def result_of(
    settings: Settings, job: Callable[[], Any], kind: type[Result], *, config: dict[str, Any], console: Console
) -> Result:
    """Run a job in this process, show its progress, and return the result that it hands over.

    Args:
        settings: The settings.
        job: Returns the job with its resources.
        kind: The type of the result.
        config: The run config.
        console: The console for the progress.

    Raises:
        Exit: The run failed, which is reported.
        KeyboardInterrupt: The run was cancelled.
    """
    from kraken_pipeline.orchestration import progress  # noqa: PLC0415

    with progress.collecting() as results:
        run = run_job(settings, job, None, console=console, config=config)
    require_success(run)
    return next(result for result in results if isinstance(result, kind))


def require_success(run: RunStatus) -> None:
    """Report a run that failed.

    Raises:
        Exit: It failed.
    """
    if (failure := failure_of(run)) is not None:
        say(err, f"kraken-pipeline: {failure}", "red")
        raise typer.Exit(1)


def failure_of(run: RunStatus) -> str | None:
    """Return the sentence of a run that failed; None for one that succeeded."""
    return None if run.status == "SUCCESS" else (run.error or run.status).partition("\n")[0]
