"""Incidents: the times in which the exchange is or will be down, from its SystemStatus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.kraken.replies import SystemStatus
from kraken_pipeline.market.moment import iso

DOWN_STATUSES = frozenset({"maintenance", "cancel_only", "post_only"})
"""The statuses in which orders are not matched, so that nobody trades."""
_TRADING = frozenset({"spot_trading", "all", "unspecified"})


class IncidentKind(StrEnum):
    """The part of SystemStatus that reports an incident."""

    MAINTENANCE = "MAINTENANCE"  # announced, with its window
    EMERGENCY = "EMERGENCY"  # lasts until it is no longer reported
    STATUS = "STATUS"  # the status itself, in which nobody trades


@dataclass(frozen=True, slots=True)
class Incident:
    """A time in which the exchange was or will be down.

    Attributes:
        name: A name that distinguishes it from other incidents.
        kind: The part of the status that reports it.
        title: The exchange's own words.
        start: Its start, in seconds since the epoch.
        end: Its announced end, or the latest time at which it is known to have lasted, in seconds since the epoch.
        is_open: Whether its end is not known yet.
        stops_trading: Whether nobody can trade meanwhile.
    """

    name: str
    kind: IncidentKind
    title: str
    start: int
    end: int
    is_open: bool
    stops_trading: bool

    def __str__(self) -> str:
        until = f"since {iso(self.start)}" if self.is_open else f"from {iso(self.start)} to {iso(self.end)}"
        return f"{self.title} ({until})"

    @property
    def span(self) -> Span:
        """The span of the incident; at least one second."""
        return Span(self.start, max(self.end, self.start + 1))


def reported_incidents(status: SystemStatus) -> Iterator[Incident]:
    """Yield the incidents in a status. A maintenance without a valid window is ignored.

    Args:
        status: The exchange's status; its own time is the present.
    """
    now = int(status.time)
    if status.status in DOWN_STATUSES:
        title = f"the status {status.status}"
        yield Incident(f"status {status.status} {now}", IncidentKind.STATUS, title, now, now, True, True)
    for entry in status.upcoming_maintenance:
        if isinstance(entry, Mapping) and (window := _window(entry)) is not None:
            name = _name(entry, "maintenance", iso(window.start))
            title = _title(entry, "maintenance")
            yield Incident(name, IncidentKind.MAINTENANCE, title, window.start, window.end, False, _stops(entry))
    for entry in status.emergency:
        if isinstance(entry, Mapping):
            start = min(now, _start(entry) or now)
            title = _title(entry, "an emergency")
            name = _name(entry, "emergency", title)
            yield Incident(name, IncidentKind.EMERGENCY, title, start, now, True, _stops(entry))


def _window(entry: Mapping[str, Any]) -> Span | None:
    start, end = _moment(entry.get("expected_start_utc")), _moment(entry.get("expected_end_utc"))
    return Span(start, end) if start is not None and end is not None and start < end else None


def _start(entry: Mapping[str, Any]) -> int | None:
    """Return the start of an emergency, from any field whose name suggests one; None if there is none."""
    moments = [_moment(value) for name, value in entry.items() if "start" in name or "created" in name]
    return min((moment for moment in moments if moment is not None), default=None)


def _moment(value: Any) -> int | None:
    try:
        moment = datetime.fromisoformat(value)
        return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp())
    except (TypeError, ValueError, OverflowError):
        return None


def _name(entry: Mapping[str, Any], kind: str, otherwise: str) -> str:
    ids = [entry[name] for name in ("event_id", "incident_id", "id", "source_url") if entry.get(name) is not None]
    return f"{kind} {ids[0] if ids else otherwise}"[:160]


def _title(entry: Mapping[str, Any], otherwise: str) -> str:
    texts = [entry[name] for name in ("title", "name", "message", "text") if isinstance(entry.get(name), str)]
    return " ".join(texts[0].split())[:200] if texts else otherwise


def _stops(entry: Mapping[str, Any]) -> bool:
    """Return whether an incident stops trading; without a list of affected services it may affect everything."""
    services = entry.get("affected_services")
    return not isinstance(services, list) or not services or not _TRADING.isdisjoint(map(str, services))
