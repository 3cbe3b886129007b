"""The shared level of the cache: Redis, and the embedded level for as long as Redis is away.

The pool neither retries nor waits for long: with redis-py's ten retries a call took 15 s where Redis was down. Here one
that fails is answered by the embedded level at once; a second later the next call tries Redis again.

dogpile's own backend for Redis is not used: it calls SETEX, which redis-py 8 warns of as deprecated, and its GET fails
at a key that is no string. What it would save are the five commands of `RedisFirstBackend`; the lock is redis-py's.

Redis holds the values under the keys of the cache as they are, and its locks under `_lock` and the key.
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
"""For how long Redis keeps a value: long after it has expired, to be had as stale where the exchange is down."""
LOCK_SECONDS = 120
"""Who holds a lock for longer, or was killed with it, holds it no more; and who waits for longer goes on without."""
PAUSE_SECONDS = 1.0
"""For how long Redis is left alone after a failure: silence costs a time-out a second then, and not one a call."""
HEALTH_CHECK_SECONDS = 30
_BATCH = 1_000
_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


def redis_pool(url: str, size: int, timeout: float) -> ConnectionPool:
    """The connections to a Redis; none is made yet.

    Args:
        url: `redis://…` or `rediss://…`; what its query says counts more than what is said here.
        size: How many there may be.
        timeout: How long connecting may take, and an answer, in seconds.
    """
    return ConnectionPool.from_url(
        url,
        max_connections=size,
        health_check_interval=HEALTH_CHECK_SECONDS,
        socket_keepalive=True,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        # Version 3, redis-py's default, would let the server relax the time-outs to 10 s ("maintenance notifications"),
        # and takes 104 µs a GET instead of 56.
        protocol=2,
    )


def pool_stats(pool: ConnectionPool) -> PoolStats:
    """How many connections there are; nobody waits for one, because who gets none asks the embedded level."""
    (idle, _), (in_use, _) = pool.get_connection_count()
    return PoolStats(idle + in_use, in_use, idle, 0, 0, pool.max_connections)


def redis_name(pool: ConnectionPool) -> str:
    """Host, port and database: what may be logged of the URL."""
    found = pool.connection_kwargs
    return f"{found.get('host', 'localhost')}:{found.get('port', 6379)}/{found.get('db', 0)}"


def redis_health(pool: ConnectionPool) -> RedisHealth:
    """Asks Redis how it is, whether or not it was left alone a moment ago."""
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
    """What dogpile.cache needs of both levels: Redis does each call, or the embedded one where Redis fails.

    Arguments are the `pool`, those of `SqliteBackend`, and the `environment` that keys begin with.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._pool: ConnectionPool = arguments["pool"]
        self._redis = Redis(connection_pool=self._pool)
        self._embedded = SqliteBackend(arguments)
        # A Redis that is full, or a replica, answers to reading alone. It is back when something can be written.
        probe = f"_lock{arguments['environment']}"
        self._presence = Presence(redis_name(self._pool), lambda: self._redis.set(probe, b"", ex=1))

    def _do(self, work: Callable[[], _Result], otherwise: Callable[[], _Result]) -> _Result:
        return self._presence.call(work, otherwise)

    def get_mutex(self, key: str) -> CacheMutex:
        """A lock for the processes of all machines; where Redis is away when it is taken, for those of this one."""
        lock = self._redis.lock(
            f"_lock{key}",
            timeout=LOCK_SECONDS,
            blocking_timeout=LOCK_SECONDS,
            sleep=0.05,  # as long as filelock sleeps
            thread_local=False,
        )
        return _Mutex(lock, self._embedded.get_mutex(key), self._presence)

    def get_serialized(self, key: str) -> SerializedReturnType:
        """The bytes of a key."""
        return self.get_serialized_multi([key])[0]

    def get_serialized_multi(self, keys: Iterable[str]) -> Sequence[SerializedReturnType]:
        """The bytes of several keys."""
        wanted = list(keys)

        def get() -> Sequence[SerializedReturnType]:
            # Unlike GET, MGET gives nothing, and no error, where somebody has put a list or a hash.
            found = cast("list[bytes | None]", self._redis.mget(wanted))
            return [NO_VALUE if value is None else value for value in found]

        return self._do(get, lambda: self._embedded.get_serialized_multi(wanted))

    def set_serialized(self, key: str, value: bytes) -> None:
        """Keeps the bytes of a key."""
        self._do(
            lambda: self._redis.set(key, value, ex=KEPT_SECONDS), lambda: self._embedded.set_serialized(key, value)
        )

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        """Keeps the bytes of several keys."""
        for key, value in mapping.items():
            self.set_serialized(key, value)

    def delete(self, key: str) -> None:
        """Forgets a key."""
        self.delete_multi([key])

    def delete_multi(self, keys: Iterable[str]) -> None:
        """Forgets several keys."""
        unwanted = list(keys)
        self._do(lambda: self._redis.unlink(*unwanted), lambda: self._embedded.delete_multi(unwanted))

    def clear(self, prefix: str) -> int:
        """Forgets the keys that begin like that in both levels; returns how many there were.

        Where Redis is away it keeps them, as the warning of its being away says.
        """

        def unlink() -> int:
            return sum(int(self._redis.unlink(*batch)) for batch in self._batches(prefix))

        return self._embedded.clear(prefix) + self._do(unlink, lambda: 0)

    def stats(self, prefix: str) -> CacheStats:
        """How much the level in use holds of what begins like that.

        The lengths of the values are asked for by the thousand: MEMORY USAGE would have Redis walk through each.
        """

        def measure() -> CacheStats:
            keys = size = 0
            for batch in self._batches(prefix):
                with self._redis.pipeline(transaction=False) as pipeline:
                    for key in batch:
                        pipeline.strlen(key)
                    lengths = pipeline.execute(raise_on_error=False)  # no string: somebody else's
                keys += len(batch)
                size += sum(length for length in lengths if isinstance(length, int))
            return CacheStats(keys, size, "redis")

        return replace(self._do(measure, lambda: self._embedded.stats(prefix)), pool=pool_stats(self._pool))

    def _batches(self, prefix: str) -> Iterable[Sequence[bytes]]:
        """The keys that begin like that, each of them once, which SCAN does not promise."""
        pattern = re.sub(r"([\\*?\[\]])", r"\\\1", prefix) + "*"
        keys = list(set(self._redis.scan_iter(match=pattern, count=_BATCH)))
        return [keys[start : start + _BATCH] for start in range(0, len(keys), _BATCH)]


