"""The request rate that all processes of all runs share: reservations in the catalog."""

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
"""However often the exchange complains, it is asked at a sixteenth of the rate."""
RECOVERY = 0.98
"""What is left of the slowness after each permit: half of the rate becomes the full one in 35 requests."""
LONGEST_WAIT = 120.0
"""A permit further away than this is not waited for: whoever asks says so, and comes back later."""
EVERY = "every request"
SILENCE = "no request"
"""The row that says until when nothing is asked at all, in the place of the next permit."""
SILENT_SINCE = "no request since"
"""The row that says when that was set: a clock that is before it has stepped back."""
_LATE_SECONDS = 0.1


class Limiter:
    """Permits to make a request, so many a second over all processes, in the order in which they are asked for.

    A permit is reserved by one transaction (`next_at = max(next_at, now) + period`) and waited for afterwards, so
    nobody holds anything while waiting, and whoever is killed takes one permit along at the most. Measured with six
    processes, each gets its share to a tenth, where a shared bucket gave all to one of them.

    An endpoint with a limit of its own costs two permits: first its own, then one of everybody's. Were they taken
    together, the one of everybody's would wait for the endpoint's, and all other endpoints behind it.

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
        """Whether a permit may be used, after the wait for it."""
        # The exchange may have asked for silence in the meantime.
        with self._catalog.read() as connection:
            silence = connection.scalar(sa.select(limits.c.next_at).where(limits.c.name == SILENCE))
        # Whoever slept through the next permits as well would come at the same time as their owners.
        is_late = self._clock() - at >= max(self._periods[name], _LATE_SECONDS)
        return not is_late and at >= (silence or 0.0)

    def reserve(self, name: str) -> float:
        """Takes the next permit of one limit, and returns its moment in seconds since the epoch.

        Raises:
            Throttled: It is too far away to wait for; none is taken.
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
            raise Throttled(f"the next request may be made at {iso(int(at))}, too late to wait for it", at)
        return at

    def throttled(self, endpoint: str, until: float | None = None) -> None:
        """Takes note that the exchange complained: slower from now on, and nothing before `until`.

        Permits before that moment are void, also those that others are waiting for.
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
        """The next permit of a limit; at once, where none so far away can have been given by this clock."""
        is_possible = recorded <= now + LONGEST_WAIT + SLOWEST * self._periods[name]
        return recorded if is_possible else now

    def _silence(self, connection: sa.Connection, rows: Mapping[str, tuple[float, float]], now: float) -> float:
        """Until when nothing is asked: as long as was said, also where the clock has stepped back since then."""
        until, since = rows[SILENCE][0], rows[SILENT_SINCE][0]
        if since <= now or until <= now:
            return until
        until = now + (until - since)
        self._update(connection, SILENCE, until, 1.0)
        self._update(connection, SILENT_SINCE, now, 1.0)
        return until

    def slowness(self) -> float:
        """How many times slower than its rate it is now."""
        with self._catalog.read() as connection:
            found = connection.scalar(sa.select(limits.c.slowness).where(limits.c.name == EVERY))
        return float(found or 1.0)

    def _rows(self, connection: sa.Connection, names: Iterable[str]) -> dict[str, tuple[float, float]]:
        """The rows of some names, locked; made where there are none."""
        wanted = set(names)
        query = sa.select(limits).where(limits.c.name.in_(wanted)).order_by(limits.c.name).with_for_update()
        found = {row.name: (row.next_at, row.slowness) for row in connection.execute(query)}
        if not (absent := sorted(wanted - found.keys())):
            return found
        for name in absent:
            # On PostgreSQL another process may be making the same one at this moment.
            with suppress(sa.exc.IntegrityError), connection.begin_nested():
                connection.execute(sa.insert(limits).values(name=name, next_at=0.0, slowness=1.0))
        return self._rows(connection, wanted)

    def _update(self, connection: sa.Connection, name: str, next_at: float, slowness: float) -> None:
        connection.execute(sa.update(limits).where(limits.c.name == name).values(next_at=next_at, slowness=slowness))
