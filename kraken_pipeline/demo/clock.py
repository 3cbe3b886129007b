"""What time it is at the demo exchange: a callable that gives nanoseconds since the epoch."""

from __future__ import annotations

import threading
import time

from kraken_pipeline.demo.world import SECOND_NS


class FixedClock:
    """Stands still until it is moved."""

    def __init__(self, now: int) -> None:
        """Stop at a moment.

        Args:
            now: Seconds since the epoch.
        """
        self._now = now * SECOND_NS
        self._lock = threading.Lock()

    def __call__(self) -> int:
        """Now, in nanoseconds since the epoch."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let so much time pass."""
        with self._lock:
            self._now += round(seconds * SECOND_NS)


class MovingClock:
    """Runs with the wall clock, from another moment on."""

    def __init__(self, now: int) -> None:
        """Start.

        Args:
            now: What time it is to be at this moment, in seconds since the epoch.
        """
        self._ahead = now * SECOND_NS - time.monotonic_ns()

    def __call__(self) -> int:
        """Now, in nanoseconds since the epoch."""
        return time.monotonic_ns() + self._ahead
