"""The schedules that maintain a collection; times, tier and intervals are settings, and all times are UTC.

All but the cleanup are off until they are switched on, in the UI or by KRAKEN_SCHEDULES. The cleanup makes no requests,
and without it the catalog of a new installation would only grow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from kraken_pipeline.orchestration.assets.health import health_job
from kraken_pipeline.orchestration.jobs.maintenance_jobs import backfill_job, cleanup_job, report_job, validate_job
from kraken_pipeline.orchestration.jobs.prove_job import prove_job
from kraken_pipeline.orchestration.jobs.verify_job import verify_job
from kraken_pipeline.orchestration.runs import at_work
from kraken_pipeline.settings import Settings
from kraken_pipeline.workflow.triggers.maintenance import reason_not_to_maintain


def schedules(settings: Settings) -> Sequence[dg.ScheduleDefinition]:
    """Return every schedule, configured by the settings."""
    selection: dict[str, Any] = {"tier": settings.kraken_schedule_tier.upper()}
    if settings.kraken_schedule_intervals is not None:
        selection["intervals"] = settings.kraken_schedule_intervals
    recent = {**selection, "lookback_days": settings.kraken_schedule_lookback_days}
    cleanup = {"retention_days": settings.kraken_gap_retention_days}
    part = {"part": 1 / settings.kraken_verify_days}
    proof = {"tier": selection["tier"], "budget": settings.kraken_prove_requests}
    is_on = settings.kraken_schedules
    return [
        _schedule(settings, backfill_job, settings.kraken_backfill_cron, recent, is_on=is_on),
        _schedule(settings, report_job, settings.kraken_report_cron, selection, is_on=is_on),
        _schedule(settings, validate_job, settings.kraken_validate_cron, recent, is_on=is_on),
        _schedule(settings, cleanup_job, settings.kraken_cleanup_cron, cleanup, is_on=True),
        _schedule(settings, verify_job, settings.kraken_verify_cron, part, is_on=is_on),
        _schedule(settings, prove_job, settings.kraken_prove_cron, proof, is_on=is_on, name="prove_by_trade_ids"),
        _schedule(settings, health_job, settings.kraken_health_cron, {}, is_on=is_on, is_probe=True),
    ]


def _schedule(
    settings: Settings,
    job: dg.JobDefinition | UnresolvedAssetJobDefinition,
    cron: str,
    config: Mapping[str, Any],
    *,
    is_on: bool,
    is_probe: bool = False,
    name: str | None = None,
) -> dg.ScheduleDefinition:
    """Return a schedule of at most one run at a time; a probe runs even if catalog or lake cannot be opened."""
    status = dg.DefaultScheduleStatus.RUNNING if is_on else dg.DefaultScheduleStatus.STOPPED

    @dg.schedule(
        name=name or job.name,
        job=job,
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=status,
        description=job.description,
    )
    def scheduled(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if is_probe:
            return dg.RunRequest(run_config=dict(config))
        reason = reason_not_to_maintain(settings, lambda locks: at_work(context.instance, locks, job.name))
        if reason is not None:
            return dg.SkipReason(reason)
        return dg.RunRequest(run_config=dict(config))

    return scheduled
