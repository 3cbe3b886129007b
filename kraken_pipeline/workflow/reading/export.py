"""Writing candles to files: single ones, and the folders that other programs read their data from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from pathlib import Path

import polars as pl

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.bars import Bars
from kraken_pipeline.market.candle import seconds_of
from kraken_pipeline.market.flow import FLOW, without_empty_flow
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.storage.paths import written_whole
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.reading.candles import long_frame, read_pairs
from kraken_pipeline.workflow.reading.request import ReadRequest


class ExportFormat(StrEnum):
    """A format to write candles in."""

    CSV = "csv"
    PARQUET = "parquet"
    FEATHER = "feather"
    FREQTRADE = "freqtrade"
    NAUTILUS = "nautilus"
    LEAN = "lean"


FILES = (ExportFormat.CSV, ExportFormat.PARQUET, ExportFormat.FEATHER)
"""The formats of single files, which have the columns as they are read."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written of one pair and one width.

    Attributes:
        pair: The name of the pair.
        bars: The grid of the candles.
        candles: The number of candles; nothing is written where it is 0.
        path: The file or the folder that has them.
    """

    pair: str
    bars: Bars
    candles: int
    path: Path


def is_single(to: Path) -> bool:
    """Return whether a path names a file to write, and not a folder."""
    return to.suffix.removeprefix(".") in {str(its) for its in FILES}


def require_place(to: Path, how: ExportFormat | None, formats: Iterable[ExportFormat]) -> None:
    """Check that a path names a file to write or a folder, and fits a format.

    Args:
        to: The path.
        how: The format that is asked for.
        formats: The formats that can be asked for.

    Raises:
        InvalidRequest: A file has the ending of another format, or a folder is named without a format.
    """
    if is_single(to):
        if how is not None and f".{how}" != to.suffix:
            raise InvalidRequest(f"{to} does not fit --format {how}: name a folder, or leave the format out")
    elif how is None:
        raise InvalidRequest(
            f"{to} must end in .csv, .parquet or .feather, or be a folder with a --format: {', '.join(formats)}"
        )


def export_pairs(
    stores: Stores,
    pairs: Sequence[str],
    requests: Iterable[ReadRequest],
    to: Path,
    how: ExportFormat | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[Exported]:
    """Write the candles of some pairs, and yield what was written of each.

    Args:
        stores: The stores to read.
        pairs: The names of the pairs.
        requests: What is wanted of each, one request for each width.
        to: The file to write, by its ending; all pairs are then written to it. For other names, the folder.
        how: The format; that of the ending where it is None.
        columns: The columns to write of a single file or of each; all by default.

    Raises:
        InvalidRequest: The path does not fit the format, a single file was to have several widths, or the program
            does not know such candles.
        Incomplete: A request requires that nothing is missing.
    """
    wanted = list(requests)
    require_place(to, how, ExportFormat)
    if is_single(to):
        yield from _one_file(stores, pairs, wanted, to, columns)
        return
    for request in wanted:
        for pair in pairs:
            candles = read_pairs(stores, [pair], request)[pair]
            path = to
            if candles.height and how in FILES:
                path = to / f"{pair}_{request.bars.minutes}.{how}"
                write(candles if columns is None else candles.select(columns), path)
            elif candles.height:
                # Each program's module has its name, and is imported for it alone.
                program = import_module(f"{__package__}.{how}")
                path = program.write(candles, parse_pair(pair), request.bars, to)
            yield Exported(pair, request.bars, candles.height, path)


def _one_file(
    stores: Stores,
    pairs: Sequence[str],
    requests: Sequence[ReadRequest],
    to: Path,
    columns: Sequence[str] | None,
) -> Iterator[Exported]:
    if len(requests) > 1:
        raise InvalidRequest("one file has candles of one interval: name a folder and a --format for several")
    (request,) = requests
    frames = read_pairs(stores, pairs, request)
    candles = frames[pairs[0]] if len(pairs) == 1 else long_frame(frames)
    if candles.height:
        write(candles if columns is None else candles.select(columns), to)
    for pair in pairs:
        yield Exported(pair, request.bars, frames[pair].height, to)


def write(candles: pl.DataFrame, path: Path) -> None:
    """Write candles to a `.csv` (times in seconds since the epoch), a `.parquet` or a `.feather` file.

    A `.csv` of all columns has those of `FLOW` only if a candle has a value in one of them.

    Raises:
        InvalidRequest: The file's name has another ending.
    """
    if not is_single(path):
        raise InvalidRequest(f"{path} must end in .csv, .parquet or .feather, which is the format to write")
    told = without_empty_flow(candles) if set(FLOW) <= set(candles.columns) else candles
    with written_whole(path) as beside:
        if path.suffix == ".parquet":
            candles.write_parquet(beside)
        elif path.suffix == ".feather":
            candles.write_ipc(beside, compression="lz4", compat_level=pl.CompatLevel.oldest())
        elif "time" in candles.columns:
            told.with_columns(seconds_of(pl.col("time"))).write_csv(beside)
        else:
            told.write_csv(beside)
