"""The progress and the outcome of a run, stored in the run's own tags: run storage is the only record of runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import dagster as dg

from kraken_pipeline.workflow.backfill.outcome import BackfillOutcome
from kraken_pipeline.workflow.progress import Progress, RunContext
from kraken_pipeline.workflow.publish import PublishOutcome

NOTES = 10
"""The maximum number of names of each kind in a run's outcome, which is a tag; the log has all of them."""
PROGRESS_TAG = "kraken/progress"
OUTCOME_TAG = "kraken/outcome"
_SECONDS_BETWEEN = 2.0
"""The time between two writes of progress. Measured: adding a tag costs about 10 ms on SQLite."""

_listeners: list[Callable[[Progress], None]] = []


@contextmanager
def listening(listener: Callable[[Progress], None]) -> Iterator[None]:
    """Pass the progress of runs in this process to a listener, such as a progress bar, until the block ends."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def watcher(instance: dg.DagsterInstance, run_id: str) -> Callable[[Progress], None]:
    """Return a function that passes progress to listeners and, at most every two seconds, writes it to the run's tags.

    A new phase is written at once.
    """
    written_at = 0.0
    phase = ""

    def watch(progress: Progress) -> None:
        nonlocal written_at, phase
        for listener in _listeners:
            listener(progress)
        if time.monotonic() - written_at >= _SECONDS_BETWEEN or progress.phase != phase:
            instance.add_run_tags(run_id, {PROGRESS_TAG: json.dumps(asdict(progress))})
            written_at, phase = time.monotonic(), progress.phase

    return watch


def run_context(context: dg.OpExecutionContext | dg.AssetExecutionContext, now: int) -> RunContext:
    """Return the run context of a step, with the progress that earlier steps made.

    Args:
        context: The context of the step.
        now: The time that the run uses as the present, in seconds since the epoch.
    """
    run_id = context.run.run_id
    stored = context.instance.get_run_by_id(run_id)
    progress = progress_of(dict(stored.tags)) if stored else Progress()
    return RunContext(run_id, now, watcher(context.instance, run_id), progress)


def progress_of(tags: dict[str, str]) -> Progress:
    """Return the progress in a run's tags."""
    return Progress(**json.loads(tags[PROGRESS_TAG])) if PROGRESS_TAG in tags else Progress()


def finish(
    instance: dg.DagsterInstance, run_id: str, progress: Progress, outcome: dict[str, Any] | None = None
) -> None:
    """Write the final progress to the run's tags, and the outcome if there is one."""
    told = {OUTCOME_TAG: json.dumps(outcome)} if outcome else {}
    instance.add_run_tags(run_id, {PROGRESS_TAG: json.dumps(asdict(progress)), **told})


def outcome_of(tags: dict[str, str]) -> dict[str, Any]:
    """Return the outcome in a run's tags; empty for a run that has not finished."""
    return dict(json.loads(tags[OUTCOME_TAG])) if OUTCOME_TAG in tags else {}


def tell(log: dg.DagsterLogManager, done: BackfillOutcome) -> None:
    """Log the failures and the notes of a backfill."""
    for failure in done.failed:
        log.error(failure)
    for note in done.notes:
        log.warning(note)


def tell_published(log: dg.DagsterLogManager, done: PublishOutcome) -> None:
    """Log the failures of a publication."""
    for failure in done.failed:
        log.warning(failure)


def of_published(done: PublishOutcome) -> dict[str, Any]:
    """Return the outcome of a run's publication; empty if there was nothing to publish."""
    if not (done.series or done.failed or done.owed):
        return {}
    return {"candles_published": done.candles, "publications_owed": done.owed}


def of_backfill(done: BackfillOutcome) -> dict[str, Any]:
    """Return the outcome of a run's backfill: counts, the first errors and the first notes."""
    return {
        "requests": done.requests,
        "fetches_failed": len(done.failed),
        "spans_refuted": done.refuted,
        "contradictions_healed": done.healed,
        "new_conflicts": done.conflicts,
        "errors": list(done.failed[:NOTES]),
        "notes": list(done.notes[:NOTES]),
    }
