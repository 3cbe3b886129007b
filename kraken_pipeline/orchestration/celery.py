"""The Celery app that the driver of a run and its workers share: the broker and the delivery of steps.

A worker is started with `celery --app kraken_pipeline.orchestration.celery worker --queues dagster --concurrency 2`,
with the settings of the home in its environment. It needs the extra `celery`.
"""

from __future__ import annotations

from typing import Any

from dagster_celery.config import dict_wrapper
from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_task

from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.broker import REDELIVERED_SECONDS, broker_of


def executor_config(settings: Settings) -> dict[str, Any]:
    """Return the config of Dagster's Celery executor for the broker in the settings.

    A step is acknowledged when it is done, so that the broker delivers it again if its worker is killed. A worker takes
    one step at a time, because the others would wait for it while other workers have none.
    """
    broker = broker_of(settings)
    return {
        "broker": broker,
        "backend": "rpc://" if broker.startswith(("amqp", "pyamqp")) else broker,
        "config_source": {
            "task_acks_late": True,
            "task_reject_on_worker_lost": True,
            "worker_prefetch_multiplier": 1,
            "worker_hijack_root_logger": False,
            "broker_connection_retry_on_startup": True,
            "broker_transport_options": {"visibility_timeout": REDELIVERED_SECONDS},
        },
    }


def _app() -> Any:
    config = executor_config(load_settings())
    return make_app(  # type: ignore[no-untyped-call]
        {**config, "config_source": dict_wrapper(config["config_source"])}  # type: ignore[no-untyped-call]
    )


app = _app()
execute_plan = create_task(app)  # type: ignore[no-untyped-call]
