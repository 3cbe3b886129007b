"""Counts that all processes share, by hour: requests, errors, retries, hits."""

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
    """Adds up in memory and writes every few seconds: a transaction a count would cost more than what is counted.

    Args:
        catalog: Where they lie.
        clock: The moment in seconds since the epoch.
    """

    def __init__(self, catalog: Catalog, *, clock: Callable[[], float] = time.time) -> None:
        self._catalog = catalog
        self._clock = clock
        self._counts: dict[tuple[str, int], int] = {}  # by name and hour
        self._lock = threading.Lock()
        self._written_at = clock()

    def add(self, name: str, count: int = 1) -> None:
        """Counts something."""
        now = self._clock()
        key = name, _hour_of(now)
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + count
        if now - self._written_at >= _SECONDS_BETWEEN:
            self.flush()

    def flush(self) -> None:
        """Writes what has been added up."""
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
                    # On PostgreSQL another process may be the first of the hour at the same moment.
                    with suppress(sa.exc.IntegrityError), connection.begin_nested():
                        connection.execute(sa.insert(counters).values(name=name, hour=hour, value=0))
                    connection.execute(adding)


def _hour_of(moment: float) -> int:
    return int(moment) // _HOUR * _HOUR


def totals(connection: sa.Connection, names: Iterable[str], since: float) -> Mapping[str, int]:
    """The sums of some counters since a moment (seconds since the epoch; its whole hour counts)."""
    wanted = list(names)
    query = (
        sa.select(counters.c.name, sa.func.sum(counters.c.value))
        .where(counters.c.name.in_(wanted), counters.c.hour >= _hour_of(since))
        .group_by(counters.c.name)
    )
    found = {name: int(value) for name, value in connection.execute(query)}
    return {name: found.get(name, 0) for name in wanted}


def forget(connection: sa.Connection, before: float) -> int:
    """Deletes the counts of hours that were over at a moment; returns how many."""
    return connection.execute(sa.delete(counters).where(counters.c.hour < _hour_of(before))).rowcount
