"""Incidents: when the exchange is down or is going to be, as its SystemStatus tells."""

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
"""In these no two orders meet: nobody trades."""
_TRADING = frozenset({"spot_trading", "all", "unspecified"})


class IncidentKind(StrEnum):
    """What the exchange tells an incident by."""

    MAINTENANCE = "MAINTENANCE"  # announced, with its window
    EMERGENCY = "EMERGENCY"  # going on until it is not told any more
    STATUS = "STATUS"  # the status itself, in which nobody trades


@dataclass(frozen=True, slots=True)
class Incident:
    """A time in which the exchange was down, or is to be.

    Attributes:
        name: What tells it from others.
        kind: What it is told by.
        title: The exchange's own words.
        start: When it begins, in seconds since the epoch.
        end: When it ends, as announced, or as far as it is known to have gone on.
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
        """Its time; a second at least."""
        return Span(self.start, max(self.end, self.start + 1))


def incidents_told(status: SystemStatus) -> Iterator[Incident]:
    """Yield what a status tells of incidents; an entry that says no time of a maintenance is none.

    Args:
        status: As the exchange gave it; its own time is the present.
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
    """When an emergency began; by whatever name that has."""
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
    """Whether an incident is one of trading; one that does not say what it affects may be of everything."""
    services = entry.get("affected_services")
    return not isinstance(services, list) or not services or not _TRADING.isdisjoint(map(str, services))
