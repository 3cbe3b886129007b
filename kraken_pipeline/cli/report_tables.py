"""Prints the report."""

from __future__ import annotations

from rich.console import Console

from kraken_pipeline.cli.layout import TextTable, say
from kraken_pipeline.cli.tables import ROWS, more_rows
from kraken_pipeline.coverage.completeness import by_tier, shown
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.storage.records.trade_counts import as_counted
from kraken_pipeline.workflow.report.report import Report


def report(console: Console, made: Report) -> None:
    """Print the completeness report."""
    table = TextTable(
        "Completeness",
        "tier",
        ">interval",
        ">complete",
        ">reconciled",
        ">verified",
        ">pairs",
        ">candles",
        ">quiet",
        ">gaps",
        ">unfillable",
        least=("quiet", "pairs", "unfillable", "candles"),
        spare=("quiet", "pairs"),
    )
    for tier, intervals in by_tier(made.series).items():
        for interval, total in intervals.items():
            table.add_row(
                str(tier),
                str(interval.value),
                shown(total.percent),
                shown(total.proven_percent),
                shown(total.verified_percent),
                str(total.pairs),
                f"{total.candles:,}",
                f"{total.quiet:,}",
                f"{total.gaps:,}",
                f"{total.unfillable:,}",
            )
    table.print(console)
    overall = made.overall
    say(
        console,
        made.unknown
        or f"{shown(made.percent)} complete over {overall.series:,} series of {quantity(overall.pairs, 'pair')}, "
        f"{shown(made.proven_percent)} reconciled, {shown(made.verified_percent)} verified: "
        f"{quantity(overall.candles, 'candle')}, {overall.quiet:,} quiet, "
        f"{quantity(overall.gaps, 'gap')}, {quantity(made.conflict_count, 'conflict')}.",
    )
    if made.counted:
        say(console, f"{as_counted(made.counted)}.")
    if made.attention:
        attention = TextTable("Series that need attention", "series", ">complete", ">gaps", "what to do")
        for series in made.attention[:ROWS]:
            attention.add_row(str(series.series), shown(series.percent), str(series.gaps), series.action)
        attention.print(console)
        more_rows(console, len(made.attention), "report --json")
    say(console, "What to do", "bold")
    for advice in made.recommendations[:ROWS]:
        say(console, f"  • {advice}")
    more_rows(console, len(made.recommendations), "report --json")
