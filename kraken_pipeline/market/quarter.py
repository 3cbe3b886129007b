"""Quarters of a year, by which Kraken divides its releases."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache


@dataclass(frozen=True, slots=True, order=True)
class Quarter:
    """A quarter of a year, in UTC: `[start, end)` in seconds since the epoch."""

    year: int
    number: int

    @classmethod
    def of(cls, time: int) -> Quarter:
        """Return the quarter that holds a moment (seconds since the epoch)."""
        day = datetime.fromtimestamp(time, UTC)
        return cls(day.year, (day.month + 2) // 3)

    @property
    def start(self) -> int:
        """The first second of the quarter, since the epoch."""
        return _start(self.year, self.number)

    @property
    def end(self) -> int:
        """The first second after the quarter, since the epoch."""
        return self.next.start

    @property
    def next(self) -> Quarter:
        """The following quarter."""
        return Quarter(self.year + self.number // 4, self.number % 4 + 1)

    @property
    def previous(self) -> Quarter:
        """The preceding quarter."""
        return Quarter.of(self.start - 1)

    def __str__(self) -> str:
        return f"{self.year}Q{self.number}"


@cache
def _start(year: int, number: int) -> int:
    return int(datetime(year, 3 * number - 2, 1, tzinfo=UTC).timestamp())
