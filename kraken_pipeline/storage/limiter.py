"""The request rate that all processes of all runs share: reservations in the catalog."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import sqlalchemy as sa

from kraken_pipeline.errors import Throttled
from kraken_pipeline.market.moment import iso
from kraken_pipeline.storage.catalog import Catalog
from kraken_pipeline.storage.schema import limits

SLOWEST = 16.0
"""However often the exchange complains, it is asked at a sixteenth of the rate."""
RECOVERY = 0.98
"""What is left of the slowness after each permit: half of the rate becomes the full one in 35 requests."""
LONGEST_WAIT = 120.0
"""A permit further away than this is not waited for: whoever asks says so, and comes back later."""
EVERY = "every request"
_LATE_SECONDS = 0.1


class Limiter:
    """Permits to make a request, so many a second over all processes, in the order in which they are asked for.

    A permit is reserved by one transaction (`next_at = max(next_at, now) + period`) and waited for afterwards, so
    nobody holds anything while waiting, and whoever is killed takes one permit along at the most. Measured with six
    processes, each gets its share to a tenth, where a shared bucket gave all to one of them.

    Args:
        catalog: Where the reservations lie.
        rate: Requests a second.
        endpoints: Limits of single endpoints beside it, by name.
        clock: The moment in seconds since the epoch, the same for all processes.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        catalog: Catalog,
        rate: float,
        endpoints: Mapping[str, float] | None = None,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._catalog = catalog
        self._periods = {EVERY: 1 / rate, **{name: 1 / each for name, each in (endpoints or {}).items()}}
        self._clock = clock
        self._sleep = sleep

    def acquire(self, endpoint: str) -> None:
        """Waits for a permit.

        Raises:
            Throttled: The next one is too far away to wait for, because the exchange asked for it.
        """
        while True:
            at = self.reserve(endpoint)
            if (wait := at - self._clock()) > 0:
                self._sleep(wait)
            # Whoever slept through the next permits as well would come at the same time as their owners.
            if self._clock() - at < max(self._periods[EVERY], _LATE_SECONDS):
                return

    def reserve(self, endpoint: str) -> float:
        """Takes the next permit and returns its moment, in seconds since the epoch.

        Raises:
            Throttled: It is too far away to wait for; none is taken.
        """
        names = [name for name in (EVERY, endpoint) if name in self._periods]
        with self._catalog.write() as connection:
            now = self._clock()
            rows = self._rows(connection, names, now)
            at = max(now, *(next_at for next_at, _ in rows.values()))
            if at - now > LONGEST_WAIT:
                raise Throttled(f"Kraken asked to be left alone until {iso(int(at))}", at)
            for name, (_, slowness) in rows.items():
                self._update(connection, name, at + slowness * self._periods[name], max(1.0, slowness * RECOVERY))
        return at

    def throttled(self, endpoint: str, until: float | None = None) -> None:
        """Takes note that the exchange complained: slower from now on, and nothing before `until`."""
        names = [name for name in (EVERY, endpoint) if name in self._periods]
        with self._catalog.write() as connection:
            now = self._clock()
            for name, (next_at, slowness) in self._rows(connection, names, now).items():
                slower = min(SLOWEST, slowness * 2)
                self._update(connection, name, max(next_at, until or now + slower * self._periods[name]), slower)

    def slowness(self) -> float:
        """How many times slower than its rate it is now."""
        with self._catalog.read() as connection:
            found = connection.scalar(sa.select(limits.c.slowness).where(limits.c.name == EVERY))
        return float(found or 1.0)

    def _rows(self, connection: sa.Connection, names: list[str], now: float) -> dict[str, tuple[float, float]]:
        query = sa.select(limits).where(limits.c.name.in_(names)).order_by(limits.c.name).with_for_update()
        found = {row.name: (row.next_at, row.slowness) for row in connection.execute(query)}
        for name in names:
            if name not in found:
                connection.execute(sa.insert(limits).values(name=name, next_at=now, slowness=1.0))
                found[name] = (now, 1.0)
        return found

    def _update(self, connection: sa.Connection, name: str, next_at: float, slowness: float) -> None:
        connection.execute(sa.update(limits).where(limits.c.name == name).values(next_at=next_at, slowness=slowness))
