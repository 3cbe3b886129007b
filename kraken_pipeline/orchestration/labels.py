"""What the UI sorts assets by: groups, owners, tags.

A group is a step of the path that a tier's data takes. A group of all tiers' assets of one step would do for the
catalog; but the graph shows an asset by the last part of its key, so that four `coverage` could not be told apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from kraken_pipeline.market.tier import Tier

OWNERS = ("team:data",)
OPERATIONS = "operations"


class Step(StrEnum):
    """What archives said, what is known and missing, what filled it, who is given it, how complete it is.

    In a list by name they stand in this order, too.
    """

    ARCHIVES = "archives"
    EVIDENCE = "evidence"
    FILLING = "filling"
    PUBLICATION = "publication"
    REPORT = "report"


class Layer(StrEnum):
    """Where what an asset holds lies; assets of different groups can share a store."""

    LAKE = "lake"
    CATALOG = "catalog"
    QUESTDB = "questdb"
    HISTORY = "history"  # Dagster's own: what a materialisation says is all there is


def group(tier: Tier, step: Step) -> str:
    """The group of a tier's step: `tier1_evidence`."""
    return f"{tier.value.lower()}_{step.value}"


def tags(layer: Layer, tier: Tier | None = None) -> Mapping[str, str]:
    """What an asset can be found by: `tag:"kraken/tier"="tier1"` shows the whole path of one tier."""
    of_tier = {"kraken/tier": tier.value.lower()} if tier else {}
    return {"kraken/layer": layer.value, **of_tier}
