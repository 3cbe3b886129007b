"""A watch over the Celery workers of a run: its log says if none answers, and what to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kraken_pipeline.errors import PipelineError
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.broker import AnsweringWorkers, answering_workers, broker_of, place_of
from kraken_pipeline.workflow.health.distribution import no_worker

PATIENCE_SECONDS = 60.0
"""The time without any worker after which the log says so: a worker that is restarted takes less."""
_POLL_SECONDS = 20.0


class WorkerWatch:
    """Decides what to say about the workers of a run: everything once, and again only if it was over in between.

    Args:
        broker: The URL of the broker.
        began: The time at which the watch began, in seconds.
    """

    def __init__(self, broker: str, began: float) -> None:
        self._broker = broker
        self._missing_since: float | None = began
        self._is_missed = False

    def sentences(self, workers: AnsweringWorkers, now: float) -> Iterator[str]:
        """Yield what is new to say about the workers that answered just now."""
        if workers.processes:
            self._missing_since, self._is_missed = None, False
        elif self._missing_since is None:
            self._missing_since = now
        elif now - self._missing_since >= PATIENCE_SECONDS and not self._is_missed:
            self._is_missed = True
            yield no_worker(place_of(self._broker))


@contextmanager
def watched_workers(warn: Callable[[str], None], settings: Settings) -> Iterator[None]:
    """Warn for as long as a block lasts if no worker answers; do nothing without Celery."""
    if settings.kraken_executor != "celery":
        yield
        return
    is_over = threading.Event()
    watch = WorkerWatch(broker_of(settings), time.monotonic())

    def look() -> None:
        while not is_over.wait(_POLL_SECONDS):
            try:
                workers = answering_workers(settings)
            except PipelineError:
                workers = AnsweringWorkers({})  # a broker that does not answer has no worker that does
            for sentence in watch.sentences(workers, time.monotonic()):
                warn(sentence)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
