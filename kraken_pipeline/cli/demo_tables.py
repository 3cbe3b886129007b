"""Prints the demo's world, and the commands to try in it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from rich.console import Console

from kraken_pipeline.cli.layout import say, write
from kraken_pipeline.demo.showcase import Showcase
from kraken_pipeline.market.quantity import quantity


def showcase(console: Console, made: Showcase) -> None:
    """Print the contents of the demo's world, and its deliberate errors."""
    say(console, "A small exchange made trades, and archives of them:", "bold")
    for line in (
        f"{quantity(len(made.world.listings), 'pair')}: {', '.join(made.world.listings)}",
        f"{quantity(len(made.quarters), 'quarterly archive')}: {', '.join(path.name for path in made.quarters)}",
        f"{quantity(len(made.loose), 'loose file')} of the running quarter",
        f"missing on purpose: {made.missing}",
        f"broken on purpose: {made.corrupt.name} (an interrupted download), {quantity(len(made.rejected), 'bad row')}, "
        f"{quantity(len(made.wrong), 'candle')} that other intervals contradict",
    ):
        say(console, f"  • {line}")


def next_steps(console: Console, home: Path) -> None:
    """Print the commands to try after the demo."""
    say(console, "What to try next", "bold")
    program = Path(sys.executable).with_name("kraken-pipeline")
    found = shutil.which(program.name)
    is_in_path = found is not None and Path(found).resolve() == program.resolve()
    shell = f"cd {home} && {program.name if is_in_path else program}"
    for command, what in (
        (f"{shell} ui", "the UI, with the assets, runs and checks of this world"),
        (f"{shell} report --html report.html", "the report as a page: maps, what to do, conflicts, sources"),
        (f"{shell} gaps", "what is missing, and which source can fill it"),
        (f"{shell} reconcile", "contradictions, and the commands that withdraw their wrong side"),
        (f"{shell} dead-letters list", "the rejected rows and file, with reasons"),
        (f"{shell} export XBTUSD 60 --to xbtusd.csv", "candles for other programs"),
        (
            f"{shell} demo --home . --serve",
            "this world's exchange, for commands such as backfill; run it in a separate terminal",
        ),
    ):
        write(console, f"  {command}")
        say(console, f"      {what}")
