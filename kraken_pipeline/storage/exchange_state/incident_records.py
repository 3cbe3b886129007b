"""The calendar of incidents: when the exchange has told that it was down, or was going to be."""

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
"""What was down and was not asked about for longer is not taken to have been down all that time."""


def incidents_of(connection: sa.Connection) -> list[Incident]:
    """Return all that is on record, in order of time."""
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
    """Return when nobody could trade, as the exchange has told."""
    return normalise(each.span for each in incidents_of(connection) if each.stops_trading)


def is_news(connection: sa.Connection, told: Sequence[Incident], now: int) -> bool:
    """Tell whether what a status tells changes anything on record."""
    return bool(told) or any(each.is_open or each.start > now for each in incidents_of(connection))


def record_told(connection: sa.Connection, told: Sequence[Incident], now: int) -> None:
    """Put on record what a status tells, and what it does not tell any more: an emergency is over then.

    A maintenance that is announced no more before it begins is called off; afterwards it is never announced.

    Args:
        connection: Of a transaction that writes.
        told: All that it tells.
        now: When it was given, in seconds since the epoch by the exchange's clock.
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
