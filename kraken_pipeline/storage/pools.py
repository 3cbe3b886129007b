"""How busy a pool of connections is."""

from __future__ import annotations

from dataclasses import dataclass

BUSY = 0.80
"""Of a pool of which more than this part is in use, health warns."""


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The connections of one pool in this process.

    Attributes:
        size: How many are open.
        in_use: How many of them somebody has at this moment.
        idle: How many wait to be used.
        overflow: How many of them are open beyond those that are kept.
        waiting: How many callers wait for one.
        limit: How many there may be.
    """

    size: int
    in_use: int
    idle: int
    overflow: int
    waiting: int
    limit: int

    @property
    def is_busy(self) -> bool:
        """Whether callers will soon have to wait."""
        return self.in_use > BUSY * self.limit

    def __str__(self) -> str:
        return (
            f"{self.in_use} of {self.limit} connections in use, {self.idle} idle, {self.overflow} beyond those kept, "
            f"{self.waiting} waiting"
        )
