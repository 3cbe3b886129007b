"""The Dagster entry point."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from kraken_pipeline.market.tier import TIERS
from kraken_pipeline.orchestration.assets.health import health, health_job
from kraken_pipeline.orchestration.assets.questdb_asset import questdb_asset
from kraken_pipeline.orchestration.assets.sources import SOURCES
from kraken_pipeline.orchestration.assets.tier_assets import tier_assets
from kraken_pipeline.orchestration.jobs.correction_jobs import reconcile_job, resolve_job
from kraken_pipeline.orchestration.jobs.ingest_job import ingest_job
from kraken_pipeline.orchestration.jobs.maintenance_jobs import MAINTENANCE_JOBS, backfill_job, retry_job
from kraken_pipeline.orchestration.jobs.prove_job import prove_job
from kraken_pipeline.orchestration.jobs.publish_job import publish_job
from kraken_pipeline.orchestration.jobs.recover_job import recover_job
from kraken_pipeline.orchestration.jobs.verify_job import verify_job
from kraken_pipeline.orchestration.logs import console
from kraken_pipeline.orchestration.monitoring.alert_sensors import alert_sensors
from kraken_pipeline.orchestration.resources import STORES, STORES_TO_RECOVER, stores_resource
from kraken_pipeline.orchestration.schedules import schedules
from kraken_pipeline.orchestration.sensors import (
    auto_gap_fill_sensor,
    deliver_publications_sensor,
    drop_folder_sensor,
    lost_runs_sensor,
)
from kraken_pipeline.settings import load_settings


def build_definitions(*, resource_overrides: Mapping[str, dg.ResourceDefinition] | None = None) -> dg.Definitions:
    """Everything that Dagster is told; tests override resources."""
    settings = load_settings()
    return dg.Definitions(
        assets=dg.with_source_code_references(
            [
                *SOURCES,
                *(asset for tier in TIERS for asset in tier_assets(tier)),
                *(questdb_asset(tier) for tier in TIERS if settings.has_questdb),
                health,
            ]
        ),
        jobs=[
            ingest_job,
            *MAINTENANCE_JOBS,
            verify_job,
            recover_job,
            prove_job,
            reconcile_job,
            resolve_job,
            health_job,
            *([publish_job] if settings.has_questdb else []),
        ],
        schedules=schedules(settings),
        sensors=[
            drop_folder_sensor(),
            auto_gap_fill_sensor(settings),
            lost_runs_sensor(),
            *([deliver_publications_sensor(settings)] if settings.has_questdb else []),
            *alert_sensors(settings),
        ],
        resources={
            STORES: stores_resource(),
            STORES_TO_RECOVER: stores_resource(is_recovering=True),
            **(resource_overrides or {}),
        },
        executor=dg.in_process_executor,
        loggers={"console": console},
    )


defs = build_definitions()


def bound_ingest() -> dg.JobDefinition:
    """The job `ingest` with its resources, for a program that runs it itself."""
    return defs.resolve_job_def(ingest_job.name)


def bound_backfill() -> dg.JobDefinition:
    """The job `backfill_gaps_incremental`, likewise."""
    return defs.resolve_job_def(backfill_job.name)


def bound_publish() -> dg.JobDefinition:
    """The job `publish_candles`, likewise; there only where QuestDB is, which may have been set since the import."""
    return build_definitions().resolve_job_def(publish_job.name)


def bound_verify() -> dg.JobDefinition:
    """The job `verify_lake`, likewise."""
    return defs.resolve_job_def(verify_job.name)


def bound_recover() -> dg.JobDefinition:
    """The job `recover_catalog`, likewise."""
    return defs.resolve_job_def(recover_job.name)


def bound_retry() -> dg.JobDefinition:
    """The job `retry_dead_letters`, likewise."""
    return defs.resolve_job_def(retry_job.name)


def bound_prove() -> dg.JobDefinition:
    """The job `prove`, likewise."""
    return defs.resolve_job_def(prove_job.name)


def bound_reconcile() -> dg.JobDefinition:
    """The job `reconcile`, likewise."""
    return defs.resolve_job_def(reconcile_job.name)


def bound_resolve() -> dg.JobDefinition:
    """The job `resolve`, likewise."""
    return defs.resolve_job_def(resolve_job.name)
