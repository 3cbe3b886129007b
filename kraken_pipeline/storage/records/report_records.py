"""The catalog's records of reports: the headline numbers of each one that was made as a page, for the trend."""

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
        tier: Of which pairs; ALL for every one.
        made_at: When, in seconds since the epoch.
        numbers: Its headline numbers by name, at least `completeness_pct`, `proven_pct` (both None where nothing was
            expected), `gaps`, `conflicts` and `candles`, newer ones `verified_pct` as well; and `selection`, what else
            it was narrowed to: only reports on the same things make a trend.
    """

    tier: str
    made_at: int
    numbers: Mapping[str, Any]


def keep_report(connection: sa.Connection, record: ReportRecord) -> None:
    """Puts the numbers of a report on record."""
    values = {"tier": record.tier, "made_at": record.made_at, "numbers": dict(record.numbers)}
    connection.execute(sa.insert(reports).values(**values))


def reports_of(connection: sa.Connection, tier: str, newest: int) -> list[ReportRecord]:
    """The newest so many reports of a tier, the oldest of them first."""
    query = (
        sa.select(reports.c.tier, reports.c.made_at, reports.c.numbers)
        .where(reports.c.tier == tier)
        .order_by(reports.c.made_at.desc(), reports.c.id.desc())
        .limit(newest)
    )
    return [ReportRecord(*row) for row in connection.execute(query)][::-1]
