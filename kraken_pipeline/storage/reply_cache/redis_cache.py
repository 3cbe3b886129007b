"""The Redis level of the cache, which falls back on the embedded level while Redis is unavailable.

The pool does not retry, and its time-outs are short: with redis-py's ten retries, a call took 15 s while Redis was
down. If a call fails, the embedded level answers it at once. A second later, the next call tries Redis again.

dogpile's own Redis backend is not used: it calls SETEX, which redis-py 8 reports as deprecated, and its GET fails on a
key whose value is not a string. It would only save the five commands of `RedisFirstBackend`; the lock is redis-py's.

Redis stores a value under its cache key, and a lock under `_lock` and the key.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from dogpile.cache import register_backend
from dogpile.cache.api import NO_VALUE, BytesBackend, CacheMutex, SerializedReturnType
from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import LockError, RedisError
from redis.lock import Lock
from redis.retry import Retry

from kraken_pipeline.storage.pools import PoolStats
from kraken_pipeline.storage.reply_cache.cache_stats import CacheStats, RedisHealth
from kraken_pipeline.storage.reply_cache.embedded_cache import SqliteBackend

REDIS_FIRST = "kraken_pipeline.redis_first"
KEPT_SECONDS = 7 * 86_400
"""The time that Redis keeps a value: long past its expiry, so that a stale value exists if the exchange is down."""
LOCK_SECONDS = 120
"""The time after which a lock expires, if its holder is slow or was killed, and a waiter goes on without it."""
PAUSE_SECONDS = 1.0
"""The pause after a failure of Redis: an unresponsive Redis then costs one time-out a second instead of one a call."""
HEALTH_CHECK_SECONDS = 30
_BATCH = 1_000
_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


class MeasuredPool(ConnectionPool):
    """A connection pool that measures how many of its connections are in use at the same time."""

    peak = 0

    def get_connection(self, *arguments: Any, **options: Any) -> Any:
        """Return a connection that is now in use."""
        connection = super().get_connection(*arguments, **options)
        _, (in_use, _) = self.get_connection_count()
        self.peak = max(self.peak, in_use)
        return connection


def redis_pool(url: str, size: int, timeout: float) -> MeasuredPool:
    """Return a connection pool for Redis, without connecting yet.

    Args:
        url: `redis://…` or `rediss://…`; options in its query override those set here.
        size: The maximum number of connections.
        timeout: The time-out for connecting and for an answer, in seconds.
    """
    return MeasuredPool.from_url(
        url,
        max_connections=size,
        health_check_interval=HEALTH_CHECK_SECONDS,
        socket_keepalive=True,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        # Protocol 3, redis-py's default, would let the server relax the time-outs to 10 s ("maintenance
        # notifications"), and takes 104 µs for a GET instead of 56.
        protocol=2,
    )


def pool_stats(pool: MeasuredPool) -> PoolStats:
    """Return the pool's statistics; no caller ever waits, because one without a connection uses the embedded level."""
    (idle, _), (in_use, _) = pool.get_connection_count()
    return PoolStats(idle + in_use, in_use, idle, 0, 0, pool.max_connections, pool.peak)


def redis_name(pool: ConnectionPool) -> str:
    """Return host, port and database: the parts of the URL that may be logged."""
    found = pool.connection_kwargs
    return f"{found.get('host', 'localhost')}:{found.get('port', 6379)}/{found.get('db', 0)}"


def redis_health(pool: MeasuredPool) -> RedisHealth:
    """Query the health of Redis, even during the pause after a failure."""
    health = RedisHealth(redis_name(pool), False, None, None, None, None, pool_stats(pool))
    client = Redis(connection_pool=pool)
    try:
        client.ping()
        health = replace(health, answers=True)
        found: dict[str, Any] = dict(client.info())
    except RedisError as error:
        return replace(health, error=f"Redis at {health.name}: {error}")
    return replace(
        health,
        version=found.get("redis_version"),
        used_memory=found.get("used_memory"),
        clients=found.get("connected_clients"),
        max_clients=found.get("maxclients"),
    )


