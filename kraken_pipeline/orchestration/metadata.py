"""The metadata of materialisations.

A number has the same name and the same type everywhere: the UI plots each key over all materialisations of a partition,
from any run, and does not plot a key whose type changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import dagster as dg

from kraken_pipeline.coverage.completeness import Total, by_interval, shown
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso, short
from kraken_pipeline.storage.records.trade_counts import as_counted, in_all
from kraken_pipeline.workflow.gaps.gaps import Gap
from kraken_pipeline.workflow.gaps.series_snapshot import SeriesSnapshot
from kraken_pipeline.workflow.ingest.outcome import FileOutcome
from kraken_pipeline.workflow.page.report_page import Page
from kraken_pipeline.workflow.publish import Published
from kraken_pipeline.workflow.report.report import Report

Metadata = Mapping[str, dg.MetadataValue]
ROWS = "dagster/partition_row_count"
_LONGEST = 50


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; a long one is cut, with a note of how many rows are missing."""
    listed = [[str(cell) for cell in row] for row in rows]
    lines = [" | ".join(header), " | ".join("---" for _ in header), *(" | ".join(row) for row in listed[:_LONGEST])]
    text = "\n".join(f"| {line} |" for line in lines)
    return text if len(listed) <= _LONGEST else f"{text}\n\n… and {len(listed) - _LONGEST} more"


