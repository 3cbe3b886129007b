"""The reply cache: looks a key up in this process's memory, then in a level shared by all processes, then asks Kraken.

The shared level is a small SQLite file or Redis, used through a region of dogpile.cache. One process fetches a cold key
while the others wait for it. An expired value is returned when the source fails. (dogpile's own `get_or_create` returns
expired values also while another process is fetching; here they would look fresh.) A reply is evidence only of its
contents, up to the moment when it was made.

The cache never causes a failure: an unreadable value is a miss, and a value that cannot be written is not kept.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

from cachetools import TTLCache
from dogpile.cache import CacheRegion, make_region
from dogpile.cache.api import CacheMutex, NoValue

from kraken_pipeline.errors import ExchangeUnavailable
from kraken_pipeline.kraken.client import RequestCounts
from kraken_pipeline.storage.pools import PoolStats
from kraken_pipeline.storage.reply_cache.cache_stats import CacheStats, RedisHealth
from kraken_pipeline.storage.reply_cache.embedded_cache import EMBEDDED, SqliteStore
from kraken_pipeline.storage.reply_cache.redis_cache import REDIS_FIRST, MeasuredPool, pool_stats, redis_health

LONGEST_KEY = 200
MEMORY_BYTES = 16 << 20
_LONGEST_MEMORY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A value of the cache, with its age.

    Attributes:
        value: A JSON value.
        made_at: The time when the source returned it, in seconds since the epoch.
        is_stale: Whether the value has expired and is returned because the source failed.
    """

    value: Any
    made_at: float
    is_stale: bool = False


class Level(Protocol):
    """The shared level's methods that dogpile.cache does not define."""

    def clear(self, prefix: str) -> int:
        """Delete the keys with this prefix; return their number."""

    def stats(self, prefix: str) -> CacheStats:
        """Return the number and the size of the values whose keys have this prefix."""


