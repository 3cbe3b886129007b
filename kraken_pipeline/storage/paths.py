"""Paths of the lake, the encoding of names in them, and durable writes."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series

CANDLES = "candles.parquet"
"""The name of a file with candles of more than one year, and of each file in the former layout."""


_ENCODED = re.compile("[^A-Z0-9._-]+")


def spelled(name: str) -> str:
    """Return a name encoded as a part of a path, unique even on a file system that ignores case.

    Everything but capital letters, digits, dot, dash and underscore is percent-encoded. Readers of Hive layouts decode
    that: AAPLxUSD is stored in `pair=AAPL%78USD` and read as AAPLxUSD.
    """
    return _ENCODED.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), name)


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


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write, which takes its place when the block has ended, and not where it has failed.

    So whoever reads it meanwhile has the earlier file, and never a part of one. Missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    target = path.resolve()  # the file that a link names, not the link
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        yield beside
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def linked(path: Path, target: Path) -> bool:
    """Make a hard link to a file; return False on another file system, or on one without links.

    Raises:
        FileNotFoundError: There is no such file.
    """
    try:
        target.hardlink_to(path)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return True


class Layout(StrEnum):
    """The division of the candles of a series into files; what the manifest does not know is read by the first."""

    WHOLE = "WHOLE"  # all in `pair=XBTUSD/candles.parquet`
    YEARS = "YEARS"  # each calendar year in one: `pair=XBTUSD/2025.parquet`
    FORMER = "FORMER"  # each year in one, as earlier versions wrote them: `pair=XBTUSD/year=2025/candles.parquet`


_YEAR = re.compile(r"([12][0-9]{3})\.parquet")
_FORMER_YEAR = re.compile(r"year=([12][0-9]{3})")


def named_in(path: str) -> tuple[Series | None, int | None]:
    """Return the series and the year that a path names.

    Args:
        path: Relative to the home, with slashes: `lake/interval=1/pair=XBTUSD/2025.parquet`.

    Returns:
        The series, or None if the path names none; the year, or None if it names none.
    """
    names = path.split("/")
    parts = dict(part.partition("=")[::2] for part in names if "=" in part)
    try:
        series = Series(unquote(parts["pair"]), Interval(int(parts["interval"])))
    except (KeyError, ValueError):
        return None, None
    return series, next((year for name in names[-2:] if (year := year_in(name)) is not None), None)


def year_in(name: str) -> int | None:
    """Return the year that the name of a file, or of a folder of the former layout, stands for; None for any other."""
    found = _YEAR.fullmatch(name) or _FORMER_YEAR.fullmatch(name)
    return None if found is None else int(found[1])


def series_folder(series: Series) -> str:
    """Return the folder of a series in the lake, relative to the home."""
    return f"lake/interval={series.interval.value}/pair={spelled(series.pair)}"


def candles_path(series: Series, year: int | None) -> str:
    """Return the path of a series' candles, relative to the home: of one calendar year, or of all for None."""
    return f"{series_folder(series)}/{CANDLES if year is None else f'{year}.parquet'}"


def former_path(series: Series, year: int) -> str:
    """Return the path of the candles of one year of a series in the former layout, relative to the home."""
    return f"{series_folder(series)}/year={year}/{CANDLES}"


def is_former(path: str) -> bool:
    """Return whether a file of candles, by any absolute path or URL, is in the former layout: a folder for each year.

    It looks at the name of its folder alone, and parses nothing else of the path as `layout_of` does.
    """
    return path.split("/")[-2].startswith("year=")


def layout_of(path: str) -> Layout | None:
    """Return the layout to which a path of candles belongs; None for a path that holds no candles in any layout."""
    series, year = named_in(path)
    if series is None:
        return None
    if path == candles_path(series, year):
        return Layout.WHOLE if year is None else Layout.YEARS
    return Layout.FORMER if year is not None and path == former_path(series, year) else None
