"""What `health` sees of the exchange, asked over the loopback, and what stays on record of that."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.faults import Fault, SystemState
from kraken_pipeline.demo.listing import demo_listings
from kraken_pipeline.demo.world import SECOND_NS, World
from kraken_pipeline.storage.exchange_state import incident_records
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.health.check import Check, HealthStatus
from kraken_pipeline.workflow.health.exchange_probe import check_status
from kraken_pipeline.workflow.health.health import NAMES
from kraken_pipeline_tests.support.exchanges import at
from kraken_pipeline_tests.support.samples import at as moment

NOW = moment("2026-05-11T08:31:00")
WORLD = World(3, demo_listings(NOW - 5 * 86_400), NOW)
WINDOW = {
    "event_id": 21,
    "title": "Spot upgrade",
    "expected_start_utc": "2026-05-11T09:00:00Z",
    "expected_end_utc": "2026-05-11T10:00:00Z",
}
HALTED = {"incident_id": "b7k2", "title": "Trading halted", "started_at_utc": "2026-05-11T08:00:00Z"}


def checks(stores: Stores) -> dict[str, Check]:
    found = {check.name: check for check in check_status(stores)}
    assert {check.about for check in found.values()} <= set(NAMES)
    return found


@pytest.mark.parametrize(
    ("ahead", "verdict", "sentence"),
    [
        (0, HealthStatus.OK, "within 5 s"),
        (-90, HealthStatus.WARNING, "the clock here is 90 s behind the exchange's: set it by a time server"),
        (7_200, HealthStatus.WARNING, "ahead of the exchange's"),
    ],
)
def test_the_clock_here_is_compared_with_that_of_the_exchange(
    home: Path, ahead: int, verdict: HealthStatus, sentence: str
) -> None:
    with (
        DemoExchange(WORLD, clock=lambda: time.time_ns() - ahead * SECOND_NS) as exchange,
        at(exchange, home) as stores,
    ):
        found = checks(stores)["api clock"]
    assert found.verdict is verdict
    assert sentence in found.sentence


def test_what_is_announced_is_told_and_kept(home: Path) -> None:
    faults = [
        Fault(SystemState("online", (WINDOW,)), endpoint="SystemStatus"),
        Fault(SystemState("online", (), (HALTED,)), endpoint="SystemStatus", after=1),
    ]
    with DemoExchange(WORLD, faults=faults) as exchange, at(exchange, home) as stores:
        announced = checks(stores)["api incidents"]
        assert announced.verdict is HealthStatus.OK
        reported = "Spot upgrade (from 2026-05-11T09:00:00Z to 2026-05-11T10:00:00Z)"
        assert announced.sentence == f"maintenance is announced: {reported}"
        emergency = checks(stores)["api incidents"]
        assert emergency.verdict is HealthStatus.WARNING
        assert emergency.sentence == ("the exchange reports an emergency: Trading halted (since 2026-05-11T08:00:00Z)")
        assert checks(stores)["api incidents"].sentence == ("no maintenance is announced, and no emergency is reported")
        with stores.catalog.read() as connection:
            (kept,) = incident_records.incidents_of(connection)
    assert (kept.title, kept.start, kept.end, kept.is_open) == ("Trading halted", NOW - 1_860, NOW, False)


@pytest.mark.parametrize("status", ["maintenance", "cancel_only", "post_only"])
def test_a_status_in_which_nobody_trades_is_kept_whoever_asks(home: Path, status: str) -> None:
    with DemoExchange(WORLD) as exchange, at(exchange, home) as stores:
        exchange.inject(Fault(SystemState(status), endpoint="SystemStatus"))
        api = checks(stores)["api"]
        assert (api.verdict is HealthStatus.WARNING) is (status == "maintenance")
        with stores.catalog.read() as connection:
            (kept,) = incident_records.incidents_of(connection)
        assert (kept.title, kept.start, kept.is_open) == (f"the status {status}", NOW, True)


def test_a_status_that_nobody_knows_is_told(home: Path) -> None:
    with DemoExchange(WORLD) as exchange, at(exchange, home) as stores:
        exchange.inject(Fault(SystemState("resting"), endpoint="SystemStatus"))
        api = checks(stores)["api"]
    assert api.verdict is HealthStatus.OK
    assert "answers: resting Kraken's status is 'resting', which is unknown" in api.sentence
