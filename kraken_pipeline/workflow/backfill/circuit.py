"""The breaker that all processes share, as the settings have it."""

from __future__ import annotations

from kraken_pipeline.storage.exchange_state.breaker import Breaker
from kraken_pipeline.storage.stores import Stores


def breaker_of(stores: Stores) -> Breaker:
    """Return the breaker of the settings."""
    settings = stores.settings
    return Breaker(stores.catalog, settings.kraken_breaker_failures, settings.kraken_breaker_seconds)
