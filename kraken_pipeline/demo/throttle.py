"""How the public API slows down who asks too often."""

from __future__ import annotations

import threading

_LONGEST_S = 10
"""However much a client goes on, so long after its last call it is let in again (if the rate is 1 a second)."""


class Throttle:
    """A counter for each caller that every call raises and that sinks with time.

    Above `burst` calls are refused. Refused calls count too, so it takes longer if calls go on.
    """

    def __init__(self, burst: int = 30, per_second: float = 1.0) -> None:
        """Make it.

        Args:
            burst: How many calls pass at once (measured with Kraken: about 30).
            per_second: How fast the counter sinks.
        """
        self._burst = burst
        self._per_second = per_second
        self._counters: dict[tuple[str, str | None], tuple[float, float]] = {}
        self._lock = threading.Lock()

    def admits(self, caller: str, pair: str | None, now: float) -> bool:
        """Count a call and say whether it passes.

        Args:
            caller: The client's address.
            pair: What OHLC and Trades are counted by beside the address; None for the other endpoints.
            now: The moment of the call, in seconds.
        """
        with self._lock:
            level, at = self._counters.get((caller, pair), (0.0, now))
            level = min(max(0.0, level - (now - at) * self._per_second) + 1, self._burst + _LONGEST_S)
            self._counters[caller, pair] = (level, now)
            return level <= self._burst
