"""The checks of Dagster's daemon and queue, by what its storage may say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kraken_pipeline.workflow.health.check import HealthStatus
from kraken_pipeline.workflow.health.dagster_health import LATE_SECONDS, SILENT_SECONDS, DagsterState, dagster_checks
from kraken_pipeline_tests.support.homes import NO_DAEMON

NOW = 1_700_000_000.0
"""2023-11-14T22:13:20Z."""
REPORTING = replace(
    NO_DAEMON,
    heartbeats={"SENSOR": NOW - 12, "SCHEDULER": NOW - 20, "BACKFILL": NOW - 90_000},
    needed=frozenset({"SENSOR", "SCHEDULER", "ASSET"}),
)
SILENT = replace(REPORTING, heartbeats={**REPORTING.heartbeats, "SENSOR": NOW - SILENT_SECONDS - 1})
OK, WARNING, FAILED = HealthStatus


def found(state: DagsterState) -> dict[str, tuple[HealthStatus, str]]:
    return {check.name: (check.verdict, check.sentence) for check in dagster_checks(state, NOW)}


def test_a_laptop_needs_no_daemon() -> None:
    assert {verdict for verdict, _ in found(NO_DAEMON).values()} == {OK}
    assert "none was ever started: commands need none" in found(NO_DAEMON)["dagster daemon"][1]


def test_where_a_server_keeps_the_history_a_daemon_that_was_never_started_is_a_warning() -> None:
    verdict, sentence = found(replace(NO_DAEMON, is_on_server=True))["dagster daemon"]
    assert verdict is WARNING
    assert "none was ever started" in sentence
    assert sentence.endswith("; start it: dagster-daemon run")


def test_a_daemon_that_reports_is_well_and_one_that_is_not_needed_does_not_count() -> None:
    assert found(REPORTING)["dagster daemon"] == (OK, "it last reported 12 s ago")


def test_a_silent_daemon_is_a_warning_that_says_since_when() -> None:
    verdict, sentence = found(SILENT)["dagster daemon"]
    assert verdict is WARNING
    assert sentence.startswith("it has not reported since 2023-11-14T22:03:19Z (sensor), so ")
    assert sentence.endswith("; start it again: dagster-daemon run")


@pytest.mark.parametrize(
    ("state", "waited", "expected"),
    [
        (REPORTING, LATE_SECONDS - 1, OK),
        (REPORTING, LATE_SECONDS + 1, WARNING),
        (SILENT, LATE_SECONDS - 1, OK),
        (SILENT, LATE_SECONDS + 1, FAILED),
        (NO_DAEMON, LATE_SECONDS + 1, FAILED),
    ],
)
def test_a_run_that_waits_long_is_a_warning_and_a_failure_where_nobody_starts_it(
    state: DagsterState, waited: float, expected: HealthStatus
) -> None:
    verdict, sentence = found(replace(state, queued=3, queued_since=NOW - waited))["dagster queue"]
    assert verdict is expected
    assert sentence.startswith("3 runs wait in the queue, the oldest since 2023-11-14T21:58:")
    assert ("raise max_concurrent_runs" in sentence, "no daemon starts them" in sentence) == (
        expected is WARNING,
        expected is FAILED,
    )


def test_the_queue_counts_what_waits_and_no_run_is_well() -> None:
    assert found(REPORTING)["dagster queue"] == (OK, "no run waits in the queue")
    assert found(replace(REPORTING, at_work=1))["dagster"] == (OK, "Dagster's storage answers: 1 run is at work")
