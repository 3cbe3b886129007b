"""One side of a figure, ours or the bare library's: what it is given, and what it tells.

`python -m benchmarks.ours WORK SIZE SOURCE SCRATCH` and the same with `bare` do one piece of work in a process of its
own and print what it took as JSON. Imports are not timed, nor is the creation of an empty home or the reading of
trades that a side is to have in memory; all else is. A side that does not come to the result that it should come to
raises.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

NOW = 1_790_000_000
"""The present of every figure, 2026-09-21: later than all candles and trades of the input."""

RANGES = 3
"""How many ranges of each series are covered where gaps are looked for."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a side works on.

    Attributes:
        size: How much it is: rows, pairs.
        source: The archive, where it is one.
        scratch: An empty folder.
    """

    size: int
    source: Path
    scratch: Path


@dataclass(frozen=True, slots=True)
class Taken:
    """What a side took.

    Attributes:
        items: How many rows or series it worked on.
        seconds: How long.
    """

    items: int
    seconds: float


def frames(given: Given) -> Iterator[pl.DataFrame]:
    """The trades of an archive of frames: `time`, `price` and `volume`, a chunk at a time."""
    return (pl.read_parquet(path) for path in sorted(given.source.iterdir()))


def run(works: tuple[Callable[[Given], Taken], ...]) -> None:
    """Does the work that the command line names."""
    name, size, source, scratch = sys.argv[1:]
    work = next(each for each in works if each.__name__ == name)
    taken = work(Given(int(size), Path(source), Path(scratch)))
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10  # macOS tells bytes, Linux KiB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(json.dumps({**asdict(taken), "peak_mib": peak}))
