"""What a run of the job `ingest` reports: a materialisation of each partition that it changed, and the checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import dagster as dg

from kraken_pipeline.errors import StoreError, StoreUnavailable
from kraken_pipeline.market.series import Series
from kraken_pipeline.market.tier import Tier
from kraken_pipeline.orchestration import checks, metadata
from kraken_pipeline.orchestration.partitions import key_of
from kraken_pipeline.storage.schema import FileStatus
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill import BackfillOutcome
from kraken_pipeline.workflow.gaps import Gap, measure, survey
from kraken_pipeline.workflow.ingest import FileOutcome
from kraken_pipeline.workflow.publish import PublishOutcome
from kraken_pipeline.workflow.report import make_report
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec

FULL_REPORT_SERIES = 500
"""A run that changed more series than this reports their candles only; `coverage` and `gaps` wait for a backfill of
theirs. Measured: an event costs 8 ms or more on SQLite, so that three for each of 3,840 series took longer than all
their candles."""

Event = dg.AssetMaterialization | dg.AssetCheckEvaluation


def changes(
    stores: Stores,
    spec: RunSpec,
    files: Sequence[FileOutcome],
    done: BackfillOutcome,
    published: PublishOutcome,
    now: int,
) -> Iterator[Event]:
    """The events of a run, by series and then by tier.

    Args:
        stores: What they are about.
        spec: What the run was asked to do.
        files: What became of its files.
        done: What was filled, and the gaps that are left.
        published: What QuestDB got.
        now: The run's moment, in seconds since the epoch.
    """
    read: dict[Series, list[FileOutcome]] = {}
    for outcome in files:
        if outcome.status is FileStatus.COMPLETED:
            read.setdefault(outcome.series, []).append(outcome)
    filled = {each.series: each.candles_stored for each in done.filled}
    gaps: dict[Series, list[Gap]] = {}
    for gap in done.gaps:
        gaps.setdefault(gap.series, []).append(gap)
    holdings = survey(stores, spec, now)
    measured = {each.series: each for each in measure(stores, spec, holdings, done.gaps)}
    tiers: dict[Tier, list[Series]] = {}

    def whole(series: Series) -> metadata.Metadata:
        # Of an interval that nobody asked for (minutes, on the way to hours) only what was stored is told.
        return metadata.of_completeness(measured[series]) if series in measured else {}

    in_full = len({*read, *filled}) <= FULL_REPORT_SERIES
    for series in sorted({*read, *filled}):
        tier = stores.tiers.tier_of(holdings.pairs[series.pair])
        tiers.setdefault(tier, []).append(series)
        own = gaps.get(series, [])
        if series in read:
            values = {**metadata.of_files(read[series], holdings.extents.get(series)), **whole(series)}
            yield _materialised(tier, "candles", values, series)
        if series in filled:
            values = {**metadata.of_plan(own, filled[series]), **whole(series)}
            yield _materialised(tier, "backfilled_candles", values, series)
        if in_full and series in measured:
            ranges = holdings.coverage.get(series, ())
            yield _materialised(tier, "coverage", metadata.of_coverage(measured[series], ranges), series)
            yield _materialised(tier, "gaps", metadata.of_gaps(own), series)
    for tier, changed in tiers.items():
        yield from _of_tier(stores, tier, changed, now)
    yield from published_changes(stores, published)


def published_changes(stores: Stores, published: PublishOutcome) -> Iterator[Event]:
    """The events of what QuestDB got: a materialisation a series, and a comparison with the lake."""
    pairs = {pair.name: pair for pair in stores.lake.pairs()}
    tiers: dict[Tier, list[Series]] = {}
    for each in published.series:
        tier = stores.tiers.tier_of(pairs[each.series.pair])
        tiers.setdefault(tier, []).append(each.series)
        yield _materialised(tier, "questdb_candles", metadata.of_published(each), each.series)
    if len(published.series) > FULL_REPORT_SERIES:
        return  # `publish --verify` compares as many as there are
    for tier, series in tiers.items():
        with suppress(StoreUnavailable, StoreError):  # it has just gone away, or is broken: nothing can be said
            yield checks.evaluation(checks.equals_lake(stores, _key(tier, "questdb_candles"), series))


def _of_tier(stores: Stores, tier: Tier, changed: Sequence[Series], now: int) -> Iterator[Event]:
    whole = make_report(stores, run_spec(tier=tier), now)
    yield _materialised(tier, "completeness_report", metadata.of_report(whole))
    yield checks.evaluation(checks.candle_rules(stores, _key(tier, "candles"), changed, now))
    yield checks.evaluation(checks.few_gaps(stores, _key(tier, "gaps"), whole.gaps))


def _key(tier: Tier, name: str) -> dg.AssetKey:
    return dg.AssetKey([tier.value.lower(), name])


def _materialised(
    tier: Tier, name: str, values: metadata.Metadata, series: Series | None = None
) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(_key(tier, name), partition=key_of(series) if series else None, metadata=values)
