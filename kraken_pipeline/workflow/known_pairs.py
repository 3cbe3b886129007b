"""The pairs that are known, by which names on the command line and of files are recognised."""

from __future__ import annotations

from kraken_pipeline.storage.exchange_state import listings
from kraken_pipeline.storage.stores import Stores


def known_pairs(stores: Stores) -> set[str]:
    """Return the names of all pairs that were ever stored or listed."""
    with stores.catalog.read() as connection:
        return {*stores.lake.asset_ids.all()["pair"], *listings.listings_of(connection)}
