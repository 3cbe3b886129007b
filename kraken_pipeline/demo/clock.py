"""Clocks of the demo exchange: callables that return nanoseconds since the epoch."""

from __future__ import annotations

import threading
import time

from kraken_pipeline.demo.world import SECOND_NS


class FixedClock:
    """A clock that stands still until it is advanced."""

    def __init__(self, now: int) -> None:
        """Set the clock.

        Args:
            now: Seconds since the epoch.
        """
        self._now = now * SECOND_NS
        self._lock = threading.Lock()

    def __call__(self) -> int:
        """Return the current time, in nanoseconds since the epoch."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Advance the clock."""
        with self._lock:
            self._now += round(seconds * SECOND_NS)


class MovingClock:
    """A clock that runs in real time, starting from another time."""

    def __init__(self, now: int) -> None:
        """Start the clock.

        Args:
            now: The time to start from, in seconds since the epoch.
        """
        self._ahead = now * SECOND_NS - time.monotonic_ns()

    def __call__(self) -> int:
        """Return the current time, in nanoseconds since the epoch."""
        return time.monotonic_ns() + self._ahead
