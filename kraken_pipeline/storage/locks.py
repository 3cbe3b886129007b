"""Locks that work across processes: a series', a fetch's, a run's, and the few slots that bound parallel work.

A lock is a file under `<home>/locks` held by the operating system: it is free at once when its process is gone,
however it went.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import unquote

from filelock import FileLock, Timeout

from kraken_pipeline.errors import Busy
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.paths import spelled

_POLL_SECONDS = 0.05


class Locks:
    """The locks of one home."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for kind in ("series", "runs", "slots", "fetches"):
            (folder / kind).mkdir(parents=True, exist_ok=True)

    def _lock(self, kind: str, name: str) -> FileLock:
        # One lock object a use, never shared: two threads of one process exclude each other as processes do.
        return FileLock(self._folder / kind / f"{spelled(name)}.lock", is_singleton=False, thread_local=False)

    @contextmanager
    def series(self, names: Iterable[Series], timeout: float = 600) -> Iterator[None]:
        """Holds several series; taken in one order, so that no two wait in a circle.

        Raises:
            Busy: Another process held one of them for longer than `timeout` seconds.
        """
        with ExitStack() as held:
            for each in sorted(set(names)):
                lock = self._lock("series", f"{each.pair}.{each.interval.value}")
                try:
                    held.enter_context(lock.acquire(timeout=timeout, poll_interval=_POLL_SECONDS))
                except Timeout:
                    raise Busy(
                        f"another process has been writing {each} for {timeout:.0f} s; try again later"
                    ) from None
            yield

    @contextmanager
    def slot(self, kind: str, count: int) -> Iterator[None]:
        """Holds one of `count` slots, waiting for as long as all are taken."""
        while True:
            for number in range(count):
                lock = self._lock("slots", f"{kind}.{number}")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                try:
                    yield
                finally:
                    lock.release()
                return
            time.sleep(_POLL_SECONDS)

    @contextmanager
    def fetch(self, name: str) -> Iterator[None]:
        """Held by whoever asks the exchange for something, so that nobody else asks for the same.

        Raises:
            Busy: Another process does.
        """
        lock = self._lock("fetches", name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise Busy(f"another run is fetching {name}") from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def run(self, run_id: str) -> Iterator[None]:
        """Held by a run for as long as its process lives."""
        lock = self._lock("runs", run_id)
        with lock.acquire(timeout=60):
            try:
                yield
            finally:
                Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: nobody else's file is deleted

    def is_running(self, run_id: str) -> bool:
        """Whether a process holds the lock of this run."""
        lock = self._lock("runs", run_id)
        if not Path(lock.lock_file).exists():
            return False
        try:
            with lock.acquire(timeout=0):
                return False
        except Timeout:
            return True

    def is_any_running(self) -> bool:
        """Whether any run is at work."""
        return any(self.is_running(unquote(path.stem)) for path in (self._folder / "runs").glob("*.lock"))
