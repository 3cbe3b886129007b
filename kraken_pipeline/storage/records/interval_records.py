"""Catalog records of the intervals in use: those that runs named, and those of archives."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.storage.catalog.schema import asked_intervals, files
from kraken_pipeline.storage.catalog.states import FileStatus
from kraken_pipeline.storage.postgresql import alone


def record_asked(connection: sa.Connection, intervals: Iterable[Interval], now: int) -> None:
    """Record intervals as named by a run; those already on record keep their time."""
    alone(connection, asked_intervals)
    known = set(connection.scalars(sa.select(asked_intervals.c.interval)))
    if new := [{"interval": interval.value, "asked_at": now} for interval in intervals if interval.value not in known]:
        connection.execute(sa.insert(asked_intervals), new)


def asked(connection: sa.Connection) -> frozenset[Interval]:
    """Return the intervals that runs named."""
    return frozenset(map(Interval, connection.scalars(sa.select(asked_intervals.c.interval))))


def archived(connection: sa.Connection) -> frozenset[Interval]:
    """Return the intervals of candle archives that were ingested and not withdrawn.

    Archives of trades do not count: every interval can be made from them, so they select none.
    """
    is_archive = (files.c.status == FileStatus.COMPLETED) & (files.c.kind == Kind.OHLCVT)
    query = sa.select(files.c.interval).where(is_archive, files.c.interval.is_not(None)).distinct()
    return frozenset(map(Interval, connection.scalars(query)))
