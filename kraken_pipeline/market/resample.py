"""Trades to one-minute candles, and finer candles to coarser ones.

Open, high, low, close and trade count follow exactly. Volume is a sum of floats; it is rounded to Kraken's eight
decimals of a lot, which takes the noise of the order of addition out of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import polars as pl

from kraken_pipeline.market.candle import TIME
from kraken_pipeline.market.interval import Interval

LOT_DECIMALS = 8

_FOLD = (
    pl.col("open").first(),
    pl.col("high").max(),
    pl.col("low").min(),
    pl.col("close").last(),
    pl.col("volume").sum(),
    pl.col("trade_count").sum(),
)


def _grid(times: pl.Expr, interval: Interval) -> pl.Expr:
    step = interval.seconds * 1_000_000
    since_epoch = times.cast(pl.Int64)
    return (since_epoch - since_epoch % step).cast(TIME)


def resample(candles: pl.DataFrame, interval: Interval) -> pl.DataFrame:
    """Coarser candles from finer ones.

    Args:
        candles: Columns `time`, `open`, `high`, `low`, `close`, `volume`, `trade_count` (others are ignored),
            sorted by time, of one interval that divides the wanted one.
        interval: The wanted interval.

    Returns:
        The same seven columns. A coarser candle stands wherever one finer candle does, whether or not the rest of
        it is known: whether it is whole is a question for coverage.
    """
    return (
        candles.group_by(_grid(pl.col("time"), interval).alias("time"), maintain_order=True)
        .agg(*_FOLD)
        .with_columns(pl.col("volume").round(LOT_DECIMALS), pl.col("trade_count").cast(pl.Int32))
    )


def _fold_chunk(trades: pl.DataFrame) -> pl.DataFrame:
    return trades.group_by(_grid(pl.col("time"), Interval.M1).alias("time"), maintain_order=True).agg(
        pl.col("price").first().alias("open"),
        pl.col("price").max().alias("high"),
        pl.col("price").min().alias("low"),
        pl.col("price").last().alias("close"),
        pl.col("volume").sum(),
        pl.len().cast(pl.Int32).alias("trade_count"),
    )


def fold_trades(chunks: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """One-minute candles from a stream of trades, holding one open minute and one chunk at a time.

    Args:
        chunks: Frames with the columns `time` (datetime[us, UTC]), `price` and `volume`, in the order of trading
            within each frame and from one to the next. Equal rows are separate trades.

    Yields:
        Frames of closed minutes with the columns of `resample`, sorted by time, no minute twice. The last frame
        holds the minute of the last trade; whether the first and the last minute are whole is for the caller to say.
    """
    carried: pl.DataFrame | None = None
    for trades in chunks:
        if trades.is_empty():
            continue
        minutes = _fold_chunk(trades)
        if carried is not None:
            minutes = _join(carried, minutes)
        carried = minutes.tail(1)
        if minutes.height > 1:
            yield _rounded(minutes.head(minutes.height - 1))
    if carried is not None:
        yield _rounded(carried)


def _join(carried: pl.DataFrame, minutes: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([carried, minutes]).group_by("time", maintain_order=True).agg(*_FOLD)


def _rounded(minutes: pl.DataFrame) -> pl.DataFrame:
    return minutes.with_columns(pl.col("volume").round(LOT_DECIMALS))
