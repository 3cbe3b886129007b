"""Prints the pairs of a day."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from kraken_pipeline.cli.layout import TextTable, say
from kraken_pipeline.cli.tables import ROWS, more_rows
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.coverage.universe import ListedPair
from kraken_pipeline.market.moment import short


def pairs(console: Console, found: Sequence[ListedPair], day: Span | None) -> None:
    """Print the pairs of a day, or of all days; without any, a sentence that says what would prove one."""
    when = "" if day is None else f" on {short(day.start)}"
    if not found:
        say(
            console,
            f"No pair is proven to be listed{when}: no candle and no list of pairs covers it. The exchange's list "
            "is kept by each run that sends requests: kraken-pipeline backfill",
        )
        return
    table = TextTable(
        f"Pairs{when}",
        *("pair", "status", "listed from", "from evidence", "listed until", "until evidence", "names"),
        least=("names", "until evidence", "from evidence"),
    )
    for listed in found[:ROWS]:
        table.add_row(
            listed.pair.name,
            listed.status,
            "" if listed.listed_from is None else short(listed.listed_from),
            listed.from_evidence,
            "" if listed.listed_until is None else short(listed.listed_until),
            listed.until_evidence,
            listed.notes,
        )
    table.print(console)
    more_rows(console, len(found), "pairs --json")
