"""Counts shared by all processes: requests, errors, cache hits, candles, files, the time of each phase.

They are kept by the hour, so that rates are recent. `forget` adds old hours up, so that a sum over everything never
falls. A name that begins with `peak.` is not a sum but the greatest value of its hour, and one that begins with
`latest.` the latest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

import sqlalchemy as sa

from kraken_pipeline.storage.catalog.database import Catalog
from kraken_pipeline.storage.catalog.schema import counters

_SECONDS_BETWEEN = 5.0
_HOUR = 3_600
_EARLIER = 0
"""The hour of the row with the sum of the hours that were forgotten."""
_PEAK = "peak."
_LATEST = "latest."
_IS_SUM = ~(counters.c.name.like(f"{_PEAK}%") | counters.c.name.like(f"{_LATEST}%"))


class Counters:
    """Counters added up in memory and written every few seconds.

    A transaction for each count would cost more than the event that is counted.

    Args:
        catalog: The catalog with the counts.
        clock: Returns the current time, in seconds since the epoch.
    """

    def __init__(self, catalog: Catalog, *, clock: Callable[[], float] = time.time) -> None:
        self._catalog = catalog
        self._clock = clock
        self._counts: dict[tuple[str, int], int] = {}  # by name and hour
        self._lock = threading.Lock()
        self._written_at = clock()

    def add(self, name: str, count: int = 1) -> None:
        """Add to a counter."""
        now = self._clock()
        key = name, _hour_of(now)
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + count
        if now - self._written_at >= _SECONDS_BETWEEN:
            self.flush()

    def flush(self) -> None:
        """Write the counts added up in memory."""
        with self._lock:
            counts, self._counts = self._counts, {}
            self._written_at = self._clock()
        if not counts:
            return
        with self._catalog.write() as connection:
            for (name, hour), count in sorted(counts.items()):
                _put(connection, name, hour, counters.c.value + count)


def add_to(connection: sa.Connection, counts: Mapping[str, int], now: float) -> None:
    """Add to some counters within a transaction, at its end: others that count the same wait for it.

    Args:
        connection: The transaction.
        counts: What to add, by name.
        now: The time of the hour, in seconds since the epoch.
    """
    for name, count in sorted(counts.items()):
        if count:
            _put(connection, name, _hour_of(now), counters.c.value + count)


def raise_to(connection: sa.Connection, name: str, value: int, now: float) -> None:
    """Record a value as the greatest of its hour, if it is."""
    value_now = counters.c.value
    _put(connection, f"{_PEAK}{name}", _hour_of(now), sa.case((value_now < value, value), else_=value_now))


def set_to(connection: sa.Connection, name: str, value: int, now: float) -> None:
    """Record a value as the latest of its hour."""
    _put(connection, f"{_LATEST}{name}", _hour_of(now), sa.literal(value))


def _put(connection: sa.Connection, name: str, hour: int, value: sa.ColumnElement[int]) -> None:
    """Set the row of a name and an hour to an expression of its value, which is 0 at first."""
    setting = sa.update(counters).where(counters.c.name == name, counters.c.hour == hour).values(value=value)
    if connection.execute(setting).rowcount:
        return
    # On PostgreSQL, another process may insert the hour's row at the same moment.
    with suppress(sa.exc.IntegrityError), connection.begin_nested():
        connection.execute(sa.insert(counters).values(name=name, hour=hour, value=0))
    connection.execute(setting)


def _hour_of(moment: float) -> int:
    return int(moment) // _HOUR * _HOUR


def totals(connection: sa.Connection, names: Iterable[str], since: float) -> Mapping[str, int]:
    """Return the sums of some counters since a moment, in seconds since the epoch; its whole hour is included."""
    wanted = list(names)
    query = (
        sa.select(counters.c.name, sa.func.sum(counters.c.value))
        .where(counters.c.name.in_(wanted), counters.c.hour >= _hour_of(since), counters.c.hour != _EARLIER)
        .group_by(counters.c.name)
    )
    found = {name: int(value) for name, value in connection.execute(query)}
    return {name: found.get(name, 0) for name in wanted}


def all_totals(connection: sa.Connection) -> Mapping[str, int]:
    """Return the sum of each counter over all time, which never falls."""
    query = sa.select(counters.c.name, sa.func.sum(counters.c.value)).where(_IS_SUM).group_by(counters.c.name)
    return {name: int(value) for name, value in connection.execute(query)}


def peaks(connection: sa.Connection, since: float) -> Mapping[str, int]:
    """Return the greatest value of each peak since a moment; its whole hour is included."""
    query = (
        sa.select(counters.c.name, sa.func.max(counters.c.value))
        .where(counters.c.name.like(f"{_PEAK}%"), counters.c.hour >= _hour_of(since))
        .group_by(counters.c.name)
    )
    return {name.removeprefix(_PEAK): int(value) for name, value in connection.execute(query)}


def latest(connection: sa.Connection, name: str) -> int | None:
    """Return the latest value of a name; None if there is none."""
    query = sa.select(counters.c.value).where(counters.c.name == f"{_LATEST}{name}").order_by(counters.c.hour.desc())
    return connection.scalars(query.limit(1)).first()


def forget(connection: sa.Connection, before: float) -> int:
    """Delete the counts of the hours that had ended at a moment, and keep their sums; return the number of rows."""
    is_old = (counters.c.hour < _hour_of(before)) & (counters.c.hour != _EARLIER)
    query = sa.select(counters.c.name, sa.func.sum(counters.c.value)).where(is_old, _IS_SUM).group_by(counters.c.name)
    earlier = {name: int(value) for name, value in connection.execute(query)}
    add_to(connection, earlier, _EARLIER)
    return connection.execute(sa.delete(counters).where(is_old)).rowcount
