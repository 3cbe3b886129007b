"""The executor that has Celery workers take the steps of a run, and reads in Dagster's history what became of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

import dagster as dg
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.step_delegating import (
    CheckStepHealthResult,
    StepDelegatingExecutor,
    StepHandler,
    StepHandlerContext,
)
from dagster._serdes import pack_value
from kombu.exceptions import OperationalError

from kraken_pipeline.errors import StoreUnavailable
from kraken_pipeline.orchestration.delivery.app import QUEUE, app, take_step
from kraken_pipeline.orchestration.delivery.starts import MOST_STARTS, step_lock
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.stores import opened_locks

_CHECK_SECONDS = 5
"""The time between two looks after the steps that have not ended."""
_CHECKS_BEFORE = 2
"""The number of looks at which nobody has a step, before it is submitted again: a worker that has just taken it needs
some seconds until it holds its lock."""
_BROKER_SECONDS = 60.0
"""The time for which a broker that does not answer is waited for: RabbitMQ takes several seconds to start."""


@dg.executor(name="celery", requirements=dg.multiple_process_executor_requirements())
def celery_executor(_: dg.InitExecutorContext) -> dg.Executor:
    """Return an executor whose steps are taken by Celery workers."""
    settings = load_settings()
    return CelerySteps(settings, RetryMode.ENABLED)


class CelerySteps(StepDelegatingExecutor):
    """An executor whose steps are taken by Celery workers.

    Args:
        settings: The settings of the home.
        retries: How steps are retried.
    """

    def __init__(self, settings: Settings, retries: RetryMode) -> None:
        super().__init__(_Workers(settings), retries, check_step_health_interval_seconds=_CHECK_SECONDS)
        self._patience = settings.kraken_catalog_patience_seconds
        self._held: dict[str, list[dg.DagsterEvent]] = {}
        self._workers: dict[str, int | None] = {}
        self._ended: set[str] = set()

    def _pop_events(
        self, instance: dg.DagsterInstance, run_id: str, seen_storage_ids: set[int]
    ) -> Sequence[dg.DagsterEvent]:
        """Return what has happened, of each step once it has ended, and only what the process did that ended it."""
        until = time.monotonic() + self._patience
        while True:
            try:
                events = super()._pop_events(instance, run_id, seen_storage_ids)
            except Exception:
                if time.monotonic() > until:
                    raise
                time.sleep(1)
            else:
                return [event for popped in events for event in self._released(popped)]

    def _released(self, event: dg.DagsterEvent) -> Sequence[dg.DagsterEvent]:
        key = event.step_key
        if key is None or key in self._ended:
            return [] if key else [event]
        if event.event_type in (dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_RESTARTED):
            self._held[key] = []  # of a process that was killed nothing counts
            self._workers[key] = event.pid
        is_over = event.is_step_success or event.is_step_failure
        is_end = is_over or event.is_step_up_for_retry or event.is_resource_init_failure
        if is_end and event.pid not in (self._workers.get(key, event.pid), os.getpid()):
            return []  # of a process that hung until another took the step over
        self._held.setdefault(key, []).append(event)
        if not is_end:
            return []
        if is_over:
            self._ended.add(key)
        self._workers.pop(key, None)
        return self._held.pop(key)


class _Workers(StepHandler):
    """Celery's workers, and what the driver of a run asks them for.

    Args:
        settings: The settings of the home.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self._tasks: dict[str, list[str]] = {}
        self._unseen: dict[str, int] = {}
        self._waiting = 0
        self._counted_at = 0.0

    @property
    def name(self) -> str:
        """The name of the handler in the history of a run."""
        return "celery"

    def launch_step(self, step_handler_context: StepHandlerContext) -> Iterator[dg.DagsterEvent]:
        """Submit a step.

        Raises:
            StoreUnavailable: The broker does not answer.
        """
        key = _key(step_handler_context)
        self._tasks[key] = []
        self._submit(step_handler_context, key)
        context = step_handler_context.get_step_context(key)
        yield dg.DagsterEvent.step_worker_starting(context, f"Submitted step {key} to the workers", {})

    def _submit(self, context: StepHandlerContext, key: str) -> None:
        until = time.monotonic() + _BROKER_SECONDS
        while True:
            try:
                packed = pack_value(context.execute_step_args)
                sent = take_step.apply_async((packed,), queue=QUEUE, routing_key=f"{QUEUE}.step", retry=False)
                break
            except OperationalError as error:
                if time.monotonic() > until:
                    raise StoreUnavailable(
                        f"the broker of KRAKEN_CELERY_URL does not answer: {str(error)[:200]}; start it, and run the "
                        "same command again"
                    ) from error
            time.sleep(1)
        self._tasks[key].append(sent.id)
        self._unseen[key] = 0

    def check_step_health(self, step_handler_context: StepHandlerContext) -> CheckStepHealthResult:
        """Submit a step again that is neither in the queue nor at work, as after a broker lost it with its memory."""
        key = _key(step_handler_context)
        run_id = step_handler_context.execute_step_args.run_id
        if self._number_waiting():
            self._unseen[key] = 0  # it may be one of them
            return CheckStepHealthResult.healthy()
        with opened_locks(self._settings) as locks:
            is_at_work = locks.is_running(step_lock(run_id, key))
        self._unseen[key] = 0 if is_at_work else self._unseen[key] + 1
        if self._unseen[key] <= _CHECKS_BEFORE:
            return CheckStepHealthResult.healthy()
        if len(self._tasks[key]) > MOST_STARTS:
            return CheckStepHealthResult.unhealthy(
                f"{len(self._tasks[key])} processes of workers took it, and none of them has begun or ended it: see "
                "the logs of the workers, restart those of another version, and run the same command again"
            )
        self._submit(step_handler_context, key)
        return CheckStepHealthResult.healthy()

    def _number_waiting(self) -> int:
        """Return the number of steps in the queue, asked for once for all steps that are looked after."""
        if time.monotonic() - self._counted_at > 1:
            try:
                self._waiting = _in_queue()
            except Exception:  # Celery's clients raise errors of their own
                self._waiting = 1  # while the broker is away nobody can tell, and nothing can be submitted
            self._counted_at = time.monotonic()
        return self._waiting

    def terminate_step(self, step_handler_context: StepHandlerContext) -> Iterator[dg.DagsterEvent]:
        """Have the process killed that is at work on a step, and the step taken out of the queue."""
        key = _key(step_handler_context)
        with suppress(Exception):  # without the broker, a step that has not begun is passed over: its run is over
            # SIGKILL, because a process that hangs does not hear another signal; whatever it did is durable.
            app.control.revoke(self._tasks[key], terminate=True, signal="SIGKILL")
        yield from ()


def _key(context: StepHandlerContext) -> str:
    (key,) = context.execute_step_args.step_keys_to_execute or ()
    return str(key)


def _in_queue() -> int:
    with app.connection_for_read() as connection:
        try:
            return int(connection.default_channel.queue_declare(QUEUE, passive=True).message_count)
        except connection.channel_errors:
            return 0  # the queue does not exist, or, on Redis, is empty
