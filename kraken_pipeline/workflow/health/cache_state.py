"""The state of the reply cache."""

from __future__ import annotations

from contextlib import closing

from kraken_pipeline.storage.exchange_state.counters import Counters
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.exchange import open_cache
from kraken_pipeline.workflow.health.exchange_health import CacheState, lookups_of


def cache_state(stores: Stores, now: float) -> CacheState:
    """Return the lookups of the last day and the size of the reply cache."""
    with closing(open_cache(stores.settings, Counters(stores.catalog))) as cache:
        stats = cache.stats()
    return CacheState(lookups_of(stores, now), stats.keys, stats.size)
