"""The assets of a tier: candles → coverage → gaps → backfilled_candles, and the completeness report.

All but the report are partitioned by asset and interval. Each body selects the series of its partitions and calls a
workflow.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dagster as dg

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.series import Series
from kraken_pipeline.market.tier import Tier
from kraken_pipeline.orchestration import checks, metadata
from kraken_pipeline.orchestration.assets.columns import coverage_columns, gap_columns, lake_columns
from kraken_pipeline.orchestration.assets.sources import ARCHIVES, REST_API
from kraken_pipeline.orchestration.events import agreement_events
from kraken_pipeline.orchestration.failures import explained
from kraken_pipeline.orchestration.labels import OWNERS, Layer, Step, asset_key, group, tags
from kraken_pipeline.orchestration.partitions import SERIES, series_of
from kraken_pipeline.orchestration.progress import finish
from kraken_pipeline.orchestration.resources import StoresOfRun
from kraken_pipeline.orchestration.steps import begin, count_step, log_shortfalls, outcome_of_changes
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.workflow import pipeline
from kraken_pipeline.workflow.expected_work import FULL_REPORT_SERIES
from kraken_pipeline.workflow.gaps.open_gaps import OpenGaps
from kraken_pipeline.workflow.gaps.series_snapshot import series_snapshots
from kraken_pipeline.workflow.page import report_page
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile.verdicts import agreements
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec
from kraken_pipeline.workflow.settling import checked
from kraken_pipeline.workflow.verify.catalog_repair import derive_coverage

CODE_VERSION = "1"
"""The version that runs of assets record; raise it when the code gives another result from the same sources.

The UI then marks what older code made. Jobs record none: of a materialisation with a code version, the UI expects the
versions of all inputs too, and shows it as stale without them.
"""

# The exchange publishes archives of candles once a quarter, some weeks after its end.
_QUARTERLY = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=150), warn_window=timedelta(days=120))
_DAILY = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=7), warn_window=timedelta(days=2))


@dataclass(frozen=True, slots=True)
class Selection:
    """The partitions of a run.

    Attributes:
        keys: The partition key of each series.
        spec: The run spec of the partitions: a rectangle of pairs by intervals.
        run: The context of the run.
    """

    keys: dict[Series, str]
    spec: RunSpec
    run: RunContext


@contextmanager
def selected(context: dg.AssetExecutionContext, tier: Tier) -> Iterator[Selection]:
    """Begin the run of a partitioned asset: yield its selection, and explain the errors of the block.

    Raises:
        dagster.Failure: The run selects no partition (Dagster treats a range with reversed corners as an empty one),
            or the block failed.
    """
    with explained():
        keys = {series_of(key): key for key in context.partition_keys}
        if not keys:
            raise InvalidRequest(
                "the run selects no partition; name the corners of its range in the order of the partitions"
            )
        spec = run_spec(
            tier=tier,
            pairs=sorted({series.pair for series in keys}),
            intervals=sorted({series.interval for series in keys}),
        )
        # Without a data version, Dagster derives one from code and inputs, and would take new candles for the old ones:
        # it does not see the contents of the sources.
        context.set_data_version(context.asset_key, dg.DataVersion(context.run.run_id))
        yield Selection(keys, spec, begin(context, spec))


def series_asset(
    tier: Tier, step: Step, layer: Layer, **options: Any
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Return the decorator of an asset of a tier's series: its name is that of the decorated function.

    Args:
        tier: The tier.
        step: The step of the tier's path that the asset belongs to.
        layer: The store that holds the asset's data.
        options: Further options of `dagster.asset`.
    """
    decorator: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.asset(
        key_prefix=tier.value.lower(),
        group_name=group(tier, step),
        tags=tags(layer, tier),
        owners=OWNERS,
        partitions_def=SERIES[tier],
        backfill_policy=dg.BackfillPolicy.single_run(),
        code_version=CODE_VERSION,
        **options,
    )
    return decorator


def tier_assets(tier: Tier) -> Sequence[dg.AssetsDefinition]:
    """Return the five assets of a tier."""
    return [_candles(tier), _coverage(tier), _gaps(tier), _backfilled_candles(tier), _completeness_report(tier)]


def _candles(tier: Tier) -> dg.AssetsDefinition:
    key = asset_key(tier, "candles")

    @series_asset(
        tier,
        Step.ARCHIVES,
        Layer.LAKE,
        deps=[ARCHIVES],
        kinds={"csv", "parquet"},
        description=(
            "Validated candles from the archives in the drop folder and in KRAKEN_ARCHIVE_DIRS. A partition is one "
            "pair at one interval, `XBTUSD|60`. Its candles are Parquet files of the lake, under "
            "`lake/interval=60/pair=XBTUSD/`; intervals up to 30 minutes have one file a year."
        ),
        metadata={"dagster/column_schema": lake_columns()},
        check_specs=[
            spec(key) for spec in (checks.files_readable_spec, checks.candle_rules_spec, checks.lake_intact_spec)
        ],
        freshness_policy=_QUARTERLY,
    )
    def candles(context: dg.AssetExecutionContext, stores: StoresOfRun) -> dg.MaterializeResult:
        with selected(context, tier) as selection:
            run = selection.run
            found = pipeline.find_archives(stores, selection.spec, run)
            outcomes = pipeline.ingest_archives(stores, selection.spec, found.tasks, run).files
            pipeline.tidy(stores)
            snapshots = series_snapshots(stores, selection.spec, run.now)
            failed = checks.unreadable(outcomes, found.broken)
            readable = checks.files_readable(key, failed)
            rules = checks.candle_rules(key, checked(stores, selection.keys, run.now))
            intact = checks.lake_intact(stores, key, selection.keys)
        for series, partition in selection.keys.items():
            own = [outcome for outcome in outcomes if outcome.series == series]
            context.add_asset_metadata(metadata.of_files(own, snapshots[series]), partition_key=partition)
        count_step(context, stores, run)
        finish(context.instance, run.run_id, run.progress, failed_files=len(failed))
        return dg.MaterializeResult(check_results=[readable, rules, intact])

    return candles


