"""The progress of a run, and the context that its work shares."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a run.

    Attributes:
        phase: The current phase.
        files_total: The number of files to read.
        files_done: The number of files that are finished, successfully or not.
        files_ingested: The number of finished files that gave candles.
        candles: The number of candles stored.
        bytes_total: The size of the files to read.
        bytes_done: The size of the finished files.
        requests_total: The approximate number of requests to make.
        requests_done: The number of requests made.
        published: The number of candles published to QuestDB.
    """

    phase: str = "starting"
    files_total: int = 0
    files_done: int = 0
    files_ingested: int = 0
    candles: int = 0
    bytes_total: int = 0
    bytes_done: int = 0
    requests_total: int = 0
    requests_done: int = 0
    published: int = 0

    @property
    def percent(self) -> float:
        """The percentage of the bytes that are read or, once there are requests to make, of the requests made."""
        if self.requests_total:
            return min(100.0, 100.0 * self.requests_done / self.requests_total)
        return 100.0 * self.bytes_done / self.bytes_total if self.bytes_total else 0.0

    @property
    def requests_left(self) -> int:
        """The approximate number of requests still to make."""
        return max(0, self.requests_total - self.requests_done)


def _unwatched(_: Progress) -> None:
    """Ignore the progress."""


@dataclass(slots=True)
class RunContext:
    """The context that the work of one run shares: its id, its time and its progress.

    Attributes:
        run_id: Dagster's id of the run.
        now: The time that the run uses as the present, in seconds since the epoch.
        watch: Called with the progress after every step.
        progress: The current progress.
        seconds: The time that each phase has taken so far, by the clock; without the current one.
    """

    run_id: str
    now: int
    watch: Callable[[Progress], None] = _unwatched
    progress: Progress = field(default_factory=Progress)
    seconds: dict[str, float] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    def report(self, **changes: object) -> None:
        """Update the progress and pass it to `watch`."""
        before, self.progress = self.progress, replace(self.progress, **changes)  # type: ignore[arg-type]
        if before.phase != self.progress.phase:
            self.end_phase(before.phase)
        self.watch(self.progress)

    def end_phase(self, phase: str) -> None:
        """Add the time since the last phase ended to a phase."""
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._began
        self._began = now
