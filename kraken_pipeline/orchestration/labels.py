"""The labels by which the UI sorts assets: groups, owners, tags.

A group is one step in the path of a tier's data. Groups across tiers would suffice for the list of assets, but the
graph labels an asset with the last part of its key only, so four assets `coverage` would look the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import dagster as dg

from kraken_pipeline.market.tier import Tier

OWNERS = ("team:data",)
OPERATIONS = "operations"


class Step(StrEnum):
    """A step in the path of a tier's data: from archives, evidence, filling and publication to the report.

    The alphabetical order of the names is the order of the steps.
    """

    ARCHIVES = "archives"
    EVIDENCE = "evidence"
    FILLING = "filling"
    PUBLICATION = "publication"
    REPORT = "report"


class Layer(StrEnum):
    """The store that holds an asset's data; assets of different groups can share a store."""

    LAKE = "lake"
    CATALOG = "catalog"
    QUESTDB = "questdb"
    HISTORY = "history"  # Dagster's run history: the asset consists of its materialisations alone


def asset_key(tier: Tier, name: str) -> dg.AssetKey:
    """Return the key of a tier's asset: `tier1/candles`."""
    return dg.AssetKey([tier.value.lower(), name])


def group(tier: Tier, step: Step) -> str:
    """Return the group of a tier's step: `tier1_evidence`."""
    return f"{tier.value.lower()}_{step.value}"


def tags(layer: Layer, tier: Tier | None = None) -> Mapping[str, str]:
    """Return the tags of an asset; the selection `tag:"kraken/tier"="tier1"` shows all assets of a tier."""
    of_tier = {"kraken/tier": tier.value.lower()} if tier else {}
    return {"kraken/layer": layer.value, **of_tier}
