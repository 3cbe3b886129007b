"""Metrics of what all processes have counted: requests, cache hits, candles, files, phases. They never fall."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.metrics_core import Metric

from kraken_pipeline.storage.exchange_state.counters import all_totals
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.metrics.family import counter, counters

_PLAIN = {
    "api.requests": ("kraken_requests", "Requests sent to the exchange."),
    "api.errors": ("kraken_request_errors", "Requests to the exchange that failed."),
    "api.retries": ("kraken_request_retries", "Requests to the exchange that were repeated after a failure."),
    "cache.hits": ("kraken_cache_hits", "Lookups that the reply cache answered."),
    "cache.misses": ("kraken_cache_misses", "Lookups whose cached reply was too old or not enough."),
    "cache.cold": ("kraken_cache_cold_lookups", "First lookups of a reply, which no cache could answer."),
    "cache.stale": ("kraken_cache_stale_replies", "Lookups answered by an expired reply, as the exchange did not."),
    "rows.read": ("kraken_archive_rows_read", "Rows read from archives."),
    "rows.rejected": ("kraken_archive_rows_rejected", "Rows of archives that were rejected."),
}


def counted(stores: Stores) -> Iterator[Metric]:
    """Yield the metrics of all counters, those that are still 0 as well."""
    with stores.catalog.read() as connection:
        totals = all_totals(connection)
    for name, (family, text) in _PLAIN.items():
        yield counter(family, text, totals.get(name, 0))
    yield counter(
        "kraken_permit_wait_seconds",
        "Seconds that processes waited for the permit of a request.",
        totals.get("api.wait_ms", 0) / 1_000,
    )
    yield counters(
        "kraken_candles_stored",
        "New and different candles stored in the lake.",
        ("source",),
        _labelled(totals, "candles."),
    )
    yield counters(
        "kraken_files",
        "Files of archives that were ingested, skipped or refused.",
        ("status",),
        _labelled(totals, "files."),
    )
    yield counters(
        "kraken_phase_seconds",
        "Seconds that steps of runs spent in a phase.",
        ("phase",),
        _labelled(totals, "phase_ms.", per=1_000),
    )
    yield counters(
        "kraken_phase_candles",
        "Candles that a phase of runs stored or published.",
        ("phase",),
        _labelled(totals, "phase_candles."),
    )


def _labelled(totals: Mapping[str, int], prefix: str, per: float = 1) -> dict[tuple[str, ...], float]:
    return {
        (name.removeprefix(prefix).lower(),): value / per for name, value in totals.items() if name.startswith(prefix)
    }
