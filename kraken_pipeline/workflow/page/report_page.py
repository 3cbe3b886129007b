"""Making the page of the completeness report: reads, draws and writes it, and records its headline numbers."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.tier import Tier
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.paths import written_whole
from kraken_pipeline.storage.records.report_records import ReportRecord, keep_report, reports_of
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.heed import heeding
from kraken_pipeline.workflow.page.chart import ChartRequest
from kraken_pipeline.workflow.page.contents import Contents, gather
from kraken_pipeline.workflow.page.drawing import shares_png
from kraken_pipeline.workflow.page.html import render, selection
from kraken_pipeline.workflow.report.report import Report
from kraken_pipeline.workflow.run_spec import RunSpec

_TREND = 400
"""The number of newest reports of a tier that are searched for the trend: more than a year of daily ones."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page that was written.

    Attributes:
        path: Its path.
        size: Its size in bytes.
        report: The report that it shows.
        picture: The share of each state, as a PNG; empty if there is nothing to draw.
    """

    path: Path
    size: int
    report: Report
    picture: bytes

    @property
    def markdown(self) -> str:
        """The picture as self-contained Markdown; empty if there is none."""
        if not self.picture:
            return ""
        said = f"Shares of the states of {self.report.tier} at {iso(self.report.made_at)}"
        return f"![{said}](data:image/png;base64,{base64.b64encode(self.picture).decode()})"


def page_path(settings: Settings, tier: Tier) -> Path:
    """Return the path of the page of a whole tier: `<home>/reports/completeness-tier1.html`."""
    return settings.home / "reports" / f"completeness-{tier.lower()}.html"


def write_page(stores: Stores, spec: RunSpec, now: int, path: Path | None = None, charts: Sequence[str] = ()) -> Page:
    """Make the report, write its page, and record its numbers.

    Args:
        stores: The stores to report on.
        spec: The tier, pairs, intervals and time.
        now: The current time, in seconds since the epoch.
        path: The path of the page; by default among the home's reports.
        charts: The charts to draw into it, each a pair and an interval: `XBTUSD:1h`.

    Raises:
        InvalidRequest: Nothing is known of the selection, or a chart cannot be drawn.
        OSError: The page cannot be written; an earlier page stays unchanged.
    """
    wanted = [ChartRequest.parse(chart) for chart in charts]
    contents = heeding(lambda: gather(stores, spec, now, wanted))
    record = _record(contents)
    with stores.catalog.read() as connection:
        past = reports_of(connection, spec.tier, _TREND)
    alike = [report for report in past if report.numbers.get("selection") == record.numbers["selection"]]
    html = render(replace(contents, trend=(*alike, record))).encode()
    path = (path or page_path(stores.settings, spec.tier)).absolute()
    with written_whole(path) as beside:  # a browser never reloads half a page
        beside.write_bytes(html)
    if not stores.catalog.is_read_only:
        with stores.catalog.write() as connection:
            keep_report(connection, record)
    return Page(path, len(html), contents.report, shares_png(contents.maps) if contents.maps else b"")


def _record(contents: Contents) -> ReportRecord:
    report, overall = contents.report, contents.report.overall
    numbers = {
        "completeness_pct": report.percent,
        "proven_pct": report.proven_percent,
        "verified_pct": report.verified_percent,
        "pairs": overall.pairs,
        "series": overall.series,
        "candles": overall.candles,
        "quiet": overall.quiet,
        "gaps": overall.gaps,
        "unfillable_gaps": overall.unfillable,
        "conflicts": report.conflict_count,
        "requests": report.requests,
        "selection": selection(contents.spec),
    }
    return ReportRecord(report.tier, report.made_at, numbers)
