"""The progress and the outcome of a run, stored in the run's own tags: run storage is the only record of runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import dagster as dg

from kraken_pipeline.workflow.progress import DEALING, READING, Progress, Work

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


def part_watcher(instance: dg.DagsterInstance, run_id: str, part: str, parts: int) -> Callable[[Progress], None]:
    """Return a function that writes the progress of one of several steps that run at the same time to a tag of its own.

    Args:
        instance: The instance that records the run.
        run_id: The id of the run.
        part: The name of the step.
        parts: The number of steps that run at the same time: each gets on with that part of the work of the run.
    """
    written_at = 0.0

    def watch(progress: Progress) -> None:
        nonlocal written_at
        if time.monotonic() - written_at >= _SECONDS_BETWEEN:
            instance.add_run_tags(run_id, part_tags(progress, part, parts))
            written_at = time.monotonic()

    return watch


def part_tags(progress: Progress, part: str, parts: int) -> dict[str, str]:
    """Return the tag with the progress of one of several steps that run at the same time; see `part_watcher`."""
    work = {
        phase: replace(
            made,
            total=made.total / parts,
            done=made.done / (1 if made.is_remote else parts),  # requests of all steps take turns
            taken=made.taken / parts,
        )
        for phase, made in progress.work.items()
    }
    return {f"{PROGRESS_TAG}/{part}": json.dumps(asdict(replace(progress, work=work)))}


def progress_of(tags: dict[str, str]) -> Progress:
    """Return the progress in a run's tags, with that of steps that run at the same time while they do."""
    made = _progress_in(tags.get(PROGRESS_TAG, "{}"))
    parts = [_progress_in(text) for name, text in sorted(tags.items()) if name.startswith(f"{PROGRESS_TAG}/")]
    if not parts or made.phase not in (READING, DEALING):
        return made  # the last step has begun with the sum, and goes on from there
    work = dict(made.work)
    for part in parts:
        for phase, its in part.work.items():
            before = work.get(phase, Work())
            work[phase] = replace(
                before, done=min(before.total, before.done + its.done), taken=before.taken + its.taken
            )
    return replace(
        made,
        phase=next((part.phase for part in parts if part.phase != Progress().phase), made.phase),
        files_done=made.files_done + sum(part.files_done for part in parts),
        files_ingested=made.files_ingested + sum(part.files_ingested for part in parts),
        candles=made.candles + sum(part.candles for part in parts),
        bytes_done=made.bytes_done + sum(part.bytes_done for part in parts),
        requests_done=made.requests_done + sum(part.requests_done for part in parts),
        published=made.published + sum(part.published for part in parts),
        work=work,
    )


def _progress_in(text: str) -> Progress:
    made = json.loads(text)
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
