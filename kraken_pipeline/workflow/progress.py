"""How far a run has got, for whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has got.

    Attributes:
        phase: What it is doing.
        files_total: How many files it is to read.
        files_done: How many it has brought to an end, well or badly.
        files_ingested: How many of these gave candles.
        candles: How many candles it has stored.
        bytes_total: The size of the files that it is to read.
        bytes_done: The size of those it has brought to an end.
        requests_total: About how many requests it is to make.
        requests_done: How many it has made.
        published: How many candles QuestDB has taken of it.
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
        """Of the bytes to read or, once these are done, of the requests to make."""
        if self.requests_total:
            return min(100.0, 100.0 * self.requests_done / self.requests_total)
        return 100.0 * self.bytes_done / self.bytes_total if self.bytes_total else 0.0

    @property
    def requests_left(self) -> int:
        """About how many requests it still has to make."""
        return max(0, self.requests_total - self.requests_done)


def _unwatched(_: Progress) -> None:
    """Nobody looks."""


@dataclass(slots=True)
class RunContext:
    """What the work of one run shares: who it is, its moment, and who is told how far it has got.

    Attributes:
        run_id: Dagster's id of the run.
        now: The moment that the run takes for the present, in seconds since the epoch.
        watch: Told of every step.
        progress: How far it has got.
    """

    run_id: str
    now: int
    watch: Callable[[Progress], None] = _unwatched
    progress: Progress = field(default_factory=Progress)

    def report(self, **changes: object) -> None:
        """Takes a step and tells whoever watches."""
        self.progress = replace(self.progress, **changes)  # type: ignore[arg-type]
        self.watch(self.progress)
