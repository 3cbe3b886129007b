"""The command that lists the pairs of a day."""

from __future__ import annotations

from typing import Annotated

import typer

from kraken_pipeline.cli import pair_tables
from kraken_pipeline.cli.options import AsJson, stores_of_home
from kraken_pipeline.cli.output import out, print_rows
from kraken_pipeline.market.moment import parse_moment
from kraken_pipeline.workflow.universe import as_json as json_of
from kraken_pipeline.workflow.universe import day_of, universe


def pairs(
    at: Annotated[
        str | None, typer.Option(help="The day: ISO date or time, UTC. All pairs that are known by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the pairs of a day, or all that are known, with when each was listed and how that is known."""
    day = None if at is None else day_of(parse_moment(at))
    with stores_of_home() as stores:
        found = universe(stores, day)
    if as_json:
        print_rows([json_of(listed) for listed in found])
    else:
        pair_tables.pairs(out, found, day)
