"""The command that reports how complete everything is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kraken_pipeline.cli import report_tables
from kraken_pipeline.cli.layout import say
from kraken_pipeline.cli.options import (
    AsJson,
    End,
    KeptIntervals,
    Pairs,
    Start,
    Tier,
    present,
    selection,
    stores_of_home,
)
from kraken_pipeline.cli.output import err, out, print_json
from kraken_pipeline.collector import no_collection
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.workflow.report.report import export_unfillable, make_report


@no_collection()
def report(
    tier: Tier = "ALL",
    intervals: KeptIntervals = None,
    pairs: Pairs = None,
    start: Start = None,
    end: End = None,
    unfillable: Annotated[Path | None, typer.Option(help="Write the gaps without a route to this CSV file.")] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Write the report to this file, as one self-contained HTML page with maps and tables."),
    ] = None,
    chart: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PAIR:INTERVAL",
            help="Draw the candles of a pair into the page, with what is known of the time under them: "
            "XBTUSD:1h. Without --start, the newest 250. Can be repeated.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Report how complete each tier and interval is, and what to do about the rest."""
    spec = selection(tier=tier, intervals=intervals, pairs=pairs, start=start, end=end)
    if chart and html is None:
        raise InvalidRequest("--chart draws into the page: name the page with --html FILE")
    with stores_of_home() as stores:
        if html is None:
            made = make_report(stores, spec, present())
        else:
            from kraken_pipeline.workflow.page.report_page import write_page  # noqa: PLC0415 - loads what draws

            page = write_page(stores, spec, present(), html, chart or ())
            made = page.report
            console = err if as_json else out
            say(console, f"The page of the report is {page.path} ({page.size / 1000:,.0f} kB).")
    if unfillable is not None:
        count = export_unfillable(made, unfillable)
        say(err, f"{quantity(count, 'gap')} without a route written to {unfillable}")
    if as_json:
        print_json(made.as_json())
    else:
        report_tables.report(out, made)
