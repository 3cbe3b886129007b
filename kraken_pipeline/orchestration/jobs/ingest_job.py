"""The job `ingest`: one run over any tier, pairs, intervals and dates, started by the command line or a sensor.

It calls the same workflows as the assets, and reports a materialisation of every partition that it changed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from kraken_pipeline.kraken.discovery import PassedOver
from kraken_pipeline.orchestration import metadata, partitions
from kraken_pipeline.orchestration.config import spec_mapping
from kraken_pipeline.orchestration.delivery.starts import require_few_starts
from kraken_pipeline.orchestration.events import file_events
from kraken_pipeline.orchestration.executors import executor_by_setting, require_same_code, steps_are_groups
from kraken_pipeline.orchestration.failures import explained
from kraken_pipeline.orchestration.jobs.groups import key_of
from kraken_pipeline.orchestration.progress import NOTES, finish
from kraken_pipeline.orchestration.resources import StoresOfRun
from kraken_pipeline.orchestration.run_records import INGEST_JOB
from kraken_pipeline.orchestration.steps import (
    add_seconds,
    begin,
    begin_part,
    conclude,
    log_events,
    outcome_of_changes,
    report,
    report_series,
)
from kraken_pipeline.storage.catalog.states import FileStatus
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import pipeline
from kraken_pipeline.workflow.expected_work import is_reported_in_full
from kraken_pipeline.workflow.gaps.kept_intervals import record_asked
from kraken_pipeline.workflow.gaps.plan import make_plan
from kraken_pipeline.workflow.gaps.selection import requests_left
from kraken_pipeline.workflow.ingest import scan
from kraken_pipeline.workflow.ingest.batches import groups_of
from kraken_pipeline.workflow.ingest.outcome import FileOutcome
from kraken_pipeline.workflow.ingest.scan import Task
from kraken_pipeline.workflow.progress import Progress, RunContext
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec

CHUNK_FILES = 4_096
"""The number of files in one step: a step costs Dagster 0.1 s, and starting its processes a second. A re-execution
from failure repeats a step, but does not read the files again that it had ingested."""
REQUESTS_LEFT_TAG = "kraken/requests_left"
"""The tag with the approximate number of requests that a backfill after the run would make."""


@dataclass(frozen=True, slots=True)
class IngestPlan:
    """The findings of the first step, for the other steps.

    Attributes:
        spec: The run spec.
        now: The time that the run uses as the present, in seconds since the epoch.
        progress: The progress at the start, with the totals of the work.
        ingested_before: The number of files that were ingested before.
        skipped: The number of files in the folders that are not archives.
        waiting: The number of files that may still grow.
        broken: The containers that cannot be read, with the reasons.
        new_pairs: The pairs never seen before, with their tiers.
        notes: The first waiting, taken and skipped files with the reasons, for people.
        is_full: Whether everything of each series is reported.
    """

    spec: RunSpec
    now: int
    progress: Progress
    ingested_before: int
    skipped: int
    waiting: int
    broken: tuple[PassedOver, ...]
    new_pairs: tuple[str, ...]
    notes: tuple[str, ...]
    is_full: bool


@dataclass(frozen=True, slots=True)
class Chunk:
    """The files of one step of a run."""

    plan: IngestPlan
    tasks: tuple[Task, ...]


@dg.op(
    config_schema=dict,
    out={"plan": dg.Out(IngestPlan), "chunks": dg.DynamicOut(Chunk)},
)
def look_at_folders(
    context: dg.OpExecutionContext, stores: StoresOfRun
) -> Iterator[dg.Output[IngestPlan] | dg.DynamicOutput[Chunk]]:
    """Find the selected archives that have not been ingested yet, and distribute them over the steps."""
    with explained():
        require_same_code(context)
        require_few_starts(context, ["the folders with archives"])
        spec = run_spec(context.op_config)
        run = begin(context, spec)
        found = scan.Scan()
        if spec.dry_run:
            _log_plan(context, stores, spec, run.now)
        else:
            found = pipeline.find_archives(stores, spec, run, is_whole_run=True)
            record_asked(stores, spec, run.now)
            _log_found(context, stores, found)
    plan = _plan(stores, spec, run, found)
    for number, tasks in enumerate(_chunks(stores, found.tasks)):
        is_group = tasks and steps_are_groups(stores.settings, INGEST_JOB)
        key = key_of(number + 1, tasks[0].file.pair.name) if is_group else f"{number:04d}"
        yield dg.DynamicOutput(Chunk(plan, tuple(tasks)), mapping_key=key, output_name="chunks")
    yield dg.Output(plan, "plan")


def _chunks(stores: Stores, tasks: Sequence[Task]) -> Iterator[Sequence[Task]]:
    """Yield the files of each step: at least one chunk, even if it is empty, because the last step waits for them."""
    if tasks and steps_are_groups(stores.settings, INGEST_JOB):
        yield from groups_of(tasks, stores.settings.kraken_workers, of_steps=True)
        return
    for start in range(0, max(len(tasks), 1), CHUNK_FILES):
        yield tasks[start : start + CHUNK_FILES]


def _plan(stores: Stores, spec: RunSpec, run: RunContext, found: scan.Scan) -> IngestPlan:
    notes = [
        f"{skipped.name}: {skipped.reason}"
        for kind in (found.waiting, found.ingested_before, found.skipped)
        for skipped in kind[:NOTES]
    ]
    return IngestPlan(
        spec=spec,
        now=run.now,
        progress=run.progress,
        ingested_before=len(found.ingested_before),
        skipped=len(found.skipped),
        waiting=len(found.waiting),
        broken=tuple(found.broken),
        new_pairs=tuple(f"{pair} ({stores.tiers.tier_of(pair)})" for pair in found.new_pairs),
        notes=tuple(notes),
        is_full=is_reported_in_full(stores, spec, [task.file for task in found.tasks]),
    )


def _log_found(context: dg.OpExecutionContext, stores: Stores, found: scan.Scan) -> None:
    """Log what was found in the folders, and add its pairs to the partitions."""
    pairs = [*stores.lake.asset_ids.pairs(), *(task.file.pair for task in found.tasks)]
    partitions.register(context.instance, stores.tiers, pairs)
    for what, files in (
        ("files are no archives", found.skipped),
        ("files may still grow", found.waiting),
        ("files were ingested before", found.ingested_before),
    ):
        _log_names(context.log, what, [f"{file.name}: {file.reason}" for file in files])
    for container in found.broken:
        context.log.error(f"{container.name}: {container.reason}")
    tiers = [f"{pair}, which belongs to {stores.tiers.tier_of(pair)}" for pair in found.new_pairs]
    _log_names(context.log, "pairs are new", tiers)


def _log_names(log: dg.DagsterLogManager, what: str, names: Sequence[str]) -> None:
    """Log one line with the number of some names and the first of them; nothing for none."""
    if names:
        more = "" if len(names) <= NOTES else f"; and {len(names) - NOTES:,} more"
        log.info(f"{len(names):,} {what}: {'; '.join(names[:NOTES])}{more}")


def _log_plan(context: dg.OpExecutionContext, stores: Stores, spec: RunSpec, now: int) -> None:
    plan = make_plan(stores, spec, now)
    rows = [(route.series, route.leg.span, route.leg.route, route.leg.requests) for route in plan.routes]
    context.log.info(f"{plan.requests} requests\n{metadata.table(('series', 'span', 'source', 'requests'), rows)}")


@dg.op(out=dg.Out(pipeline.Changes))
def ingest_files(context: dg.OpExecutionContext, stores: StoresOfRun, chunk: Chunk) -> pipeline.Changes:
    """Ingest the files of one step into the lake, each on its own."""
    # A passing fault, such as a restart of the catalog's server, does not end the run: ingested files are on record.
    with explained(retried=True):
        require_same_code(context)
        if steps_are_groups(stores.settings, context.job_name):
            require_few_starts(context, sorted({str(task.file.pair) for task in chunk.tasks}))
            part = begin_part(context, stores, chunk.plan.now)
            changes = pipeline.ingest_group(part.stores, chunk.plan.spec, chunk.tasks, part.run)
            if not chunk.plan.spec.api_backfill:  # otherwise requests are still to change most of the series
                changes = report_series(
                    context, stores, chunk.plan.spec, changes, chunk.plan.now, is_full=chunk.plan.is_full
                )
            part.finish()
        else:
            run = begin(context, now=chunk.plan.now, progress=chunk.plan.progress)
            changes = pipeline.ingest_archives(stores, chunk.plan.spec, chunk.tasks, run, is_whole_run=True)
            add_seconds(context, stores, run)
            finish(context.instance, context.run_id, run.progress)
    _log_outcomes(context.log, changes.files)
    return changes


def _log_outcomes(log: dg.DagsterLogManager, outcomes: Sequence[FileOutcome]) -> None:
    """Log a line for each file that failed or has rejected rows, and one for all files of each other status."""
    for outcome in outcomes:
        if outcome.status is FileStatus.FAILED:
            log.error(f"{outcome.name}: {outcome.reason}")
        if outcome.rows_rejected:
            log.warning(f"{outcome.name}: {outcome.rows_rejected} rows rejected, see its dead letters")
    ingested = [outcome for outcome in outcomes if outcome.status is FileStatus.COMPLETED]
    stored = sum(outcome.candles_stored for outcome in ingested)
    _log_names(log, f"files were ingested, with {stored:,} new or changed candles", [file.name for file in ingested])
    for status, what in ((FileStatus.SKIPPED, "files were skipped"), (FileStatus.PENDING, "files wait")):
        reasons = [f"{outcome.name}: {outcome.reason}" for outcome in outcomes if outcome.status is status]
        _log_names(log, what, reasons)


@dg.op(out=dg.Out(dg.Nothing))
def fill_gaps_and_report(
    context: dg.OpExecutionContext, stores: StoresOfRun, plan: IngestPlan, ingested: list[pipeline.Changes]
) -> None:
    """Tidy the drop folder, fill gaps, record those left, publish the changes, and report the changed partitions."""
    changes = pipeline.Changes()
    with explained(retried=True):
        require_same_code(context)
        require_few_starts(context, ["gaps, requests and reports"])
        run = begin(context, now=plan.now, progress=plan.progress)
        if not plan.spec.dry_run:
            pipeline.tidy(stores)
            changes = pipeline.complete(stores, plan.spec, ingested, run)
            changes = pipeline.deliver(stores, changes, run)
            report(context, stores, plan.spec, changes, run, is_full=plan.is_full)
            log_events(context, file_events(stores, plan.spec, changes.files, plan.broken))
        left = requests_left(stores, changes.filled.gaps, plan.spec, run.now)
    conclude(context, stores, run, outcome_of(plan, changes), {REQUESTS_LEFT_TAG: str(left)})


def outcome_of(plan: IngestPlan, changes: pipeline.Changes) -> dict[str, Any]:
    """Return the outcome of a run: counts, the first errors and the first notes."""
    files = changes.files
    broken = [f"{skipped.name}: {skipped.reason}" for skipped in plan.broken]
    failed = [f"{file.name}: {file.reason}" for file in files if file.status is FileStatus.FAILED]
    waiting = [f"{file.name}: {file.reason}" for file in files if file.status is FileStatus.PENDING]
    duplicates = [f"{file.name}: {file.reason}" for file in files if file.status is FileStatus.SKIPPED]
    return {
        "files_taken_before": plan.ingested_before,
        "files_skipped": len(duplicates),
        "files_failed": len(failed) + len(plan.broken),
        "not_archives": plan.skipped,
        "files_waiting": plan.waiting + len(waiting),
        "rows_rejected": sum(file.rows_rejected for file in files),
        "new_pairs": list(plan.new_pairs[:NOTES]),
        **outcome_of_changes(
            changes,
            errors=[*broken, *failed],
            notes=[*plan.notes, *waiting[:NOTES], *duplicates[:NOTES]],
        ),
    }


@dg.job(
    name=INGEST_JOB,
    config=spec_mapping("look_at_folders"),
    executor_def=executor_by_setting,
    description="Ingests archives, fills gaps and records coverage, for any tier, pairs, intervals and dates.",
)
def ingest_job() -> None:
    """Ingest archives into the lake, fill gaps, and report the changed partitions."""
    plan, chunks = look_at_folders()
    fill_gaps_and_report(plan, chunks.map(ingest_files).collect())
