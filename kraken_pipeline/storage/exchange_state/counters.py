"""Hourly counts shared by all processes: requests, errors, retries, cache hits."""

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
                is_it = (counters.c.name == name) & (counters.c.hour == hour)
                adding = sa.update(counters).where(is_it).values(value=counters.c.value + count)
                if not connection.execute(adding).rowcount:
                    # On PostgreSQL, another process may insert the hour's row at the same moment.
                    with suppress(sa.exc.IntegrityError), connection.begin_nested():
                        connection.execute(sa.insert(counters).values(name=name, hour=hour, value=0))
                    connection.execute(adding)


def _hour_of(moment: float) -> int:
    return int(moment) // _HOUR * _HOUR


def totals(connection: sa.Connection, names: Iterable[str], since: float) -> Mapping[str, int]:
    """Return the sums of some counters since a moment, in seconds since the epoch; its whole hour is included."""
    wanted = list(names)
    query = (
        sa.select(counters.c.name, sa.func.sum(counters.c.value))
        .where(counters.c.name.in_(wanted), counters.c.hour >= _hour_of(since))
        .group_by(counters.c.name)
    )
    found = {name: int(value) for name, value in connection.execute(query)}
    return {name: found.get(name, 0) for name in wanted}


def forget(connection: sa.Connection, before: float) -> int:
    """Delete the counts of the hours that had ended at a moment; return the number of rows."""
    return connection.execute(sa.delete(counters).where(counters.c.hour < _hour_of(before))).rowcount
