"""The beginning and the end of a run's work in Dagster: its context, and the report of what it changed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg

from kraken_pipeline.errors import PipelineError
from kraken_pipeline.orchestration import metadata, partitions
from kraken_pipeline.orchestration.delivery.starts import logged_before
from kraken_pipeline.orchestration.event_batches import BATCH_EVENTS, store_batch
from kraken_pipeline.orchestration.events import Event, events_of, series_events
from kraken_pipeline.orchestration.progress import (
    NOTES,
    announce,
    finish,
    part_tags,
    part_watcher,
    progress_of,
    watcher,
)
from kraken_pipeline.orchestration.run_records import spec_tags
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.storage.workers import of_one_process
from kraken_pipeline.workflow import costs
from kraken_pipeline.workflow.backfill.outcome import BackfillOutcome
from kraken_pipeline.workflow.expected_work import expect_report
from kraken_pipeline.workflow.phase_counts import count_phases
from kraken_pipeline.workflow.pipeline import Changes
from kraken_pipeline.workflow.progress import Progress, RunContext, Work
from kraken_pipeline.workflow.publish import PublishOutcome
from kraken_pipeline.workflow.run_spec import RunSpec

_FEW_EVENTS = 8
"""Fewer events of an asset are logged one by one, so that the log of a small run shows each of them."""
_EVENTS_OF_PROGRESS = 50
"""The number of events between two reports of progress: they take a twentieth of a second or longer."""


def begin(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    spec: RunSpec | None = None,
    *,
    now: int | None = None,
    progress: Progress | None = None,
) -> RunContext:
    """Return the run context of a step, with the progress that earlier steps made.

    Args:
        context: The context of the step.
        spec: The run spec, which is stored with the run; None if the run has none, or an earlier step stored it.
        now: The time that the run uses as the present, in seconds since the epoch; None for the current time.
        progress: The progress to start from if no earlier step of this very run made any.
    """
    run_id = context.run.run_id
    if spec is not None:
        context.instance.add_run_tags(run_id, spec_tags(spec))
    stored = context.instance.get_run_by_id(run_id)
    made = progress_of(dict(stored.tags)) if stored else Progress()
    if progress is not None and made == Progress():
        made = progress
    return RunContext(run_id, int(time.time()) if now is None else now, watcher(context.instance, run_id), made)


@dataclass(frozen=True, slots=True)
class Part:
    """One of several steps of a run that run at the same time, each in a process of its own.

    Attributes:
        context: The context of the step.
        name: The name of the step.
        stores: The stores, whose settings allow the step one process.
        run: The context of the run, with the progress of this step alone.
        parts: The number of steps that run at the same time.
    """

    context: dg.OpExecutionContext
    name: str
    stores: Stores
    run: RunContext
    parts: int

    def finish(self) -> None:
        """Write the final progress of the step, and count its phases."""
        count_step(self.context, self.stores, self.run)
        tags = part_tags(self.run.progress, self.name, self.parts)
        self.context.instance.add_run_tags(self.context.run_id, tags)


def begin_part(
    context: dg.OpExecutionContext, stores: Stores, now: int, phases: Iterable[str] = ("ingesting",)
) -> Part:
    """Begin one of several steps that run at the same time, up to KRAKEN_WORKERS of them.

    Args:
        context: The context of the step, which is mapped.
        stores: The stores.
        now: The time that the run uses as the present, in seconds since the epoch.
        phases: The phases whose work the step shares with others.
    """
    name, parts = str(context.get_mapping_key()), stores.settings.kraken_workers
    alone = replace(stores, settings=of_one_process(stores.settings))
    watch = part_watcher(context.instance, context.run_id, name, parts)
    run = RunContext(context.run_id, now, watch, Progress(work={phase: Work() for phase in phases}))
    return Part(context, name, alone, run, parts)


def report_series(
    context: dg.OpExecutionContext, stores: Stores, spec: RunSpec, changes: Changes, now: int, *, is_full: bool
) -> Changes:
    """Log the partitions that one of several steps changed, and return the changes as reported.

    If an earlier process of the step was killed, the partitions that it has logged are not logged again.

    Args:
        context: The context of the step.
        stores: The stores that the step changed.
        spec: The run spec.
        changes: The changes of the step.
        now: The time that the run uses as the present, in seconds since the epoch.
        is_full: Whether everything of each series is reported.
    """
    logged = logged_before(context)
    events = series_events(stores, spec, changes, now, is_full=is_full)
    log_events(context, (event for event in events if (event.asset_key, str(event.partition)) not in logged))
    return replace(changes, reported=frozenset({*changes.ingested, *changes.candles_stored}))


def report(
    context: dg.OpExecutionContext,
    stores: Stores,
    spec: RunSpec,
    changes: Changes,
    run: RunContext,
    *,
    is_full: bool | None = None,
) -> None:
    """Log what a run changed: to the log what failed, as events the partitions and checks that changed.

    Args:
        context: The context of the step.
        stores: The stores that the run changed.
        spec: The run spec.
        changes: The changes of the run.
        run: The context of the run.
        is_full: Whether everything of each series is reported; None where the number of series decides.
    """
    log_shortfalls(context.log, changes)
    partitions.register(context.instance, stores.tiers, stores.lake.asset_ids.pairs())
    rewritten = {*changes.ingested, *changes.candles_stored}
    others = len(changes.evidence - rewritten)
    expect_report(stores, run, rewritten, changes.rules.keys(), changes.reported, others=others)
    run.report(phase="reporting")
    log_events(context, _counted(events_of(stores, spec, changes, run.now, is_full=is_full), run))


def _counted(events: Iterable[Event], run: RunContext) -> Iterator[Event]:
    """Yield events, and report the progress of the run after some of them."""
    for number, event in enumerate(events, 1):
        yield event
        run.did("reporting", costs.logging(1))
        if number % _EVENTS_OF_PROGRESS == 0:
            run.report()


def log_events(context: dg.OpExecutionContext, events: Iterable[Event]) -> None:
    """Log materialisations and evaluations of checks; many of one asset or check are stored in batches.

    Those of one asset or check stay in order. If an event cannot be made, those before it are stored all the same.
    """
    waiting: dict[tuple[dg.AssetKey, str | None], list[Event]] = {}
    try:
        for event in events:
            about = event.asset_key, event.check_name if isinstance(event, dg.AssetCheckEvaluation) else None
            of_asset = waiting.setdefault(about, [])
            of_asset.append(event)
            if len(of_asset) == BATCH_EVENTS:
                _log_together(context, waiting.pop(about))
    finally:
        for of_asset in waiting.values():
            _log_together(context, of_asset)


def _log_together(context: dg.OpExecutionContext, events: Sequence[Event]) -> None:
    """Store events of one asset or check as a batch; log them one by one if they are few, or the batch fails.

    Dagster does the same with a batch of its own that fails. A history that cannot be written ends no run.
    """
    if len(events) >= _FEW_EVENTS:
        try:
            store_batch(context, events)
        except Exception as error:
            context.log.warning(f"{len(events)} events are logged one by one, as their batch failed: {error}")
        else:
            return
    for event in events:
        # The method accepts evaluations too; its annotation does not say so.
        context.log_event(event)  # type: ignore[arg-type]


def log_shortfalls(log: dg.DagsterLogManager, changes: Changes) -> None:
    """Log what a backfill and a publication could not do, and their notes."""
    for failure in changes.filled.failed:
        log.error(failure)
    for note in (*changes.filled.notes, *changes.published.failed):
        log.warning(note)


def conclude(
    context: dg.OpExecutionContext,
    stores: Stores,
    run: RunContext,
    outcome: Mapping[str, Any],
    tags: Mapping[str, str] | None = None,
) -> None:
    """Record that a run is done, with all of its work and its requests made, its outcome and further tags.

    The outcome is also the metadata of the step's output. Progress, outcome and tags are one write.
    """
    made = run.progress
    add_seconds(context, stores, run)
    run.progress = replace(made, phase="done", bytes_done=made.bytes_total, requests_total=made.requests_done)
    announce(run.progress)
    context.add_output_metadata(metadata.of_outcome(outcome))
    failed_files = outcome.get("files_failed", 0)
    finish(context.instance, run.run_id, run.progress, dict(outcome), tags, failed_files=failed_files)


def add_seconds(context: dg.OpExecutionContext, stores: Stores, run: RunContext) -> None:
    """End the current phase, add the seconds of every phase to the metadata of the step's output, and count them."""
    count_step(context, stores, run)
    context.add_output_metadata({f"seconds {phase}": round(seconds, 3) for phase, seconds in run.seconds.items()})


