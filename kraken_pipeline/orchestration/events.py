"""The events that runs of jobs report: a materialisation of each partition that they changed, and checks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import dagster as dg

from kraken_pipeline.errors import StoreError, StoreUnavailable
from kraken_pipeline.kraken.discovery import PassedOver
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.market.tier import TIERS, Tier
from kraken_pipeline.orchestration import checks, metadata
from kraken_pipeline.orchestration.labels import asset_key
from kraken_pipeline.orchestration.partitions import key_of
from kraken_pipeline.storage.questdb.client import open_questdb
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.expected_work import FULL_REPORT_SERIES
from kraken_pipeline.workflow.ingest.outcome import FileOutcome
from kraken_pipeline.workflow.page.report_page import page_path
from kraken_pipeline.workflow.pipeline import Changes, changed_series
from kraken_pipeline.workflow.publish import PublishOutcome
from kraken_pipeline.workflow.reconcile.verdicts import Agreement, agreements
from kraken_pipeline.workflow.report.report import make_report
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec
from kraken_pipeline.workflow.settling import checked
from kraken_pipeline.workflow.verify.verify import Broken

Event = dg.AssetMaterialization | dg.AssetCheckEvaluation


def events_of(
    stores: Stores, spec: RunSpec, changes: Changes, now: int, *, is_full: bool | None = None
) -> Iterator[Event]:
    """Yield the events of a run: those of each series that it changed, then those of each tier.

    Args:
        stores: The stores that the run changed.
        spec: The run spec.
        changes: The changes of the run.
        now: The time of the run, in seconds since the epoch.
        is_full: Whether everything of each series is reported; None where the number of series decides.
    """
    rewritten = {*changes.ingested, *changes.candles_stored}
    # Of very many series with other evidence only their tiers are reported, as of very many changed ones.
    evidence = changes.evidence if len(changes.evidence) <= FULL_REPORT_SERIES else frozenset()
    is_full = len(rewritten | evidence) <= FULL_REPORT_SERIES if is_full is None else is_full
    yield from series_events(stores, spec, replace(changes, evidence=evidence), now, is_full=is_full)
    tiers: dict[Tier, list[Series]] = {}
    for series in sorted(rewritten | changes.evidence):
        tiers.setdefault(stores.tiers.tier_of(parse_pair(series.pair)), []).append(series)
    for tier, of_tier in tiers.items():
        # What is suspected counts for no proof, so that intervals agree or not once all pairs have been searched.
        agreeing = [series for series in of_tier if series in rewritten or series in evidence]
        yield from agreement_events(tier, agreements(stores, agreeing), is_full=is_full)
        yield from _of_tier(stores, tier, [series for series in of_tier if series in rewritten], changes.rules, now)
    yield from published_changes(stores, changes.published)


def series_events(
    stores: Stores, spec: RunSpec, changes: Changes, now: int, *, is_full: bool
) -> Iterator[dg.AssetMaterialization]:
    """Yield the materialisations of each series that a run changed and has not reported; see `events_of`."""
    for change in changed_series(stores, spec, changes, now):
        tier, series, snapshot = change.tier, change.series, change.snapshot
        if change.files:
            yield _materialised(tier, "candles", metadata.of_files(change.files, snapshot), series)
        if change.filled is not None:
            yield _materialised(tier, "backfilled_candles", metadata.of_plan(snapshot, change.filled), series)
        if is_full and (change.is_selected or series in changes.evidence):
            yield _materialised(tier, "coverage", metadata.of_coverage(snapshot), series)
        # Gaps are not recorded for intervals outside the run spec, such as the minutes from which hours are resampled.
        if is_full and change.is_selected:
            yield _materialised(tier, "gaps", metadata.of_gaps(snapshot.gaps), series)


def file_events(
    stores: Stores, spec: RunSpec, files: Iterable[FileOutcome], broken: Sequence[PassedOver]
) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield the check `files_readable` of each tier of which a run looked for archives.

    A container that cannot be opened may hold any pair, so it fails the check of every selected tier. A run over some
    pairs only does not see the other files of a tier, so it can fail the check and not pass it.
    """
    named = {stores.tiers.tier_of(parse_pair(pair)) for pair in spec.pairs}
    selected = [tier for tier in TIERS if spec.tier.covers(tier) and (not named or tier in named)]
    of_tier: dict[Tier, list[FileOutcome]] = {tier: [] for tier in selected}
    for outcome in files:
        of_tier.setdefault(stores.tiers.tier_of(parse_pair(outcome.series.pair)), []).append(outcome)
    for tier, outcomes in of_tier.items():
        failed = checks.unreadable(outcomes, broken)
        if failed or not spec.pairs:
            yield checks.evaluation(checks.files_readable(asset_key(tier, "candles"), failed))


