"""The maintenance jobs: filling gaps, reporting, validating, cleaning up, retrying.

Each job but the first is one step that calls its workflow. Schedules, sensors and the command line run them, and so
does `dagster job launch`.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import Field

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.orchestration import metadata, partitions
from kraken_pipeline.orchestration.config import mapping, spec_mapping
from kraken_pipeline.orchestration.failures import explained
from kraken_pipeline.orchestration.jobs.groups import Dealt, GroupedWork, job_of_groups
from kraken_pipeline.orchestration.labels import asset_key
from kraken_pipeline.orchestration.progress import NOTES
from kraken_pipeline.orchestration.resources import StoresOfRun
from kraken_pipeline.orchestration.run_records import BACKFILL_JOB
from kraken_pipeline.orchestration.steps import begin, conclude, outcome_of_changes, report
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import pipeline
from kraken_pipeline.workflow.backfill import backfill
from kraken_pipeline.workflow.backfill.groups import RequestGroup, groups_to_request, request_group
from kraken_pipeline.workflow.backfill.work import Asked
from kraken_pipeline.workflow.cleanup import clean_up
from kraken_pipeline.workflow.dead_letters import failed_operations
from kraken_pipeline.workflow.expected_work import expect_filling
from kraken_pipeline.workflow.gaps.kept_intervals import record_asked
from kraken_pipeline.workflow.gaps.snapshot import load_snapshot
from kraken_pipeline.workflow.page.report_page import page_path, write_page
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.proof.validate import ValidationOutcome, validate_recent
from kraken_pipeline.workflow.report.report import make_report
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec


def _deliver_and_report(
    context: dg.OpExecutionContext, stores: Stores, spec: RunSpec, changes: pipeline.Changes, run: RunContext
) -> None:
    """Publish the changes, report the changed partitions, and record the outcome of the run."""
    changes = pipeline.deliver(stores, changes, run)
    report(context, stores, spec, changes, run)
    conclude(context, stores, run, outcome_of_changes(changes))


def find_requests(_: dg.OpExecutionContext, stores: Stores, config: Mapping[str, Any], run: RunContext) -> Dealt:
    """Resample, ask the exchange for what concerns all pairs, and distribute the pairs to fetch over the steps."""
    spec = run_spec(config)
    _require_pairs(stores, spec)
    if spec.dry_run or not spec.api_backfill:
        return Dealt(())
    expect_filling(stores, spec, run)
    asked, groups = groups_to_request(stores, spec, run)
    return Dealt([(group.pairs[0], group) for group in groups], [asked])


def request_candles(stores: Stores, config: Mapping[str, Any], group: RequestGroup, run: RunContext) -> Asked:
    """Fetch the candles and the trades of the pairs of one step."""
    return request_group(stores, run_spec(config), group, run)


def fill_gaps(
    context: dg.OpExecutionContext,
    stores: Stores,
    config: Mapping[str, Any],
    run: RunContext,
    asked: list[Asked] | None,
) -> None:
    """Fill gaps by resampling, then from the exchange, within lookback and budget."""
    spec = run_spec(config)
    _require_pairs(stores, spec)
    if spec.dry_run:
        rows = [(fetch, len(fetch.spans), fetch.requests) for fetch in backfill.planned(stores, spec, run.now)]
        context.log.info(metadata.table(("fetch", "spans", "requests"), rows))
        conclude(context, stores, run, outcome_of_changes(pipeline.Changes()))
        return
    if not asked:
        expect_filling(stores, spec, run)
    changes = pipeline.Changes(filled=pipeline.fill_gaps(stores, spec, run, asked or ()))
    record_asked(stores, spec, run.now)
    _deliver_and_report(context, stores, spec, changes, run)


def _require_pairs(stores: Stores, spec: RunSpec) -> None:
    if not stores.lake.asset_ids.pairs() and not spec.pairs:
        raise InvalidRequest(
            "the lake is empty: ingest archives first, or name the pairs to fetch: "
            "kraken-pipeline backfill --pairs XBTUSD"
        )


backfill_job = job_of_groups(
    BACKFILL_JOB,
    GroupedWork(find_requests, request_candles, fill_gaps, run_spec, is_retried=True),
    config=spec_mapping(find_requests.__name__),
    description="Fills gaps from the cheapest source (resampling, OHLC, Trades), for any tier, pairs, intervals "
    "and lookback.",
)
"""Fills gaps from resampling, OHLC and Trades; gaps that need archives are filled by `ingest`."""


class RetryConfig(dg.Config):
    """The options of the job `retry_dead_letters`."""

    ids: list[int] = Field(default=[], description="Numbers from `dead-letters list`; all if none is named.")


@dg.op(config_schema=dict, out=dg.Out(dg.Nothing))
def retry_operations(context: dg.OpExecutionContext, stores: StoresOfRun) -> None:
    """Retry operations that are dead letters: those with the given ids, or all of them."""
    with explained():
        chosen = failed_operations(stores, context.op_config["ids"])
        series = [operation.series for operation in chosen]
        pairs, intervals = {one_series.pair for one_series in series}, {one_series.interval for one_series in series}
        spec = run_spec(pairs=sorted(pairs), intervals=sorted(intervals) or None)
        run = begin(context, spec)
        changes = pipeline.Changes(filled=backfill.retry(stores, chosen, run))
        _deliver_and_report(context, stores, spec, changes, run)


@dg.job(
    name="retry_dead_letters",
    config=mapping("retry_operations", RetryConfig.to_fields_dict(), lambda values: {"ids": values["ids"] or []}),
    executor_def=dg.in_process_executor,
    description="Repeats fetches that failed for good: those with the given ids, or all.",
)
def retry_job() -> None:
    """Retry operations that are dead letters."""
    retry_operations()


def _reported(stores: Stores, spec: RunSpec, now: int) -> metadata.Metadata:
    """Return the metadata of a tier's report; only a report on the whole tier writes the tier's page."""
    if spec.pairs or not spec.selects_all_time:
        return metadata.of_report(make_report(stores, spec, now), page_path(stores.settings, spec.tier))
    return metadata.of_page(write_page(stores, spec, now))


@dg.op(config_schema=dict, out=dg.Out(dg.Nothing))
def report_completeness(context: dg.OpExecutionContext, stores: StoresOfRun) -> None:
    """Make the completeness report of each selected tier that has pairs."""
    with explained():
        spec = run_spec(context.op_config)
        run = begin(context, spec)
        pairs = load_snapshot(stores, spec, run.now).pairs.values()
        for tier, names in partitions.by_tier(stores.tiers, pairs).items():
            wanted = spec.model_copy(update={"tier": tier, "pairs": tuple(names) if spec.pairs else ()})
            key = asset_key(tier, "completeness_report")
            context.log_event(dg.AssetMaterialization(key, metadata=_reported(stores, wanted, run.now)))
    conclude(context, stores, run, {"errors": [], "notes": []})


@dg.job(
    name="report_data_completeness",
    config=spec_mapping("report_completeness"),
    executor_def=dg.in_process_executor,
    description="Reports how complete each tier is, and what to do about the rest.",
)
def report_job() -> None:
    """Materialise the asset `completeness_report` of each tier."""
    report_completeness()


@dg.op(config_schema=dict, out=dg.Out(dg.Nothing))
def compare_with_ohlc(context: dg.OpExecutionContext, stores: StoresOfRun) -> None:
    """Compare the stored candles of the last days with fresh replies of OHLC; record each difference as a conflict."""
    with explained():
        spec = run_spec(context.op_config)
        run = begin(context, spec)
        may_ask = spec.api_backfill and not spec.dry_run
        found = validate_recent(stores, spec, run) if may_ask else ValidationOutcome(())
    run.report(requests_done=found.requests)
    for failure in found.failed:
        context.log.error(failure)
    for note in found.notes:
        context.log.warning(note)
    rows = [(validation.series, validation.compared, len(validation.different)) for validation in found.series]
    context.log.info(f"{found.different} candles differ\n{metadata.table(('series', 'compared', 'different'), rows)}")
    notes = [
        f"{validation.series}: {len(validation.different)} candles differ"
        for validation in found.series
        if validation.different
    ]
    outcome: dict[str, Any] = {
        "requests": found.requests,
        "fetches_failed": len(found.failed),
        "candles_different": found.different,
        "errors": list(found.failed[:NOTES]),
        "notes": [*notes, *found.notes][:NOTES],
    }
    conclude(context, stores, run, outcome)


@dg.job(
    name="validate_recent_data",
    config=spec_mapping("compare_with_ohlc"),
    executor_def=dg.in_process_executor,
    description="Compares the stored candles of the last days with a fresh OHLC reply, and records differences.",
)
def validate_job() -> None:
    """Compare stored candles with OHLC, without changing the lake."""
    compare_with_ohlc()


class CleanupConfig(dg.Config):
    """The options of the job `cleanup_old_gap_records`."""

    retention_days: int | None = Field(
        default=None,
        description="Days for which a filled gap's record is kept; KRAKEN_GAP_RETENTION_DAYS if it is not set.",
    )


def _retained(values: Mapping[str, Any]) -> dict[str, Any]:
    days = values["retention_days"]
    if days is not None and days < 1:
        raise InvalidRequest(f"retention_days={days}: at least one day is kept")
    return {} if days is None else {"retention_days": days}


@dg.op(config_schema=dict, out=dg.Out(dg.Nothing))
def forget_old_records(context: dg.OpExecutionContext, stores: StoresOfRun) -> None:
    """Delete records of gaps filled long ago, attempts and counts of that time, and old damaged or replaced files."""
    with explained():
        run = begin(context)
        days = context.op_config.get("retention_days", stores.settings.kraken_gap_retention_days)
        done = clean_up(stores, days, run.now)
    counted = (
        f"{done.gaps} records of gaps, {done.attempts} attempts, {done.counters} hours of counts, {done.files} files"
    )
    context.log.info(f"deleted {counted}")
    outcome = {
        "gap_records_deleted": done.gaps,
        "attempts_deleted": done.attempts,
        "counts_deleted": done.counters,
        "files_deleted": done.files,
        "errors": [],
        "notes": [],
    }
    conclude(context, stores, run, outcome)


@dg.job(
    name="cleanup_old_gap_records",
    config=mapping("forget_old_records", CleanupConfig.to_fields_dict(), _retained),
    executor_def=dg.in_process_executor,
    description="Deletes the records of gaps that were filled more than KRAKEN_GAP_RETENTION_DAYS ago.",
)
def cleanup_job() -> None:
    """Delete old records of gaps, attempts and counts; no candle and no evidence is deleted."""
    forget_old_records()


MAINTENANCE_JOBS = (backfill_job, report_job, validate_job, cleanup_job, retry_job)
