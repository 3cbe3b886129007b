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
    told: str = ""


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
    for number in range(1 if small else figure.rounds):
        scratch = folder / f"scratch-{figure.name}-{number}"
        ours.append(_round("ours", figure.ours, size, source, scratch / "ours"))
        bare.append(_round("bare", figure.bare, size, source, scratch / "bare"))
    assert len({each.items for each in (*ours, *bare)}) == 1, "the two sides have not done the same work"
    return Result(
        items=ours[0].items,
        ours=min(each.seconds for each in ours),
        bare=min(each.seconds for each in bare),
        peak_mib=max(each.peak_mib for each in ours),
        bare_peak_mib=max(each.peak_mib for each in bare),
        told=ours[0].told,
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
    scratch.mkdir(parents=True)
    os.sync()  # what the round before has left to write to the disk is not this one's
    taken = _Round(**json.loads(_python(f"benchmarks.{side}", work, str(size), str(source), str(scratch))))
    # The files are emptied, not deleted: for a minute after thousands were deleted, ext4 takes several times as long
    # to create a file, and the next round would pay for that.
    for path in scratch.rglob("*"):
        if path.is_file():
            os.truncate(path, 0)
    return taken


def _python(*arguments: str) -> str:
    root = Path(__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=root, check=True, stdout=subprocess.PIPE
    ).stdout.decode()
