"""The progress of a run, the time that it still needs, and the context that its work shares."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

READING = "reading archives"
"""The phase in which archives are looked for, before any of them is ingested."""
DEALING = "dealing out"
"""The phase in which other work is dealt out to steps that run at the same time, before any of them begins."""
_TRUSTED_SECONDS = 3.0
"""The finished work at which a run's own pace counts as much as the expected one."""
_TRUSTED_SHARE = 0.2
"""The finished share of a phase at which its own pace counts as much as that of the run."""
_UNFINISHED_PERCENT = 99.0
"""The greatest percentage of a run that is not done."""


@dataclass(frozen=True, slots=True)
class Work:
    """The work of a phase, in the seconds that it takes where its cost was measured.

    Attributes:
        total: The whole work.
        done: The finished part of it, at most `total`.
        taken: The time that the finished part has taken in this run, in seconds by the clock.
        is_remote: Whether another machine determines its pace, which then says nothing about other work.
    """

    total: float = 0.0
    done: float = 0.0
    taken: float = 0.0
    is_remote: bool = False

    def pace(self, usual: float) -> float:
        """Return the time that a second of this work takes: as measured so far, and as usual while that is little."""
        usual_part = _TRUSTED_SHARE * self.total
        return (self.taken + usual * usual_part) / (self.done + usual_part)


def seconds_left(works: Collection[Work]) -> float:
    """Return the time that the rest of some works takes, each at its own pace and at that of the run.

    It is 0 exactly if nothing is left, and the sum of the rests if all has taken as long as expected.
    """
    usual = _usual_pace(works)
    return sum(_rest(work, usual) for work in works)


def _usual_pace(works: Collection[Work]) -> float:
    local = [work for work in works if not work.is_remote]
    taken, done = sum(work.taken for work in local), sum(work.done for work in local)
    return (taken + _TRUSTED_SECONDS) / (done + _TRUSTED_SECONDS)


def _rest(work: Work, usual: float) -> float:
    if work.total <= work.done:
        return 0.0
    return (work.total - work.done) * work.pace(1.0 if work.is_remote else usual)


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
        work: The work of each phase whose cost is known, over all steps of the run.
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
    work: Mapping[str, Work] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether the run is done."""
        return self.phase == "done"

    @property
    def seconds_left(self) -> float | None:
        """The time until the run is done, more than 0 until then; None if it is unknown."""
        return 0.0 if self.is_done else seconds_left(self.work.values()) or None

    @property
    def phase_seconds_left(self) -> float | None:
        """The time until the current phase is done; None if it is unknown."""
        work = self.work.get(self.phase)
        return None if work is None else _rest(work, _usual_pace(self.work.values())) or None

    @property
    def percent(self) -> float:
        """The percentage of the run's time that has passed, at most 99 until it is done."""
        if self.is_done:
            return 100.0
        taken = sum(work.taken for work in self.work.values())
        if not taken:
            return 0.0
        return min(_UNFINISHED_PERCENT, 100.0 * taken / (taken + (self.seconds_left or 0.0)))

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
        candles: The number of candles that each phase has stored or published so far; without the current one.
    """

    run_id: str
    now: int
    watch: Callable[[Progress], None] = _unwatched
    progress: Progress = field(default_factory=Progress)
    seconds: dict[str, float] = field(default_factory=dict)
    candles: dict[str, int] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)
    _accounted: float = field(default_factory=time.monotonic)
    _candles_before: int = 0

    def __post_init__(self) -> None:
        self._candles_before = self.progress.candles + self.progress.published

    def expect(self, phase: str, seconds: float, *, is_remote: bool = False) -> None:
        """Set the work that is left of a phase, in the seconds that it is expected to take."""
        work = self._work_of(phase)
        self._set_work(phase, replace(work, total=work.done + seconds, is_remote=is_remote))

    def did(self, phase: str, seconds: float) -> None:
        """Add finished work to a phase from which work is expected, and the time that has passed since the last call.

        Args:
            phase: The phase, which need not be the current one.
            seconds: The work, in the seconds that it was expected to take.
        """
        now = time.monotonic()
        if phase in self.progress.work:
            work = self._work_of(phase)
            done, taken = work.done + seconds, work.taken + now - self._accounted
            self._set_work(phase, replace(work, total=max(work.total, done), done=done, taken=taken))
        self._accounted = now

    def finish(self, phase: str) -> None:
        """Record that nothing is left of a phase, however much was expected of it."""
        work = self._work_of(phase)
        self.did(phase, work.total - work.done)

    def report(self, **changes: object) -> None:
        """Update the progress and pass it to `watch`; the time since the last call belongs to the phase before."""
        before = self.progress.phase
        self.did(before, 0)
        self.progress = replace(self.progress, **changes)  # type: ignore[arg-type]
        if before != self.progress.phase:
            self.end_phase(before)
        self.watch(self.progress)

    def _work_of(self, phase: str) -> Work:
        return self.progress.work.get(phase, Work())

    def _set_work(self, phase: str, work: Work) -> None:
        self.progress = replace(self.progress, work={**self.progress.work, phase: work})

    def end_phase(self, phase: str) -> None:
        """Add the time since the last phase ended, and its candles, to a phase."""
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._began
        self._began = now
        candles = self.progress.candles + self.progress.published
        self.candles[phase] = self.candles.get(phase, 0) + max(0, candles - self._candles_before)
        self._candles_before = candles
