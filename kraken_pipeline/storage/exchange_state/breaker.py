"""The circuit breaker that all processes share: one row of the catalog."""

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
    """Whether requests may be made."""

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


@dataclass(frozen=True, slots=True)
class BreakerRecord:
    """How the breaker stands.

    Attributes:
        state: Closed: requests are made. Open: none. Half-open: one process may try.
        failures: How many requests have failed one after another.
        retry_at: When it becomes half-open, in seconds since the epoch; None while it is closed.
    """

    state: BreakerState
    failures: int
    retry_at: float | None


class Breaker:
    """Leaves the exchange alone after so many failures in a row, and then lets exactly one process try.

    Every change is one statement that says under which condition it holds (compare and set), so that it needs no lock.
    The right to try is known by the moment at which it ends: while it is open, only whoever has it changes that.

    Args:
        catalog: Where it lies.
        failures: How many failures in a row open it.
        seconds: For how long it stays open.
        clock: The moment in seconds since the epoch, the same for all processes.
    """

    def __init__(
        self, catalog: Catalog, failures: int = 5, seconds: float = 60.0, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._catalog = catalog
        self._most = failures
        self._seconds = seconds
        self._clock = clock
        self._probe = 0.0  # when the right to try ends that this one took last

    def record(self) -> BreakerRecord:
        """How it stands."""
        with self._catalog.read() as connection:
            row = connection.execute(sa.select(breakers).where(_IS_IT)).one_or_none()
        if row is None or row.opened_at is None:
            return BreakerRecord(BreakerState.CLOSED, row.failures if row else 0, None)
        now = self._clock()
        # What was opened so much later than now was opened by a clock that has stepped back since.
        is_past = row.opened_at > now + self._seconds
        retry_at = now if is_past else row.opened_at + self._seconds
        state = BreakerState.OPEN if now < retry_at else BreakerState.HALF_OPEN
        return BreakerRecord(state, row.failures, retry_at)

    def admit(self) -> None:
        """Lets a request pass, or not.

        Raises:
            CircuitOpen: It is open, or another process is trying at this moment.
        """
        record = self.record()
        if record.state is BreakerState.CLOSED:
            return
        if record.state is BreakerState.HALF_OPEN and self._takes_the_probe():
            return
        retry_at = max(record.retry_at or 0.0, self._clock() + 1)
        raise CircuitOpen(
            f"Kraken failed {record.failures} times in a row and is left alone until {iso(int(retry_at))}", retry_at
        )

    def _takes_the_probe(self) -> bool:
        now = self._clock()
        until = now + self._seconds
        # A right that ends far later was given by a clock that has stepped back since; one that ends a little later by
        # another process, whose clock was read a moment after this one.
        is_free = (
            breakers.c.probe_until.is_(None)
            | (breakers.c.probe_until <= now)
            | (breakers.c.probe_until > until + self._seconds)
        )
        is_due = (breakers.c.opened_at + self._seconds <= now) | (breakers.c.opened_at > until)
        with self._catalog.write() as connection:
            taken = connection.execute(sa.update(breakers).where(_IS_IT, is_due, is_free).values(probe_until=until))
        if taken.rowcount:
            self._probe = until
        return bool(taken.rowcount)

    def _may_change(self) -> sa.ColumnElement[bool]:
        return breakers.c.opened_at.is_(None) | (breakers.c.probe_until == self._probe)

    def succeeded(self) -> None:
        """Takes note of an answer. Of requests that began before it opened, none closes it: only the probe does."""
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
        """Takes note of a failure. Of requests that began before it opened, none keeps it open for longer."""
        now = self._clock()
        with self._catalog.write() as connection:
            with suppress(sa.exc.IntegrityError), connection.begin_nested():  # only the first failure of all adds it
                connection.execute(sa.insert(breakers).values(name=_NAME, failures=0))
            connection.execute(sa.update(breakers).where(_IS_IT).values(failures=breakers.c.failures + 1))
            connection.execute(
                sa.update(breakers)
                .where(_IS_IT, breakers.c.failures >= self._most, self._may_change())
                .values(opened_at=now, probe_until=None)
            )
