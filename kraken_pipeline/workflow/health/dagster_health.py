"""Health checks of Dagster: its daemon, and its queue of runs. What Dagster's storage says of them is passed in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.workflow.health.check import Check, HealthStatus

SILENT_SECONDS = 600
"""The time without a heartbeat from which a daemon is silent: a daemon beats every 30 seconds."""
LATE_SECONDS = 900
"""The time in the queue from which a run waits too long to be started."""
_START_THE_DAEMON = "dagster-daemon run"


@dataclass(frozen=True, slots=True)
class DagsterState:
    """The runs and daemons that Dagster's storage has on record. All times are in seconds since the epoch.

    Attributes:
        is_on_server: Whether a server keeps the history, as in production, where a daemon belongs to it.
        queued: The number of runs in the queue.
        queued_since: When the oldest of them was created; None if there is none.
        not_started: The number of runs that were created and neither queued nor started.
        at_work: The number of runs that Dagster has as started.
        heartbeats: When each daemon last reported, by its name; a daemon that was never started has none.
        needed: The names of the daemons that this instance needs. They are threads of one process.
    """

    is_on_server: bool
    queued: int
    queued_since: float | None
    not_started: int
    at_work: int
    heartbeats: Mapping[str, float]
    needed: frozenset[str]

    @property
    def needed_heartbeats(self) -> Mapping[str, float]:
        """When each daemon that is needed and was ever started last reported, by its name."""
        return {name: beat for name, beat in sorted(self.heartbeats.items()) if name in self.needed}

    def silent(self, now: float) -> Mapping[str, float]:
        """Return when each needed daemon that has not reported for some time last did, by its name."""
        return {name: beat for name, beat in self.needed_heartbeats.items() if now - beat > SILENT_SECONDS}


def dagster_checks(state: DagsterState, now: float) -> Iterator[Check]:
    """Yield the checks of Dagster's storage, which has answered, of its daemon and of its queue."""
    runs = quantity(state.at_work, "run is", "runs are")
    yield Check("dagster", HealthStatus.OK, f"Dagster's storage answers: {runs} at work")
    yield _daemon(state, now)
    yield _queue(state, now)


def _daemon(state: DagsterState, now: float) -> Check:
    name, beats, silent = "dagster daemon", state.needed_heartbeats, state.silent(now)
    if not beats and not state.is_on_server:
        sentence = "none was ever started: commands need none, but schedules, sensors and queued runs do"
        return Check(name, HealthStatus.OK, f"{sentence} ({_START_THE_DAEMON})")
    if not beats:
        sentence = "none was ever started, so schedules, sensors and queued runs wait for one"
        return Check(name, HealthStatus.WARNING, f"{sentence}; start it: {_START_THE_DAEMON}")
    if silent:
        parts = ", ".join(part.lower() for part in silent)
        return Check(
            name,
            HealthStatus.WARNING,
            f"it has not reported since {iso(int(min(silent.values())))} ({parts}), so schedules, sensors and queued "
            f"runs wait for it; start it again: {_START_THE_DAEMON}",
        )
    return Check(name, HealthStatus.OK, f"it last reported {max(0.0, now - max(beats.values())):.0f} s ago")


def _queue(state: DagsterState, now: float) -> Check:
    name = "dagster queue"
    if state.queued_since is None:
        return Check(name, HealthStatus.OK, "no run waits in the queue")
    waiting = quantity(state.queued, "run waits", "runs wait")
    sentence = f"{waiting} in the queue, the oldest since {iso(int(state.queued_since))}"
    if now - state.queued_since <= LATE_SECONDS:
        return Check(name, HealthStatus.OK, sentence)
    if state.needed_heartbeats and not state.silent(now):
        return Check(
            name,
            HealthStatus.WARNING,
            f"{sentence}: end runs that hang (kraken-pipeline status), or raise max_concurrent_runs in dagster.yaml",
        )
    return Check(name, HealthStatus.FAILED, f"{sentence}, and no daemon starts them; start it: {_START_THE_DAEMON}")
