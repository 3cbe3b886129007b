"""Large work side by side on all cores: groups of pairs, each processed whole by one of a run's processes.

Threads of one process would wait for each other: half of the work on a small file is Python's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import TypeVar

from kraken_pipeline.errors import StoreError
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.storage.workers import of_one_process

PROCESS_KILLED = (
    "a process of this run was killed, perhaps because memory ran out; run the same command to go on, and set "
    "KRAKEN_WORKERS=1 if it happens again"
)
Group = TypeVar("Group")
Result = TypeVar("Result")


def side_by_side(
    stores: Stores, work: Callable[[Stores, Group], Result], groups: Sequence[Group], processes: int
) -> Generator[Result]:
    """Process groups in several processes, and yield each result as soon as it is known.

    This process is one of them. Every process has its own stores, and a copy of `work`. The stores' settings allow the
    work one process, because all others are taken.

    Args:
        stores: The stores of this process.
        work: Processes one group; it has to be picklable, as have the groups and the results.
        groups: The groups, in the order in which they are begun.
        processes: The greatest number of processes, at least 1. With one, nothing is started, nor where this process
            may start none.

    Raises:
        StoreError: A process was killed.
        Exception: The error of a group. Groups that were begun are finished first; the others are left.
    """
    count = min(processes, len(groups))
    if count < 2 or not stores.workers.can_start:
        for group in groups:
            yield work(stores, group)
        return
    alone = replace(stores, settings=of_one_process(stores.settings))
    with ThreadPoolExecutor(1) as here:

        def begin_here(group: Group) -> Future[Result]:
            return here.submit(work, alone, group)

        begin_elsewhere = stores.workers.taking_on(work)
        try:
            yield from _dealt_out([begin_here, *[begin_elsewhere] * (count - 1)], deque(groups))
        except BrokenProcessPool:
            stores.workers.close()
            raise StoreError(PROCESS_KILLED) from None


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
    finally:
        wait(running)