class Cache:
    """A cache of JSON values.

    Args:
        folder: The folder of its file and its locks.
        environment: The prefix of every key.
        largest: The maximum size of the values on disk, in bytes.
        counters: The counters of hits, misses and stale values.
        pool: Connections to Redis, which is used before the file on disk; closed with the cache.
        clock: Returns the current time, in seconds since the epoch.
    """

    def __init__(
        self,
        folder: Path,
        environment: str,
        largest: int,
        counters: RequestCounts,
        *,
        pool: MeasuredPool | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._environment = environment
        self._counters = counters
        self._clock = clock
        self._pool = pool
        arguments: dict[str, object] = {
            "store": SqliteStore(folder / "cache.sqlite", largest),
            "locks": folder / "locks",
        }
        if pool is not None:
            arguments |= {"pool": pool, "environment": environment}
        self._region: CacheRegion = make_region(
            serializer=_serialized, deserializer=_deserialized, key_mangler=None
        ).configure(EMBEDDED if pool is None else REDIS_FIRST, arguments=arguments)
        self._level = cast(Level, self._region.backend)
        self._memory: TTLCache[str, Entry] = TTLCache(MEMORY_BYTES, _LONGEST_MEMORY_SECONDS, getsizeof=_size_of)
        self._guard = threading.Lock()

    def key(self, *parts: str) -> str:
        """Return the key of some parts: the environment, then the parts; a key that is too long ends in a hash."""
        key = ":".join((self._environment, *parts))
        if len(key) <= LONGEST_KEY:
            return key
        return f"{key[: LONGEST_KEY - 65]}:{hashlib.sha256(key.encode()).hexdigest()}"

    def get_or_make(
        self,
        parts: Sequence[str],
        seconds: float,
        make: Callable[[], Any],
        is_enough: Callable[[Any], bool] = lambda _: True,
        *,
        in_memory: bool = True,
    ) -> Entry:
        """Return the value of a key; fetch it from the source if the cache has none.

        A lookup of a key that was never cached counts as `cold`, neither as a hit nor as a miss: replies with the
        newest candles and pages of trades are requested only once, and say nothing about the use of the cache.

        Args:
            parts: The parts of the key.
            seconds: The maximum age of a value.
            make: Fetches the value from the source. Its errors are never cached.
            is_enough: Checks whether a value suffices. If a cached value does not, the source is asked again; its value
                is cached only if it suffices.
            in_memory: Whether to keep the value in this process as well; False for large values that are rarely
                requested twice.

        Raises:
            ExchangeUnavailable: The source failed, and the cache has not even an expired value that suffices.
        """
        key = self.key(*parts)

        def serving(entry: Entry | None) -> Entry | None:
            # An entry from the future was made before the clock stepped back.
            is_young = entry is not None and abs(self._clock() - entry.made_at) < seconds
            return entry if entry is not None and is_young and is_enough(entry.value) else None

        if (found := serving(self._remembered(key)) or serving(self._kept(key))) is not None:
            self._counters.add("cache.hits")
            return self._remember(key, found) if in_memory else found
        with _held(self._region.backend.get_mutex(key)):
            known = self._kept(key)  # another process may have fetched it in the meantime
            if (found := serving(known)) is not None:
                self._counters.add("cache.hits")
                return self._remember(key, found) if in_memory else found
            self._counters.add("cache.cold" if known is None else "cache.misses")
            try:
                value = make()
            except ExchangeUnavailable:
                if known is None or not is_enough(known.value):
                    raise
                self._counters.add("cache.stale")
                return replace(known, is_stale=True)
            return self.put(parts, value, in_memory=in_memory) if is_enough(value) else Entry(value, self._clock())

    def peek(self, parts: Sequence[str]) -> Entry | None:
        """Return the value of a key at any age, without counting the lookup; None if there is none."""
        return self._kept(self.key(*parts))

    def put(self, parts: Sequence[str], value: Any, *, in_memory: bool = True) -> Entry:
        """Cache a value that the source has just returned."""
        key, made_at = self.key(*parts), self._clock()
        self._region.set(key, {"value": value, "made_at": made_at})
        entry = Entry(value, made_at)
        return self._remember(key, entry) if in_memory else entry

    def _kept(self, key: str) -> Entry | None:
        """Return the entry of the shared level at any age; None if there is none."""
        try:
            found = self._region.get(key, ignore_expiration=True)
            return None if isinstance(found, NoValue) else Entry(found["value"], float(found["made_at"]))
        except (zlib.error, ValueError, TypeError, LookupError):
            return None  # corrupt, or written by another program: the next value replaces it

    def _remembered(self, key: str) -> Entry | None:
        with self._guard:
            return self._memory.get(key)

    def _remember(self, key: str, entry: Entry) -> Entry:
        with self._guard:
            self._memory.pop(key, None)
            if _size_of(entry) <= MEMORY_BYTES:
                self._memory[key] = entry
        return entry

    def clear(self, prefix: str = "") -> int:
        """Delete the keys of this environment with this prefix; return their number.

        Values in another process's memory remain in use there for at most another minute.
        """
        with self._guard:
            self._memory.clear()
        return self._level.clear(f"{self._environment}:{prefix}")

    def stats(self) -> CacheStats:
        """Return the number and the size of this environment's values."""
        return self._level.stats(f"{self._environment}:")

    def redis_health(self) -> RedisHealth | None:
        """Query the health of Redis; return None if none is configured."""
        return None if self._pool is None else redis_health(self._pool)

    @property
    def pool_statistics(self) -> PoolStats | None:
        """The usage of the connections to Redis; None if none is configured."""
        return None if self._pool is None else pool_stats(self._pool)

    def close(self) -> None:
        """Close the connections to Redis, if there are any."""
        if self._pool is not None:
            self._pool.close()


def _size_of(entry: Entry) -> int:
    value = entry.value
    parts = value.values() if isinstance(value, dict) else [value]
    rows = sum(len(part) for part in parts if isinstance(part, (list, dict)))
    return 200 + 300 * rows  # a row of OHLC or Trades as Python objects, measured with pympler: 250 to 400 bytes


def _serialized(value: Any) -> bytes:
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode(), 1)


def _deserialized(content: bytes) -> Any:
    return json.loads(zlib.decompress(content))


@contextmanager
def _held(mutex: CacheMutex | None) -> Iterator[None]:
    if mutex is None:
        yield
        return
    mutex.acquire()
    try:
        yield
    finally:
        mutex.release()
