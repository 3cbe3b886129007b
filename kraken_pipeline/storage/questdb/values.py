"""The values of QuestDB queries: checks of parameters, and frames of results."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.candle import SOURCE, TIME
from kraken_pipeline.market.flow import FLOW_SCHEMA
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import as_datetime
from kraken_pipeline.market.series import Series

READ_SCHEMA = pl.Schema(
    {
        "time": TIME,
        "open": pl.Float64(),
        "high": pl.Float64(),
        "low": pl.Float64(),
        "close": pl.Float64(),
        "volume": pl.Float64(),
        "trade_count": pl.Int32(),
        "source": SOURCE,
        **FLOW_SCHEMA,
    }
)


ROW_SCHEMA = pl.Schema(
    {
        "time": TIME,
        "asset_id": pl.Int32(),
        "open": pl.Float64(),
        "high": pl.Float64(),
        "low": pl.Float64(),
        "close": pl.Float64(),
        "volume": pl.Float64(),
        "trade_count": pl.Int32(),
        "quote_currency": pl.Categorical(),
        "source": SOURCE,
        "pair": pl.Categorical(),
        **FLOW_SCHEMA,
    }
)
"""The schema of the rows sent to QuestDB; the order of the columns does not matter."""
_PARAMETERS = 1_000
_LAST = 1 << 33
"""The latest moment in a query, in seconds since the epoch: in the year 2242."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A position in the log of a table up to which QuestDB has accepted rows, but not necessarily applied them.

    Attributes:
        interval: The interval of the table.
        transaction: The last accepted transaction in the table's log.
    """

    interval: Interval
    transaction: int


@dataclass(frozen=True, slots=True)
class RangeDigest:
    """The candles of a series, summed up in four numbers.

    Attributes:
        candles: The number of candles.
        first_time: The start of the first candle, in seconds since the epoch.
        last_time: The start of the last candle, in seconds since the epoch.
        checksum: The checksum of all values, as `questdb.tables.checksum` computes it.
    """

    candles: int
    first_time: int
    last_time: int
    checksum: int

    def __str__(self) -> str:
        first, last = as_datetime(self.first_time), as_datetime(self.last_time)
        return f"{self.candles:,} candles from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} ({self.checksum:x})"


@dataclass(frozen=True, slots=True)
class Lag:
    """The lag of a table: logged transactions that cannot be queried yet.

    Attributes:
        table: The name of the table.
        transactions: The number of transactions not applied yet.
        error: The reason why QuestDB has suspended applying them; None if it has not.
    """

    table: str
    transactions: int
    error: str | None


def escaped(value: str) -> str:
    """Return a value escaped for a configuration string of the ILP client."""
    return value.replace(";", ";;")


def checked_series(value: Series) -> Series:
    """Return a series unchanged, after checking its type.

    Raises:
        InvalidRequest: The value is not a series.
    """
    if not isinstance(value, Series) or not isinstance(value.pair, str):
        raise InvalidRequest(f"a Series is needed, such as Series('XBTUSD', Interval.H1), not {value!r}")
    checked_interval(value.interval)
    return value


def checked_interval(value: Interval) -> Interval:
    """Return an interval unchanged, after checking its type.

    Raises:
        InvalidRequest: The value is not an interval.
    """
    if not isinstance(value, Interval):
        raise InvalidRequest(f"an Interval is needed, such as Interval.H1, not {value!r}")
    return value


def parts_of(pairs: Collection[str] | None) -> list[tuple[str, ...] | None]:
    """Split the names of pairs into batches, one for each query; return a single None for all pairs."""
    if pairs is None:
        return [None]
    if isinstance(pairs, str) or not all(isinstance(value, str) for value in pairs):
        raise InvalidRequest(f"names of pairs are needed, such as ['XBTUSD'], not {pairs!r}")
    names = tuple(sorted(set(pairs)))
    return [names[at : at + _PARAMETERS] for at in range(0, len(names), _PARAMETERS)]


def iso_moment(moment: int) -> str:
    """Return a moment in seconds since the epoch as QuestDB reads it: ISO 8601 with microseconds, UTC."""
    return as_datetime(moment).strftime("%Y-%m-%dT%H:%M:%S.000000Z")


def seconds_of_value(value: Any) -> int:
    """Return a QuestDB timestamp, which is UTC without a time zone, in seconds since the epoch."""
    return int(value.replace(tzinfo=as_datetime(0).tzinfo).timestamp())


def frame_of(rows: Sequence[tuple[Any, ...]], wanted: pl.Schema) -> pl.DataFrame:
    """Return a query's rows as a frame; QuestDB's times come without a zone, and are UTC."""
    plain = {name: pl.Datetime("us") if kind == TIME else kind for name, kind in wanted.items()}
    return pl.DataFrame(rows, schema=plain, orient="row").with_columns(pl.col("time").dt.replace_time_zone("UTC"))


def bounds(start: int | None, end: int | None) -> tuple[str, str]:
    """Return a range of time as QuestDB reads it: text in ISO 8601."""
    for value in (start, end):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or abs(value) > _LAST):
            raise InvalidRequest(f"a time is needed in whole seconds since the epoch, not {value!r}")
    return iso_moment(0 if start is None else start), iso_moment(_LAST if end is None else end)
