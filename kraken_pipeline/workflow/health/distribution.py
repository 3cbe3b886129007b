"""Health checks of what steps in several processes need: a folder that all of them see alike, and workers."""

from __future__ import annotations

from collections.abc import Iterator

from kraken_pipeline.errors import StoreUnavailable
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.broker import answering_workers, broker_of, place_of
from kraken_pipeline.storage.shared_folder import faults_of
from kraken_pipeline.workflow.health.check import Check, HealthStatus

START_A_WORKER = "celery --app kraken_pipeline.orchestration.celery worker --queues dagster --concurrency 2"
"""The command that starts a worker."""


def check_folder(settings: Settings) -> Iterator[Check]:
    """Check with a second process that the home guarantees what several processes rely on: renames, locks, fsync.

    One process is not asked for it: it takes 0.1 s of CPU, and a home on a local file system guarantees it.
    """
    if settings.kraken_executor == "in_process":
        yield Check(
            "folder", HealthStatus.OK, "off: KRAKEN_EXECUTOR is in_process, so no other machine writes the home"
        )
        return
    try:
        faults = faults_of(settings.home / "tmp")
    except OSError as error:
        yield Check("folder", HealthStatus.FAILED, f"{settings.home} cannot be written or synchronised ({error})")
        return
    if faults:
        yield Check(
            "folder",
            HealthStatus.FAILED,
            f"{settings.home} does not guarantee what several processes need: {'; '.join(faults)}; "
            "docs/production.md says what a shared file system must guarantee",
        )
    else:
        yield Check(
            "folder", HealthStatus.OK, f"{settings.home}: two processes here see renames whole, and locks exclude them"
        )


def check_workers(settings: Settings) -> Iterator[Check]:
    """Check whether a Celery worker answers: without one, a run waits for ever."""
    if settings.kraken_executor != "celery":
        yield Check("workers", HealthStatus.OK, f"off: KRAKEN_EXECUTOR is {settings.kraken_executor}")
        return
    place = place_of(broker_of(settings))
    try:
        workers = answering_workers(settings)
    except StoreUnavailable as error:
        yield Check("workers", HealthStatus.FAILED, f"{error}; runs wait until it does")
        return
    if not workers.processes:
        yield Check("workers", HealthStatus.FAILED, no_worker(place))
        return
    count = sum(workers.processes.values())
    sentence = f"{len(workers.processes)} workers with {count} processes answer at {place}"
    yield Check("workers", HealthStatus.OK, sentence)


def no_worker(place: str) -> str:
    """Return the sentence about a broker through which no worker answers."""
    return f"no worker answers through the broker at {place}, so runs wait; start one: {START_A_WORKER}"
