"""What commands cost on a home with little in it: nearly all of it is their start.

The bare side imports what every command of such a program needs: Polars, SQLAlchemy and Typer.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.side import NOW, Given, Measurement
from kraken_pipeline.demo.showcase import build_showcase
from kraken_pipeline.market.interval import Interval

_PROGRAM = ("-m", "kraken_pipeline")


def make_small_home(_: int, folder: Path) -> Path:
    """A home that one run has filled: five pairs with a year of days."""
    home = folder / "home"
    archives = home / "archives"
    archives.mkdir(parents=True)
    build_showcase(archives, NOW, intervals=(Interval.D1,))
    words = ("ingest", "--archive-dir", str(archives), "--intervals", "1440", "--no-api-backfill", "--json")
    # The showcase has a broken download, so that the run ends with 1.
    subprocess.run([sys.executable, *_PROGRAM, *words], env=environment(home), stdout=subprocess.DEVNULL, check=False)
    assert (home / "catalog.sqlite").exists()
    return home


def environment(home: Path) -> dict[str, str]:
    """The variables of a command that works on this home and reads no other settings, and keeps its bytecode."""
    left_out = ("KRAKEN_", "DAGSTER_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return {**kept, "KRAKEN_PIPELINE_HOME": str(home)}


def seconds_of(home: Path, *arguments: str) -> tuple[float, bytes]:
    """The CPU time of a Python process, in seconds, and what it prints."""
    before = os.times()
    done = subprocess.run([sys.executable, *arguments], env=environment(home), check=True, capture_output=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return used, done.stdout


def start_help(given: Given) -> Measurement:
    """`--help`."""
    return _started(given, *_PROGRAM, "--help")


def start_gaps(given: Given) -> Measurement:
    """`gaps`."""
    return _started(given, *_PROGRAM, "gaps")


def start_report(given: Given) -> Measurement:
    """`report`."""
    return _started(given, *_PROGRAM, "report")


def start_explain(given: Given) -> Measurement:
    """`explain` of one candle."""
    return _started(given, *_PROGRAM, "explain", "XBTUSD", "1440", "2026-05-01")


def start_export(given: Given) -> Measurement:
    """`export` of one series."""
    return _started(given, *_PROGRAM, "export", "XBTUSD", "1440", "--to", str(given.scratch / "candles.csv"))


def start_status(given: Given) -> Measurement:
    """`status`, which imports Dagster."""
    return _started(given, *_PROGRAM, "status")


def start_bare(given: Given) -> Measurement:
    """The imports alone."""
    return _started(given, "-c", "import polars, sqlalchemy, typer")


def _started(given: Given, *arguments: str) -> Measurement:
    seconds_of(given.source, *arguments)  # compiles what was never imported before
    return Measurement(1, seconds_of(given.source, *arguments)[0])
