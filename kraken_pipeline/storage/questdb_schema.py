"""QuestDB's tables: one an interval, because the partition is what costs there; and a view over all, for people.

Measured with QuestDB 9.3.4: 90,000 hourly candles of one pair into a table partitioned by day ran at 2,000 to 14,000
rows a second, by year at 250,000 to 450,000. So minutes lie by month, hours and more by year.

Every name in a statement comes from here, never from outside.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from kraken_pipeline.market.candle import Source, seconds_of
from kraken_pipeline.market.interval import Interval

VIEW = "assetprice"
TABLES: Mapping[Interval, str] = {
    Interval.M1: "candles_1m",
    Interval.M5: "candles_5m",
    Interval.M15: "candles_15m",
    Interval.M30: "candles_30m",
    Interval.H1: "candles_1h",
    Interval.H4: "candles_4h",
    Interval.H12: "candles_12h",
    Interval.D1: "candles_1d",
    Interval.W1: "candles_1w",
    Interval.D15: "candles_15d",
}
COLUMNS: Mapping[str, str] = {
    "time": "TIMESTAMP",  # the candle's start
    "asset_id": "INT",  # as lake/assets.parquet has it
    "open": "DOUBLE",
    "high": "DOUBLE",
    "low": "DOUBLE",
    "close": "DOUBLE",
    "volume": "DOUBLE",
    "trade_count": "INT",
    "quote_currency": "SYMBOL",
    "source": "SYMBOL",
    "pair": "SYMBOL",
}
KEYS = ("time", "asset_id", "quote_currency")
"""What makes a row one. The source is not among them: the archive's and the API's copy of a candle would both stay."""
VIEW_COLUMNS = (
    "asset_id",
    "interval_minutes",
    "time",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "trade_count",
    "quote_currency",
    "source",
    "pair",
)


def partitioning(interval: Interval) -> str:
    """By what a table is partitioned."""
    return "YEAR" if interval >= Interval.H1 else "MONTH"


def create_table(interval: Interval) -> str:
    """The statement that makes an interval's table."""
    columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    return (
        f"CREATE TABLE IF NOT EXISTS {TABLES[interval]} ({columns}) TIMESTAMP(time) "
        f"PARTITION BY {partitioning(interval)} WAL DEDUP UPSERT KEYS({', '.join(KEYS)})"
    )


def add_column(interval: Interval, name: str) -> str:
    """The statement that brings a table of an earlier version one column further."""
    return f"ALTER TABLE {TABLES[interval]} ADD COLUMN IF NOT EXISTS {name} {COLUMNS[name]}"


def enable_dedup(interval: Interval) -> str:
    """The statement after which a table keeps one row a key."""
    return f"ALTER TABLE {TABLES[interval]} DEDUP ENABLE UPSERT KEYS({', '.join(KEYS)})"


def view_query() -> str:
    """What the view is of: QuestDB pushes a range of time down into each of its parts."""

    def part(interval: Interval) -> str:
        names = (f"{interval.value} interval_minutes" if name == "interval_minutes" else name for name in VIEW_COLUMNS)
        return f"SELECT {', '.join(names)} FROM {TABLES[interval]}"

    return " UNION ALL ".join(part(interval) for interval in Interval)


# A checksum that both sides come to on their own: QuestDB in SQL, over millions of rows in a fraction of a second, and
# Polars over the lake. Only operations of IEEE 754 that round alike everywhere, and a sum of integers, which does not
# depend on the order. The fractions of a value times a large and a small constant change with its last digits, whatever
# its size; the factors tell the columns apart, and that of the time tells two rows apart that changed places.
_LARGE, _SMALL = "1000003.0", "0.000137"
_WEIGHTS: Mapping[str, str] = {"open": "1.0", "high": "3.0", "low": "5.0", "close": "7.0", "volume": "11.0"}
_SCALE, _TRADE, _SOURCE, _PERIOD = 1 << 20, 131, 17, 1_021


def checksum_sql() -> str:
    """The checksum of the rows of a group, a LONG."""

    def fraction(name: str, factor: str) -> str:
        return f"({name} * {factor} - floor({name} * {factor}))"

    values = " + ".join(
        f"(({fraction(name, _LARGE)} + {fraction(name, _SMALL)}) * {weight})" for name, weight in _WEIGHTS.items()
    )
    sources = " ".join(f"WHEN '{source.value}' THEN {number}" for number, source in enumerate(Source, start=1))
    row = (
        f"(cast(floor(({values}) * {_SCALE}.0) AS LONG) + trade_count * {_TRADE}L "
        f"+ (CASE source {sources} ELSE 0 END) * {_SOURCE}L)"
    )
    return f"sum({row} * ((cast(time AS LONG) / 60000000L) %% {_PERIOD}L + 1L))"


def checksum() -> pl.Expr:
    """The same of candles with the columns of `CANDLE_SCHEMA`, an Int64."""

    def fraction(name: str, factor: str) -> pl.Expr:
        product = pl.col(name) * float(factor)
        return product - product.floor()

    parts = [(fraction(name, _LARGE) + fraction(name, _SMALL)) * float(weight) for name, weight in _WEIGHTS.items()]
    values = parts[0]
    for part in parts[1:]:  # one after the other, as SQL adds them
        values = values + part
    row = (
        (values * float(_SCALE)).floor().cast(pl.Int64)
        + pl.col("trade_count").cast(pl.Int64) * _TRADE
        + (pl.col("source").to_physical().cast(pl.Int64) + 1) * _SOURCE
    )
    return (row * (seconds_of(pl.col("time")) // 60 % _PERIOD + 1)).sum()
