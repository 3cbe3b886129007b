"""The partitions: asset by interval, with a set of assets for each tier; a key is `XBTUSD|60`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import dagster as dg

from kraken_pipeline.market.interval import INTERVALS, Interval
from kraken_pipeline.market.pair import Pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.market.tier import TIERS, Tier, TierTable

ASSET, INTERVAL = "asset", "interval"  # Dagster joins the dimensions in the order of their names

_INTERVALS = dg.StaticPartitionsDefinition([str(interval.value) for interval in INTERVALS])
PAIRS: Mapping[Tier, dg.DynamicPartitionsDefinition] = {
    tier: dg.DynamicPartitionsDefinition(name=f"{tier.value.lower()}_assets") for tier in TIERS
}
SERIES: Mapping[Tier, dg.MultiPartitionsDefinition] = {
    tier: dg.MultiPartitionsDefinition({ASSET: PAIRS[tier], INTERVAL: _INTERVALS}) for tier in TIERS
}


def key_of(series: Series) -> dg.MultiPartitionKey:
    """Return the partition key of a series."""
    return dg.MultiPartitionKey({ASSET: series.pair, INTERVAL: str(series.interval.value)})


def series_of(key: str) -> Series:
    """Return the series of a partition key, `XBTUSD|60`."""
    pair, _, minutes = key.rpartition("|")
    return Series(pair, Interval.parse(minutes))


def register(instance: dg.DagsterInstance, tiers: TierTable, pairs: Iterable[Pair]) -> list[str]:
    """Add pairs to the partitions of their tiers; return the names of those added."""
    return [name for tier, names in by_tier(tiers, pairs).items() for name in _add(instance, _name(tier), names)]


def _add(instance: dg.DagsterInstance, partitions: str, names: Sequence[str]) -> list[str]:
    """Add names to a set of partitions; return those that were unknown.

    Dagster looks up which names are there and then inserts the others. On SQLite that fails if another process has
    inserted one of them in between. It is tried again with those that are still unknown.
    """
    unknown = _unknown(instance, partitions, names)
    left = unknown
    while left:
        try:
            instance.add_dynamic_partitions(partitions, left)
        except Exception:
            before, left = left, _unknown(instance, partitions, left)
            if len(left) == len(before):
                raise
        else:
            break
    return unknown


def _unknown(instance: dg.DagsterInstance, partitions: str, names: Sequence[str]) -> list[str]:
    known = set(instance.get_dynamic_partitions(partitions))
    return [name for name in names if name not in known]


def by_tier(tiers: TierTable, pairs: Iterable[Pair]) -> Mapping[Tier, Sequence[str]]:
    """Return the sorted names of pairs, by tier."""
    groups: dict[Tier, set[str]] = {}
    for pair in pairs:
        groups.setdefault(tiers.tier_of(pair), set()).add(pair.name)
    return {tier: sorted(names) for tier, names in sorted(groups.items())}


def _name(tier: Tier) -> str:
    name = PAIRS[tier].name
    assert name is not None  # noqa: S101 - given above; Dagster's type allows a nameless kind that is deprecated
    return name
