"""The asset checks: readable archives, rules of candles, gaps, agreement of intervals, QuestDB, intact files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import dagster as dg

from kraken_pipeline.kraken.discovery import PassedOver
from kraken_pipeline.market.moment import short
from kraken_pipeline.market.series import Series
from kraken_pipeline.orchestration import partitions
from kraken_pipeline.orchestration.labels import asset_key
from kraken_pipeline.orchestration.metadata import percents, table
from kraken_pipeline.storage.catalog.states import ContradictionState, FileStatus
from kraken_pipeline.storage.records.damage import Damage
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.gaps.gaps import Gap
from kraken_pipeline.workflow.ingest.outcome import FileOutcome
from kraken_pipeline.workflow.publish import differences
from kraken_pipeline.workflow.reconcile.verdicts import Agreement
from kraken_pipeline.workflow.verify.known_damage import damage_of
from kraken_pipeline.workflow.verify.verification import Verification
from kraken_pipeline.workflow.verify.verify import Broken

CANDLE_RULES = "candle_rules"
FEW_GAPS = "few_gaps"
EQUALS_LAKE = "equals_lake"
INTERVALS_AGREE = "intervals_agree"
LAKE_INTACT = "lake_intact"
FILES_READABLE = "files_readable"


def candle_rules_spec(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """Return the spec of the check that every stored candle is valid."""
    return dg.AssetCheckSpec(
        CANDLE_RULES,
        asset=asset,
        description="Times aligned and ascending, prices positive, low and high at the edges, no negative count.",
    )


def few_gaps_spec(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """Return the spec of the check that no series has more open gaps than KRAKEN_MAX_GAPS."""
    return dg.AssetCheckSpec(
        FEW_GAPS, asset=asset, description="No series has more open gaps than KRAKEN_MAX_GAPS (100)."
    )


def equals_lake_spec(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """Return the spec of the check that QuestDB holds the same candles as the lake."""
    return dg.AssetCheckSpec(
        EQUALS_LAKE,
        asset=asset,
        description="The count, the first and last candle and a checksum of all values are equal in QuestDB and in "
        "the lake.",
    )


def intervals_agree_spec(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """Return the spec of the check that each series agrees with the other intervals of its pair."""
    return dg.AssetCheckSpec(
        INTERVALS_AGREE,
        asset=asset,
        description="Its candles and those of the next intervals add up. Candles that are short are filled again; "
        "what no source can settle is a conflict: kraken-pipeline reconcile says what to do.",
    )


def lake_intact_spec(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """Return the spec of the check that the files of the lake are those that were written."""
    return dg.AssetCheckSpec(
        LAKE_INTACT,
        asset=asset,
        description="Each file of the lake exists and is unchanged. kraken-pipeline verify --repair sets damaged "
        "files aside, and restores their candles.",
    )


def files_readable_spec(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """Return the spec of the check that every archive of the last ingest could be read."""
    return dg.AssetCheckSpec(
        FILES_READABLE,
        asset=asset,
        description="Every archive that the last ingest found could be read. One that could not is named with the "
        "reason; it is read again by every ingest until it is replaced or removed.",
    )


def unreadable(files: Iterable[FileOutcome], broken: Iterable[PassedOver]) -> list[tuple[str, str]]:
    """Return the archives that could not be read, each with the reason: containers first, then files."""
    failed = [(outcome.name, outcome.reason or "") for outcome in files if outcome.status is FileStatus.FAILED]
    return [*((container.name, container.reason) for container in broken), *failed]


def files_readable(asset: dg.AssetKey, failed: Collection[tuple[str, str]]) -> dg.AssetCheckResult:
    """Return the check result of the archives that failed, each with the reason."""
    return dg.AssetCheckResult(
        check_name=FILES_READABLE,
        asset_key=asset,
        passed=not failed,
        metadata={
            "failed_files": dg.MetadataValue.int(len(failed)),
            **({"failed": dg.MetadataValue.md(table(("file", "reason"), sorted(failed)))} if failed else {}),
        },
    )


def lake_intact(stores: Stores, asset: dg.AssetKey, series: Iterable[Series]) -> dg.AssetCheckResult:
    """Check the files of some series for known damage, and compare their sizes and footers with the manifest."""
    return _intact(asset, damage_of(stores, list(series)))


def lake_intact_events(stores: Stores, done: Verification) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield the check `lake_intact` of each tier of which a verification read any file."""
    tiers = {
        tier: set(names) for tier, names in partitions.by_tier(stores.tiers, stores.lake.asset_ids.pairs()).items()
    }
    looked_at = {series.pair for series in done.series}
    for tier, names in tiers.items():
        if names & looked_at:
            damaged = [damage for damage in done.damaged if damage.series is None or damage.series.pair in names]
            yield evaluation(_intact(asset_key(tier, "candles"), damaged))


