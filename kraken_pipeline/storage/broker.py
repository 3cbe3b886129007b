"""The broker of Celery, and the workers that answer through it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import urlsplit

from kraken_pipeline.errors import InvalidSettings, StoreUnavailable
from kraken_pipeline.settings import Settings

REDELIVERED_SECONDS = 3_600
"""The time after which Redis delivers a step again that a worker took and did not finish. The process at work on a step
holds its lock, so that a second delivery is passed over. RabbitMQ notices the end of a worker's connection instead."""
_CONNECT_SECONDS = 3
_ANSWER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class AnsweringWorkers:
    """The workers that answered.

    Attributes:
        processes: The number of processes of each worker that take steps, by the worker's name.
    """

    processes: Mapping[str, int]


def broker_of(settings: Settings) -> str:
    """Return the URL of the broker, with its password: never log it.

    Raises:
        InvalidSettings: None is set.
    """
    if settings.kraken_celery_url is None:
        raise InvalidSettings("KRAKEN_CELERY_URL is not set: a Celery worker needs the URL of the broker")
    return settings.kraken_celery_url.get_secret_value()


def place_of(broker: str) -> str:
    """Return the host and port of a broker's URL, without user and password."""
    return urlsplit(broker).netloc.rpartition("@")[2]


def answering_workers(settings: Settings) -> AnsweringWorkers:
    """Ask all workers of the broker, and return those that answer within two seconds.

    Raises:
        StoreUnavailable: The broker does not answer.
        InvalidSettings: The extra `celery` is not installed.
    """
    broker = broker_of(settings)
    try:
        # An extra, which an embedded home does not need.
        from celery import Celery  # type: ignore[import-untyped]  # noqa: PLC0415
        from kombu.exceptions import OperationalError  # noqa: PLC0415
    except ImportError as error:
        raise InvalidSettings(
            f"KRAKEN_EXECUTOR=celery needs the extra `celery`, install it: pip install 'kraken-pipeline[celery]' "
            f"({error})"
        ) from error
    try:
        with Celery(broker=broker, set_as_current=False) as app, closing(app.connection_for_write()) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=_CONNECT_SECONDS)
            asked = app.control.inspect(timeout=_ANSWER_SECONDS, connection=connection)
            pools = asked.stats() or {}
    except (OperationalError, OSError) as error:
        reason = " ".join(str(error).replace(broker, place_of(broker)).split())
        raise StoreUnavailable(
            f"the broker of KRAKEN_CELERY_URL at {place_of(broker)} does not answer: {reason}"
        ) from None
    return AnsweringWorkers(
        processes={name: int(stats.get("pool", {}).get("max-concurrency", 1)) for name, stats in pools.items()}
    )
