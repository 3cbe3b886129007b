"""The executor of jobs whose steps are groups of pairs: this process, or the one that KRAKEN_EXECUTOR names.

In this process, one step does all of its groups and holds the lock and the slot of the run. With any other executor,
the process that drives the run holds both for as long as the run lasts, and each step is one group in a process of its
own, on this machine or on another. A step holds a lock of its own, so that a recovery waits until it has ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import dagster as dg

from kraken_pipeline.errors import InvalidSettings, OtherCode
from kraken_pipeline.orchestration.delivery.renewal import kept, repeated
from kraken_pipeline.orchestration.progress import announce, progress_of
from kraken_pipeline.orchestration.run_records import (
    BACKFILL_JOB,
    INGEST_JOB,
    PROVE_JOB,
    PUBLISH_JOB,
    RECONCILE_JOB,
    VERIFY_JOB,
)
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.locks.locks import Locks
from kraken_pipeline.storage.stores import opened_locks
from kraken_pipeline.workflow.health.worker_watch import watched_workers

PACKAGE = Path(__file__).resolve().parents[1]
IMAGE_VARIABLE = "DAGSTER_CURRENT_IMAGE"
"""The variable with the image of a code location, which Dagster's chart sets there. The pods of the steps of a run that
a command started use it. A run that Dagster launched knows its image by itself."""
LOADED_BEFORE_FORK = (
    "kraken_pipeline.orchestration.delivery.step_server",
    "dagster",
    "dagster._core.storage.runs",
    "kraken_pipeline.kraken.client",
    "kraken_pipeline.storage.locks.locks",
    "kraken_pipeline.storage.reply_cache.redis_cache",
    "kraken_pipeline.workflow.metrics.page",
)
"""The modules that are loaded by the server which the processes of steps are forked from. To load them takes two thirds
of the time that a new process takes to load the project. Those of the project are named for the libraries that they
load, such as requests and redis. None of them imports Polars or starts a thread: a process that is
forked while a thread of Polars holds a lock can wait for that lock for ever."""
CODE_TAG = "kraken/code"
"""The tag with the digest of the code of the process that drives the run."""
_GROUPED: Mapping[str, str | None] = {
    INGEST_JOB: "ingest",
    RECONCILE_JOB: None,
    VERIFY_JOB: None,
    PUBLISH_JOB: None,
    BACKFILL_JOB: "api",
    PROVE_JOB: "api",
}
"""The jobs whose steps are groups, and the kind of slot that each run of them holds; None for a run that needs none."""


def steps_are_groups(settings: Settings, job_name: str) -> bool:
    """Return whether the steps of a job are groups of pairs, each in a process of its own."""
    return job_name in _GROUPED and settings.kraken_executor != "in_process"


@cache
def code_digest() -> str:
    """Return the SHA-256 of all modules of this package, as hexadecimal digits: the steps of a run need the same code.

    It is computed when a process first needs it. A worker that keeps running while the code is replaced keeps the
    modules that it has loaded, and the digest that belongs to them.
    """
    digest = sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(PACKAGE)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def require_same_code(context: dg.OpExecutionContext) -> None:
    """Check that this process runs the code that the process runs that drives the run; any code without such a process.

    Args:
        context: The context of a step.

    Raises:
        OtherCode: It runs other code.
    """
    if context.run.tags.get(CODE_TAG, code_digest()) != code_digest():
        raise OtherCode(
            "this worker runs another version of the code than the process that began the run: restart the worker, and "
            "run the same command again"
        )


def _requirements(_: Mapping[str, object]) -> Sequence[Any]:
    if load_settings().kraken_executor == "in_process":
        return []
    return dg.multiple_process_executor_requirements()


@dg.executor(name="by_setting", requirements=_requirements)
def executor_by_setting(context: dg.InitExecutorContext) -> dg.Executor:
    """Return the executor that KRAKEN_EXECUTOR names."""
    settings = load_settings()
    definition, config = _definition(settings, context.instance)
    create = definition.executor_creation_fn
    assert create is not None, "Dagster's own executors can be created"  # noqa: S101
    executor = create(context._replace(executor_def=definition, executor_config=config))
    return executor if settings.kraken_executor == "in_process" else DrivenExecutor(executor, settings)


def _definition(settings: Settings, instance: dg.DagsterInstance) -> tuple[dg.ExecutorDefinition, dict[str, Any]]:
    """Return Dagster's executor of the settings, and its config."""
    retries: dict[str, Any] = {"retries": {"enabled": {}}}
    if settings.kraken_executor == "multiprocess":
        return dg.multiprocess_executor, {
            "max_concurrent": settings.kraken_workers,
            "start_method": {"forkserver": {"preload_modules": [*LOADED_BEFORE_FORK]}},
            **retries,
        }
    if settings.kraken_executor == "celery":
        try:
            # An extra, which an embedded home does not need.
            from kraken_pipeline.orchestration.delivery.executor import celery_executor  # noqa: PLC0415
        except ImportError as error:
            raise InvalidSettings(
                f"KRAKEN_EXECUTOR=celery needs the extra `celery`, install it: pip install 'kraken-pipeline[celery]' "
                f"({error})"
            ) from error
        return celery_executor, {}
    if settings.kraken_executor == "kubernetes":
        return _kubernetes(settings, instance, retries)
    return dg.in_process_executor, {**retries, "marker_to_close": None}


