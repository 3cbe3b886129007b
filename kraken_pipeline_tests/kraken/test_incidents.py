from __future__ import annotations

from typing import Any

import pytest

from kraken_pipeline.kraken.incidents import Incident, IncidentKind, reported_incidents
from kraken_pipeline.kraken.replies import parse_status
from kraken_pipeline_tests.support.samples import at

NOW = "2026-05-11T08:31:00Z"
WINDOW: dict[str, Any] = {
    "event_id": 21,
    "title": "Scheduled Maintenance -\n Spot",
    "expected_start_utc": "2026-05-11T09:00:00Z",
    "expected_end_utc": "2026-05-11T10:00:00Z",
    "phase": "approaching_30m",
    "affected_services": ["spot_trading"],
}


def told(status: str = "online", **more: Any) -> list[Incident]:
    return list(reported_incidents(parse_status({"status": status, "timestamp": NOW, **more})))


def test_a_status_as_it_was_until_2025_tells_of_nothing() -> None:
    assert told() == told(upcoming_maintenance=[], emergency=[]) == []


def test_a_maintenance_has_the_window_that_is_announced() -> None:
    (found,) = told(upcoming_maintenance=[WINDOW])
    start, end = at("2026-05-11T09:00"), at("2026-05-11T10:00")
    expected = "maintenance 21", IncidentKind.MAINTENANCE, "Scheduled Maintenance - Spot", start, end, False, True
    assert found == Incident(*expected)
    assert str(found) == "Scheduled Maintenance - Spot (from 2026-05-11T09:00:00Z to 2026-05-11T10:00:00Z)"


@pytest.mark.parametrize(
    ("services", "stops"),
    [(["spot_rest"], False), (["futures_trading", "spot_ws"], False), (["all"], True), ([], True), (None, True)],
)
def test_trading_stops_where_it_is_affected_or_nobody_says_what_is(services: Any, stops: bool) -> None:
    (found,) = told(upcoming_maintenance=[{**WINDOW, "affected_services": services}])
    assert found.stops_trading is stops


@pytest.mark.parametrize("status", ["maintenance", "cancel_only", "post_only"])
def test_a_status_in_which_nobody_trades_is_an_incident_of_its_own(status: str) -> None:
    (found,) = told(status)
    now = at("2026-05-11T08:31")
    assert (found.kind, found.start, found.end, found.is_open, found.stops_trading) == ("STATUS", now, now, True, True)


@pytest.mark.parametrize(
    ("entry", "start"),
    [
        ({"title": "Trading halted", "started_at_utc": "2026-05-11T08:00:00Z"}, "2026-05-11T08:00"),
        ({"title": "Trading halted", "started_at_utc": "2027-01-01T00:00:00Z"}, "2026-05-11T08:31"),
        ({"incident_status": "investigating"}, "2026-05-11T08:31"),
        ({"started": 7}, "2026-05-11T08:31"),
    ],
)
def test_an_emergency_goes_on_since_it_is_said_to_have_begun(entry: dict[str, Any], start: str) -> None:
    (found,) = told(emergency=[entry])
    assert (found.kind, found.start, found.end) == ("EMERGENCY", at(start), at("2026-05-11T08:31"))
    assert found.is_open


@pytest.mark.parametrize(
    "odd",
    [
        None,
        {},
        "none",
        7,
        [None],
        ["soon"],
        [{}],
        [{**WINDOW, "expected_start_utc": None}],
        [{**WINDOW, "expected_end_utc": "soon"}],
        [{**WINDOW, "expected_end_utc": WINDOW["expected_start_utc"]}],
    ],
)
def test_an_announcement_that_cannot_be_read_is_none_and_no_error(odd: Any) -> None:
    assert told(upcoming_maintenance=odd) == []
    assert told(upcoming_maintenance=[WINDOW], emergency=None) == told(upcoming_maintenance=[WINDOW])
