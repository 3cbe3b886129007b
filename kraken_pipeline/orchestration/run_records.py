"""The names by which Dagster's run storage knows a run: of its job, and of the tag with its run spec.

Reading runs needs these names and not the jobs, which import all of the work.
"""

from __future__ import annotations

import json

from kraken_pipeline.workflow.run_spec import RunSpec

INGEST_JOB = "ingest"
RECONCILE_JOB = "reconcile"
VERIFY_JOB = "verify_lake"
BACKFILL_JOB = "backfill_gaps_incremental"
PROVE_JOB = "prove"
PUBLISH_JOB = "publish_candles"
HEALTH_JOB = "check_health"
JOBS = (
    INGEST_JOB,
    BACKFILL_JOB,
    "retry_dead_letters",
    "report_data_completeness",
    "validate_recent_data",
    "cleanup_old_gap_records",
    VERIFY_JOB,
    "recover_catalog",
    PROVE_JOB,
    RECONCILE_JOB,
    "resolve",
    HEALTH_JOB,
    PUBLISH_JOB,
)
"""The names of all jobs."""
SPEC_TAG = "kraken/spec"


def spec_tags(spec: RunSpec) -> dict[str, str]:
    """Return the tag that stores the run spec with the run."""
    return {SPEC_TAG: json.dumps(spec.as_config())}
