"""The command that writes candles to files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kraken_pipeline.cli.layout import counted, say
from kraken_pipeline.cli.options import End, Start, Tier, stores_of_home
from kraken_pipeline.cli.output import err
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.bars import Bars
from kraken_pipeline.workflow.reading.export import Exported, Format, export_candles, format_of
from kraken_pipeline.workflow.reading.request import ReadRequest, chosen_columns, seconds_of_moment


def export(
    pair: Annotated[str, typer.Argument(help="The pair: XBTUSD, XBT/USD, BTCUSD, …; several with commas; or ALL.")],
    interval: Annotated[
        str, typer.Argument(help="Minutes, or a length such as 3m, 2h, 1d, 1w; several with commas.")
    ],
    to: Annotated[Path, typer.Option(help="The file to write: .csv, .parquet or .feather; or a folder.")],
    format_: Annotated[
        Format | None, typer.Option("--format", help="The format. By default the ending of the file.")
    ] = None,
    tier: Tier = "ALL",
    start: Start = None,
    end: End = None,
    offset: Annotated[str | None, typer.Option(help="The time between midnight and the start of a candle: 5h.")] = None,
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
        bool, typer.Option(help="Write nothing if a candle of the time may be missing.")
    ] = False,
) -> None:
    """Write candles to a file, or to files in the layout of another program."""
