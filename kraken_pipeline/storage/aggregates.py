"""Numbers over all series, which the catalog counts in milliseconds: for metrics and alerts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from kraken_pipeline.storage.catalog.schema import (
    contradictions,
    damages,
    dead_letters,
    extents,
    gaps,
    lake_files,
    reports,
)
from kraken_pipeline.storage.catalog.states import ContradictionState

AGES: Mapping[str, int] = {"1h": 3_600, "1d": 86_400, "7d": 7 * 86_400, "30d": 30 * 86_400}
"""The upper ends of the ages of gaps, in seconds."""
OLDER = "older"
"""The age of a gap that is older than all of `AGES`."""


@dataclass(frozen=True, slots=True)
class GapCount:
    """The open gaps of one route and age.

    Attributes:
        route: The route.
        age: The time since they were found: a key of `AGES`, or `OLDER`.
        count: The number of gaps.
        missing_candles: The candles that they lack.
    """

    route: str
    age: str
    count: int
    missing_candles: int


@dataclass(frozen=True, slots=True)
class ConflictCount:
    """The contradictions between two intervals of a pair that no source settles.

    Attributes:
        pair: The name of the pair.
        fine: The finer interval, in minutes.
        coarse: The coarser interval, in minutes.
        count: The number of contradictions.
    """

    pair: str
    fine: int
    coarse: int
    count: int


def candles_of_series(connection: sa.Connection) -> list[tuple[str, int, int]]:
    """Return the pair, the interval (minutes) and the number of candles of each series in the lake."""
    rows = connection.execute(sa.select(extents.c.pair, extents.c.interval, extents.c.candles))
    return [(str(pair), int(interval), int(candles)) for pair, interval, candles in rows]


def open_gaps(connection: sa.Connection, now: float) -> list[GapCount]:
    """Return the open gaps by route and age at a time, in seconds since the epoch."""
    age = sa.case(*((gaps.c.detected_at > now - most, name) for name, most in AGES.items()), else_=OLDER)
    query = (
        sa.select(gaps.c.route, age, sa.func.count(), sa.func.sum(gaps.c.missing_candles))
        .where(gaps.c.closed_at.is_(None))
        .group_by(gaps.c.route, age)
    )
    rows = connection.execute(query)
    return [GapCount(str(route), str(name), int(count), int(missing)) for route, name, count, missing in rows]


def series_with_many_gaps(connection: sa.Connection, most: int) -> int:
    """Return the number of series with more than `most` open gaps."""
    crowded = (
        sa.select(gaps.c.pair)
        .where(gaps.c.closed_at.is_(None))
        .group_by(gaps.c.pair, gaps.c.interval)
        .having(sa.func.count() > most)
    )
    return connection.scalar(sa.select(sa.func.count()).select_from(crowded.subquery())) or 0


def open_damages(connection: sa.Connection) -> int:
    """Return the number of files of the lake that are known to be damaged."""
    return connection.scalar(sa.select(sa.func.count()).select_from(damages).where(damages.c.settled_at.is_(None))) or 0


def rejected(connection: sa.Connection) -> int:
    """Return the number of rejected rows and failed fetches that were not retried, those only counted included."""
    rows = sa.func.sum(sa.func.coalesce(dead_letters.c.rows, 1))
    return int(connection.scalar(sa.select(rows).where(dead_letters.c.retried_at.is_(None))) or 0)


def oldest_scrub(connection: sa.Connection) -> int | None:
    """Return when the file of the lake that was not read for the longest time was read or written; None for no file."""
    return connection.scalar(
        sa.select(sa.func.min(sa.func.coalesce(lake_files.c.scrubbed_at, lake_files.c.written_at)))
    )


def conflicts(connection: sa.Connection) -> list[ConflictCount]:
    """Return the contradictions that no source settles, by pair and pair of intervals."""
    table = contradictions
    query = (
        sa.select(table.c.pair, table.c.fine, table.c.coarse, sa.func.count())
        .where(table.c.state == ContradictionState.CONFLICT)
        .group_by(table.c.pair, table.c.fine, table.c.coarse)
    )
    rows = connection.execute(query)
    return [ConflictCount(str(pair), int(fine), int(coarse), int(count)) for pair, fine, coarse, count in rows]


def reported_tiers(connection: sa.Connection) -> list[str]:
    """Return the tiers of which there are reports, in order."""
    return sorted(map(str, connection.scalars(sa.select(reports.c.tier).distinct())))
