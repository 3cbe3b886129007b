"""The stores as a Dagster resource, opened only when a run needs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from kraken_pipeline.orchestration.executors import slot_of, steps_are_groups
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.pool_peaks import record_peak
from kraken_pipeline.storage.pools import Pool
from kraken_pipeline.storage.stores import Stores, opened

STORES = "stores"
STORES_TO_RECOVER = "stores_to_recover"
StoresOfRun = dg.ResourceParam[Stores]
"""The type of the parameter `stores`, or `stores_to_recover`, by which an op or an asset receives the stores."""


def stores_resource(settings: Settings | None = None, *, is_recovering: bool = False) -> dg.ResourceDefinition:
    """Return a resource with the stores of the home in the settings, which are loaded if none are given.

    Each run holds its lock while it has the stores, so that `status` can distinguish a running run from a killed one.
    Where each step is a process of its own, the process that drives the run holds that lock.

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
                return
            is_step = steps_are_groups(found.settings, context.run.job_name)
            run_id, locks = context.run.run_id, found.locks
            slot = slot_of(context.run.job_name)
            try:
                with locks.step(run_id, slot) if is_step else locks.run(run_id):
                    yield found
            finally:  # a pool that was used up may be why a run failed
                record_peak(found.catalog, Pool.CATALOG, found.catalog.statistics)

    return stores
