"""The records of incidents: maintenance and outages that the exchange reported or announced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Spans, normalise
from kraken_pipeline.kraken.incidents import Incident, IncidentKind
from kraken_pipeline.storage.catalog.schema import incidents
from kraken_pipeline.storage.catalog.seals import is_intact, sealed
from kraken_pipeline.storage.postgresql import alone

SILENCE_SECONDS = 3_600
"""The longest time without a status, in seconds, that an incident can span; after a longer one, it ended at its last
report."""


def incidents_of(connection: sa.Connection) -> list[Incident]:
    """Return all recorded incidents, in order of time."""
    query = sa.select(incidents).order_by(incidents.c.start, incidents.c.name)
    return [
        Incident(
            row["name"],
            IncidentKind(row["kind"]),
            row["title"],
            row["start"],
            row["end"],
            row["is_open"],
            row["stops_trading"],
        )
        for row in connection.execute(query).mappings()
        if is_intact(incidents, row)
    ]


def down_times(connection: sa.Connection) -> Spans:
    """Return the time during which trading was impossible, according to the exchange."""
    return normalise(each.span for each in incidents_of(connection) if each.stops_trading)


def is_news(connection: sa.Connection, told: Sequence[Incident], now: int) -> bool:
    """Check whether a status may change the records."""
    return bool(told) or any(each.is_open or each.start > now for each in incidents_of(connection))


def record_told(connection: sa.Connection, told: Sequence[Incident], now: int) -> None:
    """Record the incidents of a status, and end those that it no longer reports.

    A maintenance that is no longer announced before its start was cancelled, and its record is deleted. After its
    start, a maintenance is never announced.

    Args:
        connection: A connection in a write transaction.
        told: All incidents of the status.
        now: The time of the status, in seconds since the epoch by the exchange's clock.
    """
    alone(connection, incidents)
    known = {each.name: each for each in incidents_of(connection)}
    going_on = {each.title: each for each in known.values() if each.is_open and each.kind is IncidentKind.STATUS}
    names = set()
    for each in told:
        before = going_on.get(each.title) if each.kind is IncidentKind.STATUS else known.get(each.name)
        begun = each if before is None else replace(each, name=before.name, start=min(before.start, each.start))
        if each.kind is IncidentKind.MAINTENANCE:
            begun = each
        names.add(begun.name)
        _write(connection, begun, now)
    for each in known.values():
        if each.name in names:
            continue
        if each.kind is IncidentKind.MAINTENANCE and each.start > now:
            _delete(connection, each.name)
        elif each.is_open:
            is_recent = now - each.end <= SILENCE_SECONDS
            _write(connection, replace(each, is_open=False, end=now if is_recent else each.end), now)


def _delete(connection: sa.Connection, name: str) -> None:
    connection.execute(sa.delete(incidents).where(incidents.c.name == name))


def _write(connection: sa.Connection, each: Incident, now: int) -> None:
    _delete(connection, each.name)
    row = {
        "name": each.name,
        "kind": str(each.kind),
        "title": each.title,
        "start": each.start,
        "end": each.end,
        "is_open": each.is_open,
        "stops_trading": each.stops_trading,
        "seen_at": now,
    }
    connection.execute(sa.insert(incidents).values(sealed(incidents, row)))
