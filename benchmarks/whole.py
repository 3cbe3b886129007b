"""`python -m benchmarks.whole`: the complete archive, made up, from the first command to the last, against bare loops.

It makes an archive of the shape of Kraken's complete one (1,503 pairs by eight intervals, as many members again of
litter) and a quarterly one, runs each command of the program on them as a user would, and
prints what each took: CPU, wall, the most memory of all its processes at once, and the time left that it showed at half
of its time, as a multiple of the true one. The bare loops read every member with Polars and write it to a Parquet file,
in one process and in two.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.archives import INTERVALS, Arrays, candles_of, folded

_PAIRS, _QUARTER_PAIRS = 1_503, 1_399
_MINUTE = 60
_FIRST, _LAST = 1_380_585_600, 1_672_531_200  # 2013-10-01 and 2023-01-01, where the complete archive ends
_QUARTER_LAST = 1_680_307_200  # 2023-04-01
_BUSY = 1.3  # the share of minutes with a trade of the pair of rank r is this divided by r + 1
_POLL_SECONDS = 0.2
_TIME_LEFT = re.compile(r"(?:about |, )([\d.]+) (s|min|h)(?: left)?(?:, [^,]+ of it [^,]+)?$")
_SHARE = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)
_SECONDS = {"s": 1, "min": 60, "h": 3_600}


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a command or of a bare loop.

    Attributes:
        name: The name of the command or loop.
        wall: Seconds by the clock.
        cpu: Seconds of CPU of all its processes.
        peak_mib: The most memory that its processes held at once, as sampled five times a second.
        left_at_half: The time left that it showed at half of its time, as a multiple of the true one; None if it
            showed none.
    """

    name: str
    wall: float
    cpu: float
    peak_mib: float
    left_at_half: float | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the archives, run everything, print the table."""
    asked = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="kraken-whole-") as temporary:
        folder = asked.keep or Path(temporary)
        whole, quarter = _made(folder, asked.scale)
        home = folder / "home"
        shutil.rmtree(home, ignore_errors=True)
        taken = list(_measured(home, whole, quarter, asked.only))
        shutil.rmtree(home, ignore_errors=True)
    print(table(taken))
    if asked.json:
        asked.json.write_text(json.dumps([asdict(each) for each in taken], indent=2) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.whole", description=__doc__)
    parser.add_argument("--scale", type=float, default=0.1, help="the share of the pairs; 1 makes 1,503 of them")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="make the archives there, or use what is there")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there as well")
    parser.add_argument("--only", metavar="NAME", action="append", help="only these commands or loops, in their order")
    return parser


# --- the archives


def _made(folder: Path, scale: float) -> tuple[Path, Path]:
    pairs, quarter_pairs = (max(1, round(count * scale)) for count in (_PAIRS, _QUARTER_PAIRS))
    whole = folder / f"whole-{pairs}" / "Kraken_OHLCVT.zip"
    quarter = folder / f"quarter-{quarter_pairs}" / "Kraken_OHLCVT_Q1_2023.zip"
    for path, count, is_whole in ((whole, pairs, True), (quarter, quarter_pairs, False)):
        if not path.exists():
            print(f"making {path.name} of {count} pairs ...", file=sys.stderr)
            path.parent.mkdir(parents=True, exist_ok=True)
            making = path.with_suffix(".part")
            rows = write_archive(making, count, is_whole=is_whole)
            making.rename(path)
            print(f"{path.name}: {8 * count:,} files, {rows:,} rows", file=sys.stderr)
    return whole, quarter


def write_archive(path: Path, pairs: int, *, is_whole: bool) -> int:
    """Write a ZIP of eight consistent intervals of so many pairs, from a few busy ones to many quiet ones.

    Args:
        path: The file to write.
        pairs: The number of pairs, the busiest first.
        is_whole: Whether it is the complete archive, with a folder and litter, or a quarterly one.

    Returns:
        The number of rows.
    """
    rows = 0
    folder = "master_q4/" if is_whole else ""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for rank in range(pairs):
            name = f"{_letters(rank)}USD"
            for minutes, candles in _pair(rank, is_whole=is_whole):
                text = io.BytesIO()
                frame = pl.DataFrame(candles)
                frame.write_csv(text, include_header=False)
                rows += frame.height
                archive.writestr(f"{folder}{name}_{minutes}.csv", text.getvalue())
                if is_whole:
                    archive.writestr(f"__MACOSX/{folder}._{name}_{minutes}.csv", b"\0\5\26\7")
    return rows


def _letters(rank: int) -> str:
    """Return a base of four letters that is no currency: QAAA for 0."""
    places = (rank // 676 % 26, rank // 26 % 26, rank % 26)
    return "Q" + "".join(chr(ord("A") + place) for place in places)


def _pair(rank: int, *, is_whole: bool) -> Iterator[tuple[int, Arrays]]:
    rng = np.random.default_rng((rank, is_whole))
    listed = np.random.default_rng(rank).integers(_FIRST, _LAST - 90 * 86_400) // 86_400 * 86_400
    first, last = (int(listed), _LAST) if is_whole else (_LAST, _QUARTER_LAST)
    share = min(0.97, _BUSY / (rank + 1))
    count = max(2, rng.binomial((last - first) // _MINUTE, share))
    times = np.unique(first + rng.integers(0, (last - first) // _MINUTE, count) * _MINUTE)
    # An archive covers its time up to its last candle.
    times = np.union1d(times, [first, last - _MINUTE])
    # A quiet market has a trade or two in a minute, a busy one hundreds.
    finest = {**candles_of(rng, times), "trades": rng.integers(1, 2 + round(200 * share), len(times))}
    for minutes in INTERVALS:
        yield minutes, folded(finest, minutes)


# --- the commands and the loops


def _measured(home: Path, whole: Path, quarter: Path, only: Sequence[str] | None) -> Iterator[Cost]:
    program = (sys.executable, "-m", "kraken_pipeline")
    both = ("--archive-dir", str(whole.parent), "--archive-dir", str(quarter.parent))
    first = ("--archive-dir", str(whole.parent))
    page = str(home / "page.html")
    loop = (sys.executable, "-m", "benchmarks.whole_bare", str(whole), str(home.with_name("bare")))
    commands: Mapping[str, tuple[str, ...]] = {
        "bare, one process": (*loop, "1"),
        "bare, two processes": (*loop, "2"),
        "plan": (*program, "plan", *first),
        "ingest": (*program, "ingest", *first, "--no-api-backfill"),
        "ingest, nothing to do": (*program, "ingest", *first, "--no-api-backfill"),
        "ingest, a quarter on top": (*program, "ingest", *both, "--no-api-backfill"),
        "reconcile --full": (*program, "reconcile", "--full"),
        "gaps --json": (*program, "gaps", "--json"),
        "report": (*program, "report"),
        "report --html": (*program, "report", "--html", page),
    }
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("KRAKEN_", "DAGSTER_"))},
        "KRAKEN_PIPELINE_HOME": str(home),
        "KRAKEN_DAGSTER_STORAGE": str(home / "dagster"),
        "KRAKEN_SETTLE_SECONDS": "0",
    }
    for name, command in commands.items():
        if not only or name in only:
            print(f"measuring {name} ...", file=sys.stderr)
            yield _run(name, command, environment)


def _run(name: str, command: Sequence[str], environment: Mapping[str, str]) -> Cost:
    """Run a command to its end, sampling the memory of its processes."""
    began, peak = time.perf_counter(), 0
    before = os.times()
    lines: list[tuple[float, str]] = []
    with (
        ThreadPoolExecutor(1) as reader,
        subprocess.Popen(
            command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        assert process.stdout is not None
        reader.submit(
            lambda stream: lines.extend((time.perf_counter() - began, line) for line in stream), process.stdout
        )
        while process.returncode is None:
            peak = max(peak, sum(_resident(pid) for pid in _tree(process.pid)))
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
        wall = time.perf_counter() - began
    if process.returncode != 0:
        raise RuntimeError(f"{name} ended with {process.returncode}: {''.join(line for _, line in lines)[-2_000:]}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(name, wall, cpu, peak / 2**20, left_at_half(lines, wall))


def left_at_half(lines: Iterable[tuple[float, str]], wall: float) -> float | None:
    """Return the time left that the last line of progress before half of the time says, as a multiple of the true one.

    Args:
        lines: The lines that a command printed, each with its second.
        wall: The seconds that the command took.
    """
    said = [(at, found) for at, line in lines if at <= wall / 2 and (found := _TIME_LEFT.search(line))]
    if not said:
        return None
    at, found = said[-1]
    return float(found[1]) * _SECONDS[found[2]] / (wall - at)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = children.read_text().split()
        except OSError:
            continue
        for child in found:
            yield from _tree(int(child))


def _resident(pid: int) -> int:
    """Return the memory of a process, in bytes, with its share of what several processes share; 0 if it has ended."""
    try:
        found = _SHARE.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
    except OSError:
        return 0
    return int(found[1]) << 10 if found else 0


def table(taken: Sequence[Cost]) -> str:
    """Return the figures as text, each command beside the wall time of the bare loop."""
    bare = next((each.wall for each in taken if each.name == "bare, one process"), None)
    lines = [("", "wall s", "CPU s", "peak MiB", "of bare", "left at half")]
    lines += [
        (
            each.name,
            f"{each.wall:.1f}",
            f"{each.cpu:.1f}",
            f"{each.peak_mib:.0f}",
            f"{each.wall / bare:.2f}" if bare else "-",
            "-" if each.left_at_half is None else f"{each.left_at_half:.2f}",
        )
        for each in taken
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


if __name__ == "__main__":
    sys.exit(main())
