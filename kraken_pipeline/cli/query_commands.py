"""Commands that show what there is, and write it to files."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from kraken_pipeline.cli import story, tables
from kraken_pipeline.cli.layout import say
from kraken_pipeline.cli.options import (
    MOST,
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
from kraken_pipeline.cli.output import err, out, print_json, print_rows
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import named_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.settings import load_settings
from kraken_pipeline.storage.exchange_state.counters import Counters
from kraken_pipeline.storage.records import dead_letters as letters
from kraken_pipeline.storage.stores import opened, opened_locks, require_writable
from kraken_pipeline.workflow import dead_letters
from kraken_pipeline.workflow.backfill.exchange import open_cache
from kraken_pipeline.workflow.explain.explain import explain as explain_candle
from kraken_pipeline.workflow.gaps.closed import closed_gaps
from kraken_pipeline.workflow.gaps.gaps import find_gaps, gap_json, shown
from kraken_pipeline.workflow.gaps.kept_intervals import of_kept_intervals
from kraken_pipeline.workflow.gaps.snapshot import load_snapshot
from kraken_pipeline.workflow.health.check import HealthStatus, worst
from kraken_pipeline.workflow.health.exchange_health import cache_state, check_exchange
from kraken_pipeline.workflow.health.health import check_health
from kraken_pipeline.workflow.ingest.scan import known_pairs
from kraken_pipeline.workflow.read import export as export_candles
from kraken_pipeline.workflow.read import read_series
from kraken_pipeline.workflow.report.report import export_unfillable, make_report, unknown


def gaps(
    tier: Tier = "ALL",
    intervals: KeptIntervals = None,
    pairs: Pairs = None,
    start: Start = None,
    end: End = None,
    every: Annotated[bool, typer.Option("--all", help="Also list the gaps that were filled.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the gaps, with their routes and the archives that fill them."""
    spec = selection(tier=tier, intervals=intervals, pairs=pairs, start=start, end=end)
    with stores_of_home() as stores:
        spec = of_kept_intervals(stores, spec)
        snapshot = load_snapshot(stores, spec, present())
        rows = shown(stores, find_gaps(stores, spec, snapshot), snapshot)
        if every:
            rows += closed_gaps(stores, spec, snapshot)
    if as_json:
        print_rows([gap_json(row) for row in rows])
    else:
        tables.gaps(out, rows, unknown(snapshot, spec))


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
    as_json: AsJson = False,
) -> None:
    """Report how complete each tier and interval is, and what to do about the rest."""
    spec = selection(tier=tier, intervals=intervals, pairs=pairs, start=start, end=end)
    with stores_of_home() as stores:
        if html is None:
            made = make_report(stores, spec, present())
        else:
            from kraken_pipeline.workflow.report.report_page import write_page  # noqa: PLC0415 - loads what draws

            page = write_page(stores, spec, present(), html)
            made = page.report
            console = err if as_json else out
            say(console, f"The page of the report is {page.path} ({page.size / 1000:,.0f} kB).")
    if unfillable is not None:
        count = export_unfillable(made, unfillable)
        say(err, f"{count} gaps without a route written to {unfillable}")
    if as_json:
        print_json(made.as_json())
    else:
        tables.report(out, made)


def explain(
    pair: Annotated[str, typer.Argument(help="The pair: XBTUSD, XBT/USD, BTCUSD, …")],
    interval: Annotated[str, typer.Argument(help="Minutes.")],
    moment: Annotated[str, typer.Argument(metavar="TIME", help="Any moment within the candle: ISO, UTC.")],
    as_json: AsJson = False,
) -> None:
    """Show the history of one candle: its source, the candles that lost to it, and what its values were compared to."""
    with stores_of_home() as stores:
        explanation = explain_candle(stores, named_pair(pair, known_pairs(stores)), interval, moment, present())
    if as_json:
        print_json(explanation.as_json())
    else:
        story.explained(out, explanation)


