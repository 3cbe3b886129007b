"""The circuit breaker shared by all processes: one row of the catalog."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from kraken_pipeline.errors import CircuitOpen
from kraken_pipeline.market.moment import iso
from kraken_pipeline.storage.catalog.database import Catalog
from kraken_pipeline.storage.catalog.schema import breakers

_NAME = "kraken"
_IS_IT = breakers.c.name == _NAME


class BreakerState(StrEnum):
    """The state of the circuit breaker, which decides whether requests may be made."""

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


@dataclass(frozen=True, slots=True)
class BreakerRecord:
    """A snapshot of the breaker.

    Attributes:
        state: Closed: requests are made. Open: none are made. Half-open: one process may make a request.
        failures: The number of consecutive failures.
        retry_at: The time when the breaker becomes half-open, in seconds since the epoch; None while it is closed.
    """

    state: BreakerState
    failures: int
    retry_at: float | None


class Breaker:
    """A circuit breaker that stops requests after consecutive failures, then admits a probe from exactly one process.

    Every change is a single conditional statement (compare and set), so it needs no lock. The right to probe is
    identified by the time at which it expires. While the breaker is open, only the process with that right changes it.

    Args:
        catalog: The catalog with the breaker's row.
        failures: The number of consecutive failures that opens the breaker.
        seconds: The time that the breaker stays open.
        clock: Returns the current time in seconds since the epoch, the same for all processes.
    """

    def __init__(
        self, catalog: Catalog, failures: int = 5, seconds: float = 60.0, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._catalog = catalog
        self._most = failures
        self._seconds = seconds
        self._clock = clock
        self._probe = 0.0  # the expiry of the last right to probe that this process got

    def record(self) -> BreakerRecord:
        """Return the current state of the breaker."""
        with self._catalog.read() as connection:
            row = connection.execute(sa.select(breakers).where(_IS_IT)).one_or_none()
        if row is None or row.opened_at is None:
            return BreakerRecord(BreakerState.CLOSED, row.failures if row else 0, None)
        now = self._clock()
        # An opening this far in the future was recorded before the clock stepped back.
        is_past = row.opened_at > now + self._seconds
        retry_at = now if is_past else row.opened_at + self._seconds
        state = BreakerState.OPEN if now < retry_at else BreakerState.HALF_OPEN
        return BreakerRecord(state, row.failures, retry_at)

    def admit(self) -> None:
        """Admit a request, or raise an error.

        Raises:
            CircuitOpen: The breaker is open, or another process is probing.
        """
        record = self.record()
        if record.state is BreakerState.CLOSED:
            return
        if record.state is BreakerState.HALF_OPEN and self._claims_probe():
            return
        retry_at = max(record.retry_at or 0.0, self._clock() + 1)
        raise CircuitOpen(
            f"Kraken failed {record.failures} times in a row; no requests are made until {iso(int(retry_at))}", retry_at
        )

    def _claims_probe(self) -> bool:
        now = self._clock()
        until = now + self._seconds
        # An expiry far in the future was set before the clock stepped back. One slightly later than ours was set by
        # another process that read its clock a moment after this one.
        is_free = (
            breakers.c.probe_until.is_(None)
            | (breakers.c.probe_until <= now)
            | (breakers.c.probe_until > until + self._seconds)
        )
        is_due = (breakers.c.opened_at + self._seconds <= now) | (breakers.c.opened_at > until)
        with self._catalog.write() as connection:
            claimed = connection.execute(sa.update(breakers).where(_IS_IT, is_due, is_free).values(probe_until=until))
        if claimed.rowcount:
            self._probe = until
        return bool(claimed.rowcount)

    def _may_change(self) -> sa.ColumnElement[bool]:
        return breakers.c.opened_at.is_(None) | (breakers.c.probe_until == self._probe)

    def succeeded(self) -> None:
        """Record a success; an open breaker is closed by the probe alone, not by a request begun before it opened."""
        with self._catalog.read() as connection:
            row = connection.execute(sa.select(breakers).where(_IS_IT)).one_or_none()
        if row is None or (row.failures == 0 and row.opened_at is None):
            return
        with self._catalog.write() as connection:
            connection.execute(
                sa.update(breakers)
                .where(_IS_IT, self._may_change())
                .values(failures=0, opened_at=None, probe_until=None)
            )

    def failed(self) -> None:
        """Record a failure; a request begun before the breaker opened does not keep it open for longer."""
        now = self._clock()
        with self._catalog.write() as connection:
            with suppress(sa.exc.IntegrityError), connection.begin_nested():  # the row exists after the first failure
                connection.execute(sa.insert(breakers).values(name=_NAME, failures=0))
            connection.execute(sa.update(breakers).where(_IS_IT).values(failures=breakers.c.failures + 1))
            connection.execute(
                sa.update(breakers)
                .where(_IS_IT, breakers.c.failures >= self._most, self._may_change())
                .values(opened_at=now, probe_until=None)
            )
