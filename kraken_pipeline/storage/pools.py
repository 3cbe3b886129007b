"""The statistics of a connection pool.

Only the process that has a pool can measure it. It records the peak in the catalog, where others find it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

BUSY = 0.80
"""The share of a pool in use above which the health check warns."""


class Pool(StrEnum):
    """The connection pools of a process."""

    CATALOG = "catalog"
    QUESTDB = "questdb"
    REDIS = "redis"


@dataclass(frozen=True, slots=True)
class PoolPeak:
    """The greatest use of a pool in the last hour, in the process that used it most.

    Attributes:
        connections: The number of connections in use at the same time.
        limit: The maximum number of connections of a process.
    """

    connections: int
    limit: int

    @property
    def is_busy(self) -> bool:
        """Whether more than `BUSY` of the pool was in use, so that callers have to wait or soon will."""
        return self.connections > BUSY * self.limit

    def __str__(self) -> str:
        return f"at most {self.connections} of {self.limit} connections of a process were in use in the last hour"


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The connections of one pool in this process.

    Attributes:
        size: The number of open connections.
        in_use: The number of open connections in use.
        idle: The number of open connections not in use.
        overflow: The number of open connections beyond those that are kept.
        waiting: The number of callers that wait for a connection.
        limit: The maximum number of connections.
        peak: The greatest number in use at the same time so far.
    """

    size: int
    in_use: int
    idle: int
    overflow: int
    waiting: int
    limit: int
    peak: int = 0

    def __str__(self) -> str:
        return (
            f"{self.in_use} of {self.limit} connections in use, {self.idle} idle, {self.overflow} beyond those kept, "
            f"{self.waiting} waiting"
        )
