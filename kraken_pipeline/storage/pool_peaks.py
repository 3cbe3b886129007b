"""The peaks of connection pools, which the processes that have the pools record for all others."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress

from kraken_pipeline.errors import PipelineError
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.catalog.database import Catalog
from kraken_pipeline.storage.exchange_state import counters
from kraken_pipeline.storage.pools import Pool, PoolPeak, PoolStats

_HOUR = 3_600


def pool_limits(settings: Settings) -> Mapping[Pool, int]:
    """Return the most connections of a process, for each pool that these settings lead to."""
    limits = {}
    if not settings.catalog_url.startswith("sqlite"):
        limits[Pool.CATALOG] = settings.kraken_catalog_pool + settings.kraken_catalog_overflow
    if settings.has_questdb:
        limits[Pool.QUESTDB] = settings.kraken_questdb_pool
    if settings.kraken_cache_url is not None:
        limits[Pool.REDIS] = settings.kraken_cache_pool
    return limits


def record_peak(catalog: Catalog, pool: Pool, stats: PoolStats | None) -> None:
    """Record how many connections of a pool this process used at the same time; a failure to do so is ignored.

    Args:
        catalog: The catalog with the peaks.
        pool: The pool.
        stats: Its statistics; None if there is no such pool.
    """
    if stats is None or not stats.peak or catalog.is_read_only:
        return
    with suppress(PipelineError), catalog.write() as connection:
        counters.raise_to(connection, f"{pool}_pool", stats.peak, time.time())


def peak_of(catalog: Catalog, pool: Pool, limit: int) -> PoolPeak:
    """Return the peak of a pool in the last hour, over all processes."""
    with catalog.read() as connection:
        found = counters.peaks(connection, time.time() - _HOUR)
    return PoolPeak(found.get(f"{pool}_pool", 0), limit)
