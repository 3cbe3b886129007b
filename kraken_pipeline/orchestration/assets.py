"""The assets of a tier: candles → coverage → gaps → backfilled_candles, and the completeness report.

They are partitioned by asset and interval. Each body selects the series of its partitions and calls a workflow.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import dagster as dg

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.series import Series
from kraken_pipeline.market.tier import Tier
from kraken_pipeline.orchestration import checks, metadata
from kraken_pipeline.orchestration.columns import coverage_columns, gap_columns, lake_columns
from kraken_pipeline.orchestration.events import agreement_events
from kraken_pipeline.orchestration.failures import explained
from kraken_pipeline.orchestration.labels import OWNERS, Layer, Step, group, tags
from kraken_pipeline.orchestration.partitions import SERIES, series_of
from kraken_pipeline.orchestration.progress import finish
from kraken_pipeline.orchestration.resources import StoresOfRun
from kraken_pipeline.orchestration.steps import begin, log_shortfalls, outcome_of_changes
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.workflow import pipeline
from kraken_pipeline.workflow.gaps.open_gaps import OpenGaps
from kraken_pipeline.workflow.gaps.series_snapshot import series_snapshots
from kraken_pipeline.workflow.reconcile.verdicts import agreements
from kraken_pipeline.workflow.report import report_page
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec

NAMES = ("candles", "coverage", "gaps", "backfilled_candles", "completeness_report")


@dataclass(frozen=True, slots=True)
class Selection:
    """The partitions of a run.

    Attributes:
        keys: The partition key of each series.
        spec: The run spec of the partitions: a rectangle of pairs by intervals.
    """

    keys: dict[Series, str]
    spec: RunSpec


def selected(context: dg.AssetExecutionContext, tier: Tier) -> Selection:
    """Return the selection of a run of a partitioned asset.

    Raises:
        InvalidRequest: The run selects no partition: Dagster treats a range with reversed corners as an empty one.
    """
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
    return Selection(keys, spec)


def _log(context: dg.AssetExecutionContext, evaluations: Iterable[dg.AssetCheckEvaluation]) -> None:
    """Log the checks of single partitions; a returned check result would apply to all partitions of the run."""
    for evaluation in evaluations:
        context.log_event(evaluation)


def tier_assets(tier: Tier) -> Sequence[dg.AssetsDefinition]:
    """Return the five assets of a tier."""
    prefix = tier.value.lower()
    partitions, backfill_policy = SERIES[tier], dg.BackfillPolicy.single_run()
    key = {name: dg.AssetKey([prefix, name]) for name in NAMES}
    asset = partial(dg.asset, key_prefix=prefix, owners=OWNERS)
    partitioned = partial(asset, partitions_def=partitions, backfill_policy=backfill_policy)

    @partitioned(
        group_name=group(tier, Step.ARCHIVES),
        kinds={"csv", "parquet"},
        tags=tags(Layer.LAKE, tier),
        description=(
            "Validated candles from the archives in the drop folder and in KRAKEN_ARCHIVE_DIRS. A partition is one "
            "pair at one interval, `XBTUSD|60`. Its candles are Parquet files of the lake, under "
            "`lake/interval=60/pair=XBTUSD/`; intervals up to 30 minutes have one file a year."
        ),
        metadata={"dagster/column_schema": lake_columns()},
        check_specs=[
            spec(key["candles"])
            for spec in (checks.files_readable_spec, checks.candle_rules_spec, checks.lake_intact_spec)
        ],
    )
    def candles(context: dg.AssetExecutionContext, stores: StoresOfRun) -> dg.MaterializeResult:
        with explained():
            selection = selected(context, tier)
            run = begin(context, selection.spec)
            found = pipeline.find_archives(stores, selection.spec, run)
            outcomes = pipeline.ingest_archives(stores, selection.spec, found.tasks, run)
            pipeline.tidy(stores)
            snapshots = series_snapshots(stores, selection.spec, run.now)
            failed = checks.unreadable(outcomes, found.broken)
            readable = checks.files_readable(key["candles"], failed)
            rules = checks.candle_rules(stores, key["candles"], selection.keys, run.now)
            intact = checks.lake_intact(stores, key["candles"], selection.keys)
        for series, partition in selection.keys.items():
            own = [outcome for outcome in outcomes if outcome.series == series]
            context.add_asset_metadata(metadata.of_files(own, snapshots[series]), partition_key=partition)
        finish(context.instance, run.run_id, run.progress, failed_files=len(failed))
        return dg.MaterializeResult(check_results=[readable, rules, intact])

    @partitioned(
        deps=[key["candles"]],
        group_name=group(tier, Step.EVIDENCE),
        kinds={"sql"},
        tags=tags(Layer.CATALOG, tier),
        description=(
            "The time for which a source has answered: within it, no candle means that nobody traded. A partition "
            "is one pair at one interval, `XBTUSD|60`. Its ranges are in the catalog's table `coverage`, derived "
            "from the grants of archives and replies."
        ),
        metadata={"dagster/column_schema": coverage_columns(), "dagster/table_name": schema.coverage.name},
    )
    def coverage(context: dg.AssetExecutionContext, stores: StoresOfRun) -> None:
        with explained():
            selection = selected(context, tier)
            run = begin(context, selection.spec)
            snapshots = series_snapshots(stores, selection.spec, run.now)
        for series, partition in selection.keys.items():
            context.add_asset_metadata(metadata.of_coverage(snapshots[series]), partition_key=partition)

    @partitioned(
        deps=[key["coverage"]],
        group_name=group(tier, Step.EVIDENCE),
        kinds={"sql"},
        tags=tags(Layer.CATALOG, tier),
        description=(
            "The time that is expected and not covered, each gap with the route that can fill it. A partition is "
            "one pair at one interval, `XBTUSD|60`. Its gaps are in the catalog's table `gaps`, with the time of "
            "their detection and their attempts."
        ),
        metadata={"dagster/column_schema": gap_columns(), "dagster/table_name": schema.gaps.name},
        check_specs=[checks.few_gaps_spec(key["gaps"])],
    )
    def gaps(context: dg.AssetExecutionContext, stores: StoresOfRun) -> dg.MaterializeResult:
        with explained():
            selection = selected(context, tier)
            run = begin(context, selection.spec)
            found = OpenGaps(stores, selection.spec, run.now).record()
        for series, partition in selection.keys.items():
            own = [gap for gap in found if gap.series == series]
            context.add_asset_metadata(metadata.of_gaps(own), partition_key=partition)
        return dg.MaterializeResult(check_results=[checks.few_gaps(stores, key["gaps"], found)])

    @partitioned(
        deps=[key["gaps"]],
        group_name=group(tier, Step.FILLING),
        kinds={"parquet"},
        tags=tags(Layer.LAKE, tier),
        description=(
            "Gaps filled from the cheapest source (finer candles, OHLC, Trades) within lookback and budget. A "
            "partition is one pair at one interval, `XBTUSD|60`. Its candles are in the same files of the lake as "
            "`candles`; the column `source` names their source."
        ),
        metadata={"dagster/column_schema": lake_columns()},
        check_specs=[checks.intervals_agree_spec(key["backfilled_candles"])],
    )
    def backfilled_candles(context: dg.AssetExecutionContext, stores: StoresOfRun) -> dg.MaterializeResult:
        with explained():
            selection = selected(context, tier)
            run = begin(context, selection.spec)
            changes = pipeline.Changes(filled=pipeline.fill_gaps(stores, selection.spec, run))
            log_shortfalls(context.log, changes)
            snapshots = series_snapshots(stores, selection.spec, run.now)
            agreement = agreements(stores, selection.keys)
        for series, partition in selection.keys.items():
            values = metadata.of_plan(snapshots[series], changes.candles_stored.get(series, 0))
            context.add_asset_metadata(values, partition_key=partition)
        _log(context, agreement_events(tier, agreement))
        finish(context.instance, run.run_id, run.progress, outcome_of_changes(changes))
        return dg.MaterializeResult(check_results=[checks.intervals_agree(key["backfilled_candles"], agreement)])

    @asset(
        deps=[key["backfilled_candles"], key["coverage"], key["gaps"]],
        group_name=group(tier, Step.REPORT),
        kinds={"report"},
        tags=tags(Layer.HISTORY, tier),
        description=(
            "The share of expected candles that is covered, and what to do about the rest. It has no partitions: "
            "each materialisation is a report on the whole tier. The page is in `reports/` of the pipeline's home, "
            "its numbers are in the materialisation's metadata; `kraken-pipeline report` prints one at any time."
        ),
    )
    def completeness_report(stores: StoresOfRun) -> dg.MaterializeResult:
        with explained():
            page = report_page.write_page(stores, run_spec(tier=tier), int(time.time()))
        return dg.MaterializeResult(metadata=metadata.of_page(page))

    return [candles, coverage, gaps, backfilled_candles, completeness_report]
