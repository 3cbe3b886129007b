"""The rate limiter shared by the processes of all runs: reservations in the catalog."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

import sqlalchemy as sa

from kraken_pipeline.errors import Throttled
from kraken_pipeline.market.moment import iso
from kraken_pipeline.storage.catalog.database import Catalog
from kraken_pipeline.storage.catalog.schema import limits

SLOWEST = 16.0
"""The maximum slowness: however often the exchange throttles, requests go on at a sixteenth of the rate."""
RECOVERY = 0.98
"""The factor applied to the slowness after each permit: half of the rate recovers to the full rate in 35 requests."""
LONGEST_WAIT = 120.0
"""The longest wait for a permit, in seconds; a later one raises `Throttled`."""
EVERY = "every request"
SILENCE = "no request"
"""The row with the time until which no request is made, in the column of the next permit."""
SILENT_SINCE = "no request since"
"""The row with the time when `SILENCE` was set; a clock that reads earlier has stepped back."""
_LATE_SECONDS = 0.1


class Limiter:
    """A rate limiter that grants permits for requests across all processes, in the order of reservation.

    A permit is reserved in one transaction (`next_at = max(next_at, now) + period`). The wait comes afterwards, so a
    waiting process holds no lock, and a killed process wastes at most one permit. Measured with six processes, each got
    its share to within a tenth; a shared bucket gave all permits to one of them.

    A request to an endpoint with its own limit needs two permits: first the endpoint's, then one of the common limit.
    If both were reserved together, the common permit would wait for the endpoint's, and so would all other endpoints.

    Args:
        catalog: The catalog with the reservations.
        rate: The number of requests a second, over all endpoints.
        endpoints: Additional limits of single endpoints, by name, in requests a second.
        clock: Returns the current time in seconds since the epoch, the same for all processes.
        sleep: Waits for a number of seconds.
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
        self._periods = {EVERY: 1 / rate, **{name: 1 / limit for name, limit in (endpoints or {}).items()}}
        self._clock = clock
        self._sleep = sleep

    def acquire(self, endpoint: str) -> None:
        """Wait for a permit.

        Raises:
            Throttled: The next permit is too far away to wait for, because the exchange throttles.
        """
        for name in self._limits_of(endpoint):
            while True:
                at = self.reserve(name)
                if (wait := at - self._clock()) > 0:
                    self._sleep(wait)
                if self._still_holds(name, at):
                    break

    def _limits_of(self, endpoint: str) -> list[str]:
        return [name for name in (endpoint, EVERY) if name in self._periods]

    def _still_holds(self, name: str, at: float) -> bool:
        """Check whether a permit is still valid after the wait for it."""
        # The exchange may have throttled in the meantime.
        with self._catalog.read() as connection:
            silence = connection.scalar(sa.select(limits.c.next_at).where(limits.c.name == SILENCE))
        # A process that overslept its permit would make its request at the same time as the owners of later ones.
        is_late = self._clock() - at >= max(self._periods[name], _LATE_SECONDS)
        return not is_late and at >= (silence or 0.0)

    def reserve(self, name: str) -> float:
        """Reserve the next permit of one limit, and return its time in seconds since the epoch.

        Raises:
            Throttled: The permit is too far away to wait for; none is reserved.
        """
        with self._catalog.write() as connection:
            now = self._clock()
            rows = self._rows(connection, (name, SILENCE, SILENT_SINCE))
            at = max(now, self._next_at(name, rows[name][0], now), self._silence(connection, rows, now))
            is_near = at - now <= LONGEST_WAIT
            if is_near:
                slowness = rows[name][1]
                self._update(connection, name, at + slowness * self._periods[name], max(1.0, slowness * RECOVERY))
        if not is_near:
            raise Throttled(f"the next request may be made at {iso(int(at))}, which is too late to wait for", at)
        return at

    def throttled(self, endpoint: str, until: float | None = None) -> None:
        """Record that the exchange throttled: halve the rate, and make no request before `until`.

        Permits before that time become invalid, even those that other processes are waiting for.
        """
        names = self._limits_of(endpoint)
        with self._catalog.write() as connection:
            now = self._clock()
            rows = self._rows(connection, (*names, SILENCE, SILENT_SINCE))
            slower = {name: min(SLOWEST, 2 * rows[name][1]) for name in names}
            resumes = {name: now + slower[name] * self._periods[name] for name in names}
            for name in names:
                next_at = max(self._next_at(name, rows[name][0], now), resumes[name])
                self._update(connection, name, next_at, slower[name])
            self._update(connection, SILENCE, max(self._silence(connection, rows, now), until or resumes[EVERY]), 1.0)
            self._update(connection, SILENT_SINCE, now, 1.0)

    def _next_at(self, name: str, recorded: float, now: float) -> float:
        """Return the time of a limit's next permit; now, if the recorded one was set before the clock stepped back."""
        is_possible = recorded <= now + LONGEST_WAIT + SLOWEST * self._periods[name]
        return recorded if is_possible else now

    def _silence(self, connection: sa.Connection, rows: Mapping[str, tuple[float, float]], now: float) -> float:
        """Return the time until which no request is made; keep its duration if the clock has stepped back since."""
        until, since = rows[SILENCE][0], rows[SILENT_SINCE][0]
        if since <= now or until <= now:
            return until
        until = now + (until - since)
        self._update(connection, SILENCE, until, 1.0)
        self._update(connection, SILENT_SINCE, now, 1.0)
        return until

    def slowness(self) -> float:
        """Return the factor by which requests are now slower than the rate."""
        with self._catalog.read() as connection:
            found = connection.scalar(sa.select(limits.c.slowness).where(limits.c.name == EVERY))
        return float(found or 1.0)

    def _rows(self, connection: sa.Connection, names: Iterable[str]) -> dict[str, tuple[float, float]]:
        """Return the rows of some names, locked for update; insert those that are missing."""
        wanted = set(names)
        query = sa.select(limits).where(limits.c.name.in_(wanted)).order_by(limits.c.name).with_for_update()
        found = {row.name: (row.next_at, row.slowness) for row in connection.execute(query)}
        if not (absent := sorted(wanted - found.keys())):
            return found
        for name in absent:
            # On PostgreSQL, another process may insert the same row at the same moment.
            with suppress(sa.exc.IntegrityError), connection.begin_nested():
                connection.execute(sa.insert(limits).values(name=name, next_at=0.0, slowness=1.0))
        return self._rows(connection, wanted)

    def _update(self, connection: sa.Connection, name: str, next_at: float, slowness: float) -> None:
        connection.execute(sa.update(limits).where(limits.c.name == name).values(next_at=next_at, slowness=slowness))
