"""Writing candles to files for other programs."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.candle import seconds_of

_ENDINGS = (".csv", ".parquet", ".feather")


def export(candles: pl.DataFrame, path: Path) -> None:
    """Write candles to a `.csv` (times in seconds since the epoch), a `.parquet` or a `.feather` file.

    Raises:
        InvalidRequest: The file's name has another ending.
    """
    if path.suffix not in _ENDINGS:
        raise InvalidRequest(f"{path} must end in .csv, .parquet or .feather, which is the format to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        candles.write_parquet(path)
    elif path.suffix == ".feather":
        candles.write_ipc(path, compression="lz4", compat_level=pl.CompatLevel.oldest())
    else:
        candles.with_columns(seconds_of(pl.col("time"))).write_csv(path)
