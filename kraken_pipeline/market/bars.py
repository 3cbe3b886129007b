"""Bars of any width: when they start and end, counted from midnight in any time zone.

A stored candle is a bar of one of ten intervals whose starts are multiples of its length since the epoch, in UTC. Bars
of any other width, or that follow the clock of another zone, are made from such candles on reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.interval import BY_MINUTES, Interval, minutes_of

_DAY = 86_400
_SAMPLED = 6 * 3_600
"""The clock of a zone changes less often than this, in seconds."""
_MOST_MINUTES = 366 * 1_440


@dataclass(frozen=True, slots=True)
class Bars:
    """The grid of bars of one width.

    Bars shorter than a day start whenever the clock of the zone shows a multiple of the width after midnight of
    1970-01-01, plus the offset. Where the clock is put back, it shows some of these times twice, and a bar starts at
    either. Bars of whole days start once on their first day. A start that the clock skips is the moment of the change.

    Attributes:
        minutes: The width, in minutes.
        offset: The number of seconds between midnight and the start of a bar.
        zone: The name of the time zone whose clock counts.
    """

    minutes: int
    offset: int = 0
    zone: str = "UTC"

    @classmethod
    def parse(cls, interval: int | str, offset: int | str | None = None, timezone: str | None = None) -> Bars:
        """Return the grid that some text names.

        Args:
            interval: The width: minutes, or a number with a unit, such as `3m`, `2h`, `1d`, `1w`.
            offset: The time between midnight and the start of a bar: `5h`, `90m`; a number is minutes.
            timezone: The name of the time zone, such as `Europe/Berlin`; UTC where it is None.

        Raises:
            InvalidRequest: One of them is wrong; the message says which.
        """
        minutes = minutes_of(interval)
        if not 1 <= minutes <= _MOST_MINUTES:
            raise InvalidRequest(f"interval {interval!r} is not between a minute and 366 days")
        shift = 0 if offset is None else minutes_of(offset) * 60
        return cls(minutes, shift % (minutes * 60), _zone(timezone or "UTC").key)

    def __str__(self) -> str:
        """Name them by their minutes, as series are named, with what makes them differ from stored candles."""
        shift = f" +{self.offset // 60} min" if self.offset else ""
        return f"{self.minutes}{shift}{'' if self.zone == 'UTC' else f' {self.zone}'}"

    @property
    def seconds(self) -> int:
        """The width in seconds."""
        return self.minutes * 60

    @property
    def stored_as(self) -> Interval | None:
        """The interval whose candles are these bars; None where there is none."""
        is_plain = self.offset == 0 and self.zone == "UTC"
        return BY_MINUTES.get(self.minutes) if is_plain else None

    def floor(self, time: int) -> int:
        """Return the start of the bar that holds a time; both are seconds since the epoch."""
        if self.zone == "UTC":
            return time - (time - self.offset) % self.seconds
        return int(self._local_starts(time - self.seconds - 2 * _DAY, time + 1)[-1])

    def edges(self, start: int, end: int) -> NDArray[np.int64]:
        """Return the start of every bar that starts in `[start, end)`, sorted, and the end of the last of them.

        All are seconds since the epoch. The array is empty if no bar starts there.
        """
        if start >= end:
            return np.empty(0, np.int64)
        if self.zone == "UTC":
            first = start + (self.offset - start) % self.seconds
            found = np.arange(first, end, self.seconds, dtype=np.int64)
            return np.append(found, found[-1] + self.seconds) if len(found) else found
        beyond = end + self.seconds + 2 * _DAY
        found = self._local_starts(start, beyond)
        inside = int(found.searchsorted(end))
        return found[: inside + 1] if inside else np.empty(0, np.int64)

    def _local_starts(self, start: int, end: int) -> NDArray[np.int64]:
        """Return the start of every bar in `[start, end)`, of a zone whose clock may change."""
        is_daily = self.seconds % _DAY == 0
        found: list[NDArray[np.int64]] = []
        before: int | None = None
        for since, until, shift in _clocks(ZoneInfo(self.zone), start - _SAMPLED, end):
            # Local times are counted in seconds since 1970-01-01T00:00 on the clock of the zone.
            local = since + shift
            if before is not None and is_daily:
                local = max(local, since + before)  # what is shown again after it was put back starts no other day
            first = local + (self.offset - local) % self.seconds
            starts = np.arange(first, until + shift, self.seconds, dtype=np.int64) - shift
            if before is not None and shift > before:
                skipped = since + before + (self.offset - since - before) % self.seconds
                if skipped < since + shift:
                    found.append(np.array([since], np.int64))
            found.append(starts)
            before = shift
        every = np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)
        # `numpy.unique` hashes, which takes a hundred times as long as sorting what is nearly sorted.
        is_new = np.append(True, every[1:] != every[:-1])[: len(every)]
        return every[is_new & (every >= start) & (every < end)]


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise InvalidRequest(
            f"{name!r} is not the name of a time zone; examples are UTC, Europe/Berlin, America/New_York"
        ) from None


def _shift(zone: ZoneInfo, time: int) -> int:
    """Return the number of seconds by which the clock of a zone is ahead of UTC at a time."""
    ahead = datetime.fromtimestamp(time, UTC).astimezone(zone).utcoffset()
    return int((ahead or timedelta()).total_seconds())


def _clocks(zone: ZoneInfo, start: int, end: int) -> list[tuple[int, int, int]]:
    """Return the spans of `[start, end)` in which the clock of a zone is ahead of UTC by as many seconds.

    Returns:
        The start, the end and the seconds of each span.
    """
    found: list[tuple[int, int, int]] = []
    since, shift = start, _shift(zone, start)
    for time in range(start + _SAMPLED, end + _SAMPLED, _SAMPLED):
        sampled = min(time, end)
        if (later := _shift(zone, sampled)) == shift:
            continue
        low, high = sampled - _SAMPLED, sampled
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _shift(zone, middle) == shift else (low, middle)
        found.append((since, high, shift))
        since, shift = high, later
    if since < end:
        found.append((since, end, shift))
    return found
