"""Measuring a figure: both sides in turn, each in a fresh process.

This process stays small: the peak memory that Linux reports of a child begins with its parent's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure, Result


@dataclass(frozen=True, slots=True)
class _Round:
    items: int
    seconds: float
    peak_mib: float


def measure(figure: Figure, folder: Path, *, small: bool) -> Result:
    """Both sides of a figure, ours and bare in turn.

    Args:
        figure: What to measure.
        folder: Where archives lie from other figures, or are made.
        small: Whether to take one quick round on little input.
    """
    size = figure.small if small else figure.size
    source = _archive(figure, size, folder)
    ours, bare = [], []
    for _ in range(1 if small else figure.rounds):
        ours.append(_round("ours", figure.ours, size, source, folder / "scratch"))
        bare.append(_round("bare", figure.bare, size, source, folder / "scratch"))
    assert len({each.items for each in (*ours, *bare)}) == 1, "the two sides have not done the same work"
    return Result(
        items=ours[0].items,
        ours=min(each.seconds for each in ours),
        bare=min(each.seconds for each in bare),
        peak_mib=max(each.peak_mib for each in ours),
        bare_peak_mib=max(each.peak_mib for each in bare),
    )


def _archive(figure: Figure, size: int, folder: Path) -> Path:
    if figure.archive is None:
        return folder
    where = folder / f"{figure.archive}-{size}"
    if not where.exists():
        made = folder / "making"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        _python("benchmarks.archives", figure.archive, str(size), str(made))
        made.rename(where)
    return next(where.iterdir())


def _round(side: str, work: str, size: int, source: Path, scratch: Path) -> _Round:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    os.sync()  # what the round before has left to write to the disk is not this one's
    try:
        return _Round(**json.loads(_python(f"benchmarks.{side}", work, str(size), str(source), str(scratch))))
    finally:
        shutil.rmtree(scratch)


def _python(*arguments: str) -> str:
    root = Path(__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=root, check=True, stdout=subprocess.PIPE
    ).stdout.decode()
