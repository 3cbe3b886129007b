"""What a materialisation says about its partition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import dagster as dg

from kraken_pipeline.coverage.completeness import SeriesCompleteness, Total, by_interval
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso, short
from kraken_pipeline.storage.evidence_records import CoverageRecord, Extent
from kraken_pipeline.workflow.gaps import Gap
from kraken_pipeline.workflow.ingest import FileOutcome
from kraken_pipeline.workflow.publish import Published
from kraken_pipeline.workflow.report import Report

Metadata = Mapping[str, dg.MetadataValue]
_ROWS = 50


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; long ones are cut, and say so."""
    listed = [[str(cell) for cell in row] for row in rows]
    lines = [" | ".join(header), " | ".join("---" for _ in header), *(" | ".join(row) for row in listed[:_ROWS])]
    text = "\n".join(f"| {line} |" for line in lines)
    return text if len(listed) <= _ROWS else f"{text}\n\n… and {len(listed) - _ROWS} more"


def of_files(outcomes: Sequence[FileOutcome], extent: Extent | None) -> Metadata:
    """What files brought into one series."""
    rows, seconds = sum(each.rows for each in outcomes), sum((each.seconds for each in outcomes), start=0.0)
    listed = table(
        ("file", "status", "rows", "rejected", "stored", "reason"),
        [
            (each.name, each.status, each.rows, each.rows_rejected, each.candles_stored, each.reason or "")
            for each in outcomes
        ],
    )
    return {
        **of_extent(extent),
        "rows_read": dg.MetadataValue.int(rows),
        "rows_rejected": dg.MetadataValue.int(sum(each.rows_rejected for each in outcomes)),
        "candles_stored": dg.MetadataValue.int(sum(each.candles_stored for each in outcomes)),
        "seconds": dg.MetadataValue.float(round(seconds, 3)),
        "rows_per_second": dg.MetadataValue.int(int(rows / seconds) if seconds else 0),
        "files": dg.MetadataValue.md(listed),
    }


def of_extent(extent: Extent | None) -> Metadata:
    """What the lake has of a series."""
    if extent is None:
        return {"dagster/partition_row_count": dg.MetadataValue.int(0)}
    return {
        "dagster/partition_row_count": dg.MetadataValue.int(extent.candles),
        "first_candle": dg.MetadataValue.text(iso(extent.first_time)),
        "last_candle": dg.MetadataValue.text(iso(extent.last_time)),
    }


def of_completeness(measured: SeriesCompleteness) -> Metadata:
    """How complete one series is, in two numbers."""
    return {
        "coverage_pct": dg.MetadataValue.float(measured.percent),
        "gaps": dg.MetadataValue.int(measured.gaps),
    }


def of_coverage(measured: SeriesCompleteness, records: Sequence[CoverageRecord]) -> Metadata:
    """How much of one series is covered, and by what."""
    return {
        "coverage_pct": dg.MetadataValue.float(measured.percent),
        "expected_candles": dg.MetadataValue.int(measured.expected),
        "covered_candles": dg.MetadataValue.int(measured.covered),
        "candles": dg.MetadataValue.int(measured.candles),
        "quiet_candles": dg.MetadataValue.int(measured.quiet),
        "ranges": dg.MetadataValue.md(
            table(
                ("from", "to", "source", "candles", "verified"),
                [
                    (short(each.span.start), short(each.span.end), each.source, each.candles, short(each.verified_at))
                    for each in records
                ],
            )
        ),
    }


def of_gaps(gaps: Sequence[Gap]) -> Metadata:
    """The gaps of one series."""
    return {
        "gaps": dg.MetadataValue.int(len(gaps)),
        "missing_candles": dg.MetadataValue.int(sum(gap.missing_candles for gap in gaps)),
        "unfillable_gaps": dg.MetadataValue.int(sum(gap.status == "UNFILLABLE" for gap in gaps)),
        "spans": dg.MetadataValue.md(
            table(
                ("from", "to", "missing", "routes", "archive that has it"),
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
            )
        ),
    }


def of_plan(gaps: Sequence[Gap], filled: int) -> Metadata:
    """What was filled of one series, and what is planned for the rest."""
    legs = [leg for gap in gaps for leg in gap.legs]
    return {
        "candles_stored": dg.MetadataValue.int(filled),
        "planned_requests": dg.MetadataValue.int(sum(leg.requests for leg in legs)),
        "plan": dg.MetadataValue.md(
            table(
                ("from", "to", "source", "requests"),
                [(short(leg.span.start), short(leg.span.end), leg.route, leg.requests) for leg in legs],
            )
        ),
    }


def of_published(published: Published) -> Metadata:
    """What QuestDB got of one series."""
    return {
        "candles_published": dg.MetadataValue.int(published.candles),
        "published": dg.MetadataValue.md(
            table(("from", "to"), [(short(span.start), short(span.end)) for span in published.spans])
        ),
    }


def of_report(report: Report) -> Metadata:
    """The headline numbers of a report, and its tables."""
    return {
        "completeness_pct": dg.MetadataValue.float(report.percent),
        "pairs": dg.MetadataValue.int(report.overall.pairs),
        "candles": dg.MetadataValue.int(report.overall.candles),
        "gaps": dg.MetadataValue.int(report.overall.gaps),
        "unfillable_gaps": dg.MetadataValue.int(report.overall.unfillable),
        "intervals": dg.MetadataValue.md(_intervals(by_interval(report.series))),
        "attention": dg.MetadataValue.md(
            table(
                ("series", "complete", "gaps", "what to do"),
                [(each.series, f"{each.percent} %", each.gaps, each.action) for each in report.attention],
            )
        ),
        "recommendations": dg.MetadataValue.md("\n".join(f"- {each}" for each in report.recommendations)),
    }


def _intervals(totals: Mapping[Interval, Total]) -> str:
    return table(
        ("interval", "complete", "series", "candles", "quiet", "gaps"),
        [
            (
                interval.value,
                f"{each.percent} %",
                each.series,
                each.candles,
                each.quiet,
                each.gaps,
            )
            for interval, each in totals.items()
        ],
    )
