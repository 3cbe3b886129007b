"""QuestDB's tables, one for each interval, and a view over all of them for people.

Each interval has a table of its own because the number of partitions decides the speed of writes. Measured with QuestDB
9.3.4: 90,000 hourly candles of one pair were written at 2,000 to 14,000 rows a second to a table partitioned by day,
and at 250,000 to 450,000 to one partitioned by year. So intervals of minutes are partitioned by month, and intervals of
an hour or more by year.

Every name in a statement comes from this module, never from input.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import add

import polars as pl

from kraken_pipeline.market.candle import Source, seconds_of
from kraken_pipeline.market.flow import FLOW
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
    **dict.fromkeys(FLOW, "DOUBLE"),
}
KEYS = ("time", "asset_id", "quote_currency")
"""The columns that identify a row. The source is not one of them: a candle would stay twice, from archive and API."""
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
    *FLOW,
)


def partitioning(interval: Interval) -> str:
    """Return the unit by which an interval's table is partitioned."""
    return "YEAR" if interval >= Interval.H1 else "MONTH"


def create_table(interval: Interval) -> str:
    """Return the statement that creates an interval's table."""
    columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    return (
        f"CREATE TABLE IF NOT EXISTS {TABLES[interval]} ({columns}) TIMESTAMP(time) "
        f"PARTITION BY {partitioning(interval)} WAL DEDUP UPSERT KEYS({', '.join(KEYS)})"
    )


def add_column(interval: Interval, name: str) -> str:
    """Return the statement that adds a column to a table of an earlier version."""
    return f"ALTER TABLE {TABLES[interval]} ADD COLUMN IF NOT EXISTS {name} {COLUMNS[name]}"


def enable_dedup(interval: Interval) -> str:
    """Return the statement that makes a table keep one row for each key."""
    return f"ALTER TABLE {TABLES[interval]} DEDUP ENABLE UPSERT KEYS({', '.join(KEYS)})"


def view_query() -> str:
    """Return the query of the view: a union of all tables; QuestDB pushes a range of time down into each table."""

    def part(interval: Interval) -> str:
        names = (f"{interval.value} interval_minutes" if name == "interval_minutes" else name for name in VIEW_COLUMNS)
        return f"SELECT {', '.join(names)} FROM {TABLES[interval]}"

    return " UNION ALL ".join(part(interval) for interval in Interval)


# A checksum that QuestDB computes in SQL, at more than a million rows a second, and Polars computes over the lake. A
# value is split into three integers: the part before the point, the first 53 bits after it, and the next 53. These
# steps are exact, so the result does not depend on rounding, and no bit is lost of any value between 1e-16 and 9e18.
# The rest is integer arithmetic, which wraps alike on both sides. The weights distinguish the columns, and the factor
# of the time distinguishes rows that swapped places. A column of `FLOW` adds nothing where it is null, and one weight
# more where it is not, so that a null differs from a zero.
_BITS = float(1 << 53)
_VALUES = ("open", "high", "low", "close", "volume")
_PARTS = 3
_MODULUS = 1 << 62
_ODD = [pow(0x1E3779B97F4A7C15, power, _MODULUS) for power in range(1, _PARTS * len((*_VALUES, *FLOW)) + 3)]  # all odd
_WEIGHTS = tuple(_ODD[: _PARTS * len(_VALUES) + 2])
_TRADES, _SOURCE = _WEIGHTS[-2:]
_FLOW_WEIGHTS = {
    name: _ODD[len(_WEIGHTS) + _PARTS * place : len(_WEIGHTS) + _PARTS * (place + 1)] for place, name in enumerate(FLOW)
}
_PERIOD = 1_021
"""The period of the time factor, in minutes. It is prime, so that candles with the same factor are that many candles
apart; and below 2**10, so that the difference of two factors never shifts the highest bit of a part out of a LONG, not
even that of four equal prices."""


def checksum_sql() -> str:
    """Return the SQL expression of the checksum of a group's rows, a LONG."""

    def parts(name: str) -> list[str]:
        large = f"{name} * {_BITS}"
        values = [name, f"({name} - floor({name})) * {_BITS}", f"({large} - floor({large})) * {_BITS}"]
        return [f"cast(floor({value}) AS LONG)" for value in values]

    def weighted(names: Sequence[str], weights: Sequence[int]) -> list[str]:
        values = (part for name in names for part in parts(name))
        return [f"{value} * {weight}L" for value, weight in zip(values, weights, strict=False)]

    def flow(name: str, weights: Sequence[int]) -> str:
        return f"coalesce({' + '.join(weighted([name], weights))} + {weights[0]}L, 0L)"

    sources = " ".join(f"WHEN '{source.value}' THEN {number}" for number, source in enumerate(Source, start=1))
    terms = weighted(_VALUES, _WEIGHTS)
    terms += [f"trade_count * {_TRADES}L", f"(CASE source {sources} ELSE 0 END) * {_SOURCE}L"]
    terms += [flow(name, weights) for name, weights in _FLOW_WEIGHTS.items()]
    return f"sum(({' + '.join(terms)}) * ((cast(time AS LONG) / 60000000L) %% {_PERIOD}L + 1L))"


def wrapped(total: int) -> int:
    """Return a sum of checksums, wrapped like a LONG: the checksum of all their candles."""
    return (total + (1 << 63)) % (1 << 64) - (1 << 63)


def checksum() -> pl.Expr:
    """Return the expression of the same checksum for candles in the `CANDLE_SCHEMA` columns, an Int64."""

    def weighted(names: Sequence[str], weights: Sequence[int]) -> pl.Expr:
        # Both sides turn a value too large for a LONG into a null.
        whole = [part.floor().cast(pl.Int64, strict=False) for name in names for part in parts(name)]
        return _sum(part * weight for part, weight in zip(whole, weights, strict=False))

    def parts(name: str) -> list[pl.Expr]:
        value, large = pl.col(name), pl.col(name) * _BITS
        return [value, (value - value.floor()) * _BITS, (large - large.floor()) * _BITS]

    row = _sum(
        [
            weighted(_VALUES, _WEIGHTS),
            pl.col("trade_count").cast(pl.Int64) * _TRADES,
            (pl.col("source").to_physical().cast(pl.Int64) + 1) * _SOURCE,
            *((weighted([name], weights) + weights[0]).fill_null(0) for name, weights in _FLOW_WEIGHTS.items()),
        ]
    )
    return (row * (seconds_of(pl.col("time")) // 60 % _PERIOD + 1)).sum()


def _sum(terms: Iterable[pl.Expr]) -> pl.Expr:
    return reduce(add, terms)
