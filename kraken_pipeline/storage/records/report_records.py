"""Catalog records of reports: the headline numbers of each report page, for the trend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from kraken_pipeline.storage.catalog.schema import reports


@dataclass(frozen=True, slots=True)
class ReportRecord:
    """A report that was made.

    Attributes:
        tier: The tier of its pairs; ALL for all pairs.
        made_at: The time of the report, in seconds since the epoch.
        numbers: Its headline numbers by name, at least `completeness_pct`, `proven_pct` (both None where nothing was
            expected), `gaps`, `conflicts` and `candles`; newer reports have `verified_pct` as well. `selection` holds
            the other filters of the report: only reports with the same selection form a trend.
    """

    tier: str
    made_at: int
    numbers: Mapping[str, Any]


def keep_report(connection: sa.Connection, record: ReportRecord) -> None:
    """Record the numbers of a report."""
    values = {"tier": record.tier, "made_at": record.made_at, "numbers": dict(record.numbers)}
    connection.execute(sa.insert(reports).values(**values))


def reports_of(connection: sa.Connection, tier: str, newest: int) -> list[ReportRecord]:
    """Return the newest reports of a tier, at most `newest` of them, oldest first."""
    query = (
        sa.select(reports.c.tier, reports.c.made_at, reports.c.numbers)
        .where(reports.c.tier == tier)
        .order_by(reports.c.made_at.desc(), reports.c.id.desc())
        .limit(newest)
    )
    return [ReportRecord(*row) for row in connection.execute(query)][::-1]
