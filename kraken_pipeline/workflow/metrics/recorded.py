"""Metrics of the state that the catalog has on record, by aggregates that take milliseconds."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from kraken_pipeline.storage import aggregates
from kraken_pipeline.storage.exchange_state.breaker import BreakerState
from kraken_pipeline.storage.exchange_state.counters import latest
from kraken_pipeline.storage.exchange_state.limiter import Limiter
from kraken_pipeline.storage.lake import verifications
from kraken_pipeline.storage.pool_peaks import peak_of, pool_limits
from kraken_pipeline.storage.records import publications
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.circuit import breaker_of
from kraken_pipeline.workflow.backfill.exchange import CLOCK
from kraken_pipeline.workflow.metrics.family import gauge, gauges


def recorded(stores: Stores) -> Iterator[Metric]:
    """Yield the metrics of the catalog's records, of the disk and of the pools."""
    yield from _candles(stores)
    yield from _gaps(stores)
    yield from _lake(stores)
    yield from _exchange(stores)
    yield from _pools(stores)
    free = shutil.disk_usage(stores.settings.home).free
    yield gauge("kraken_disk_free_bytes", "Free space of the disk with the home.", free)


def _candles(stores: Stores) -> Iterator[Metric]:
    with stores.catalog.read() as connection:
        rows = aggregates.candles_of_series(connection)
    names = stores.lake.asset_ids.pairs()
    tiers = {pair.name: str(stores.tiers.tier_of(pair)).lower() for pair in names}
    candles: Counter[tuple[str, ...]] = Counter()
    series: Counter[tuple[str, ...]] = Counter()
    for pair, interval, count in rows:
        labels = tiers.get(pair, "unknown"), str(interval)
        candles[labels] += count
        series[labels] += 1
    yield gauges("kraken_candles", "Candles in the lake.", ("tier", "interval"), candles)
    yield gauges("kraken_series", "Series with candles in the lake.", ("tier", "interval"), series)


def _gaps(stores: Stores) -> Iterator[Metric]:
    with stores.catalog.read() as connection:
        found = aggregates.open_gaps(connection, time.time())
        many = aggregates.series_with_many_gaps(connection, stores.settings.kraken_max_gaps)
    counts = {(gaps.route.lower(), gaps.age): gaps.count for gaps in found}
    missing: Counter[tuple[str, ...]] = Counter()
    for gaps in found:
        missing[(gaps.route.lower(),)] += gaps.missing_candles
    yield gauges(
        "kraken_gaps", "Open gaps on record, by route and by the time since they were found.", ("route", "age"), counts
    )
    yield gauges("kraken_gap_missing_candles", "Candles that open gaps lack.", ("route",), missing)
    yield gauge("kraken_series_over_max_gaps", "Series with more gaps than KRAKEN_MAX_GAPS.", many)


def _lake(stores: Stores) -> Iterator[Metric]:
    with stores.catalog.read() as connection:
        damages, letters = aggregates.open_damages(connection), aggregates.rejected(connection)
        oldest, last = aggregates.oldest_scrub(connection), verifications.last(connection)
        backlog = publications.backlog(connection)
    yield gauge("kraken_damaged_files", "Files of the lake that are known to be damaged.", damages)
    yield gauge("kraken_dead_letters", "Rejected rows and failed fetches that were not retried.", letters)
    yield gauge("kraken_publications_pending", "Ranges that QuestDB has not confirmed.", backlog.count)
    if backlog.oldest is not None:
        text = "When the oldest range that QuestDB has not confirmed was changed."
        yield gauge("kraken_publications_oldest_timestamp_seconds", text, backlog.oldest)
    if last is not None:
        yield gauge("kraken_last_scrub_timestamp_seconds", "When the last verification ended.", last.finished_at)
    if oldest is not None:
        text = "When the file of the lake that was not read for the longest time was last read or written."
        yield gauge("kraken_oldest_scrub_timestamp_seconds", text, oldest)


def _exchange(stores: Stores) -> Iterator[Metric]:
    state = breaker_of(stores).record().state
    states = {(str(one).lower(),): float(one is state) for one in BreakerState}
    slowness = Limiter(stores.catalog, stores.settings.kraken_api_rate).slowness()
    with stores.catalog.read() as connection:
        ahead = latest(connection, CLOCK)
    yield gauges("kraken_breaker_state", "Whether the circuit to the exchange is in a state.", ("state",), states)
    yield gauge("kraken_request_slowness_ratio", "The factor by which requests are slower than the rate.", slowness)
    if ahead is not None:
        text = "How far this host's clock was ahead of the exchange's at the last reply."
        yield gauge("kraken_clock_ahead_seconds", text, ahead / 1_000)


def _pools(stores: Stores) -> Iterator[Metric]:
    limits = pool_limits(stores.settings)
    peaks = {(str(pool),): peak_of(stores.catalog, pool, limit).connections for pool, limit in limits.items()}
    text = "The most connections of a pool that a process used at the same time in the last hour."
    yield gauges("kraken_pool_peak_connections", text, ("pool",), peaks)
    most = {(str(pool),): limit for pool, limit in limits.items()}
    yield gauges("kraken_pool_max_connections", "The most connections that a process may open.", ("pool",), most)
