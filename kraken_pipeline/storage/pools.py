"""The statistics of a connection pool."""

from __future__ import annotations

from dataclasses import dataclass

BUSY = 0.80
"""The share of a pool in use above which the health check warns."""


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
    """

    size: int
    in_use: int
    idle: int
    overflow: int
    waiting: int
    limit: int

    @property
    def is_busy(self) -> bool:
        """Whether more than `BUSY` of the pool is in use, so that callers will soon have to wait."""
        return self.in_use > BUSY * self.limit

    def __str__(self) -> str:
        return (
            f"{self.in_use} of {self.limit} connections in use, {self.idle} idle, {self.overflow} beyond those kept, "
            f"{self.waiting} waiting"
        )