class Presence:
    """Whether Redis is there, as this process has last seen it, and who finds out whether it is back.

    Args:
        name: What it is called in warnings.
        probe: Asks it for something that it can do only when all is well.
    """

    def __init__(self, name: str, probe: Callable[[], object]) -> None:
        self._name = name
        self._probe = probe
        self._guard = threading.Lock()
        self._retry_at: float | None = None
        """None where Redis is there; else when the next call tries it, which is never while another one does."""

    def call(self, work: Callable[[], _Result], otherwise: Callable[[], _Result]) -> _Result:
        """Has Redis do something, or another do it where Redis is away or fails."""
        if self._is_here():
            try:
                return work()
            except RedisError as error:
                self.fail(error)
        return otherwise()

    def fail(self, error: RedisError) -> None:
        """Leaves Redis alone for a while."""
        with self._guard:
            if self._retry_at is not None:
                return  # another thread's call was first
            self._retry_at = time.monotonic() + PAUSE_SECONDS
        _log.warning("Redis at %s is away, the embedded cache takes over: %s", self._name, error)

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
        _log.warning("Redis at %s is back", self._name)
        return True


class _Mutex(CacheMutex):
    """Redis's lock, or the embedded one where Redis is away when it is taken."""

    def __init__(self, lock: Lock, embedded: CacheMutex, presence: Presence) -> None:
        self._lock = lock
        self._embedded = embedded
        self._presence = presence
        self._held: Lock | CacheMutex | None = None

    def acquire(self, wait: bool = True) -> bool:
        def take_lock() -> bool:
            is_taken = bool(self._lock.acquire(blocking=wait))
            self._held = self._lock if is_taken else None
            return is_taken

        def take_embedded() -> bool:
            is_taken = self._embedded.acquire(wait)
            self._held = self._embedded if is_taken else None
            return is_taken

        return self._presence.call(take_lock, take_embedded)

    def release(self) -> None:
        """Gives it back; also to a Redis that is left alone, where it would stay for others to wait for."""
        held, self._held = self._held, None
        if held is None:
            return  # waited for in vain
        try:
            held.release()
        except LockError:
            pass  # held for too long, or Redis was started anew: it is free already
        except RedisError as error:
            self._presence.fail(error)

    def locked(self) -> bool:
        return self._presence.call(self._lock.locked, self._embedded.locked)


register_backend(REDIS_FIRST, __name__, "RedisFirstBackend")  # type: ignore[no-untyped-call]
