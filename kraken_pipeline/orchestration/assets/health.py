"""The asset `health`: checks of everything that the pipeline depends on, kept up to date by a schedule."""

from datetime import timedelta

import dagster as dg

from kraken_pipeline.orchestration.instance import state_of
from kraken_pipeline.orchestration.labels import OPERATIONS, OWNERS, Layer, tags
from kraken_pipeline.orchestration.metadata import table
from kraken_pipeline.orchestration.run_records import HEALTH_JOB
from kraken_pipeline.settings import load_settings
from kraken_pipeline.workflow.health.check import Check, HealthStatus, worst
from kraken_pipeline.workflow.health.health import NAMES, check_health

_HOURLY = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=1), warn_window=timedelta(hours=1))
KEY = dg.AssetKey([OPERATIONS, "health"])


def _result(name: str, checks: list[Check]) -> dg.AssetCheckResult:
    """Return the check result of one subject of the asset, such as the catalog."""
    verdict = worst(checks)
    return dg.AssetCheckResult(
        check_name=name,
        asset_key=KEY,
        passed=verdict is HealthStatus.OK,
        severity=dg.AssetCheckSeverity.ERROR if verdict is HealthStatus.FAILED else dg.AssetCheckSeverity.WARN,
        metadata={check.name.replace(" ", "_"): check.sentence for check in checks},
    )


@dg.asset(
    key=KEY,
    group_name=OPERATIONS,
    owners=OWNERS,
    tags=tags(Layer.HISTORY),
    kinds={"report"},
    description=(
        "The state of everything that the pipeline depends on: lake, catalog, servers, Dagster, exchange. It has no "
        "partitions: each materialisation examines everything, with one asset check for each part. The findings "
        "are in the checks' results; `kraken-pipeline health` prints the same in a shell."
    ),
    freshness_policy=_HOURLY,
    check_specs=[dg.AssetCheckSpec(name, asset=KEY, description=text) for name, text in NAMES.items()],
)
def health(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Check everything that the pipeline depends on; a problem is a check that does not pass, not a failed run."""
    checks = check_health(load_settings(), lambda: state_of(context.instance))
    results = [_result(name, [check for check in checks if check.about == name]) for name in NAMES]
    rows = [(check.name, check.verdict, check.sentence) for check in checks]
    return dg.MaterializeResult(
        metadata={
            "verdict": str(worst(checks)),
            "checks": dg.MetadataValue.md(table(("what", "how", "seen"), rows)),
        },
        check_results=results,
    )


health_job = dg.define_asset_job(
    HEALTH_JOB,
    selection=[KEY],
    # Without this, the run would use Dagster's own logger, which ignores KRAKEN_LOG_FORMAT.
    config=dg.ConfigMapping(config_fn=lambda _: {"loggers": {"console": {}}}, config_schema={}),
    executor_def=dg.in_process_executor,
    description="Checks everything that the pipeline depends on: lake, catalog, servers, Dagster, exchange.",
)