def _coverage(tier: Tier) -> dg.AssetsDefinition:
    @series_asset(
        tier,
        Step.EVIDENCE,
        Layer.CATALOG,
        deps=[asset_key(tier, "candles")],
        kinds={"sql"},
        description=(
            "The time for which a source has answered: within it, no candle means that nobody traded. A partition "
            "is one pair at one interval, `XBTUSD|60`. Its ranges are in the catalog's table `coverage`, derived "
            "from the grants of archives and replies; each run derives them again where they differ."
        ),
        metadata={"dagster/column_schema": coverage_columns(), "dagster/table_name": schema.coverage.name},
    )
    def coverage(context: dg.AssetExecutionContext, stores: StoresOfRun) -> None:
        with selected(context, tier) as selection:
            for series in derive_coverage(stores, list(selection.keys), selection.run.now):
                context.log.warning(f"{series}: its coverage did not follow from its evidence, and was derived again")
            snapshots = series_snapshots(stores, selection.spec, selection.run.now)
        for series, partition in selection.keys.items():
            context.add_asset_metadata(metadata.of_coverage(snapshots[series]), partition_key=partition)

    return coverage


def _gaps(tier: Tier) -> dg.AssetsDefinition:
    key = asset_key(tier, "gaps")

    @series_asset(
        tier,
        Step.EVIDENCE,
        Layer.CATALOG,
        deps=[asset_key(tier, "coverage")],
        kinds={"sql"},
        description=(
            "The time that is expected and not covered, each gap with the route that can fill it. A partition is "
            "one pair at one interval, `XBTUSD|60`. Its gaps are in the catalog's table `gaps`, with the time of "
            "their detection and their attempts."
        ),
        metadata={"dagster/column_schema": gap_columns(), "dagster/table_name": schema.gaps.name},
        check_specs=[checks.few_gaps_spec(key)],
    )
    def gaps(context: dg.AssetExecutionContext, stores: StoresOfRun) -> dg.MaterializeResult:
        with selected(context, tier) as selection:
            found = OpenGaps(stores, selection.spec, selection.run.now).record()
        for series, partition in selection.keys.items():
            own = [gap for gap in found if gap.series == series]
            context.add_asset_metadata(metadata.of_gaps(own), partition_key=partition)
        return dg.MaterializeResult(check_results=[checks.few_gaps(stores, key, found)])

    return gaps


def _backfilled_candles(tier: Tier) -> dg.AssetsDefinition:
    key = asset_key(tier, "backfilled_candles")

    @series_asset(
        tier,
        Step.FILLING,
        Layer.LAKE,
        deps=[asset_key(tier, "gaps"), REST_API],
        kinds={"parquet"},
        description=(
            "Gaps filled from the cheapest source (finer candles, OHLC, Trades) within lookback and budget. A "
            "partition is one pair at one interval, `XBTUSD|60`. Its candles are in the same files of the lake as "
            "`candles`; the column `source` names their source."
        ),
        metadata={"dagster/column_schema": lake_columns()},
        check_specs=[checks.intervals_agree_spec(key)],
    )
    def backfilled_candles(context: dg.AssetExecutionContext, stores: StoresOfRun) -> dg.MaterializeResult:
        with selected(context, tier) as selection:
            run = selection.run
            changes = pipeline.Changes(filled=pipeline.fill_gaps(stores, selection.spec, run))
            log_shortfalls(context.log, changes)
            snapshots = series_snapshots(stores, selection.spec, run.now)
            agreement = agreements(stores, selection.keys)
        for series, partition in selection.keys.items():
            values = metadata.of_plan(snapshots[series], changes.candles_stored.get(series, 0))
            context.add_asset_metadata(values, partition_key=partition)
        _log(context, agreement_events(tier, agreement, is_full=len(agreement) <= FULL_REPORT_SERIES))
        count_step(context, stores, run)
        finish(context.instance, run.run_id, run.progress, outcome_of_changes(changes))
        return dg.MaterializeResult(check_results=[checks.intervals_agree(key, agreement)])

    return backfilled_candles


def _log(context: dg.AssetExecutionContext, evaluations: Iterable[dg.AssetCheckEvaluation]) -> None:
    """Log the checks of single partitions; a returned check result would apply to all partitions of the run."""
    for evaluation in evaluations:
        context.log_event(evaluation)


def _completeness_report(tier: Tier) -> dg.AssetsDefinition:
    @dg.asset(
        key_prefix=tier.value.lower(),
        group_name=group(tier, Step.REPORT),
        tags=tags(Layer.HISTORY, tier),
        owners=OWNERS,
        deps=[asset_key(tier, name) for name in ("backfilled_candles", "coverage", "gaps")],
        kinds={"report"},
        description=(
            "The share of expected candles that is covered, and what to do about the rest. It has no partitions: "
            "each materialisation is a report on the whole tier. The page is in `reports/` of the pipeline's home, "
            "its numbers are in the materialisation's metadata; `kraken-pipeline report` prints one at any time."
        ),
        freshness_policy=_DAILY,
    )
    def completeness_report(stores: StoresOfRun) -> dg.MaterializeResult:
        with explained():
            page = report_page.write_page(stores, run_spec(tier=tier), int(time.time()))
        return dg.MaterializeResult(metadata=metadata.of_page(page))

    return completeness_report
