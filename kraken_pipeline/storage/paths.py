"""Paths of the lake, the encoding of names in them, and durable writes."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series


def spelled(name: str) -> str:
    """Return a name encoded as a part of a path, unique even on a file system that ignores case.

    Everything but capital letters, digits, dot, dash and underscore is percent-encoded. Readers of Hive layouts decode
    that: AAPLxUSD is stored in `pair=AAPL%78USD` and read as AAPLxUSD.
    """
    return "".join(
        letter if letter.isascii() and (letter.isupper() or letter.isdigit() or letter in ".-_") else f"%{byte:02X}"
        for letter in name
        for byte in letter.encode()
    )


def make_folder(folder: Path) -> None:
    """Create a folder with its parents, unless its nearest existing parent is read-only.

    Reading does not need the empty folder. A later write raises an error.

    Raises:
        OSError: The folder cannot be created, although its parent is writable.
    """
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if there == folder or os.access(there, os.W_OK):
        folder.mkdir(parents=True, exist_ok=True)


def sync_folder(folder: Path) -> None:
    """Sync a folder to disk, so that the names in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Sync a written file to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def named_in(path: str) -> tuple[Series | None, int | None]:
    """Return the series and the year that a path names.

    Args:
        path: Relative to the home, with slashes: `lake/interval=1/pair=XBTUSD/year=2025/candles.parquet`.

    Returns:
        The series, or None if the path names none; the year, or None if it names none.
    """
    parts = dict(part.partition("=")[::2] for part in path.split("/") if "=" in part)
    try:
        series = Series(unquote(parts["pair"]), Interval(int(parts["interval"])))
    except (KeyError, ValueError):
        return None, None
    year = parts.get("year", "")
    return series, int(year) if year.isascii() and year.isdecimal() else None


def candles_path(series: Series, year: int | None) -> str:
    """Return the path of a series' candles, relative to the home; of one year, if the series is split by year."""
    folder = f"lake/interval={series.interval.value}/pair={spelled(series.pair)}"
    return f"{folder}/candles.parquet" if year is None else f"{folder}/year={year}/candles.parquet"


def is_split_by_year(interval: Interval) -> bool:
    """Check whether a series of this interval is stored in one file for each year instead of in one file."""
    return interval <= Interval.M30
