"""The progress and the outcome of a run, stored in the run's own tags: run storage is the only record of runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import dagster as dg

from kraken_pipeline.workflow.progress import Progress, Work

NOTES = 10
"""The maximum number of names of each kind in a run's outcome, which is a tag; the log has all of them."""
PROGRESS_TAG = "kraken/progress"
OUTCOME_TAG = "kraken/outcome"
FAILED_FILES_TAG = "kraken/failed_files"
"""The tag with the number of files that failed in a run that succeeded otherwise; absent if none did."""
_SECONDS_BETWEEN = 2.0
"""The time between two writes of progress. Measured: adding a tag costs about 10 ms on SQLite."""

_listeners: list[Callable[[Progress], None]] = []
_collections: list[list[object]] = []


@contextmanager
def listening(listener: Callable[[Progress], None]) -> Iterator[None]:
    """Pass the progress of runs in this process to a listener, such as a progress bar, until the block ends."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def collecting() -> Iterator[list[object]]:
    """Collect the results that runs in this process hand over, until the block ends."""
    results: list[object] = []
    _collections.append(results)
    try:
        yield results
    finally:
        _collections.remove(results)


def hand_over(result: object) -> None:
    """Pass the result of a run to the command that executes it in this process, if one does."""
    for results in _collections:
        results.append(result)


def announce(progress: Progress) -> None:
    """Pass progress to the listeners of this process."""
    for listener in _listeners:
        listener(progress)


def watcher(instance: dg.DagsterInstance, run_id: str) -> Callable[[Progress], None]:
    """Return a function that passes progress to listeners and, at most every two seconds, writes it to the run's tags.

    A new phase is written at once.
    """
    written_at = 0.0
    phase = ""

    def watch(progress: Progress) -> None:
        nonlocal written_at, phase
        announce(progress)
        if time.monotonic() - written_at >= _SECONDS_BETWEEN or progress.phase != phase:
            instance.add_run_tags(run_id, {PROGRESS_TAG: json.dumps(asdict(progress))})
            written_at, phase = time.monotonic(), progress.phase

    return watch


def progress_of(tags: dict[str, str]) -> Progress:
    """Return the progress in a run's tags."""
    made = json.loads(tags.get(PROGRESS_TAG, "{}"))
    work = {phase: Work(**values) for phase, values in made.pop("work", {}).items()}
    return Progress(**made, work=work)


def finish(
    instance: dg.DagsterInstance,
    run_id: str,
    progress: Progress,
    outcome: dict[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    failed_files: int = 0,
) -> None:
    """Write the final progress to the run's tags, with the outcome and other tags if there are any.

    Args:
        instance: The instance that records the run.
        run_id: The id of the run.
        progress: The final progress.
        outcome: The outcome of the run; None if another step has it.
        tags: Tags to write with it.
        failed_files: The number of files that failed.
    """
    of_outcome = {OUTCOME_TAG: json.dumps(outcome)} if outcome else {}
    of_files = {FAILED_FILES_TAG: str(failed_files)} if failed_files else {}
    values = {PROGRESS_TAG: json.dumps(asdict(progress)), **of_outcome, **of_files, **(tags or {})}
    instance.add_run_tags(run_id, values)


def outcome_of(tags: dict[str, str]) -> dict[str, Any]:
    """Return the outcome in a run's tags; empty for a run that has not finished."""
    return dict(json.loads(tags[OUTCOME_TAG])) if OUTCOME_TAG in tags else {}
