"""The statistics of the reply cache, and the health of its Redis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kraken_pipeline.storage.pools import PoolStats


@dataclass(frozen=True, slots=True)
class CacheStats:
    """The contents of the cache for its environment, in the level in use.

    Attributes:
        keys: The number of keys, expired ones included.
        size: The size of the values in bytes, without the overhead of Redis or SQLite.
        level: The level in use: Redis, or the file on disk.
        pool: The connections to Redis, even if it is unavailable; None if none is configured.
    """

    keys: int
    size: int
    level: Literal["redis", "embedded"] = "embedded"
    pool: PoolStats | None = None


@dataclass(frozen=True, slots=True)
class RedisHealth:
    """The health of Redis; values that the server does not report are None.

    Servers before version 7, and some that only resemble Redis, do not report all values.

    Attributes:
        name: Host, port and database, without a password.
        answers: Whether it answered a PING.
        version: The server's version.
        used_memory: The memory that it has allocated, in bytes.
        clients: The number of connected clients.
        max_clients: The maximum number of clients.
        pool: The connections of this cache.
        error: A sentence that describes the error; None without one.
    """

    name: str
    answers: bool
    version: str | None
    used_memory: int | None
    clients: int | None
    max_clients: int | None
    pool: PoolStats
    error: str | None = None
