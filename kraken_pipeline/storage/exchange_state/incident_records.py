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
    return normalise(incident.span for incident in incidents_of(connection) if incident.stops_trading)


def is_news(connection: sa.Connection, reported: Sequence[Incident], now: int) -> bool:
    """Check whether a status may change the records."""
    return bool(reported) or any(incident.is_open or incident.start > now for incident in incidents_of(connection))


def record_reported(connection: sa.Connection, reported: Sequence[Incident], now: int) -> None:
    """Record the incidents of a status, and end those that it no longer reports.

    A maintenance that is no longer announced before its start was cancelled, and its record is deleted. After its
    start, a maintenance is never announced.

    Args:
        connection: A connection in a write transaction.
        reported: All incidents of the status.
        now: The time of the status, in seconds since the epoch by the exchange's clock.
    """
    alone(connection, incidents)
    known = {incident.name: incident for incident in incidents_of(connection)}
    going_on = {
        incident.title: incident
        for incident in known.values()
        if incident.is_open and incident.kind is IncidentKind.STATUS
    }
    names = set()
    for incident in reported:
        before = going_on.get(incident.title) if incident.kind is IncidentKind.STATUS else known.get(incident.name)
        begun = (
            incident if before is None else replace(incident, name=before.name, start=min(before.start, incident.start))
        )
        if incident.kind is IncidentKind.MAINTENANCE:
            begun = incident
        names.add(begun.name)
        _write(connection, begun, now)
    for incident in known.values():
        if incident.name in names:
            continue
        if incident.kind is IncidentKind.MAINTENANCE and incident.start > now:
            _delete(connection, incident.name)
        elif incident.is_open:
            is_recent = now - incident.end <= SILENCE_SECONDS
            _write(connection, replace(incident, is_open=False, end=now if is_recent else incident.end), now)


def _delete(connection: sa.Connection, name: str) -> None:
    connection.execute(sa.delete(incidents).where(incidents.c.name == name))


def _write(connection: sa.Connection, incident: Incident, now: int) -> None:
    _delete(connection, incident.name)
    row = {
        "name": incident.name,
        "kind": str(incident.kind),
        "title": incident.title,
        "start": incident.start,
        "end": incident.end,
        "is_open": incident.is_open,
        "stops_trading": incident.stops_trading,
        "seen_at": now,
    }
    connection.execute(sa.insert(incidents).values(sealed(incidents, row)))
