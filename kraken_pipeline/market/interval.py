"""The ten candle intervals, in minutes, and the grids of their candles."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum

from kraken_pipeline.errors import InvalidRequest


class Interval(IntEnum):
    """The length of a candle in minutes.

    Every candle starts at a multiple of its length since the Unix epoch, in UTC. Weeks start on a Thursday,
    because 1970-01-01 was one; fifteen-day candles lie on multiples of 1,296,000 seconds.
    """

    M1 = 1
    M5 = 5
    M15 = 15
    M30 = 30
    H1 = 60
    H4 = 240
    H12 = 720
    D1 = 1440
    W1 = 10080
    D15 = 21600

    __hash__ = int.__hash__  # an enumeration hashes the member's name, in Python, and every series has an interval

    seconds: int
    """The length in seconds."""

    def __init__(self, minutes: int) -> None:
        self.seconds = minutes * 60  # computed once, because every range asks

    @property
    def in_archives(self) -> bool:
        """Whether Kraken has ever published archives of the interval (the set varies between releases)."""
        return self <= Interval.D1

    @property
    def in_rest(self) -> bool:
        """Whether the OHLC endpoint supports the interval."""
        return self is not Interval.H12

    def floor(self, time: int) -> int:
        """Return the start of the candle that holds `time` (seconds since the epoch)."""
        return time - time % self.seconds

    def ceil(self, time: int) -> int:
        """Return the first candle start at or after `time` (seconds since the epoch)."""
        return -(-time // self.seconds) * self.seconds

    @property
    def finer(self) -> tuple[Interval, ...]:
        """The intervals whose whole candles add up to one of this interval, coarsest (fewest rows) first."""
        return _FINER[self]

    @classmethod
    def parse(cls, value: int | str) -> Interval:
        """Return the interval with the given length: minutes, or a number with a unit, such as `1h`, `1d`, `1w`.

        Raises:
            InvalidRequest: There is no such interval; the message lists the allowed ones.
        """
        try:
            return cls(minutes_of(value))
        except (ValueError, InvalidRequest):
            allowed = ", ".join(str(i.value) for i in cls)
            raise InvalidRequest(f"interval {value!r} does not exist; allowed are {allowed} (minutes)") from None


def parse_intervals(text: str) -> tuple[Interval, ...]:
    """Return the intervals of a text such as `60,1440` or `1h,1d`, sorted.

    Raises:
        InvalidRequest: There is no such interval; the message lists the allowed ones.
    """
    return tuple(sorted({Interval.parse(part) for part in text.split(",")}))


_UNITS = {"": 1, "m": 1, "h": 60, "d": 1_440, "w": 10_080}
_LENGTH = re.compile(r"\s*([0-9]{1,9})\s*([mhdw]?)\s*")


def minutes_of(value: int | str) -> int:
    """Return a length of time in minutes: a number is minutes, and a text may have a unit, as `3m`, `2h`, `1d`, `1w`.

    Raises:
        InvalidRequest: The text is not a length of time.
    """
    if isinstance(value, int):
        return int(value)
    if (found := _LENGTH.fullmatch(value)) is None:
        raise InvalidRequest(f"{value!r} is not a length of time; examples are 90 (minutes), 3m, 2h, 1d, 1w")
    return int(found[1]) * _UNITS[found[2]]


INTERVALS: tuple[Interval, ...] = tuple(Interval)
INTERVALS_OF_ARCHIVES: tuple[Interval, ...] = tuple(interval for interval in Interval if interval.in_archives)
BY_MINUTES: Mapping[int, Interval] = {interval.value: interval for interval in Interval}
"""For rows of the catalog: to look an interval up takes a tenth of the time of a call of the enumeration."""

_FINER = {
    coarse: tuple(fine for fine in reversed(Interval) if fine < coarse and coarse % fine == 0) for coarse in Interval
}
