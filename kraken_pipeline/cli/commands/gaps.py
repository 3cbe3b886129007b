"""The command that lists gaps."""

from __future__ import annotations

from typing import Annotated

import typer

from kraken_pipeline.cli import tables
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
from kraken_pipeline.cli.output import out, print_rows
from kraken_pipeline.collector import no_collection
from kraken_pipeline.workflow.gaps.closed import closed_gaps
from kraken_pipeline.workflow.gaps.gaps import find_gaps, gap_json, shown
from kraken_pipeline.workflow.gaps.kept_intervals import of_kept_intervals
from kraken_pipeline.workflow.gaps.snapshot import load_snapshot
from kraken_pipeline.workflow.gaps.unknown import unknown


@no_collection()
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
