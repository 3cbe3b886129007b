"""The asset `questdb_candles` of a tier, which exists only if a QuestDB is set up."""

import dagster as dg

from kraken_pipeline.errors import StoreUnavailable
from kraken_pipeline.market.tier import Tier
from kraken_pipeline.orchestration import checks, metadata
from kraken_pipeline.orchestration.assets.columns import questdb_columns
from kraken_pipeline.orchestration.assets.tier_assets import selected, series_asset
from kraken_pipeline.orchestration.events import rows_published
from kraken_pipeline.orchestration.labels import Layer, Step, asset_key
from kraken_pipeline.orchestration.progress import finish
from kraken_pipeline.orchestration.resources import StoresOfRun
from kraken_pipeline.orchestration.steps import count_step
from kraken_pipeline.workflow import publish
from kraken_pipeline.workflow.publish import Published

NAME = "questdb_candles"


def questdb_asset(tier: Tier) -> dg.AssetsDefinition:
    """Return the asset of a tier's candles in QuestDB, partitioned by asset and interval."""
    key = asset_key(tier, NAME)

    @series_asset(
        tier,
        Step.PUBLICATION,
        Layer.QUESTDB,
        name=NAME,
        deps=[asset_key(tier, name) for name in ("candles", "backfilled_candles")],
        kinds={"questdb"},
        description=(
            "The same candles in QuestDB, for queries: the pending changes of the lake are published. A partition "
            "is one pair at one interval, `XBTUSD|60`. Its candles are in the table of its interval, `candles_1h` "
            "for 60; the view `assetprice` shows all of them."
        ),
        metadata={"dagster/column_schema": questdb_columns()},
        check_specs=[checks.equals_lake_spec(key)],
    )
    def questdb_candles(context: dg.AssetExecutionContext, stores: StoresOfRun) -> dg.MaterializeResult:
        with selected(context, tier) as selection:
            run = selection.run
            done = publish.publish(stores, run, selection.keys)
            if done.failed:
                raise StoreUnavailable("; ".join(done.failed))
            same = checks.equals_lake(stores, key, selection.keys)
            rows = rows_published(stores, selection.keys)
        sent = {published.series: published for published in done.series}
        for series, partition in selection.keys.items():
            values = metadata.of_published(sent.get(series, Published(series, 0, ())), rows[series])
            context.add_asset_metadata(values, partition_key=partition)
        count_step(context, stores, run)
        finish(context.instance, run.run_id, run.progress)
        return dg.MaterializeResult(check_results=[same])

    return questdb_candles
