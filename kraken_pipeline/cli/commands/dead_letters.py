"""Commands that list and export dead letters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kraken_pipeline.cli import tables
from kraken_pipeline.cli.layout import say
from kraken_pipeline.cli.options import MOST, AsJson, Pairs, selection, stores_of_home
from kraken_pipeline.cli.output import err, out, print_json
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.storage.records import dead_letters as letters
from kraken_pipeline.workflow import dead_letters


def list_dead_letters(
    pairs: Pairs = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="The most dead letters to list.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List dead letters, those of the newest file first."""
    spec = selection(pairs=pairs)
    with stores_of_home() as stores:
        rows, count, unkept = dead_letters.list_dead_letters(stores, spec.pairs, limit)
    if as_json:
        print_json([letters.as_json(row) for row in rows])
    else:
        tables.dead_letters(out, rows, count, unkept)


def export_dead_letters(
    to: Annotated[Path, typer.Option(help="The CSV file to write.")],
    pairs: Pairs = None,
) -> None:
    """Write all dead letters to a CSV file with a header."""
    spec = selection(pairs=pairs)
    with stores_of_home() as stores:
        count, unkept = dead_letters.export_dead_letters(stores, spec.pairs, to)
    say(err, f"{quantity(count, 'dead letter')} written to {to}")
    if unkept:
        say(err, tables.sampled(unkept))
