"""The stores of one home, opened together: lake, catalog and locks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kraken_pipeline.errors import StoreError
from kraken_pipeline.market.tier import TierTable, load_tiers
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.catalog import Catalog, open_catalog
from kraken_pipeline.storage.lake import Lake
from kraken_pipeline.storage.locks import Locks


@dataclass(frozen=True, slots=True)
class Stores:
    """What a workflow works on."""

    settings: Settings
    lake: Lake
    catalog: Catalog
    locks: Locks
    tiers: TierTable

    def close(self) -> None:
        """Closes the catalog's connections; the rest holds nothing open."""
        self.catalog.close()


def create_stores(settings: Settings) -> Stores:
    """Opens the stores, creating what does not exist yet.

    Raises:
        StoreError: The home cannot be written, or the catalog cannot be opened.
        InvalidSettings: The table of tiers is wrong.
    """
    tiers = load_tiers(settings.kraken_tiers_file)
    try:
        settings.drop.mkdir(parents=True, exist_ok=True)
        lake, locks = Lake(settings.home), Locks(settings.home / "locks")
    except OSError as error:
        raise StoreError(
            f"KRAKEN_PIPELINE_HOME: {settings.home} cannot be written ({error}); name a folder that can"
        ) from error
    return Stores(settings, lake, open_catalog(settings.catalog_url), locks, tiers)


@contextmanager
def opened(settings: Settings) -> Iterator[Stores]:
    """The stores, for as long as a block runs."""
    stores = create_stores(settings)
    try:
        yield stores
    finally:
        stores.close()
