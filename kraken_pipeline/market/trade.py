"""The trade: its columns, and the words that Kraken's letters for side and order type stand for."""

from __future__ import annotations

import polars as pl

from kraken_pipeline.market.candle import TIME

SIDES = {"b": "buy", "s": "sell"}
"""Kraken's letter → the side of the taker, whose order met one in the book."""
ORDER_TYPES = {"m": "market", "l": "limit"}
"""Kraken's letter → the type of the taker's order."""
SIDE = pl.Enum(list(SIDES.values()))
ORDER_TYPE = pl.Enum(list(ORDER_TYPES.values()))

TOLD_SCHEMA = pl.Schema(
    {
        "time": TIME,  # of trading, cut to microseconds
        "price": pl.Float64(),  # in the quote currency
        "volume": pl.Float64(),  # in units of the base asset
        # Null where the source does not tell them, as archives before 2026Q1 do not.
        "side": SIDE,
        "order_type": ORDER_TYPE,
        "trade_id": pl.Int64(),
    }
)
"""The columns of a trade as a source tells it."""

TRADE_SCHEMA = pl.Schema({**TOLD_SCHEMA, "source": pl.String()})
"""The columns of a kept trade: as told, and by which source (`storage.trades.kept.TradeSource`)."""

NO_TRADES = pl.DataFrame(schema=TRADE_SCHEMA)


def word(column: str, words: dict[str, str], kind: pl.Enum) -> pl.Expr:
    """Return the words that a column of Kraken's letters stands for; null for any other text."""
    letter = pl.col(column).str.strip_chars()
    return letter.replace_strict(words, default=None, return_dtype=kind).alias(column)


def told(trades: pl.DataFrame) -> pl.DataFrame:
    """Return trades with all columns of `TOLD_SCHEMA`, null where they have none, given letters for side and type."""
    given = {"side": (SIDES, SIDE), "order_type": (ORDER_TYPES, ORDER_TYPE)}
    columns = [
        pl.lit(None, kind).alias(name)
        if name not in trades.columns
        else word(name, *given[name])
        if name in given
        else pl.col(name)
        for name, kind in TOLD_SCHEMA.items()
    ]
    return trades.select(columns)
