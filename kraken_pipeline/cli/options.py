"""The options that commands share, and the run spec that they select."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from kraken_pipeline.errors import PipelineError
from kraken_pipeline.market.pair import named_pair
from kraken_pipeline.settings import load_settings
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.known_pairs import known_pairs
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec

MOST = 1_000_000
"""The maximum of the options that limit a list."""

_INTERVALS = ("1m", "5m", "15m", "30m", "1h", "4h", "12h", "1d", "1w", "15d")
_TIERS = ("TIER1", "TIER2", "TIER3", "TIER4", "ALL")


# --- completion of values: a shell shows the values and nothing else, so an error means that there are none
def complete_pairs(incomplete: str) -> list[str]:
    """Return lists of pairs that begin with what is typed: the last name is completed from the pairs of the home."""
    try:
        settings = load_settings()
        if not settings.home.is_dir():
            return []
        with opened(settings) as stores:
            return _extended(incomplete, sorted(known_pairs(stores)))
    except PipelineError:
        return []


def complete_intervals(incomplete: str) -> list[str]:
    """Return lists of intervals that begin with what is typed, with the last one completed: `1h,1d`."""
    return _extended(incomplete, _INTERVALS)


def complete_tiers(incomplete: str) -> list[str]:
    """Return the tiers that begin with what is typed."""
    return [tier for tier in _TIERS if tier.startswith(incomplete)]


def _extended(incomplete: str, values: Iterable[str]) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    named = set(before.split(","))
    return [before + comma + value for value in values if value.startswith(last) and value not in named]


Tier = Annotated[str, typer.Option(help="The tier: TIER1 to TIER4, or ALL.", autocompletion=complete_tiers)]
Intervals = Annotated[
    str | None,
    typer.Option(
        help="Intervals, separated by commas: 60,1440 (minutes) or 1h,1d. All by default; 1w and "
        "15d only where they are stored or were named before.",
        autocompletion=complete_intervals,
    ),
]
KeptIntervals = Annotated[
    str | None,
    typer.Option(
        help="Intervals, separated by commas: 60,1440 (minutes) or 1h,1d. By default KRAKEN_INTERVALS, or else those "
        "of archives and earlier runs.",
        autocompletion=complete_intervals,
    ),
]
Pairs = Annotated[
    str | None,
    typer.Option(
        help="Pairs, separated by commas: XBTUSD,ADAEUR. All of the tier by default.", autocompletion=complete_pairs
    ),
]
Start = Annotated[
    str | None, typer.Option(help="The start of the selected time: ISO date or time, UTC, such as 2023-10-01.")
]
End = Annotated[str | None, typer.Option(help="The end of the selected time, excluded: ISO date or time, UTC.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
LookbackDays = Annotated[
    int, typer.Option(help="The greatest age of a gap that is filled through the API: 1 to 365 days.")
]
MaxGaps = Annotated[int, typer.Option(help="The most gaps of a series that one run fills through the API: 1 to 100.")]
BudgetOption = Annotated[
    int | None, typer.Option(help="The most requests of this run. By default KRAKEN_MAX_REQUESTS_PER_RUN.")
]
ArchiveDirs = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATH",
        help="A folder or file with archives, or a bucket (s3://bucket/prefix). It is only read. May be repeated.",
    ),
]

AcceptUnknownPairs = Annotated[
    bool, typer.Option("--accept-unknown-pairs", help="Also read loose files whose name ends with no known currency.")
]


@contextmanager
def stores_of_home() -> Iterator[Stores]:
    """Open the stores of the home for the duration of a block."""
    with opened(load_settings()) as stores:
        yield stores


def named_pairs(names: Sequence[str]) -> list[str]:
    """Return the pairs that names on the command line mean: `storjusd` is STORJUSD."""
    if all(name == name.upper() for name in names):
        return list(names)
    with stores_of_home() as stores:
        known = known_pairs(stores)
    return [named_pair(name, known) for name in names]


def selection(**given: Any) -> RunSpec:
    """Return the run spec of a command's options."""
    spec = run_spec(**given)
    return run_spec(**{**given, "pairs": named_pairs(spec.pairs)})


def present() -> int:
    """Return the current time, in whole seconds since the epoch."""
    return int(time.time())