def export(
    pair: Annotated[str, typer.Argument(help="The pair: XBTUSD, XBT/USD, BTCUSD, …")],
    interval: Annotated[int, typer.Argument(help="Minutes.")],
    to: Annotated[Path, typer.Option(help="The file to write: .csv or .parquet.")],
    start: Start = None,
    end: End = None,
    fill_quiet: Annotated[bool, typer.Option(help="Add candles for quiet time.")] = False,
) -> None:
    """Write the candles of one series to a file."""
    spec = selection(pairs=pair, intervals=[interval], start=start, end=end)
    series = Series(spec.pairs[0], Interval.parse(interval))
    with stores_of_home() as stores:
        candles = read_series(stores, series, start=spec.start, end=spec.end, fill_quiet=fill_quiet)
    if candles.is_empty():
        raise InvalidRequest(
            f"the lake has no candle of {series} in that time; `kraken-pipeline report` shows what it has"
        )
    export_candles(candles, to)
    say(err, f"{candles.height:,} candles of {series} written to {to}")


def status(
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="The most runs to list, the newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List runs with their progress and errors."""
    from kraken_pipeline.orchestration import runs  # noqa: PLC0415
    from kraken_pipeline.orchestration.instance import instance_of  # noqa: PLC0415

    settings = load_settings()
    with instance_of(settings) as instance, opened_locks(settings) as locks:
        found = runs.statuses(instance, locks, limit)
    if as_json:
        print_json([run.as_json() for run in found])
    else:
        tables.status(out, [run.as_json() for run in found])
    with opened(settings) as stores:
        if found and not as_json:
            tables.health(out, check_exchange(stores))


def list_dead_letters(
    pairs: Pairs = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="The most dead letters to list.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List dead letters, those of the newest file first."""
    spec = selection(pairs=pairs)
    with stores_of_home() as stores:
        rows, count = dead_letters.list_dead_letters(stores, spec.pairs, limit)
    if as_json:
        print_json([letters.as_json(row) for row in rows])
    else:
        tables.dead_letters(out, rows, count)


def export_dead_letters(
    to: Annotated[Path, typer.Option(help="The CSV file to write.")],
    pairs: Pairs = None,
) -> None:
    """Write all dead letters to a CSV file with a header."""
    spec = selection(pairs=pairs)
    with stores_of_home() as stores:
        count = dead_letters.export_dead_letters(stores, spec.pairs, to)
    say(err, f"{count:,} dead letters written to {to}")


def cache_stats(as_json: AsJson = False) -> None:
    """Show the share of hits in the last day over all processes, and the size of the cache."""
    with stores_of_home() as stores:
        stats = cache_state(stores, present())
    if as_json:
        print_json(stats.as_json())
    else:
        tables.cache(out, stats)


def clear_cache(
    prefix: Annotated[
        str, typer.Option(help="Delete only keys with this prefix: assets, prices, replies:OHLC:XBTUSD, history, …")
    ] = "",
) -> None:
    """Delete replies; the next run requests them again."""
    if not prefix.isprintable():
        raise InvalidRequest(f"no key begins with {prefix!r}; write assets, prices, replies:OHLC:XBTUSD, history, …")
    require_writable(load_settings())
    with stores_of_home() as stores, closing(open_cache(stores.settings, Counters(stores.catalog))) as opened_cache:
        count = opened_cache.clear(prefix)
    say(err, f"{count:,} replies deleted")


def health(as_json: AsJson = False) -> None:
    """Check the disk, the servers, the exchange and the data; the exit code is 1 if a check has failed."""
    checks = check_health(load_settings())
    verdict = worst(checks)
    if as_json:
        print_json(
            {
                "status": str(verdict),
                "checks": [
                    {"name": check.name, "status": str(check.verdict), "detail": check.sentence} for check in checks
                ],
            }
        )
    else:
        tables.health(out, checks)
    raise typer.Exit(int(verdict is HealthStatus.FAILED))
