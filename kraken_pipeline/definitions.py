"""The Dagster entry point."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from kraken_pipeline.market.tier import TIERS
from kraken_pipeline.orchestration.assets import tier_assets
from kraken_pipeline.orchestration.jobs import ingest_job
from kraken_pipeline.orchestration.resources import STORES, stores_resource
from kraken_pipeline.orchestration.sensors import drop_folder_sensor


def build_definitions(*, resource_overrides: Mapping[str, dg.ResourceDefinition] | None = None) -> dg.Definitions:
    """Everything that Dagster is told; tests override resources."""
    return dg.Definitions(
        assets=[asset for tier in TIERS for asset in tier_assets(tier)],
        jobs=[ingest_job],
        sensors=[drop_folder_sensor()],
        resources={STORES: stores_resource(), **(resource_overrides or {})},
        executor=dg.in_process_executor,
    )


defs = build_definitions()


def bound_ingest() -> dg.JobDefinition:
    """The job `ingest` with its resources, for a program that runs it itself."""
    return defs.resolve_job_def(ingest_job.name)
