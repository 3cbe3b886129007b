"""Candles in the data folder of QuantConnect's LEAN: CSV files in ZIPs, without a header.

::

    crypto/kraken/minute/btcusd/20240101_trade.zip    20240101_btcusd_minute_trade.csv: a file for each day (UTC);
                                                      milliseconds since midnight, open, high, low, close, volume
    crypto/kraken/hour/btcusd_trade.zip               btcusd.csv: YYYYMMDD HH:mm (UTC), open, high, low, close, volume
    crypto/kraken/daily/btcusd_trade.zip              likewise

LEAN has no other widths.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import polars as pl

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.bars import Bars
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import Pair
from kraken_pipeline.storage.paths import written_whole
from kraken_pipeline.workflow.reading.other_names import usual_assets

_RESOLUTIONS = {Interval.M1: "minute", Interval.H1: "hour", Interval.D1: "daily"}
_PRICES = ("open", "high", "low", "close", "volume")


def write(candles: pl.DataFrame, pair: Pair, bars: Bars, folder: Path) -> Path:
    """Write the candles of one pair, and return the folder of its minutes or its file; earlier files are replaced.

    Args:
        candles: The columns of `read_candles`.
        pair: The pair.
        bars: The grid of the candles.
        folder: The data folder of LEAN.

    Raises:
        InvalidRequest: LEAN has no such width.
    """
    resolution = None if bars.stored_as is None else _RESOLUTIONS.get(bars.stored_as)
    if resolution is None:
        raise InvalidRequest("LEAN has candles of 1m, 1h and 1d alone, counted from midnight in UTC")
    symbol = "".join(usual_assets(pair)).lower() if pair.quote else pair.name.lower()
    place = folder / "crypto" / "kraken" / resolution
    known = candles.filter(pl.col("close").is_not_null())
    if resolution != "minute":
        path = place / f"{symbol}_trade.zip"
        _zip(path, f"{symbol}.csv", known.select(pl.col("time").dt.strftime("%Y%m%d %H:%M"), *_PRICES))
        return path
    in_day = pl.col("time").cast(pl.Int64) // 1_000 % 86_400_000
    for (day,), its in known.group_by(pl.col("time").dt.strftime("%Y%m%d"), maintain_order=True):
        name = f"{day}_{symbol}_minute_trade.csv"
        _zip(place / symbol / f"{day}_trade.zip", name, its.select(in_day.alias("time"), *_PRICES))
    return place / symbol


def _zip(path: Path, name: str, rows: pl.DataFrame) -> None:
    entry = ZipInfo(name)  # dated 1980, so that the same candles give the same file
    entry.compress_type = ZIP_DEFLATED
    with written_whole(path) as beside, ZipFile(beside, "w") as archive:
        # LEAN's parser of decimals does not accept exponents.
        text = rows.with_columns(_digits(name) for name in _PRICES).write_csv(include_header=False, quote_style="never")
        archive.writestr(entry, text)


def _digits(column: str) -> pl.Expr:
    """Return a column as text with as many digits as it takes, without an exponent."""
    return pl.col(column).map_elements(lambda value: f"{Decimal(repr(value)):f}".removesuffix(".0"), pl.String())
