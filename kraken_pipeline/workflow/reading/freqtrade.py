"""Candles in the data folder of freqtrade: a Feather file for each pair and timeframe.

::

    BTC_USD-1h.feather      columns date, open, high, low, close, volume

Name the folder `user_data/data/kraken` of freqtrade, or give it to `--datadir`.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.bars import Bars
from kraken_pipeline.market.pair import Pair
from kraken_pipeline.storage.paths import written_whole
from kraken_pipeline.workflow.reading.other_names import timeframe, usual_assets

_REPLACED = "/ .@$+:"
_PRICES = ("open", "high", "low", "close", "volume")


def write(candles: pl.DataFrame, pair: Pair, bars: Bars, folder: Path) -> Path:
    """Write the candles of one pair to its file, and return the path; an earlier file is replaced.

    Args:
        candles: The columns of `read_candles`.
        pair: The pair.
        bars: The grid of the candles.
        folder: The data folder.

    Raises:
        InvalidRequest: freqtrade counts such candles from midnight, in UTC.
    """
    if bars.offset or bars.zone != "UTC":
        raise InvalidRequest("freqtrade counts candles from midnight in UTC: leave --offset and --timezone out")
    name = "_".join(usual_assets(pair)) if pair.quote else pair.name
    name = "".join("_" if letter in _REPLACED else letter for letter in name)
    path = folder / f"{name}-{timeframe(bars)}.feather"
    known = candles.filter(pl.col("close").is_not_null())
    rows = known.select(pl.col("time").cast(pl.Datetime("ms", "UTC")).alias("date"), *_PRICES)
    with written_whole(path) as beside:
        rows.write_ipc(beside, compression="lz4", compat_level=pl.CompatLevel.oldest())
    return path
