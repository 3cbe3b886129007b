"""Large work side by side on all cores: groups of pairs, each processed whole by one of a run's processes.

Threads of one process would wait for each other: half of the work on a small file is Python's. This module imports
neither Polars nor anything that does, because a worker process limits Polars to one thread before importing it.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, TypeVar

from kraken_pipeline.errors import StoreError
from kraken_pipeline.settings import Settings

if TYPE_CHECKING:
    from kraken_pipeline.storage.stores import Stores

Group = TypeVar("Group")
Result = TypeVar("Result")


def side_by_side(
    stores: Stores, work: Callable[[Stores, Group], Result], groups: Sequence[Group], processes: int
) -> Generator[Result]:
    """Process groups in several processes, and yield each result as soon as it is known.

    This process is one of them. Every process has its own stores, and a copy of `work`. A process that is started needs
    about a second until it begins.

    Args:
        stores: The stores of this process.
        work: Processes one group; it has to be picklable, as have the groups and the results.
        groups: The groups, in the order in which they are begun.
        processes: The greatest number of processes, at least 1. With one, nothing is started.

    Raises:
        StoreError: A process was killed.
        Exception: The error of a group. Groups that were begun are finished first; the others are left.
    """
    count = min(processes, len(groups))
    if count < 2:
        for group in groups:
            yield work(stores, group)
        return
    given = (stores.settings, pickle.dumps(work))
    spawned = multiprocessing.get_context("spawn")
    with (
        ThreadPoolExecutor(1) as here,
        ProcessPoolExecutor(count - 1, spawned, initializer=_start, initargs=given) as elsewhere,
    ):

        def begin_here(group: Group) -> Future[Result]:
            return here.submit(work, stores, group)

        def begin_elsewhere(group: Group) -> Future[Result]:
            return elsewhere.submit(_process, group)

        yield from _dealt_out([begin_here, *[begin_elsewhere] * (count - 1)], deque(groups))


def _dealt_out(lanes: Sequence[Callable[[Group], Future[Result]]], waiting: deque[Group]) -> Generator[Result]:
    """Keep every lane busy with one group until none is waiting."""
    running: dict[Future[Result], Callable[[Group], Future[Result]]] = {}
    try:
        for begin in lanes:
            running[begin(waiting.popleft())] = begin
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                begin = running.pop(future)
                result = future.result()
                if waiting:
                    running[begin(waiting.popleft())] = begin
                yield result
    except BrokenProcessPool:
        raise StoreError(
            "a process of this run was killed, perhaps because memory ran out; run the same command to go on, and set "
            "KRAKEN_WORKERS=1 if it happens again"
        ) from None
    finally:
        wait(running)


# --- in a worker process

_WORKER: dict[str, Any] = {}
"""The stores and the work of this worker process."""


def _start(settings: Settings, work: bytes) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.setdefault("POLARS_MAX_THREADS", "1")  # its threads cost a seventh on small files
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent as well, which ends its workers in order
    from kraken_pipeline.storage.stores import create_stores  # noqa: PLC0415 - only now, see the module's docstring

    _WORKER["stores"], _WORKER["work"] = create_stores(settings), pickle.loads(work)  # noqa: S301 - from the parent


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _process(group: Any) -> Any:
    return _WORKER["work"](_WORKER["stores"], group)
