"""Worker processes: other processes of a run, each with stores of its own.

This module imports neither Polars nor anything that does, because a worker process limits Polars to one thread before
importing it.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import uuid
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from kraken_pipeline.collector import collect_seldom
from kraken_pipeline.settings import Settings

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor

Stores = TypeVar("Stores")
Group = TypeVar("Group")
Result = TypeVar("Result")


def of_one_process(settings: Settings) -> Settings:
    """Return settings that allow a run no process but its own."""
    return settings.model_copy(update={"kraken_workers": 1})


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

    @property
    def can_start(self) -> bool:
        """Whether this process may start other processes. A process of a Celery worker may not."""
        import multiprocessing  # noqa: PLC0415 - as below

        return not multiprocessing.current_process().daemon

    def taking_on(self, work: Callable[[Stores, Group], Result]) -> Callable[[Group], Future[Result]]:
        """Return a function that has a worker process work on a group.

        A worker process unpickles the work once for all of its groups, so that the work can keep what it has opened.
        Work that is taken on again is unpickled again: a file may have been replaced since.

        Args:
            work: Processes one group; it has to be picklable, as have the groups and the results.
        """
        return partial(self._submit, uuid.uuid4().hex, pickle.dumps(work))

    def _submit(self, name: str, work: bytes, group: Group) -> Future[Result]:
        if self._pool is None:
            # Only large work needs other processes, and every command opens the stores.
            import multiprocessing  # noqa: PLC0415
            from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415

            self._pool = ProcessPoolExecutor(
                max(1, self._settings.kraken_workers - 1),
                multiprocessing.get_context("spawn"),
                initializer=_start,
                initargs=(self._settings, pickle.dumps(self._open_stores)),
            )
        return self._pool.submit(_process, name, work, group)

    def close(self) -> None:
        """End the processes once they have finished what they have begun; later work starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


# --- in a worker process

_OWN: dict[str, Any] = {}
"""The stores of this worker process, and the name and the function of the work that it was last given."""


def _start(settings: Settings, open_stores: bytes) -> None:
    collect_seldom()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.setdefault("POLARS_MAX_THREADS", "1")  # its threads cost a seventh on small files
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent as well, which ends its workers in order
    # Unpickling imports the module that opens the stores, and with it Polars.
    _OWN["stores"] = pickle.loads(open_stores)(of_one_process(settings))  # noqa: S301 - from the parent


def _end_with_parent() -> None:
    import multiprocessing  # noqa: PLC0415 - as above

    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _process(name: str, work: bytes, group: Any) -> Any:
    if _OWN.get("name") != name:
        _OWN["name"], _OWN["work"] = name, pickle.loads(work)  # noqa: S301 - from the parent
    return _OWN["work"](_OWN["stores"], group)
