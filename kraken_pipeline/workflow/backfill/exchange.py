"""The connection to the exchange, with what all processes share: limiter, breaker, counters, reply cache."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any

from kraken_pipeline.errors import PipelineError, Throttled
from kraken_pipeline.kraken.client import Client, RequestCounts
from kraken_pipeline.kraken.exchange import Exchange, Lifetimes, ListedPairs
from kraken_pipeline.kraken.incidents import reported_incidents
from kraken_pipeline.kraken.replies import SystemStatus
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.exchange_state import incident_records, pair_list_records
from kraken_pipeline.storage.exchange_state.counters import Counters, set_to
from kraken_pipeline.storage.exchange_state.limiter import Limiter
from kraken_pipeline.storage.pool_peaks import record_peak
from kraken_pipeline.storage.pools import Pool
from kraken_pipeline.storage.reply_cache.cache import Cache
from kraken_pipeline.storage.reply_cache.redis_cache import redis_pool
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.circuit import breaker_of

PROBE_SECONDS = 5.0
"""The longest that a probe waits for its turn, and for an answer."""
CLOCK = "clock_ahead_ms"
"""The name of the recorded difference between this host's clock and the exchange's, in milliseconds."""


@contextmanager
def connected(stores: Stores) -> Iterator[Exchange]:
    """Yield the exchange of the settings for the duration of a `with` block."""
    settings = stores.settings
    with _asked(
        stores,
        breaker=breaker_of(stores),
        counters=Counters(stores.catalog),
        attempts=settings.kraken_api_attempts,
        first_wait=settings.kraken_api_retry_seconds,
        longest_wait=settings.kraken_api_retry_longest_seconds,
        timeout=settings.kraken_api_timeout_seconds,
    ) as exchange:
        try:
            yield exchange
        finally:
            _record_clock(stores, exchange.clock_ahead)


@contextmanager
def probed(stores: Stores) -> Iterator[Exchange]:
    """Yield the exchange for a probe of whether it answers: one attempt, a short wait, and no records.

    Probes that fail every minute must not open the circuit for runs that would have waited, nor count as errors.
    """
    timeout = min(PROBE_SECONDS, stores.settings.kraken_api_timeout_seconds)
    record = _NoRecord()
    with _asked(stores, breaker=record, counters=record, sleep=_briefly, attempts=1, timeout=timeout) as exchange:
        yield exchange


def _briefly(seconds: float) -> None:
    """Wait for a permit, unless the wait is long; the exchange may have asked for minutes."""
    if seconds > PROBE_SECONDS:
        raise Throttled(f"no request was made: the next one may be made in {seconds:.0f} s")
    time.sleep(seconds)


@contextmanager
def _asked(
    stores: Stores, counters: Counters | _NoRecord, sleep: Callable[[float], None] = time.sleep, **how: Any
) -> Iterator[Exchange]:
    settings = stores.settings
    limiter = Limiter(stores.catalog, settings.kraken_api_rate, settings.kraken_api_endpoint_rates, sleep=sleep)
    client = Client(settings.kraken_api_url, limiter=limiter, counters=counters, **how)
    reported, listed = partial(_record_status, stores), partial(_record_list, stores)
    with (
        closing(open_cache(settings, counters)) as cache,
        closing(Exchange(client, cache, _lifetimes(settings), reported, listed)) as it,
    ):
        try:
            yield it
        finally:
            counters.flush()
            record_peak(stores.catalog, Pool.REDIS, cache.pool_statistics)


def _record_clock(stores: Stores, ahead: float | None) -> None:
    """Record how far this host's clock is ahead of the exchange's, if a reply has shown it."""
    if ahead is None:
        return
    with suppress(PipelineError), stores.catalog.write() as connection:
        set_to(connection, CLOCK, round(1_000 * ahead), time.time())


def _record_status(stores: Stores, status: SystemStatus) -> None:
    """Record the incidents of a status, if there is anything new."""
    reported, now = list(reported_incidents(status)), int(status.time)
    with stores.catalog.read() as connection:
        if not incident_records.is_news(connection, reported, now):
            return
    with stores.catalog.write() as connection:
        incident_records.record_reported(connection, reported, now)


def _record_list(stores: Stores, listed: ListedPairs) -> None:
    """Record a list of pairs, if it is newer than the last one on record.

    A list that lacks a whole class of pairs, which was refused and never known, would make these pairs look new later.
    """
    made_at = int(listed.newest_at)
    if not listed.is_whole:
        return
    with stores.catalog.read() as connection:
        if not pair_list_records.is_news(connection, made_at):
            return
    with stores.catalog.write() as connection:
        pair_list_records.record_list(connection, listed.states, listed.unreadable, made_at)


class _NoRecord:
    """A breaker that admits everything, and counters that count nothing."""

    def admit(self) -> None:
        pass

    def succeeded(self) -> None:
        pass

    def failed(self) -> None:
        pass

    def add(self, name: str, count: int = 1) -> None:
        pass

    def flush(self) -> None:
        pass


def open_cache(settings: Settings, counters: RequestCounts) -> Cache:
    """Open the reply cache of the settings; replies of an exchange other than Kraken's are kept apart.

    The caller closes it.
    """
    environment = settings.kraken_cache_environment
    if settings.kraken_api_url != Settings.model_fields["kraken_api_url"].default:
        environment = f"{environment}-{zlib.crc32(settings.kraken_api_url.encode()):08x}"
    pool = None
    if (url := settings.kraken_cache_url) is not None:
        pool = redis_pool(url.get_secret_value(), settings.kraken_cache_pool, settings.kraken_cache_timeout_seconds)
    return Cache(settings.home / "cache", environment, settings.kraken_cache_mib << 20, counters, pool=pool)


def _lifetimes(settings: Settings) -> Lifetimes:
    return Lifetimes(
        prices=settings.kraken_cache_prices_seconds,
        replies=settings.kraken_cache_replies_seconds,
        history=settings.kraken_cache_history_seconds,
        assets=settings.kraken_cache_assets_seconds,
    )
