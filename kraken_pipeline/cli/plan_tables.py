"""Prints the plan of a run: its sources, its fetches, and their cost."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from kraken_pipeline.cli.layout import TextTable, say
from kraken_pipeline.cli.tables import ROWS, more_rows
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.kraken.release import DOWNLOADS
from kraken_pipeline.market.moment import duration, short
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.market.series import Series
from kraken_pipeline.workflow.gaps.gaps import is_awaited
from kraken_pipeline.workflow.gaps.plan import Plan, Planned
from kraken_pipeline.workflow.gaps.selection import Fetch, estimated


def plan(console: Console, made: Plan) -> None:
    """Print a plan: one line for each source, then one for each series and source."""
    by_source: dict[Route, list[Planned]] = {}
    by_series: dict[tuple[Series, Route], list[Planned]] = {}
    for planned in made.routes:
        by_source.setdefault(planned.leg.route, []).append(planned)
        by_series.setdefault((planned.series, planned.leg.route), []).append(planned)
    sources = TextTable("Plan", "source", ">series", ">candles", ">files", ">requests", ">about")
    for route in Route:
        if parts := by_source.get(route):
            sources.add_row(
                str(route),
                f"{len({part.series for part in parts}):,}",
                f"{sum(map(_candles, parts)):,}",
                f"{len({name for part in parts for name in part.leg.files}):,}",
                f"{sum(part.leg.requests for part in parts):,}",
                duration(sum(part.seconds for part in parts)),
            )
    sources.print(console)
    table = TextTable(
        "By series",
        "pair",
        ">interval",
        "source",
        "from",
        "to",
        ">parts",
        ">candles",
        ">requests",
        least=("parts", "requests"),
        spare=("parts",),
    )
    for (series, route), parts in sorted(by_series.items())[:ROWS]:
        table.add_row(
            series.pair,
            str(series.interval.value),
            str(route),
            short(parts[0].leg.span.start),
            short(parts[-1].leg.span.end),
            f"{len(parts):,}",
            f"{sum(map(_candles, parts)):,}",
            f"{requests:,}" if (requests := sum(part.leg.requests for part in parts)) else "",
        )
    table.print(console)
    more_rows(console, len(by_series), "plan --json")
    for left_out in (*made.scanned.broken, *made.scanned.waiting):
        say(console, f"{left_out.name}: {left_out.reason}", "yellow")
    if made.scanned.skipped:
        what = quantity(
            len(made.scanned.skipped),
            "file or folder in the archive folders is not an archive",
            "files and folders in the archive folders are not archives",
        )
        say(console, f"{what}.", "dim")
    if made.missing_archives:
        say(console, f"Archives to fetch: {', '.join(made.missing_archives)}")
        say(console, f"Download them from {DOWNLOADS}")
    if made.awaited:
        say(console, f"{is_awaited(made.awaited)}.")
    say(console, f"{quantity(made.requests, 'request')}, about {duration(made.seconds)}.")
    if made.run_requests < made.requests:
        say(
            console,
            f"A run within its lookback and limits makes about {made.run_requests:,} of them, a run with --complete "
            "all.",
        )


def _candles(planned: Planned) -> int:
    return planned.leg.span.seconds // planned.series.interval.seconds


def fetches(console: Console, chosen: Sequence[Fetch], requests_a_second: float, beyond: Sequence[str]) -> None:
    """Print the fetches that a backfill would make, in their order."""
    if beyond:
        say(
            console,
            f"The first trades of {quantity(len(beyond), 'pair')} are requested first. The gaps that they reveal "
            "before the first known candles are not included.",
        )
    if not chosen:
        say(console, "No requests are needed: no gap within the limits needs the exchange.")
        return
    table = TextTable(
        "Requests",
        "source",
        "pair",
        ">interval",
        "from",
        "to",
        ">parts",
        ">requests",
        "fills intervals",
        least=("parts",),
        spare=("parts",),
    )
    for fetch in chosen[:ROWS]:
        table.add_row(
            str(fetch.route),
            fetch.series.pair,
            str(fetch.series.interval.value),
            short(fetch.spans[0].start),
            short(fetch.spans[-1].end),
            f"{len(fetch.spans):,}",
            f"{fetch.requests:,}",
            ", ".join(str(interval) for interval in sorted({series.interval.value for series, _ in fetch.serves})),
        )
    table.print(console)
    more_rows(console, len(chosen), "backfill --dry-run --json")
    requests = estimated(chosen)
    say(console, f"{quantity(requests, 'request')}, about {duration(requests / requests_a_second)}.")
