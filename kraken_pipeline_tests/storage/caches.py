"""Caches to test with: each test of a level makes them with a clock of its own, and asks a source that counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kraken_pipeline.errors import PipelineError
from kraken_pipeline.storage.exchange_state import counters
from kraken_pipeline.storage.exchange_state.counters import Counters
from kraken_pipeline.storage.reply_cache.cache import Cache
from kraken_pipeline.storage.reply_cache.redis_cache import MeasuredPool, redis_pool
from kraken_pipeline.storage.stores import Stores

NOW = 1_000_000.0
LARGEST = 1 << 20
KEY = ("prices", "OHLC", "XBTUSD")
PATIENT = 60.0
"""Longer than any test."""


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Source:
    """What is asked where the cache has nothing: gives 1, 2, 3, …, or fails."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: PipelineError | None = None

    def __call__(self) -> Any:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return {"rows": [self.calls]}


class Caches:
    """Makes caches, as each process has its own, over one folder and, where there is a URL, one Redis."""

    def __init__(self, folder: Path, counts: Counters, clock: Clock, url: str | None = None) -> None:
        self.folder = folder
        self.url = url
        self._counts = counts
        self._clock = clock
        self._made: list[Cache] = []

    def __call__(
        self,
        environment: str = "test",
        largest: int = LARGEST,
        *,
        pool: MeasuredPool | None = None,
    ) -> Cache:
        if pool is None and self.url is not None:
            pool = redis_pool(self.url, 100, PATIENT)
        self._made.append(Cache(self.folder, environment, largest, self._counts, pool=pool, clock=self._clock))
        return self._made[-1]

    def close(self) -> None:
        for cache in self._made:
            cache.close()


def counted(stores: Stores, counts: Counters) -> tuple[int, int, int, int]:
    """Hits, misses, cold lookups and stale values."""
    counts.flush()
    with stores.catalog.read() as connection:
        names = ("cache.hits", "cache.misses", "cache.cold", "cache.stale")
        hits, misses, cold, stale = counters.totals(connection, names, 0).values()
    return hits, misses, cold, stale


def at_least(number: int) -> Callable[[Any], bool]:
    return lambda value: bool(value["rows"][0] >= number)


def make_slowly(log: Path) -> Any:
    """A source that takes its time, and leaves a line for each call."""
    with log.open("a", encoding="utf-8") as stream:
        stream.write("asked\n")
    time.sleep(0.2)  # long enough for all others to come while it is asked
    return {"rows": [1]}
