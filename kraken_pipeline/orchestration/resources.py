"""The stores as a Dagster resource, opened only when a run needs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.stores import Stores, opened

STORES = "stores"
STORES_TO_RECOVER = "stores_to_recover"
StoresOfRun = dg.ResourceParam[Stores]
"""The type of the parameter `stores`, or `stores_to_recover`, by which an op or an asset receives the stores."""


def stores_resource(settings: Settings | None = None, *, is_recovering: bool = False) -> dg.ResourceDefinition:
    """Return a resource with the stores of the home in the settings, which are loaded if none are given.

    Each run holds its lock while it has the stores, so that `status` can distinguish a running run from a killed one.

    Args:
        settings: The settings; None to load them from the environment when a run begins.
        is_recovering: Whether to open the stores for a recovery, which accepts a lost catalog.
    """

    @dg.resource(description="The lake, the catalog and the locks under KRAKEN_PIPELINE_HOME.")
    @contextmanager
    def stores(context: dg.InitResourceContext) -> Iterator[Stores]:
        with opened(settings or load_settings(), is_recovering=is_recovering) as found:
            if context.run is None:
                yield found
            else:
                with found.locks.run(context.run.run_id):
                    yield found

    return stores