def _listed(name: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Metadata:
    """Return a table under a name, or nothing for no rows."""
    return {name: dg.MetadataValue.md(table(header, rows))} if rows else {}


def percents(**values: float | None) -> Metadata:
    """Return percentages by name, without those that are None because nothing is expected."""
    return {name: dg.MetadataValue.float(value) for name, value in values.items() if value is not None}


def of_series(standing: SeriesSnapshot) -> Metadata:
    """Return the metadata of a series that all assets of candles share: the candles and their completeness."""
    extent = standing.extent
    bounds = {"first_candle": extent.first_time, "last_candle": extent.last_time} if extent else {}
    return {
        ROWS: dg.MetadataValue.int(extent.candles if extent else 0),
        **percents(coverage_pct=standing.measured.percent),
        "gaps": dg.MetadataValue.int(standing.measured.gaps),
        **{name: dg.MetadataValue.text(iso(time)) for name, time in bounds.items()},
    }


def of_files(outcomes: Sequence[FileOutcome], standing: SeriesSnapshot) -> Metadata:
    """Return the metadata of the files ingested into one series."""
    rows, seconds = sum(outcome.rows for outcome in outcomes), sum((outcome.seconds for outcome in outcomes), start=0.0)
    return {
        **of_series(standing),
        "rows_read": dg.MetadataValue.int(rows),
        "rows_rejected": dg.MetadataValue.int(sum(outcome.rows_rejected for outcome in outcomes)),
        "candles_stored": dg.MetadataValue.int(sum(outcome.candles_stored for outcome in outcomes)),
        "rows_per_second": dg.MetadataValue.int(int(rows / seconds) if seconds else 0),
        **_listed(
            "files",
            ("file", "status", "rows", "rejected", "stored", "reason"),
            [
                (
                    outcome.name,
                    outcome.status,
                    outcome.rows,
                    outcome.rows_rejected,
                    outcome.candles_stored,
                    outcome.reason or "",
                )
                for outcome in outcomes
            ],
        ),
    }


def of_coverage(standing: SeriesSnapshot) -> Metadata:
    """Return the metadata of the coverage of one series, with its sources."""
    measured = standing.measured
    return {
        **percents(coverage_pct=measured.percent),
        "expected_candles": dg.MetadataValue.int(measured.expected),
        "covered_candles": dg.MetadataValue.int(measured.covered),
        "candles": dg.MetadataValue.int(measured.candles),
        "quiet_candles": dg.MetadataValue.int(measured.quiet),
        **({"counted": dg.MetadataValue.text(in_all(standing.counted))} if standing.counted else {}),
        **_listed(
            "ranges",
            ("from", "to", "source", "candles", "verified"),
            [
                (
                    short(coverage.span.start),
                    short(coverage.span.end),
                    coverage.source,
                    coverage.candles,
                    short(coverage.verified_at),
                )
                for coverage in standing.ranges
            ],
        ),
    }


def of_gaps(gaps: Sequence[Gap]) -> Metadata:
    """Return the metadata of the gaps of one series."""
    return {
        "gaps": dg.MetadataValue.int(len(gaps)),
        "missing_candles": dg.MetadataValue.int(sum(gap.missing_candles for gap in gaps)),
        "unfillable_gaps": dg.MetadataValue.int(sum(gap.status == "UNFILLABLE" for gap in gaps)),
        **_listed(
            "spans",
            ("from", "to", "missing", "routes", "archive with it"),
            [
                (
                    short(gap.span.start),
                    short(gap.span.end),
                    gap.missing_candles,
                    " → ".join(dict.fromkeys(str(leg.route) for leg in gap.legs)),
                    gap.required_csv_file or "",
                )
                for gap in gaps
            ],
        ),
    }


def of_plan(standing: SeriesSnapshot, filled: int) -> Metadata:
    """Return the metadata of the candles filled in one series, and of the plan for its remaining gaps."""
    legs = [leg for gap in standing.gaps for leg in gap.legs]
    return {
        **of_series(standing),
        "candles_stored": dg.MetadataValue.int(filled),
        "planned_requests": dg.MetadataValue.int(sum(leg.requests for leg in legs)),
        **_listed(
            "plan",
            ("from", "to", "source", "requests"),
            [(short(leg.span.start), short(leg.span.end), leg.route, leg.requests) for leg in legs],
        ),
    }


def of_published(published: Published, rows: int | None) -> Metadata:
    """Return the metadata of one published series; `rows` is its row count in QuestDB, None if unknown."""
    return {
        **({} if rows is None else {ROWS: dg.MetadataValue.int(rows)}),
        "candles_published": dg.MetadataValue.int(published.candles),
        **_listed("published", ("from", "to"), [(short(span.start), short(span.end)) for span in published.spans]),
    }


def of_page(page: Page) -> Metadata:
    """Return the metadata of a report with a new page: its numbers, its picture and its path."""
    picture = {"picture": dg.MetadataValue.md(page.markdown)} if page.picture else {}
    return {**of_report(page.report, page.path), **picture}


def of_report(report: Report, page: Path) -> Metadata:
    """Return the metadata of a report: its headline numbers, its tables, and the page of its tier if there is one."""
    return {
        **({"page": dg.MetadataValue.path(page)} if page.exists() else {}),
        **percents(
            completeness_pct=report.percent, proven_pct=report.proven_percent, verified_pct=report.verified_percent
        ),
        "pairs": dg.MetadataValue.int(report.overall.pairs),
        "candles": dg.MetadataValue.int(report.overall.candles),
        "gaps": dg.MetadataValue.int(report.overall.gaps),
        "unfillable_gaps": dg.MetadataValue.int(report.overall.unfillable),
        "conflicts": dg.MetadataValue.int(report.conflict_count),
        **({"counted": dg.MetadataValue.text(as_counted(report.counted))} if report.counted else {}),
        "intervals": dg.MetadataValue.md(_intervals(by_interval(report.series))),
        **_listed(
            "attention",
            ("series", "complete", "gaps", "what to do"),
            [
                (completeness.series, shown(completeness.percent), completeness.gaps, completeness.action)
                for completeness in report.attention
            ],
        ),
        "recommendations": dg.MetadataValue.md(
            "\n".join(f"- {recommendation}" for recommendation in report.recommendations)
        ),
    }


def of_outcome(outcome: Mapping[str, object]) -> Metadata:
    """Return the metadata of the outcome of a run: its counts, its errors and its notes; what is empty is left out."""
    found: dict[str, dg.MetadataValue] = {}
    for name, value in outcome.items():
        if isinstance(value, list):
            found |= {name: dg.MetadataValue.md("\n".join(f"- {line}" for line in value))} if value else {}
        elif isinstance(value, int):
            found[name] = dg.MetadataValue.int(value)
        elif isinstance(value, float):
            found[name] = dg.MetadataValue.float(value)
        elif value is not None:
            found[name] = dg.MetadataValue.text(str(value))
    return found


def _intervals(totals: Mapping[Interval, Total]) -> str:
    return table(
        ("interval", "complete", "reconciled", "verified", "series", "candles", "quiet", "gaps", "conflicts"),
        [
            (
                interval.value,
                shown(total.percent),
                shown(total.proven_percent),
                shown(total.verified_percent),
                total.series,
                total.candles,
                total.quiet,
                total.gaps,
                total.conflicts,
            )
            for interval, total in totals.items()
        ],
    )