class RedisFirstBackend(BytesBackend):
    """The dogpile.cache backend of both levels: Redis handles each call, or the embedded level if Redis fails.

    The arguments are the `pool`, those of `SqliteBackend`, and the `environment`, which is the prefix of keys.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._pool: MeasuredPool = arguments["pool"]
        self._redis = Redis(connection_pool=self._pool)
        self._embedded = SqliteBackend(arguments)
        # A full Redis, or a replica, still answers reads. It is available again once a write succeeds.
        probe = f"_lock{arguments['environment']}"
        self._presence = Presence(redis_name(self._pool), lambda: self._redis.set(probe, b"", ex=1))

    def _do(self, work: Callable[[], _Result], otherwise: Callable[[], _Result]) -> _Result:
        return self._presence.call(work, otherwise)

    def get_mutex(self, key: str) -> CacheMutex:
        """Return the lock of a key, across machines; it covers this machine only if Redis is away on acquisition."""
        lock = self._redis.lock(
            f"_lock{key}",
            timeout=LOCK_SECONDS,
            blocking_timeout=LOCK_SECONDS,
            sleep=0.05,  # the same as filelock's
            thread_local=False,
        )
        return _Mutex(lock, self._embedded.get_mutex(key), self._presence)

    def get_serialized(self, key: str) -> SerializedReturnType:
        """Return the bytes of a key."""
        return self.get_serialized_multi([key])[0]

    def get_serialized_multi(self, keys: Iterable[str]) -> Sequence[SerializedReturnType]:
        """Return the bytes of several keys."""
        wanted = list(keys)

        def get() -> Sequence[SerializedReturnType]:
            # Unlike GET, MGET returns nil, not an error, for a key that another program set to a list or a hash.
            found = cast("list[bytes | None]", self._redis.mget(wanted))
            return [NO_VALUE if value is None else value for value in found]

        return self._do(get, lambda: self._embedded.get_serialized_multi(wanted))

    def set_serialized(self, key: str, value: bytes) -> None:
        """Store the bytes of a key."""
        self._do(
            lambda: self._redis.set(key, value, ex=KEPT_SECONDS), lambda: self._embedded.set_serialized(key, value)
        )

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        """Store the bytes of several keys."""
        for key, value in mapping.items():
            self.set_serialized(key, value)

    def delete(self, key: str) -> None:
        """Delete a key."""
        self.delete_multi([key])

    def delete_multi(self, keys: Iterable[str]) -> None:
        """Delete several keys."""
        unwanted = list(keys)
        self._do(lambda: self._redis.unlink(*unwanted), lambda: self._embedded.delete_multi(unwanted))

    def clear(self, prefix: str) -> int:
        """Delete the keys with this prefix in both levels; return their number.

        If Redis is unavailable, its keys remain; the warning logged then says that it is away.
        """

        def unlink() -> int:
            return sum(int(self._redis.unlink(*batch)) for batch in self._batches(prefix))

        return self._embedded.clear(prefix) + self._do(unlink, lambda: 0)

    def stats(self, prefix: str) -> CacheStats:
        """Return the number and the size of the values whose keys have this prefix, in the level in use.

        The lengths are queried in batches of a thousand. MEMORY USAGE would make Redis traverse each value.
        """

        def measure() -> CacheStats:
            keys = size = 0
            for batch in self._batches(prefix):
                with self._redis.pipeline(transaction=False) as pipeline:
                    for key in batch:
                        pipeline.strlen(key)
                    lengths = pipeline.execute(raise_on_error=False)  # errors: other programs' keys, not strings
                keys += len(batch)
                size += sum(length for length in lengths if isinstance(length, int))
            return CacheStats(keys, size, "redis")

        return replace(self._do(measure, lambda: self._embedded.stats(prefix)), pool=pool_stats(self._pool))

    def _batches(self, prefix: str) -> Iterable[Sequence[bytes]]:
        """Return the keys with this prefix in batches, each key once, which SCAN does not guarantee."""
        pattern = re.sub(r"([\\*?\[\]])", r"\\\1", prefix) + "*"
        keys = list(set(self._redis.scan_iter(match=pattern, count=_BATCH)))
        return [keys[start : start + _BATCH] for start in range(0, len(keys), _BATCH)]


class Presence:
    """The availability of Redis, as last seen by this process; one thread at a time probes whether it is back.

    Args:
        name: The name of Redis in warnings.
        probe: Sends a command that succeeds only if Redis is fully available.
    """

    def __init__(self, name: str, probe: Callable[[], object]) -> None:
        self._name = name
        self._probe = probe
        self._guard = threading.Lock()
        self._retry_at: float | None = None
        """None if Redis is available; else the time of the next probe, infinite while another thread probes."""

    def call(self, work: Callable[[], _Result], otherwise: Callable[[], _Result]) -> _Result:
        """Run `work` on Redis; run `otherwise` if Redis is unavailable or fails."""
        if self._is_here():
            try:
                return work()
            except RedisError as error:
                self.fail(error)
        return otherwise()

    def fail(self, error: RedisError) -> None:
        """Mark Redis as unavailable for `PAUSE_SECONDS`."""
        with self._guard:
            if self._retry_at is not None:
                return  # another thread has marked it already
            self._retry_at = time.monotonic() + PAUSE_SECONDS
        _log.warning("Redis at %s is down, the embedded cache is used: %s", self._name, error)

    def _is_here(self) -> bool:
        with self._guard:
            if self._retry_at is None:
                return True
            if time.monotonic() < self._retry_at:
                return False
            self._retry_at = math.inf  # the other threads do not wait for the time-out of this one
        is_back = False
        try:
            self._probe()
            is_back = True
        except RedisError:
            return False
        finally:
            with self._guard:
                self._retry_at = None if is_back else time.monotonic() + PAUSE_SECONDS
        _log.warning("Redis at %s answers again", self._name)
        return True


class _Mutex(CacheMutex):
    """A lock of Redis, or the embedded one if Redis is unavailable on acquisition."""

    def __init__(self, lock: Lock, embedded: CacheMutex, presence: Presence) -> None:
        self._lock = lock
        self._embedded = embedded
        self._presence = presence
        self._held: Lock | CacheMutex | None = None

    def acquire(self, wait: bool = True) -> bool:
        def acquire_lock() -> bool:
            is_acquired = bool(self._lock.acquire(blocking=wait))
            self._held = self._lock if is_acquired else None
            return is_acquired

        def acquire_embedded() -> bool:
            is_acquired = self._embedded.acquire(wait)
            self._held = self._embedded if is_acquired else None
            return is_acquired

        return self._presence.call(acquire_lock, acquire_embedded)

    def release(self) -> None:
        """Release the lock, even during a pause of Redis: otherwise other processes would wait until it expires."""
        held, self._held = self._held, None
        if held is None:
            return  # the lock was never acquired
        try:
            held.release()
        except LockError:
            pass  # the lock has expired, or Redis was restarted: it is free already
        except RedisError as error:
            self._presence.fail(error)

    def locked(self) -> bool:
        return self._presence.call(self._lock.locked, self._embedded.locked)


register_backend(REDIS_FIRST, __name__, "RedisFirstBackend")  # type: ignore[no-untyped-call]