def published_changes(stores: Stores, published: PublishOutcome) -> Iterator[Event]:
    """Yield the events of a publication: a materialisation of each series, and a comparison with the lake."""
    pairs = {pair.name: pair for pair in stores.lake.asset_ids.pairs()}
    tiers: dict[Tier, list[Series]] = {}
    rows: Mapping[Series, int] = {}
    with suppress(StoreUnavailable, StoreError):  # QuestDB has just gone away or fails: the row counts are unknown
        rows = rows_published(stores, [delivery.series for delivery in published.series])
    for delivery in published.series:
        tier = stores.tiers.tier_of(pairs[delivery.series.pair])
        tiers.setdefault(tier, []).append(delivery.series)
        yield _materialised(
            tier, "questdb_candles", metadata.of_published(delivery, rows.get(delivery.series)), delivery.series
        )
    if len(published.series) > FULL_REPORT_SERIES:
        return  # `publish --verify` compares any number of series
    for tier, series in tiers.items():
        with suppress(StoreUnavailable, StoreError):
            yield checks.evaluation(checks.equals_lake(stores, asset_key(tier, "questdb_candles"), series))


def agreement_events(
    tier: Tier, found: Mapping[Series, Agreement], *, is_full: bool
) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield the check `intervals_agree` of each series, or only of those with contradictions."""
    key = asset_key(tier, "backfilled_candles")
    for series, agreement in found.items():
        if agreement.contradictions or is_full:
            yield checks.evaluation(checks.intervals_agree(key, {series: agreement}), key_of(series))


def rows_published(stores: Stores, series: Collection[Series]) -> Mapping[Series, int]:
    """Return the number of candles that QuestDB holds of each of some series; its tables must exist.

    Raises:
        StoreUnavailable: It does not answer.
    """
    if not series:
        return {}
    with open_questdb(stores.settings) as questdb:
        counts = {
            interval: questdb.counts(interval) for interval in sorted({one_series.interval for one_series in series})
        }
    return {one_series: counts[one_series.interval].get(one_series.pair, 0) for one_series in series}


def _of_tier(
    stores: Stores, tier: Tier, rewritten: Sequence[Series], known: Mapping[Series, Sequence[Broken]], now: int
) -> Iterator[Event]:
    """Yield the report and the checks of a tier; the rules of candles only for series whose candles have changed.

    Args:
        stores: The stores.
        tier: The tier.
        rewritten: The series whose candles have changed.
        known: The rules that the candles of some of them break; the others are checked.
        now: The time of the run, in seconds since the epoch.
    """
    whole = make_report(stores, run_spec(tier=tier), now)
    yield _materialised(tier, "completeness_report", metadata.of_report(whole, page_path(stores.settings, tier)))
    if rewritten:
        rules = {series: known[series] for series in rewritten if series in known}
        rules |= checked(stores, [series for series in rewritten if series not in known], now)
        yield checks.evaluation(checks.candle_rules(asset_key(tier, "candles"), rules))
    yield checks.evaluation(checks.few_gaps(stores, asset_key(tier, "gaps"), whole.gaps))
    # The UI shows the last evaluation of a check, so that of the whole tier comes after those of its series.
    standing = agreements(stores, [completeness.series for completeness in whole.series])
    yield checks.evaluation(checks.intervals_agree(asset_key(tier, "backfilled_candles"), standing))


def _materialised(
    tier: Tier, name: str, values: metadata.Metadata, series: Series | None = None
) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(asset_key(tier, name), partition=key_of(series) if series else None, metadata=values)
