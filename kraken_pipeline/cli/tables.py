"""The tables of gaps and of dead letters, and what other tables share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from kraken_pipeline.cli.layout import TextTable, say
from kraken_pipeline.market.moment import short
from kraken_pipeline.storage.records.dead_letters import MOST_OF_FILE
from kraken_pipeline.storage.records.gap_records import GapRow
from kraken_pipeline.workflow.gaps.gaps import by_use

ROWS = 40
"""The most rows of a table; JSON has all of them."""


def more_rows(console: Console, count: int, where: str) -> None:
    """Print the number of rows not shown, and the command that shows all of them."""
    if count > ROWS:
        say(console, f"… and {count - ROWS:,} more: {where}", "dim")


def gaps(console: Console, rows: Sequence[GapRow], unknown: str = "") -> None:
    """Print the gaps: those with a route first, the longest of these first; without gaps, a sentence that says why."""
    if not rows:
        say(console, unknown or "No gaps: everything that is expected is covered.")
        return
    table = TextTable(
        "Gaps, the longest first",
        *("pair", ">interval", "from", "to", ">missing", "route", "status", ">tries", "archive with it"),
        least=("tries", "archive with it", "status", "to"),
    )
    for row in sorted(by_use(rows), key=lambda row: row.closed_at is not None)[:ROWS]:
        files = (row.required_csv_file or "").split(",")
        shown = files[0] + (f" and {len(files) - 1} more" if len(files) > 1 else "")
        table.add_row(
            row.series.pair,
            str(row.series.interval.value),
            short(row.span.start),
            short(row.span.end),
            f"{row.missing_candles:,}",
            str(row.route),
            str(row.status),
            str(row.attempts or ""),
            shown,
        )
    table.print(console)
    more_rows(console, len(rows), "gaps --json")


def _file_name(location: str) -> str:
    """Return the short name of a file: without its folder, but with the container that it is in."""
    container, _, member = location.rpartition(":")
    if container.lower().endswith(".zip"):
        return f"{Path(container).name}:{Path(member).name}"
    return Path(location).name


def sampled(unkept: int) -> str:
    """Return the sentence that says that dead letters are a sample of the rejected rows."""
    return f"{unkept:,} rejected rows are only counted: of each file the first {MOST_OF_FILE:,} are kept."


def dead_letters(console: Console, rows: Sequence[Mapping[str, Any]], count: int, unkept: int = 0) -> None:
    """Print dead letters: rejected rows and files, and failed operations.

    Args:
        console: Where to print.
        rows: The dead letters.
        count: The number of all.
        unkept: The number of rejected rows that are only counted.
    """
    if not rows:
        say(console, "No dead letters: every row was accepted.")
        return
    table = TextTable("Dead letters", ">id", "from", ">line", "text", "reason", least=("text",))
    for row in rows:
        where = row["location"] if row["operation"] else _file_name(row["location"])
        table.add_row(str(row["id"]), where, str(row["line"] or ""), row["text"], row["reason"])
    table.print(console)
    kept = sum(row["rows"] is None for row in rows)
    if count - unkept > kept:
        say(console, f"{kept:,} of {count:,}: --limit shows more, `dead-letters export` writes all.")
    if unkept:
        say(console, sampled(unkept))
    if any(row["operation"] for row in rows):
        say(console, "Fetches can be retried: kraken-pipeline dead-letters retry")
