"""Counts that all processes share, by hour: requests, errors, retries, hits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping

import sqlalchemy as sa

from kraken_pipeline.storage.catalog import Catalog
from kraken_pipeline.storage.schema import counters

_SECONDS_BETWEEN = 5.0
_HOUR = 3_600


class Counters:
    """Adds up in memory and writes every few seconds: a transaction a count would cost more than what is counted.

    Args:
        catalog: Where they lie.
        clock: The moment in seconds since the epoch.
    """

    def __init__(self, catalog: Catalog, *, clock: Callable[[], float] = time.time) -> None:
        self._catalog = catalog
        self._clock = clock
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()
        self._written_at = clock()

    def add(self, name: str, count: int = 1) -> None:
        """Counts something."""
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + count
        if self._clock() - self._written_at >= _SECONDS_BETWEEN:
            self.flush()

    def flush(self) -> None:
        """Writes what has been added up."""
        with self._lock:
            counts, self._counts = self._counts, {}
            self._written_at = self._clock()
        if not counts:
            return
        hour = int(self._clock()) // _HOUR * _HOUR
        with self._catalog.write() as connection:
            for name, count in sorted(counts.items()):
                is_it = (counters.c.name == name) & (counters.c.hour == hour)
                done = connection.execute(sa.update(counters).where(is_it).values(value=counters.c.value + count))
                if not done.rowcount:
                    connection.execute(sa.insert(counters).values(name=name, hour=hour, value=count))


def totals(connection: sa.Connection, names: Iterable[str], since: float) -> Mapping[str, int]:
    """The sums of some counters since a moment (seconds since the epoch; its whole hour counts)."""
    wanted = list(names)
    query = (
        sa.select(counters.c.name, sa.func.sum(counters.c.value))
        .where(counters.c.name.in_(wanted), counters.c.hour >= int(since) // _HOUR * _HOUR)
        .group_by(counters.c.name)
    )
    found = {name: int(value) for name, value in connection.execute(query)}
    return {name: found.get(name, 0) for name in wanted}


def forget(connection: sa.Connection, before: float) -> int:
    """Deletes the counts of hours before a moment; returns how many."""
    return connection.execute(sa.delete(counters).where(counters.c.hour < int(before))).rowcount
