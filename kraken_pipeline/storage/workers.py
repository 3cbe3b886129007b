"""Worker processes: other processes of a run, each with stores of its own.

This module imports neither Polars nor anything that does, because a worker process limits Polars to one thread before
importing it.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

from kraken_pipeline.settings import Settings

Stores = TypeVar("Stores")
Group = TypeVar("Group")
Result = TypeVar("Result")


class Workers:
    """The worker processes of a run: none at first, and from the first work on until `close`.

    A process that is started needs about a second until it begins, so it is kept for the next work of the run.

    Args:
        settings: The settings of the home, whose `kraken_workers` includes the process of the run itself.
        open_stores: Opens the stores of a process.
    """

    def __init__(self, settings: Settings, open_stores: Callable[[Settings], Any]) -> None:
        self._settings = settings
        self._open_stores = open_stores
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, work: Callable[[Stores, Group], Result], group: Group) -> Future[Result]:
        """Process a group in a worker process; the function, the group and the result have to be picklable."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                max(1, self._settings.kraken_workers - 1),
                multiprocessing.get_context("spawn"),
                initializer=_start,
                initargs=(self._settings, pickle.dumps(self._open_stores)),
            )
        return self._pool.submit(_process, pickle.dumps(work), group)

    def close(self) -> None:
        """End the processes once they have finished what they have begun; later work starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


# --- in a worker process

_OWN: dict[str, Any] = {}
"""The stores of this worker process, the work that it was last given, and that work unpickled."""


def _start(settings: Settings, open_stores: bytes) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.setdefault("POLARS_MAX_THREADS", "1")  # its threads cost a seventh on small files
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent as well, which ends its workers in order
    # Only now is imported what opens the stores.
    _OWN["stores"] = pickle.loads(open_stores)(settings)  # noqa: S301 - from the parent


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _process(work: bytes, group: Any) -> Any:
    if _OWN.get("given") != work:  # work that is not new keeps what it has opened
        _OWN["given"], _OWN["work"] = work, pickle.loads(work)  # noqa: S301 - from the parent
    return _OWN["work"](_OWN["stores"], group)
