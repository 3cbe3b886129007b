"""The executor of jobs whose steps are groups of pairs: this process, or the one that KRAKEN_EXECUTOR names.

In this process, one step does all of its groups and holds the lock and the slot of the run. With any other executor,
the process that drives the run holds both for as long as the run lasts, and each step is one group in a process of its
own, on this machine or on another. A step holds a lock of its own, so that a recovery waits until it has ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import dagster as dg

from kraken_pipeline.errors import InvalidSettings, OtherCode
from kraken_pipeline.orchestration.delivery.renewal import kept, repeated
from kraken_pipeline.orchestration.progress import announce, progress_of
from kraken_pipeline.orchestration.run_records import INGEST_JOB
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.stores import opened_locks

PACKAGE = Path(__file__).resolve().parents[1]
CODE_TAG = "kraken/code"
"""The tag with the digest of the code of the process that drives the run."""
_SLOT = "ingest"


def steps_are_groups(settings: Settings, job_name: str) -> bool:
    """Return whether the steps of a job are groups of pairs, each in a process of its own."""
    return job_name == INGEST_JOB and settings.kraken_executor != "in_process"


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
    definition, config = _definition(settings)
    create = definition.executor_creation_fn
    assert create is not None, "Dagster's own executors can be created"  # noqa: S101
    executor = create(context._replace(executor_def=definition, executor_config=config))
    return executor if settings.kraken_executor == "in_process" else DrivenExecutor(executor, settings)


def _definition(settings: Settings) -> tuple[dg.ExecutorDefinition, dict[str, Any]]:
    """Return Dagster's executor of the settings, and its config."""
    retries: dict[str, Any] = {"retries": {"enabled": {}}}
    if settings.kraken_executor == "multiprocess":
        # A process that is forked after Polars has started its threads can wait for them for ever.
        return dg.multiprocess_executor, {
            "max_concurrent": settings.kraken_workers,
            "start_method": {"spawn": {}},
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
    return dg.in_process_executor, {**retries, "marker_to_close": None}


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
        """Execute the steps of a run once fewer than KRAKEN_PARALLEL_RUNS others are driven."""
        run_id = plan_context.run_id
        with (
            opened_locks(self._settings) as locks,
            locks.run(run_id),
            locks.slot(_SLOT, self._settings.kraken_parallel_runs),
            kept(locks),
            _announced(plan_context.instance, run_id),
        ):
            plan_context.instance.add_run_tags(run_id, {CODE_TAG: code_digest()})
            yield from self._executor.execute(plan_context, execution_plan)


@contextmanager
def _announced(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Pass the progress that the steps of a run write to its tags to the listeners of this process."""

    def follow() -> None:
        if (run := instance.get_run_by_id(run_id)) is not None:
            announce(progress_of(dict(run.tags)))

    with repeated(follow):
        yield
