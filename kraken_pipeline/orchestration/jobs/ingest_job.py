"""The job `ingest`: one run over any tier, pairs, intervals and dates, for the shell, the sensor and the schedules.

It calls the same workflows as the assets, and reports a materialisation of every partition that it changed.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from kraken_pipeline.orchestration import metadata, partitions
from kraken_pipeline.orchestration.events import changes
from kraken_pipeline.orchestration.failures import explained
from kraken_pipeline.orchestration.progress import (
    NOTES,
    finish,
    of_backfill,
    of_published,
    run_context,
    tell,
    tell_published,
    watcher,
)
from kraken_pipeline.orchestration.resources import STORES, stores_of
from kraken_pipeline.settings import load_settings
from kraken_pipeline.storage.catalog.states import FileStatus
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import publish
from kraken_pipeline.workflow.backfill.outcome import BackfillOutcome
from kraken_pipeline.workflow.gaps.kept_intervals import record_asked
from kraken_pipeline.workflow.gaps.plan import make_plan, nothing_to_do
from kraken_pipeline.workflow.gaps.snapshot import load_snapshot
from kraken_pipeline.workflow.ingest import drop_folder, ingest, scan
from kraken_pipeline.workflow.ingest.ingest import FileOutcome
from kraken_pipeline.workflow.ingest.scan import Task
from kraken_pipeline.workflow.progress import Progress, RunContext
from kraken_pipeline.workflow.proof.completion import fill
from kraken_pipeline.workflow.publish import PublishOutcome
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec

CHUNK_FILES = 512
"""Files of one step: what a re-execution from failure repeats, and 0.1 s of Dagster's own work a step."""
ABANDONED_SECONDS = 86_400
"""What lies beside the lake untouched for so long was left by a run that was killed."""
SPEC_TAG = "kraken/spec"


