"""Metrics of the state that the catalog has on record, by aggregates that take milliseconds."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator

import sqlalchemy as sa
from prometheus_client.metrics_core import Metric

from kraken_pipeline.storage.catalog.schema import damages, dead_letters, extents, gaps, lake_files
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

_AGES = (("1h", 3_600), ("1d", 86_400), ("7d", 7 * 86_400), ("30d", 30 * 86_400))
"""The upper ends of the ages of gaps, in seconds; an older gap is `older`."""


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
        rows = connection.execute(sa.select(extents.c.pair, extents.c.interval, extents.c.candles)).all()
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
    now = time.time()
    age = sa.case(*((gaps.c.detected_at > now - most, name) for name, most in _AGES), else_="older")
    is_open = gaps.c.closed_at.is_(None)
    by_route = (
        sa.select(gaps.c.route, age, sa.func.count(), sa.func.sum(gaps.c.missing_candles))
        .where(is_open)
        .group_by(gaps.c.route, age)
    )
    crowded = (
        sa.select(gaps.c.pair)
        .where(is_open)
        .group_by(gaps.c.pair, gaps.c.interval)
        .having(sa.func.count() > stores.settings.kraken_max_gaps)
    )
    with stores.catalog.read() as connection:
        rows = connection.execute(by_route).all()
        many = connection.scalar(sa.select(sa.func.count()).select_from(crowded.subquery()))
    counts = {(str(route).lower(), name): count for route, name, count, _ in rows}
    missing: Counter[tuple[str, ...]] = Counter()
    for route, _, _, candles in rows:
        missing[(str(route).lower(),)] += int(candles)
    yield gauges(
        "kraken_gaps", "Open gaps on record, by route and by the time since they were found.", ("route", "age"), counts
    )
    yield gauges("kraken_gap_missing_candles", "Candles that open gaps lack.", ("route",), missing)
    yield gauge("kraken_series_over_max_gaps", "Series with more gaps than KRAKEN_MAX_GAPS.", many or 0)


def _lake(stores: Stores) -> Iterator[Metric]:
    damaged = sa.select(sa.func.count()).select_from(damages).where(damages.c.settled_at.is_(None))
    letters = sa.select(sa.func.count()).select_from(dead_letters).where(dead_letters.c.retried_at.is_(None))
    scrubbed = sa.select(sa.func.min(sa.func.coalesce(lake_files.c.scrubbed_at, lake_files.c.written_at)))
    with stores.catalog.read() as connection:
        open_damages, open_letters = connection.scalar(damaged), connection.scalar(letters)
        oldest, last = connection.scalar(scrubbed), verifications.last(connection)
        backlog = publications.backlog(connection)
    yield gauge("kraken_damaged_files", "Files of the lake that are known to be damaged.", open_damages or 0)
    yield gauge("kraken_dead_letters", "Rejected rows and failed fetches that were not retried.", open_letters or 0)
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
