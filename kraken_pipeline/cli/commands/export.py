"""The command that writes candles to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kraken_pipeline.cli.layout import say
from kraken_pipeline.cli.options import End, Start, selection, stores_of_home
from kraken_pipeline.cli.output import err
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.workflow.read import export as export_candles
from kraken_pipeline.workflow.read import read_series


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
