"""How names are spelled on disk."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series


def spelled(name: str) -> str:
    """A name as a part of a path, distinct for distinct names even where a file system does not tell case.

    Everything but capital letters, digits, dot, dash and underscore is percent-encoded, which readers of Hive
    layouts decode: AAPLxUSD lies in `pair=AAPL%78USD` and is read as AAPLxUSD.
    """
    return "".join(
        letter if letter.isascii() and (letter.isupper() or letter.isdigit() or letter in ".-_") else f"%{byte:02X}"
        for letter in name
        for byte in letter.encode()
    )


def make_folder(folder: Path) -> None:
    """Makes a folder where it is missing, unless what is there of its path is only to read.

    Who only reads needs no folder that nothing lies in. Whoever writes will be told.

    Raises:
        OSError: It cannot be made, although it could be written to.
    """
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if there == folder or os.access(there, os.W_OK):
        folder.mkdir(parents=True, exist_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder as durable as the files they name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Makes a written file durable."""
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
        The series, or None where the path names none; the year, or None where it names none.
    """
    parts = dict(part.partition("=")[::2] for part in path.split("/") if "=" in part)
    try:
        series = Series(unquote(parts["pair"]), Interval(int(parts["interval"])))
    except (KeyError, ValueError):
        return None, None
    year = parts.get("year", "")
    return series, int(year) if year.isascii() and year.isdecimal() else None


def candles_path(series: Series, year: int | None) -> str:
    """Return where the candles of a series lie, of one year where it is split by years, relative to the home."""
    folder = f"lake/interval={series.interval.value}/pair={spelled(series.pair)}"
    return f"{folder}/candles.parquet" if year is None else f"{folder}/year={year}/candles.parquet"


def is_split_by_year(interval: Interval) -> bool:
    """Tell whether a series of this interval lies in a file a year instead of in one."""
    return interval <= Interval.M30
