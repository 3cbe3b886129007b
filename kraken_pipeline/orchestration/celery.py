"""The Celery app that the driver of a run and its workers share: the broker and the delivery of steps.

A worker is started with `celery --app kraken_pipeline.orchestration.celery worker --queues dagster --concurrency 2`,
with the settings of the home in its environment. It needs the extra `celery`.
"""

from __future__ import annotations

from typing import Any

from dagster_celery.config import dict_wrapper
from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_task

from kraken_pipeline.errors import InvalidSettings
from kraken_pipeline.settings import Settings, load_settings

_REDELIVERED_SECONDS = 3_600
"""The time after which Redis delivers a step again that a worker took and never finished: longer than any step takes.
RabbitMQ needs none, because it notices the end of a worker's connection."""


def executor_config(settings: Settings) -> dict[str, Any]:
    """Return the config of Dagster's Celery executor for the broker in the settings.

    A step is acknowledged when it is done, so that the broker delivers it again if its worker is killed. A worker takes
    one step at a time, because the others would wait for it while other workers have none.
    """
    if settings.kraken_celery_url is None:
        raise InvalidSettings("KRAKEN_CELERY_URL is not set: a Celery worker needs the URL of the broker")
    broker = settings.kraken_celery_url.get_secret_value()
    return {
        "broker": broker,
        "backend": "rpc://" if broker.startswith(("amqp", "pyamqp")) else broker,
        "config_source": {
            "task_acks_late": True,
            "task_reject_on_worker_lost": True,
            "worker_prefetch_multiplier": 1,
            "worker_hijack_root_logger": False,
            "broker_connection_retry_on_startup": True,
            "broker_transport_options": {"visibility_timeout": _REDELIVERED_SECONDS},
        },
    }


def _app() -> Any:
    config = executor_config(load_settings())
    return make_app(  # type: ignore[no-untyped-call]
        {**config, "config_source": dict_wrapper(config["config_source"])}  # type: ignore[no-untyped-call]
    )


app = _app()
execute_plan = create_task(app)  # type: ignore[no-untyped-call]
