"""Parsing and formatting of moments (seconds since the epoch, UTC) and of durations."""

from __future__ import annotations

from datetime import UTC, date, datetime
from functools import lru_cache

from kraken_pipeline.errors import InvalidRequest

EARLIEST, LATEST = -62_135_596_800, 253_402_300_799
"""The first and the last second with a four-digit year in ISO 8601, the range of Python's datetime."""


def parse_moment(text: str) -> int:
    """Return the seconds since the epoch of an ISO date (its midnight) or time; UTC if it has no offset.

    Raises:
        InvalidRequest: The text is neither; the message shows the format.
    """
    try:
        if len(text) == len("2023-10-01"):
            day = date.fromisoformat(text)
            return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{text!r} is not a time; write 2023-10-01 or 2023-10-01T12:00 (UTC)") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def as_datetime(seconds: int) -> datetime:
    """Return a moment as a UTC datetime."""
    return datetime.fromtimestamp(seconds, UTC)


def year_start(seconds: int) -> int:
    """Return the start of the year of a moment, in UTC, in seconds since the epoch."""
    return int(datetime(as_datetime(seconds).year, 1, 1, tzinfo=UTC).timestamp())


def year_after(seconds: int) -> int:
    """Return the start of the year after that of a moment, in UTC, in seconds since the epoch."""
    return int(datetime(as_datetime(seconds).year + 1, 1, 1, tzinfo=UTC).timestamp())


@lru_cache(maxsize=1 << 14)  # the gaps of a pair begin and end together in all of its intervals
def iso(seconds: int) -> str:
    """Return a moment in ISO 8601, in UTC: 2023-10-01T00:00:00Z."""
    return as_datetime(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def short(seconds: int) -> str:
    """Return a moment for tables: the date alone if it is a midnight."""
    return as_datetime(seconds).strftime("%Y-%m-%d" if seconds % 86_400 == 0 else "%Y-%m-%d %H:%M")


def duration(seconds: float) -> str:
    """Return a duration in a readable unit: 12 s, 34 min, 5.6 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
