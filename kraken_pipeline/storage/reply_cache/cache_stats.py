"""What the cache says of itself: how much it holds, and how its Redis is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kraken_pipeline.storage.pools import PoolStats


@dataclass(frozen=True, slots=True)
class CacheStats:
    """How much the cache holds of its environment, in the level that serves at this moment.

    Attributes:
        keys: How many keys it has, also of what has expired.
        size: How many bytes their values take; what Redis or SQLite need beside them is not counted.
        level: Redis, or the file on disk.
        pool: The connections to Redis, also where it is away; None where none is configured.
    """

    keys: int
    size: int
    level: Literal["redis", "embedded"] = "embedded"
    pool: PoolStats | None = None


@dataclass(frozen=True, slots=True)
class RedisHealth:
    """How Redis is; None is what it does not say, as servers before 7 and some that are only like Redis do not.

    Attributes:
        name: Host, port and database, without a password.
        answers: Whether it answered a PING.
        version: Its version.
        used_memory: The bytes it has allocated.
        clients: How many are connected to it.
        max_clients: How many may be.
        pool: The connections of this cache.
        error: A sentence of what went wrong; None where nothing did.
    """

    name: str
    answers: bool
    version: str | None
    used_memory: int | None
    clients: int | None
    max_clients: int | None
    pool: PoolStats
    error: str | None = None
