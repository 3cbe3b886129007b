"""The Celery app that the driver of a run and its workers share: the broker, and the task that does one step.

The broker only delivers. What was done is in Dagster's history, and the lock of a step tells whether somebody is at
work on it. A step may thus be delivered again, or too late, and is then passed over. Nothing is lost with the broker:
results are not sent through it, and the driver of the run submits a step again that nobody has
(`orchestration.delivery.executor`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from logging import getLogger
from typing import Any

import dagster as dg
from celery import Celery, signals  # type: ignore[import-untyped]
from dagster._core.execution.api import create_execution_plan, execute_plan_iterator
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import unpack_value
from dagster._utils.hosted_user_process import recon_job_from_origin
from dagster_celery.config import dict_wrapper
from dagster_celery.make_app import make_app

from kraken_pipeline.collector import collect_seldom
from kraken_pipeline.errors import Busy
from kraken_pipeline.logs import LOGGER
from kraken_pipeline.orchestration.delivery.renewal import kept
from kraken_pipeline.orchestration.delivery.starts import is_over, step_lock
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.broker import REDELIVERED_SECONDS, broker_of
from kraken_pipeline.storage.stores import opened_locks

QUEUE = "dagster"
"""The name of the queue that `make_app` gives to workers."""
TASK = "kraken_pipeline.step"
_DRIVER_SECONDS = 15.0
"""The time that a step waits for the driver of its run to hold its lock, which it loses when PostgreSQL restarts."""


def _config(settings: Settings) -> dict[str, Any]:
    """Return the configuration of the app for the broker in the settings.

    A step is acknowledged when it is done, so that the broker delivers it again if its worker is killed. A worker takes
    one step at a time, because the others would wait for it while other workers have none.
    """
    broker = broker_of(settings)
    # RabbitMQ says that it has written a message; Redis refuses the option.
    confirmed = {"confirm_publish": True} if broker.startswith(("amqp", "pyamqp")) else {}
    return {
        "broker": broker,
        "config_source": {
            "task_acks_late": True,
            "task_reject_on_worker_lost": True,
            "task_ignore_result": True,
            "worker_prefetch_multiplier": 1,
            "worker_hijack_root_logger": False,
            "worker_cancel_long_running_tasks_on_connection_loss": False,
            "broker_connection_retry_on_startup": True,
            "broker_connection_max_retries": None,
            "broker_transport_options": {"visibility_timeout": REDELIVERED_SECONDS, **confirmed},
        },
    }


def _app() -> Celery:
    config = _config(load_settings())
    made = make_app(  # type: ignore[no-untyped-call]
        {**config, "config_source": dict_wrapper(config["config_source"])}  # type: ignore[no-untyped-call]
    )
    assert isinstance(made, Celery)  # noqa: S101 - for the type checker
    return made


app = _app()


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def start_worker(**_: Any) -> None:
    """Let a worker look for reference cycles seldom; its processes inherit that."""
    collect_seldom()


@app.task(name=TASK)  # type: ignore[untyped-decorator]
def take_step(packed: Mapping[str, Any]) -> None:
    """Do one step of a run, unless it is done, another process is at work on it, or the run is over.

    Args:
        packed: Dagster's arguments of the execution of the step.
    """
    asked = unpack_value(dict(packed), as_type=ExecuteStepArgs)
    (key,) = asked.step_keys_to_execute or ()
    assert asked.instance_ref is not None  # noqa: S101 - for the type checker: the driver names it
    with dg.DagsterInstance.from_ref(asked.instance_ref) as instance, opened_locks(load_settings()) as locks:
        until = time.monotonic() + _DRIVER_SECONDS
        while not (is_driven := locks.is_running(asked.run_id)) and time.monotonic() < until:
            time.sleep(1)
        if not is_driven:
            _pass_over(key, "the process that drives its run has ended")
            return
        try:
            with locks.run(step_lock(asked.run_id, key), timeout=0), kept(locks):
                run = instance.get_run_by_id(asked.run_id)
                if run is None or is_over(instance, run, asked):
                    _pass_over(key, "it is done, or its run is over")
                else:
                    _execute(instance, run, asked)
        except Busy:
            _pass_over(key, "another process is at work on it")


def _pass_over(key: str, why: str) -> None:
    getLogger(LOGGER).info("step %s is passed over: %s", key, why)


def _execute(instance: dg.DagsterInstance, run: dg.DagsterRun, asked: ExecuteStepArgs) -> None:
    job = recon_job_from_origin(asked.job_origin)
    keys, known = asked.step_keys_to_execute, asked.known_state
    plan = create_execution_plan(job, run.run_config, step_keys_to_execute=keys, known_state=known)
    for _ in execute_plan_iterator(plan, job, run, instance, retry_mode=asked.retry_mode, run_config=run.run_config):
        pass  # each event is in the history, where the driver of the run reads it