def count_step(context: dg.OpExecutionContext | dg.AssetExecutionContext, stores: Stores, run: RunContext) -> None:
    """End the current phase of a step, and add its phases to the counters; if that fails, the run goes on."""
    run.end_phase(run.progress.phase)
    try:
        count_phases(stores, run)
    except PipelineError as error:
        context.log.warning(f"the seconds of the phases are not counted: {error}")


def outcome_of_changes(changes: Changes, *, errors: Sequence[str] = (), notes: Sequence[str] = ()) -> dict[str, Any]:
    """Return the outcome of a run's backfill and publication: counts, the first errors and the first notes.

    Args:
        changes: The changes of the run.
        errors: Errors of the run's other work, which come first.
        notes: Notes of the run's other work, which come first.
    """
    return {
        **_of_backfill(changes.filled),
        **outcome_of_publication(changes.published),
        "errors": [*errors, *changes.filled.failed][:NOTES],
        "notes": [*notes, *changes.filled.notes[:NOTES], *changes.published.failed[:NOTES]],
    }


def _of_backfill(done: BackfillOutcome) -> dict[str, Any]:
    return {
        "requests": done.requests,
        "fetches_failed": len(done.failed),
        "spans_refuted": done.refuted,
        "contradictions_healed": done.healed,
        "new_conflicts": done.conflicts,
    }


def outcome_of_publication(done: PublishOutcome) -> dict[str, Any]:
    """Return the outcome of a run's publication: counts, or nothing if there was nothing to publish."""
    if not (done.series or done.failed or done.pending):
        return {}
    return {"candles_published": done.candles, "publications_owed": done.pending}