@dataclass(frozen=True, slots=True)
class IngestPlan:
    """What the first step found out for the others.

    Attributes:
        spec: What the run is to do.
        now: The moment that it takes for the present, in seconds since the epoch.
        progress: What is to be done in all.
        taken: How many files were ingested before.
        skipped: How many things in the folders are no archives.
        waiting: How many files still grow.
        broken: Containers that cannot be read, with the reason.
        new_pairs: Pairs that were never seen before, with their tier.
        notes: What the first of these were and why, for people.
    """

    spec: RunSpec
    now: int
    progress: Progress
    taken: int
    skipped: int
    waiting: int
    broken: tuple[str, ...]
    new_pairs: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some of the files of a run."""

    orders: IngestPlan
    tasks: tuple[Task, ...]


def config_schema() -> dict[str, dg.Field]:
    """The options of `RunSpec`, which checks them, for the launchpad to show."""
    return {
        name: dg.Field(dg.Noneable(dg.Any), is_required=False, description=field.description)
        for name, field in RunSpec.model_fields.items()
    }


def mapping(
    op: str, fields: Mapping[str, dg.Field], checked: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> dg.ConfigMapping:
    """Checks what a run is asked to do before there is one, and hands it to its first step."""

    def mapped(values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "ops": {op: {"config": checked(values)}},
            "loggers": {"console": {"config": {"log_level": load_settings().kraken_log_level.upper()}}},
        }

    return dg.ConfigMapping(config_fn=mapped, config_schema=dict(fields))


def spec_mapping(op: str) -> dg.ConfigMapping:
    """The same for a run that is asked for by a `RunSpec`."""
    return mapping(op, config_schema(), lambda values: run_spec(values).as_config())


def _run(context: dg.OpExecutionContext, orders: IngestPlan) -> RunContext:
    run = run_context(context, orders.now)
    if not run.progress.files_total:
        run.progress = orders.progress
    return run


@dg.op(
    config_schema=dict,
    required_resource_keys={STORES},
    out={"orders": dg.Out(IngestPlan), "chunks": dg.DynamicOut(Chunk)},
)
def look_at_folders(context: dg.OpExecutionContext) -> Iterator[dg.Output[IngestPlan] | dg.DynamicOutput[Chunk]]:
    """Finds the archives that are asked for and have not been taken, and deals them out."""
    with explained():
        stores, spec, now = stores_of(context), run_spec(context.op_config), int(time.time())
        context.instance.add_run_tags(context.run_id, spec_tags(spec))
        if spec.dry_run:
            _log_plan(context, stores, spec, now)
            tasks, found = [], scan.Scan()
        else:
            stores.lake.sweep(now - ABANDONED_SECONDS)
            found = scan.scan(stores, spec, now, patience=True)
            tasks = found.tasks
            _require_something(stores, spec, found, now)
            record_asked(stores, spec, now)
            _enlist(context, stores, found, run_context(context, now))
    orders = _orders(stores, spec, now, tasks, found)
    watcher(context.instance, context.run_id)(orders.progress)
    # At least one chunk, if an empty one: the step after them waits for it.
    for number, start in enumerate(range(0, max(len(tasks), 1), CHUNK_FILES)):
        chunk = Chunk(orders, tuple(tasks[start : start + CHUNK_FILES]))
        yield dg.DynamicOutput(chunk, mapping_key=f"{number:04d}", output_name="chunks")
    yield dg.Output(orders, "orders")


def _orders(stores: Stores, spec: RunSpec, now: int, tasks: Sequence[Task], found: scan.Scan) -> IngestPlan:
    notes = [
        f"{each.name}: {each.reason}" for kind in (found.waiting, found.taken, found.skipped) for each in kind[:NOTES]
    ]
    return IngestPlan(
        spec=spec,
        now=now,
        progress=Progress("reading archives", len(tasks), bytes_total=sum(task.file.size for task in tasks)),
        taken=len(found.taken),
        skipped=len(found.skipped),
        waiting=len(found.waiting),
        broken=tuple(f"{each.name}: {each.reason}" for each in found.broken),
        new_pairs=tuple(f"{pair} ({stores.tiers.tier_of(pair)})" for pair in found.new_pairs),
        notes=tuple(notes),
    )


def spec_tags(spec: RunSpec) -> dict[str, str]:
    """What tells a run's spec to whoever reads runs."""
    return {SPEC_TAG: json.dumps(spec.as_config())}


def _require_something(stores: Stores, spec: RunSpec, found: scan.Scan, now: int) -> None:
    pairs = [task.file.pair for task in found.tasks]
    if not load_snapshot(stores, spec, now, also=pairs).pairs and not found.broken:
        raise nothing_to_do(stores, spec, found)


def _enlist(context: dg.OpExecutionContext, stores: Stores, found: scan.Scan, run: RunContext) -> None:
    ingest.fail_broken(stores, found.broken, run)
    ingest.enlist(stores, found.tasks, run)
    partitions.register(
        context.instance, stores.tiers, [*stores.lake.asset_ids.pairs(), *(t.file.pair for t in found.tasks)]
    )
    for each in (*found.skipped, *found.waiting, *found.taken):
        context.log.info(f"{each.name}: {each.reason}")
    for each in found.broken:
        context.log.error(f"{each.name}: {each.reason}")
    for pair in found.new_pairs:
        context.log.info(f"{pair} is new, and belongs to {stores.tiers.tier_of(pair)}")


def _log_plan(context: dg.OpExecutionContext, stores: Stores, spec: RunSpec, now: int) -> None:
    plan = make_plan(stores, spec, now)
    rows = [(each.series, each.leg.span, each.leg.route, each.leg.requests) for each in plan.routes]
    context.log.info(f"{plan.requests} requests\n{metadata.table(('series', 'span', 'source', 'requests'), rows)}")


