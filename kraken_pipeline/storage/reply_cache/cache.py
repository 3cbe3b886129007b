"""Replies of the exchange that serve again for a while: in this process, then in a level for all, then the source.

A region of dogpile.cache over that level, which is a small SQLite file or Redis, with a level in memory above it. One
process fetches a cold key while the others wait for it, and what has expired can still be had when the source fails.
(dogpile's own `get_or_create` gives what has expired also while another process is fetching, which here would pass for
fresh.) A reply is evidence only of what it says itself, up to the moment when it was made.

Nothing fails because of the cache: what cannot be read from it is a miss, and what cannot be written is not kept.
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
from redis import ConnectionPool

from kraken_pipeline.errors import ExchangeUnavailable
from kraken_pipeline.kraken.client import RequestCounts
from kraken_pipeline.storage.reply_cache.cache_stats import CacheStats, RedisHealth
from kraken_pipeline.storage.reply_cache.embedded_cache import EMBEDDED, SqliteStore
from kraken_pipeline.storage.reply_cache.redis_cache import REDIS_FIRST, redis_health

LONGEST_KEY = 200
MEMORY_BYTES = 16 << 20
_LONGEST_MEMORY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Entry:
    """What the cache holds under a key.

    Attributes:
        value: A value of JSON.
        made_at: When the source gave it, in seconds since the epoch.
        is_stale: Whether it has expired, and is given because the source failed.
    """

    value: Any
    made_at: float
    is_stale: bool = False


class Level(Protocol):
    """What all processes share, as far as dogpile.cache does not ask for it."""

    def clear(self, prefix: str) -> int:
        """Forgets the keys that begin like that; returns how many there were."""

    def stats(self, prefix: str) -> CacheStats:
        """How much it holds of what begins like that."""


class Cache:
    """A cache of JSON values.

    Args:
        folder: Where its file and its locks lie.
        environment: What every key begins with.
        largest: How many bytes of values are kept on disk.
        counters: Told of hits, misses and stale values.
        pool: Connections to the Redis that serves before the file on disk does; closed with the cache.
        clock: The moment in seconds since the epoch.
    """

    def __init__(
        self,
        folder: Path,
        environment: str,
        largest: int,
        counters: RequestCounts,
        *,
        pool: ConnectionPool | None = None,
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
        """The key of some parts: the environment first, and hashed where it would be too long."""
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
        """The value under a key, made by the source where there is none.

        A lookup of a key that was never there counts as `cold` and neither as a hit nor as a miss: replies with the
        newest candles and pages of trades are asked for once by their nature, and say nothing of how the cache serves.

        Args:
            parts: The key.
            seconds: How old a value may be.
            make: Asks the source. What it raises is never kept.
            is_enough: Whether a value serves; where a known one does not, the source is asked anew, and what it gives
                is kept only if it does.
            in_memory: Whether it is kept in this process as well; not what is large and hardly asked for twice.

        Raises:
            ExchangeUnavailable: The source failed, and not even an old value serves.
        """
        key = self.key(*parts)

        def serving(entry: Entry | None) -> Entry | None:
            # What seems to be made later than now was made by a clock that has stepped back since.
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
        """The value under a key, however old, without counting the lookup; None where there is none."""
        return self._kept(self.key(*parts))

    def put(self, parts: Sequence[str], value: Any, *, in_memory: bool = True) -> Entry:
        """Keeps a value that the source has just given."""
        key, made_at = self.key(*parts), self._clock()
        self._region.set(key, {"value": value, "made_at": made_at})
        entry = Entry(value, made_at)
        return self._remember(key, entry) if in_memory else entry

    def _kept(self, key: str) -> Entry | None:
        """What the level for all has, however old."""
        try:
            found = self._region.get(key, ignore_expiration=True)
            return None if isinstance(found, NoValue) else Entry(found["value"], float(found["made_at"]))
        except (zlib.error, ValueError, TypeError, LookupError):
            return None  # damaged, or somebody else's: what takes its place will not be

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
        """Forgets the keys of this environment that begin like that; returns how many there were.

        What another process has in memory serves there for another minute at the most.
        """
        with self._guard:
            self._memory.clear()
        return self._level.clear(f"{self._environment}:{prefix}")

    def stats(self) -> CacheStats:
        """How much it holds of this environment."""
        return self._level.stats(f"{self._environment}:")

    def redis_health(self) -> RedisHealth | None:
        """How its Redis is, asked now; None where none is configured."""
        return None if self._pool is None else redis_health(self._pool)

    def close(self) -> None:
        """Closes the connections to Redis, where there are any."""
        if self._pool is not None:
            self._pool.close()


def _size_of(entry: Entry) -> int:
    value = entry.value
    parts = value.values() if isinstance(value, dict) else [value]
    rows = sum(len(each) for each in parts if isinstance(each, (list, dict)))
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
