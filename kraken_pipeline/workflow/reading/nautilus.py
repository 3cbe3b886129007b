"""Candles as bars in a catalog of NautilusTrader (`ParquetDataCatalog`).

::

    data/currency_pair/BTCUSD.KRAKEN/….parquet                       the instrument BTC/USD.KRAKEN
    data/bar/BTCUSD.KRAKEN-1-HOUR-LAST-EXTERNAL/….parquet            its bars

Prices and volumes are whole numbers of 10^-16 in 128 bits, as in the builds of NautilusTrader with high precision. A
bar has the time of its end, as NautilusTrader's convention is, so that a backtest does not see it before.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.bars import Bars
from kraken_pipeline.market.candle import seconds_in
from kraken_pipeline.market.decimals import PRICES, most_decimals
from kraken_pipeline.market.pair import Pair
from kraken_pipeline.storage.paths import written_whole
from kraken_pipeline.workflow.reading.other_names import timeframe, usual_assets

_UNITS = {"m": "MINUTE", "h": "HOUR", "d": "DAY", "w": "WEEK"}
_LOT_DECIMALS = 8
_DECIMALS = 16
_NANOSECONDS = 1_000_000_000
_VALUE = pa.binary(16)
_PART = pa.decimal128(19 + _DECIMALS, _DECIMALS)
_NAME = pa.dictionary(pa.int16(), pa.string())


def write(candles: pl.DataFrame, pair: Pair, bars: Bars, folder: Path) -> Path:
    """Write the bars of one pair and its instrument to a catalog, and return the folder of the catalog.

    Earlier bars of the same pair and width are replaced.

    Args:
        candles: The columns of `read_candles`.
        pair: The pair.
        bars: The grid of the candles.
        folder: The folder of the catalog.

    Raises:
        InvalidRequest: NautilusTrader has no such bars.
    """
    if bars.zone != "UTC" or bars.offset or not pair.quote:
        raise InvalidRequest(
            "NautilusTrader counts bars from midnight in UTC, of pairs with a known quote: leave --offset and "
            f"--timezone out, and {pair} if its quote is not known"
        )
    known = candles.filter(pl.col("close").is_not_null())
    decimals = int(most_decimals(known).to_numpy().max(initial=0))
    base, quote = usual_assets(pair)
    width = timeframe(bars)
    bar_type = f"{base}/{quote}.KRAKEN-{width[:-1]}-{_UNITS[width[-1]]}-LAST-EXTERNAL"
    ends = (seconds_in(known).to_numpy() + bars.seconds).astype(np.uint64) * np.uint64(_NANOSECONDS)
    columns = {name: _fixed(known[name], decimals) for name in PRICES}
    columns |= {"volume": _fixed(known["volume"], _LOT_DECIMALS), "ts_event": pa.array(ends), "ts_init": pa.array(ends)}
    metadata = {
        "bar_type": bar_type,
        "instrument_id": f"{base}/{quote}.KRAKEN",
        "price_precision": str(decimals),
        "size_precision": str(_LOT_DECIMALS),
    }
    schema = pa.schema([pa.field(name, its.type, nullable=False) for name, its in columns.items()], metadata)
    _replace(
        folder / "data" / "bar" / bar_type.replace("/", ""),
        pa.table(columns, schema),
        int(ends[0]) if len(ends) else 0,
        int(ends[-1]) if len(ends) else 0,
    )
    _replace(folder / "data" / "currency_pair" / f"{base}{quote}.KRAKEN", _instrument(pair, decimals), 0, 0)
    return folder


def _fixed(values: pl.Series, decimals: int) -> pa.Array:
    """Return numbers as 128-bit whole numbers of 10^-16, rounded to some decimals."""
    # Whole part and fraction by themselves: a volume of 10^12 coins has more units of 10^-8 than 64 bits can count.
    whole = np.floor(values.to_numpy())
    fraction = np.round((values.to_numpy() - whole) * 10.0**decimals).astype(np.int64)
    units = pa.array(fraction).cast(pa.decimal128(19, 0))
    # A decimal of Arrow is such a number; one with `decimals` decimals has the same bytes as that number of units.
    scaled = pa.Array.from_buffers(pa.decimal128(19, decimals), len(units), units.buffers()).cast(_PART)
    both = pc.add(pa.array(whole.astype(np.int64)).cast(_PART), scaled)
    return pa.Array.from_buffers(_VALUE, len(both), both.buffers())


def _instrument(pair: Pair, decimals: int) -> pa.Table:
    base, quote = usual_assets(pair)
    steps = {
        "price_increment": f"{10.0**-decimals:.{decimals}f}",
        "size_increment": f"{10.0**-_LOT_DECIMALS:.{_LOT_DECIMALS}f}",
        "multiplier": "1",
    }
    limits = ("lot_size", "max_quantity", "min_quantity", "max_notional", "min_notional", "max_price", "min_price")
    rates = ("margin_init", "margin_maint", "maker_fee", "taker_fee")
    columns: dict[str, pa.Array] = {
        "id": pa.array([f"{base}/{quote}.KRAKEN"], pa.dictionary(pa.int64(), pa.string())),
        "raw_symbol": pa.array([pair.name], pa.string()),
        "base_currency": pa.array([base], _NAME),
        "quote_currency": pa.array([quote], _NAME),
        "price_precision": pa.array([decimals], pa.uint8()),
        "size_precision": pa.array([_LOT_DECIMALS], pa.uint8()),
        **{name: pa.array([value], _NAME) for name, value in steps.items()},
        **{name: pa.array([None], _NAME) for name in limits},
        **{name: pa.array(["0"], pa.string()) for name in rates},
        "info": pa.array([b"null"], pa.binary()),
        "ts_event": pa.array([0], pa.uint64()),
        "ts_init": pa.array([0], pa.uint64()),
    }
    return pa.table(columns).replace_schema_metadata({"class": "CurrencyPair"})


def _replace(folder: Path, rows: pa.Table, first: int, last: int) -> None:
    """Write the only file of a folder, which is named by its first and last time, in nanoseconds since the epoch."""
    if folder.exists():
        shutil.rmtree(folder)
    with written_whole(folder / f"{_stamp(first)}_{_stamp(last)}.parquet") as beside:
        pq.write_table(rows, beside)


def _stamp(nanoseconds: int) -> str:
    moment = datetime.fromtimestamp(nanoseconds // _NANOSECONDS, UTC)
    return f"{moment:%Y-%m-%dT%H-%M-%S}-000000000Z"
