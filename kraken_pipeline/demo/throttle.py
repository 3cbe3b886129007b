"""Rate limiting, as the public API does it."""

from __future__ import annotations

import threading

_LONGEST_S = 10
"""The longest wait after a client's last call until it is admitted again, at a rate of 1 per second."""


class Throttle:
    """A counter for each caller, which every call increases and which decreases with time.

    Above `burst`, calls are refused. Refused calls count too, so the wait is longer if calls continue.
    """

    def __init__(self, burst: int = 30, per_second: float = 1.0) -> None:
        """Create a throttle.

        Args:
            burst: The number of calls admitted at once (measured at Kraken: about 30).
            per_second: The rate at which the counter decreases, per second.
        """
        self._burst = burst
        self._per_second = per_second
        self._counters: dict[tuple[str, str | None], tuple[float, float]] = {}
        self._lock = threading.Lock()

    def admits(self, caller: str, pair: str | None, now: float) -> bool:
        """Count a call and return whether it is admitted.

        Args:
            caller: The client's address.
            pair: The pair, by which OHLC and Trades are counted beside the address; None for the other endpoints.
            now: The time of the call, in seconds.
        """
        with self._lock:
            level, at = self._counters.get((caller, pair), (0.0, now))
            level = min(max(0.0, level - (now - at) * self._per_second) + 1, self._burst + _LONGEST_S)
            self._counters[caller, pair] = (level, now)
            return level <= self._burst
