"""Damage of the lake that is on record or that a reader would detect, without comparing whole files."""

from __future__ import annotations

from collections.abc import Collection

from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.records.damage import Damage, open_damages, settled_since
from kraken_pipeline.storage.stores import Stores


def damage_of(stores: Stores, series: Collection[Series]) -> list[Damage]:
    """Return the damage of some series, by path: what is on record, and what sizes and footers show."""
    with stores.catalog.read() as connection:
        known = open_damages(connection, {one_series.pair for one_series in series})
    found = {damage.path: damage for damage in known if damage.series in series}
    found |= {damage.path: damage for one_series in series for damage in stores.lake.damaged(one_series)}
    return [found[path] for path in sorted(found)]


def left_and_settled(stores: Stores, since: int) -> tuple[list[Damage], list[Damage]]:
    """Return the damage that is not settled, and the damage settled since a moment (seconds since the epoch)."""
    with stores.catalog.read() as connection:
        return open_damages(connection), settled_since(connection, since)
