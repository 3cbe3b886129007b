"""What the catalog and the health checks say is wrong: the findings that alerts are about."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.storage import aggregates
from kraken_pipeline.storage.records import publications
from kraken_pipeline.storage.records.report_records import ReportRecord, reports_of
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.alerts.alert import Finding
from kraken_pipeline.workflow.health.check import Check, HealthStatus

HEALTH, OUTBOX, COMPLETENESS, CONFLICT = "health", "outbox", "completeness", "conflict"
KINDS = (HEALTH, OUTBOX, COMPLETENESS, CONFLICT)
"""The kinds of the findings of `findings`."""
OUTBOX_SECONDS = 3_600
"""The age of a pending publication from which it is wrong; a QuestDB may restart and catch up before."""
FALL_PERCENT = 0.1
"""The fall of completeness, in percentage points, that is more than the hours that are not fetched yet."""
_ALERTS_OF_THEIR_OWN = ("outbox", "dagster daemon")
"""The health checks whose subject has alerts of its own: of late changes, and of each daemon."""
COMPARED_REPORTS = 8
"""The newest reports whose best the newest one is compared with: a week of daily ones."""


def findings(stores: Stores, checks: Sequence[Check]) -> Iterator[Finding]:
    """Yield what is wrong: by the health checks, and by the catalog's records."""
    for check in checks:
        if check.verdict is not HealthStatus.OK and check.name not in _ALERTS_OF_THEIR_OWN:
            yield Finding(f"{HEALTH}:{check.name}", check.sentence)
    yield from _outbox(stores)
    yield from _completeness(stores)
    yield from _conflicts(stores)


def _outbox(stores: Stores) -> Iterator[Finding]:
    with stores.catalog.read() as connection:
        backlog = publications.backlog(connection)
    if backlog.oldest is None or not stores.settings.has_questdb:
        return
    if time.time() - backlog.oldest > OUTBOX_SECONDS:
        since = iso(backlog.oldest)
        sentence = f"changes are pending for QuestDB since {since}; kraken-pipeline publish prints the reason"
        yield Finding(f"{OUTBOX}:late", sentence)


def _completeness(stores: Stores) -> Iterator[Finding]:
    with stores.catalog.read() as connection:
        tiers = aggregates.reported_tiers(connection)
        newest = {tier: reports_of(connection, tier, COMPARED_REPORTS) for tier in tiers}
    for tier, found in newest.items():
        last = found[-1]
        alike = [report for report in found if report.numbers.get("selection") == last.numbers.get("selection")]
        best = max(map(_percent, alike))
        if _percent(last) < best - FALL_PERCENT:
            yield Finding(
                f"{COMPLETENESS}:{tier}",
                f"completeness fell from {best:.2f} % to {_percent(last):.2f} %; "
                f"kraken-pipeline report --tier {tier} shows what is missing",
            )


def _percent(report: ReportRecord) -> float:
    return float(report.numbers["completeness_pct"] or 0.0)


def _conflicts(stores: Stores) -> Iterator[Finding]:
    with stores.catalog.read() as connection:
        found = aggregates.conflicts(connection)
    for its in found:
        yield Finding(
            f"{CONFLICT}:{its.pair} {its.fine} {its.coarse}",
            f"no source settles {quantity(its.count, 'contradiction')} of {its.pair} between {its.fine} and "
            f"{its.coarse} minutes; kraken-pipeline reconcile --pairs {its.pair} shows their causes, and the commands "
            "that withdraw a side",
        )
