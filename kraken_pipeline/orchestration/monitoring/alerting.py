"""Looks for everything that is wrong, and sends alerts about it; sensors and the command line do it alike."""

from __future__ import annotations

import time
from collections.abc import Sequence

import dagster as dg

from kraken_pipeline.errors import PipelineError
from kraken_pipeline.orchestration.instance import state_of
from kraken_pipeline.orchestration.monitoring.run_findings import (
    DAEMON,
    RUN,
    SCHEDULE,
    failed_runs,
    late_schedules,
    silent_daemons,
)
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.stores import create_stores, opened
from kraken_pipeline.workflow.alerts.alert import Finding
from kraken_pipeline.workflow.alerts.conditions import KINDS, findings
from kraken_pipeline.workflow.alerts.sending import addresses_of, send
from kraken_pipeline.workflow.alerts.telling import Told, tell
from kraken_pipeline.workflow.health.health import check_health

NO_CATALOG = "no catalog"
"""The cursor of the sensor while the catalog, which knows who was told what, cannot be opened."""


def look(settings: Settings, instance: dg.DagsterInstance, schedules: Sequence[dg.ScheduleDefinition]) -> Told:
    """Look for everything that is wrong, and tell each address what it does not know yet.

    Raises:
        StoreError: The catalog cannot be opened.
        Busy: Another process is telling at this moment.
    """
    now = time.time()
    dagster = state_of(instance)
    checks = check_health(settings, lambda: dagster)
    with opened(settings) as stores:
        found = [
            *findings(stores, checks),
            *failed_runs(instance, stores.locks),
            *late_schedules(instance, schedules, settings.kraken_alert_schedule_hours, now),
            *silent_daemons(dagster, now),
        ]
        return tell(stores, found, (*KINDS, RUN, SCHEDULE, DAEMON), int(now))


def look_at_runs(settings: Settings, instance: dg.DagsterInstance) -> Told:
    """Look for failed runs only, and tell as `look` does."""
    with opened(settings) as stores:
        return tell(stores, list(failed_runs(instance, stores.locks)), (RUN,), int(time.time()))


def look_or_say_that_it_is_lost(
    settings: Settings, instance: dg.DagsterInstance, schedules: Sequence[dg.ScheduleDefinition], cursor: str | None
) -> tuple[str, str]:
    """Look, or send an alert that the catalog cannot be opened; return what happened, and the next cursor.

    The catalog knows who was told what. While it cannot be opened, the cursor of the sensor knows that this was told.

    Raises:
        Busy: Another process is telling at this moment.
    """
    try:
        create_stores(settings).close()
    except PipelineError as error:
        if cursor == NO_CATALOG or not _said(settings, Finding("catalog", str(error)), "begun"):
            return f"the catalog cannot be opened: {error}", cursor or ""
        return f"told that the catalog cannot be opened: {error}", NO_CATALOG
    if cursor == NO_CATALOG and not _said(settings, Finding("catalog", "it can be opened again"), "over"):
        return "the catalog can be opened again, and nobody could be told", NO_CATALOG
    done = look(settings, instance, schedules)
    return "; ".join((str(done), *done.failed)), ""


def _said(settings: Settings, finding: Finding, what: str) -> bool:
    """Send a message that no record knows of; return whether an address accepted it."""
    accepted = 0
    for url in addresses_of(settings).values():
        try:
            send(url, f"kraken-pipeline: {finding.name} ({what})", finding.sentence)
        except PipelineError:
            continue
        accepted += 1
    return accepted > 0
