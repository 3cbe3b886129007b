"""Prints the results of verifying, saving and restoring a lake."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from kraken_pipeline.cli.layout import say
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.workflow.verify.backup import Backup
from kraken_pipeline.workflow.verify.verification import Verification


def verification(console: Console, found: Verification) -> None:
    """Print the result of a verification: each damaged file with its damage, and what to do."""
    size = f"{found.bytes / 2**20:,.1f} MiB"
    if found.adopted:
        say(console, f"{quantity(found.adopted, 'file')} recorded that the catalog did not have.")
    for damage in found.repaired:
        say(console, f"repaired: {damage}", "yellow")
    for damage in found.damaged:
        say(console, f"{damage.kind}: {damage}", "red")
    looked = f"{quantity(found.files, 'file')} with {size} in {found.seconds:.1f} s"
    if found.damaged:
        say(console, f"{quantity(len(found.damaged), 'file')} damaged, of {looked}; {found.damaged[0].action}.")
    elif found.repaired:
        done = f"{quantity(len(found.repaired), 'damaged file')} set aside"
        say(console, f"{done}; candles that no source had are gaps: kraken-pipeline gaps")
    else:
        say(console, f"Every file is unchanged: {looked}.")


def backed_up(console: Console, done: Backup, to: Path) -> None:
    """Print the contents of a backup."""
    say(
        console,
        f"The catalog as it was at {iso(done.started_at)} and {quantity(done.files, 'file')} with "
        f"{done.bytes / 2**20:,.1f} MiB are in {to}, {done.linked:,} of them as hard links.",
    )


def restored(console: Console, done: Backup, source: Path) -> None:
    """Print which backup was restored."""
    say(
        console,
        f"The backup of {iso(done.started_at)} was restored from {source}. To ingest later archives: "
        "kraken-pipeline ingest; with a QuestDB: kraken-pipeline publish --rebuild --verify",
    )
