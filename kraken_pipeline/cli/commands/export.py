"""The command that writes candles or trades to files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from kraken_pipeline.cli.layout import say
from kraken_pipeline.cli.options import (
    End,
    Start,
    Tier,
    complete_intervals,
    complete_pairs,
    present,
    stores_of_home,
)
from kraken_pipeline.cli.output import err
from kraken_pipeline.cli.terminal import progress_bar
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.bars import Bars
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.market.trade import TRADE_SCHEMA
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.progress import Progress, RunContext
from kraken_pipeline.workflow.reading.candles import named
from kraken_pipeline.workflow.reading.export import Exported, ExportFormat, export_pairs, is_single
from kraken_pipeline.workflow.reading.request import (
    COLUMNS,
    PAIR,
    STATE_COLUMNS,
    ReadRequest,
    chosen_columns,
    seconds_of_moment,
)
from kraken_pipeline.workflow.reading.trades import pairs_with_trades, wanted_span
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec

ALL = "ALL"


def export(
    pair: Annotated[
        str,
        typer.Argument(
            help="The pair: XBTUSD, XBT/USD, BTCUSD, …; several, separated by commas; or ALL.",
            autocompletion=complete_pairs,
        ),
    ],
    to: Annotated[Path, typer.Option(help="The file to write: .csv, .parquet or .feather; or a folder.")],
    interval: Annotated[
        str | None,
        typer.Argument(
            help="Minutes, or a length such as 3m, 2h, 1d, 1w; several, separated by commas. Not with --trades.",
            autocompletion=complete_intervals,
            show_default=False,
        ),
    ] = None,
    trades: Annotated[
        bool, typer.Option("--trades", help="Write the kept trades (KRAKEN_KEEP_TRADES) instead of candles.")
    ] = False,
    format_: Annotated[
        ExportFormat | None, typer.Option("--format", help="The format of the files in a folder.", show_default=False)
    ] = None,
    tier: Tier = ALL,
    start: Start = None,
    end: End = None,
    offset: Annotated[
        str | None, typer.Option(help="The time between midnight and the start of a candle: 5h, 90m.")
    ] = None,
    timezone: Annotated[
        str | None, typer.Option(help="The zone whose midnights count, such as Europe/Berlin. UTC by default.")
    ] = None,
    columns: Annotated[str | None, typer.Option(help="The columns, separated by commas. All by default.")] = None,
    fill_quiet: Annotated[bool, typer.Option(help="Add candles for quiet time.")] = False,
    incomplete: Annotated[bool, typer.Option(help="Add candles of which a part is not covered.")] = False,
    with_state: Annotated[
        bool, typer.Option(help="Add a row for each candle of the time, with its state and its proof.")
    ] = False,
    require_complete: Annotated[
        bool, typer.Option(help="Fail if a candle or trade of the time may be missing.")
    ] = False,
    as_of: Annotated[
        str | None, typer.Option(help="A time (UTC): write the candles as the lake held them then.", show_default=False)
    ] = None,
) -> None:
    """Write candles or kept trades to a file, or candles to the data folder of another program."""
    spec = run_spec(tier=tier, start=start, end=end)
    if trades:
        of_candles = {
            "the interval": interval,
            "--offset": offset,
            "--timezone": timezone,
            "--fill-quiet": fill_quiet,
            "--incomplete": incomplete,
            "--with-state": with_state,
            "--as-of": as_of,
        }
        if given := [name for name, value in of_candles.items() if value]:
            raise InvalidRequest(f"--trades writes trades as they were made: leave {', '.join(given)} out")
        _export_trades(pair, spec, to, format_, columns, require_complete=require_complete)
        return
    if interval is None:
        raise InvalidRequest("no interval is named: `kraken-pipeline export XBTUSD 1h`, or --trades")
    requests = [
        ReadRequest(
            Bars.parse(width, offset, timezone),
            spec.start,
            spec.end,
            fill_quiet=fill_quiet,
            incomplete=incomplete,
            require_complete=require_complete,
            with_state=with_state,
            as_of=seconds_of_moment(as_of),
        )
        for width in _listed("interval", interval)
    ]
    with stores_of_home() as stores:
        pairs = _pairs(stores, pair, spec)
        is_long = len(pairs) > 1 and is_single(to)
        available = [*([PAIR] if is_long else []), *COLUMNS, *(STATE_COLUMNS if with_state else ())]
        wanted = None if columns is None else chosen_columns(_listed("column", columns), available)
        exported = export_pairs(stores, pairs, requests, to, format_, wanted)
        done = list(exported) if is_single(to) else _followed(exported, len(pairs) * len(requests))
    _tell(done, to)


def _export_trades(
    names: str, spec: RunSpec, to: Path, how: ExportFormat | None, columns: str | None, *, require_complete: bool
) -> None:
    # PyArrow is loaded with it, which candles do not need.
    from kraken_pipeline.workflow.reading.export_trades import export_trades  # noqa: PLC0415

    with stores_of_home() as stores, progress_bar(err, "exporting", "trade") as show:
        pairs = _pairs_with_trades(stores, names, spec)
        available = [*([PAIR] if len(pairs) > 1 and is_single(to) else []), *TRADE_SCHEMA]
        wanted = None if columns is None else chosen_columns(_listed("column", columns), available)
        span, run = wanted_span(spec.start, spec.end), RunContext("export", present(), show)
        done = export_trades(stores, pairs, span, to, how, wanted, run, require_complete=require_complete)
    written = [its for its in done if its.trades]
    what = done[0].pair if len(done) == 1 else quantity(len(done), "pair")
    if not written:
        raise InvalidRequest(
            f"no kept trade of {what} was made in that time; `covered_trades` in Python shows what is kept"
        )
    if len(done) > 1:
        what = f"{len(written):,} of {what}"
    say(err, f"{quantity(sum(its.trades for its in done), 'trade')} of {what} written to {to}")


def _pairs_with_trades(stores: Stores, names: str, spec: RunSpec) -> list[str]:
    """Return the pairs of the selected tier whose trades are kept, for ALL, or those that are named."""
    if names != ALL:
        return named(_listed("pair", names), stores)
    kept = set(pairs_with_trades(stores))
    found = [pair for pair in _pairs(stores, names, spec) if pair in kept]
    if not found:
        raise InvalidRequest(
            f"no trades of {spec.tier} are kept: KRAKEN_KEEP_TRADES keeps those that are paged or read"
        )
    return found


def _listed(what: str, text: str) -> list[str]:
    if not (parts := [part.strip() for part in text.split(",") if part.strip()]):
        raise InvalidRequest(f"{text!r} names no {what}")
    return list(dict.fromkeys(parts))


def _pairs(stores: Stores, names: str, spec: RunSpec) -> list[str]:
    """Return the pairs of the selected tier that the lake has, for ALL, or those that are named."""
    if names != ALL:
        return named(_listed("pair", names), stores)
    found = [pair.name for pair in stores.lake.asset_ids.pairs() if spec.selects(pair, stores.tiers)]
    if not found:
        raise InvalidRequest(f"the lake has no pair of {spec.tier}; `kraken-pipeline report` shows what it has")
    return found


def _followed(exported: Iterator[Exported], total: int) -> list[Exported]:
    """Return what is exported to a folder, and show the progress meanwhile."""
    done: list[Exported] = []
    with progress_bar(err, "exporting") as show:
        for its in exported:
            done.append(its)
            show(Progress("exporting", total, len(done), candles=sum(its.candles for its in done)))
    return done


def _tell(done: list[Exported], to: Path) -> None:
    series = list(dict.fromkeys(f"{its.pair} {its.bars}" for its in done if its.candles))
    candles = sum(its.candles for its in done)
    if not series:
        what = f"{done[0].pair} {done[0].bars}" if len(done) == 1 else f"{len(done):,} series"
        raise InvalidRequest(
            f"the lake has no candle of {what} in that time; `kraken-pipeline report` shows what it has"
        )
    what = series[0] if len(done) == 1 else f"{len(series):,} of {len(done):,} series"
    say(err, f"{quantity(candles, 'candle')} of {what} written to {to}")