def _intact(asset: dg.AssetKey, damaged: Sequence[Damage]) -> dg.AssetCheckResult:
    rows = [(damage.path, damage.kind, damage.detail, damage.action) for damage in damaged]
    listed = table(("file", "kind", "what is wrong", "what to do"), rows)
    return dg.AssetCheckResult(
        check_name=LAKE_INTACT,
        asset_key=asset,
        passed=not rows,
        metadata={
            "damaged_files": dg.MetadataValue.int(len(rows)),
            **({"damaged": dg.MetadataValue.md(listed)} if rows else {}),
        },
    )


def candle_rules(asset: dg.AssetKey, rules: Mapping[Series, Sequence[Broken]]) -> dg.AssetCheckResult:
    """Return the check result of series whose stored candles were checked, with the rules that those of each break."""
    broken = sorted(found for of_series in rules.values() for found in of_series)
    return dg.AssetCheckResult(
        check_name=CANDLE_RULES,
        asset_key=asset,
        passed=not broken,
        metadata={"broken": dg.MetadataValue.md(table(("series", "rule", "candles"), broken))} if broken else {},
    )


def few_gaps(stores: Stores, asset: dg.AssetKey, gaps: Iterable[Gap]) -> dg.AssetCheckResult:
    """Check the number of gaps of each series against KRAKEN_MAX_GAPS."""
    counts: dict[Series, int] = {}
    for gap in gaps:
        counts[gap.series] = counts.get(gap.series, 0) + 1
    many = sorted((series, count) for series, count in counts.items() if count > stores.settings.kraken_max_gaps)
    return dg.AssetCheckResult(
        check_name=FEW_GAPS,
        asset_key=asset,
        passed=not many,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"series": dg.MetadataValue.md(table(("series", "gaps"), many))} if many else {},
    )


_DISPUTED = "two files of one release differ at the same trade count"


def intervals_agree(asset: dg.AssetKey, found: Mapping[Series, Agreement]) -> dg.AssetCheckResult:
    """Return the check result of the contradictions and disputes of one series or of several."""
    # Each contradiction is listed with both of its series.
    records = {
        (contradiction.pair, contradiction.key): contradiction
        for agreement in found.values()
        for contradiction in agreement.contradictions
    }
    disputed = {series: agreement.disputed for series, agreement in found.items() if agreement.disputed}
    conflicts = sum(record.state is ContradictionState.CONFLICT for record in records.values()) + len(disputed)
    rows: list[tuple[object, ...]] = [
        (record.pair, record.fine.value, record.coarse.value, short(record.span.start), record.state, record.reason)
        for record in records.values()
    ]
    rows += [
        (series.pair, "", series.interval.value, short(spans[0].start), ContradictionState.CONFLICT, _DISPUTED)
        for series, spans in disputed.items()
    ]
    listed = table(("pair", "fine", "coarse", "from", "state", "why"), rows)
    return dg.AssetCheckResult(
        check_name=INTERVALS_AGREE,
        asset_key=asset,
        passed=not rows,
        # Only a conflict is an error: other contradictions resolve once their gaps are filled.
        severity=dg.AssetCheckSeverity.ERROR if conflicts else dg.AssetCheckSeverity.WARN,
        metadata={
            **percents(
                proven_pct=_least(agreement.proven_pct for agreement in found.values()),
                verified_pct=_least(agreement.verified_pct for agreement in found.values()),
            ),
            "contradictions": dg.MetadataValue.int(len(rows)),
            "conflicts": dg.MetadataValue.int(conflicts),
            **({"listed": dg.MetadataValue.md(listed)} if rows else {}),
        },
    )


def _least(percents_: Iterable[float | None]) -> float | None:
    """Return the least of the percentages that are not None; None if there are none."""
    return min((percent for percent in percents_ if percent is not None), default=None)


def equals_lake(stores: Stores, asset: dg.AssetKey, series: Collection[Series]) -> dg.AssetCheckResult:
    """Compare QuestDB with the lake.

    Raises:
        StoreUnavailable: QuestDB does not answer.
    """
    found = differences(stores, series)
    rows = [
        (difference.series, difference.lake or "nothing", difference.questdb or "nothing", difference.is_pending)
        for difference in found
    ]
    return dg.AssetCheckResult(
        check_name=EQUALS_LAKE,
        asset_key=asset,
        passed=not found,
        # A pending range will still be published; no run would ever publish a difference that is not pending.
        severity=dg.AssetCheckSeverity.WARN
        if all(difference.is_pending for difference in found)
        else dg.AssetCheckSeverity.ERROR,
        metadata={"different": dg.MetadataValue.md(table(("series", "lake", "QuestDB", "owed"), rows))} if rows else {},
    )


def evaluation(result: dg.AssetCheckResult, partition: str | None = None) -> dg.AssetCheckEvaluation:
    """Return a check result as an event: for a run that is not one of the asset, or for one partition of several."""
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey.from_coercible(result.asset_key or []),
        check_name=result.check_name or "",
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
        partition=partition,
    )