@dg.op(required_resource_keys={STORES}, out=dg.Out(list))
def ingest_files(context: dg.OpExecutionContext, chunk: Chunk) -> list[FileOutcome]:
    """Brings files into the lake, each by itself, and reports the partitions that changed."""
    # What passes by itself, such as a restart of the catalog's server, need not end a run: files taken are on record.
    with explained(retried=True):
        stores, run = stores_of(context), _run(context, chunk.orders)
        with stores.locks.slot("ingest", stores.settings.kraken_parallel_runs):
            outcomes = ingest.ingest(stores, chunk.orders.spec, chunk.tasks, run)
    for outcome in outcomes:
        if outcome.status is FileStatus.FAILED:
            context.log.error(f"{outcome.name}: {outcome.reason}")
        elif outcome.status in (FileStatus.SKIPPED, FileStatus.PENDING):
            context.log.info(f"{outcome.name}: {outcome.reason}")
        if outcome.rows_rejected:
            context.log.warning(f"{outcome.name}: {outcome.rows_rejected} rows rejected, see its dead letters")
    finish(context.instance, context.run_id, run.progress)
    return outcomes


@dg.op(required_resource_keys={STORES}, out=dg.Out(dg.Nothing))
def fill_gaps_and_report(context: dg.OpExecutionContext, orders: IngestPlan, outcomes: list[list[FileOutcome]]) -> None:
    """Tidies the drop folder, resamples what follows from finer candles, records the gaps that are left."""
    files = [outcome for chunk in outcomes for outcome in chunk]
    with explained(retried=True):
        stores, run = stores_of(context), _run(context, orders)
        if orders.spec.dry_run:
            nothing = outcome_of(orders, files, BackfillOutcome((), ()), PublishOutcome())
            finish(context.instance, context.run_id, run.progress, nothing)
            return
        drop_folder.tidy(stores)
        done = fill(stores, orders.spec, run)
        tell(context.log, done)
        published = publish.deliver(stores, run)
        tell_published(context.log, published)
        run.report(phase="reporting")
        for event in changes(stores, orders.spec, files, done, published, run.now):
            # It takes evaluations too; its annotation lags behind.
            context.log_event(event)  # type: ignore[arg-type]
    run.report(phase="done", bytes_done=run.progress.bytes_total, requests_total=run.progress.requests_done)
    finish(context.instance, context.run_id, run.progress, outcome_of(orders, files, done, published))


def outcome_of(
    orders: IngestPlan, files: Sequence[FileOutcome], done: BackfillOutcome, published: PublishOutcome
) -> dict[str, Any]:
    """What a run did, for its tags: counts, and the first errors."""
    failed = [f"{each.name}: {each.reason}" for each in files if each.status is FileStatus.FAILED]
    waiting = [f"{each.name}: {each.reason}" for each in files if each.status is FileStatus.PENDING]
    duplicates = [f"{each.name}: {each.reason}" for each in files if each.status is FileStatus.SKIPPED]
    return {
        "files_taken_before": orders.taken,
        "files_skipped": len(duplicates),
        "files_failed": len(failed) + len(orders.broken),
        "not_archives": orders.skipped,
        "files_waiting": orders.waiting + len(waiting),
        "rows_rejected": sum(each.rows_rejected for each in files),
        "new_pairs": list(orders.new_pairs[:NOTES]),
        **of_backfill(done),
        **of_published(published),
        "errors": [*orders.broken, *failed, *done.failed][:NOTES],
        "notes": [*orders.notes, *waiting[:NOTES], *duplicates[:NOTES], *done.notes[:NOTES], *published.failed[:NOTES]],
    }


@dg.job(
    name="ingest",
    config=spec_mapping("look_at_folders"),
    executor_def=dg.in_process_executor,
    description="Brings archives into the lake, fills gaps, says what is covered: any tier, pairs, intervals, dates.",
)
def ingest_job() -> None:
    """The one job for the shell, the sensor and the schedules."""
    orders, chunks = look_at_folders()
    fill_gaps_and_report(orders, chunks.map(ingest_files).collect())
