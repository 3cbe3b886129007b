"""Resampling of trades to one-minute candles, and of finer candles to coarser ones.

Open, high, low, close and trade count are exact. Volume is a sum of floats; it is rounded to Kraken's eight decimals of
a lot, which removes the noise of the order of addition. So is the volume that takers bought. The volume in the quote
currency has no fixed number of decimals, and is rounded to twelve significant digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import polars as pl

from kraken_pipeline.market.candle import TIME, seconds_in
from kraken_pipeline.market.flow import FLOW_SCHEMA, SUMS, average, nothing, summed
from kraken_pipeline.market.interval import Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOT_DECIMALS = 8

NO_CANDLES = pl.DataFrame(
    schema={
        "time": TIME,
        **dict.fromkeys(("open", "high", "low", "close", "volume"), pl.Float64()),
        "trade_count": pl.Int32(),
        **FLOW_SCHEMA,
    }
)

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
    """Return coarser candles computed from finer ones.

    Args:
        candles: Columns `time`, `open`, `high`, `low`, `close`, `volume`, `trade_count` and possibly `FLOW` (others are
            ignored), sorted by time, of one interval that divides the wanted one. Rows without a trade are skipped.
        interval: The wanted interval.

    Returns:
        The same seven columns and `FLOW`, of which a sum is null if any part of it is null. There is a coarser candle
        wherever there is one finer candle, even if the rest of it is unknown: coverage decides whether it is whole.
    """
    return _folded(candles, _grid(pl.col("time"), interval))


def resample_between(candles: pl.DataFrame, edges: NDArray[np.int64]) -> pl.DataFrame:
    """Return the candles of bars of any width, computed from finer ones.

    Args:
        candles: As for `resample`, none of them before the first edge or at or after the last one.
        edges: The start of each bar and the end of the last one, in seconds since the epoch, sorted. No candle may lie
            in two bars.

    Returns:
        The columns of `resample`: one row for each bar with a candle.
    """
    starts = edges[edges.searchsorted(seconds_in(candles).to_numpy(), side="right") - 1]
    return _folded(candles, pl.lit(pl.Series(starts * 1_000_000).cast(TIME)))


def _folded(candles: pl.DataFrame, starts: pl.Expr) -> pl.DataFrame:
    """Return coarser candles, given the start of the one that each finer one belongs to."""
    found = candles.with_columns(starts.alias("_start"))
    if found.height and found["trade_count"].min() == 0:
        found = found.filter(pl.col("trade_count") > 0)
    # Most series have no flow, and to add up nulls would cost a fifth of the rest.
    told = [name for name in SUMS if name in found.columns and found[name].null_count() < found.height]
    coarser = found.group_by(pl.col("_start").alias("time"), maintain_order=True).agg(
        *_FOLD, *(summed(name) for name in told)
    )
    return _rounded(coarser.hstack([nothing(name, coarser.height) for name in SUMS if name not in told]))


def _fold_chunk(trades: pl.DataFrame) -> pl.DataFrame:
    bought = summed("buy_volume") if "buy_volume" in trades.columns else pl.lit(None, pl.Float64()).alias("buy_volume")
    return trades.group_by(_grid(pl.col("time"), Interval.M1).alias("time"), maintain_order=True).agg(
        pl.col("price").first().alias("open"),
        pl.col("price").max().alias("high"),
        pl.col("price").min().alias("low"),
        pl.col("price").last().alias("close"),
        pl.col("volume").sum(),
        pl.len().cast(pl.Int32).alias("trade_count"),
        (pl.col("price") * pl.col("volume")).sum().alias("quote_volume"),
        bought,
    )


class TradeFold:
    """A fold of a stream of trades to one-minute candles; it holds one open minute."""

    def __init__(self) -> None:
        self._open: pl.DataFrame | None = None

    def add(self, trades: pl.DataFrame) -> pl.DataFrame:
        """Add trades and return the minutes that they close.

        Args:
            trades: Columns `time` (datetime[us, UTC]), `price`, `volume` and, where sides are known, `buy_volume`, the
                part of the volume that the taker bought (all, nothing, or null for an unknown side), in the order of
                trading, not earlier than those added before. Equal rows are separate trades.

        Returns:
            Candles with the columns of `resample`, sorted by time, all later than those returned before.
        """
        if trades.is_empty():
            return NO_CANDLES
        minutes = _fold_chunk(trades)
        if self._open is not None:
            minutes = _join(self._open, minutes)
        self._open = minutes.tail(1)
        return _rounded(minutes.head(minutes.height - 1))

    def finish(self) -> pl.DataFrame:
        """Return the open minute, which holds the last trade; no candle if there were no trades."""
        return NO_CANDLES if self._open is None else _rounded(self._open)


def fold_trades(chunks: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Fold a stream of trades to one-minute candles, with one open minute and one chunk in memory.

    Args:
        chunks: Frames in the form that `TradeFold.add` expects.

    Yields:
        Frames of closed minutes with the columns of `resample`, sorted by time, no minute twice. The last frame
        holds the minute of the last trade. The caller decides whether the first and the last minute are whole.
    """
    fold = TradeFold()
    for trades in chunks:
        if (minutes := fold.add(trades)).height:
            yield minutes
    if (minutes := fold.finish()).height:
        yield minutes


def _join(carried: pl.DataFrame, minutes: pl.DataFrame) -> pl.DataFrame:
    """Join the open minute to later ones. Only the first of them can be the same; grouping all costs a sixth more."""
    sums = (summed(name) for name in SUMS)
    edge = pl.concat([carried, minutes.head(1)]).group_by("time", maintain_order=True).agg(*_FOLD, *sums)
    return pl.concat([edge, minutes.slice(1)], rechunk=True)


def _rounded(candles: pl.DataFrame) -> pl.DataFrame:
    """Return folded candles without the noise of addition, with the average price that follows from their sums."""
    candles = candles.with_columns(
        pl.col("volume", "buy_volume").round(LOT_DECIMALS), pl.col("trade_count").cast(pl.Int32)
    )
    if candles["quote_volume"].null_count() == candles.height:
        candles = candles.hstack([nothing("vwap", candles.height)])
    else:
        candles = candles.with_columns(average())
    return candles.select(NO_CANDLES.columns)