def _kubernetes(
    settings: Settings, instance: dg.DagsterInstance, retries: Mapping[str, Any]
) -> tuple[dg.ExecutorDefinition, dict[str, Any]]:
    """Return Dagster's Kubernetes executor, which takes over what `K8sRunLauncher` gives the pod of a run.

    So namespace, service account, secrets, volumes and resources are configured in one place, in the Dagster instance.
    """
    try:
        # An extra, which an embedded home does not need.
        from dagster_k8s import K8sRunLauncher, k8s_job_executor  # noqa: PLC0415
    except ImportError as error:
        raise InvalidSettings(
            f"KRAKEN_EXECUTOR=kubernetes needs the extra `kubernetes`, install it: pip install "
            f"'kraken-pipeline[kubernetes]' ({error})"
        ) from error
    if not isinstance(instance.run_launcher, K8sRunLauncher):
        raise InvalidSettings(
            "KRAKEN_EXECUTOR=kubernetes needs K8sRunLauncher as the run launcher in dagster.yaml, because the pods of "
            f"steps are made as those of runs are; it is {type(instance.run_launcher).__name__}"
        )
    config: dict[str, Any] = {"max_concurrent": settings.kraken_workers, **retries}
    image = os.environ.get(IMAGE_VARIABLE)
    return k8s_job_executor, {**config, "job_image": image} if image else config


class DrivenExecutor(dg.Executor):
    """An executor whose steps run in other processes, while this process holds the lock and the slot of the run.

    Args:
        executor: Dagster's executor.
        settings: The settings of the home.
    """

    def __init__(self, executor: dg.Executor, settings: Settings) -> None:
        self._executor = executor
        self._settings = settings

    @property
    def retries(self) -> Any:
        """The retry mode of Dagster's executor."""
        return self._executor.retries

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        """Execute the steps of a run once fewer than KRAKEN_PARALLEL_RUNS others of its kind are driven."""
        run_id = plan_context.run_id
        with (
            opened_locks(self._settings) as locks,
            locks.run(run_id),
            _slot(locks, plan_context.job_name, self._settings),
            kept(locks),
            _announced(plan_context.instance, run_id),
            watched_workers(plan_context.log.warning, self._settings),
        ):
            plan_context.instance.add_run_tags(run_id, {CODE_TAG: code_digest()})
            yield from self._executor.execute(plan_context, execution_plan)


def slot_of(job_name: str) -> str | None:
    """Return the kind of slot that each driven run of a job holds, of KRAKEN_PARALLEL_RUNS; None if it holds none."""
    return _GROUPED.get(job_name)


def _slot(locks: Locks, job_name: str, settings: Settings) -> AbstractContextManager[None]:
    kind = slot_of(job_name)
    return nullcontext() if kind is None else locks.slot(kind, settings.kraken_parallel_runs)


@contextmanager
def _announced(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Pass the progress that the steps of a run write to its tags to the listeners of this process."""

    def follow() -> None:
        if (run := instance.get_run_by_id(run_id)) is not None:
            announce(progress_of(dict(run.tags)))

    with repeated(follow):
        yield
