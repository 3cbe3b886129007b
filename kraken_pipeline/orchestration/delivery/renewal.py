"""Work that is repeated every second beside a block, such as to renew its locks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from kraken_pipeline.storage.locks.locks import Locks

_POLL_SECONDS = 1.0


@contextmanager
def kept(locks: Locks) -> Iterator[None]:
    """Reacquire the locks of runs and steps soon after they were lost, as after a restart of the catalog's server."""
    with repeated(locks.renew_runs):
        yield


@contextmanager
def repeated(function: Callable[[], None]) -> Iterator[None]:
    """Call a function every second in a thread of its own until the block ends, also after it failed."""
    is_over = threading.Event()

    def repeat() -> None:
        while not is_over.wait(_POLL_SECONDS):
            with suppress(Exception):  # a server that is away for a moment
                function()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
