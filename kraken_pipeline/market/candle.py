"""The candle: its columns, the rules for a row, and the precedence by which candles of two sources merge."""

from __future__ import annotations

from enum import StrEnum
from math import inf

import polars as pl

from kraken_pipeline.market.decimals import PRICES, most_decimals
from kraken_pipeline.market.flow import FLOW_SCHEMA, filled, has_flow, with_flow, without_flow
from kraken_pipeline.market.interval import Interval

EARLIEST_TIME = 1_293_840_000
"""2011-01-01T00:00:00Z; Kraken has no earlier trades (its first one is of September 2013)."""


class Source(StrEnum):
    """The source of a candle or of a piece of evidence, in order of trust, the best first."""

    CSV = "CSV"
    TRADES = "TRADES"
    RESAMPLED = "RESAMPLED"
    OHLC = "OHLC"


VOLUME_TOLERANCE = 1e-6
"""The relative tolerance of volumes: a sum of floats depends on the order of addition."""

Values = tuple[float, float, float, float, float, int]
"""Open, high, low, close, volume and trade count of a candle."""

Account = tuple[str, int]
"""The origin of a candle: its source, and the day on which its release ends (days since the epoch; 0 for none)."""

SOURCE = pl.Enum([source.value for source in Source])
TIME = pl.Datetime("us", "UTC")

CANDLE_SCHEMA = pl.Schema(
    {
        "time": TIME,  # the candle's start
        "open": pl.Float64(),
        "high": pl.Float64(),
        "low": pl.Float64(),
        "close": pl.Float64(),
        "volume": pl.Float64(),  # in units of the base asset
        "trade_count": pl.Int32(),
        "source": SOURCE,
        # The day on which the archive release of the row ends, in days since the epoch; 0 for everything else.
        # Stored because a merge prefers the later release, whatever the order of ingestion.
        "release": pl.Int32(),
        # Null where the source does not tell it. The columns come last, because files of earlier versions lack them.
        **FLOW_SCHEMA,
    }
)

# The total order of a merge: the greatest row wins. The decimals of a row's prices rank second. The values rank last,
# so that two rows that differ in nothing else have the same winner in every order of ingestion.
_TRUST = pl.col("source").to_physical().cast(pl.Int32)
_PRECEDENCE: tuple[pl.Expr, ...] = (
    pl.col("trade_count"),
    -_TRUST,
    pl.col("release"),
    pl.col("volume"),
    pl.col("high"),
    -pl.col("low"),
    pl.col("close"),
    pl.col("open"),
)

_IS_MADE = pl.col("source") == Source.RESAMPLED.value
IS_ACCOUNT = ~_IS_MADE
"""The expression for candles that a source told, and that were not made of finer ones."""
_IS_NEXT = pl.all_horizontal(pl.col(name) == pl.col(name).shift(1) for name in ("time", "trade_count")) & (
    pl.any_horizontal(pl.col(name) != pl.col(name).shift(1) for name in PRICES) | (_IS_MADE.shift(1) != _IS_MADE)
)
# Sorted rows that decimals decide: same time and trade count, but other prices, or one of the two was resampled.
# Counting the decimals of rows that agree would double the cost of merging two years of minutes.
_IS_TIED = (_IS_NEXT | _IS_NEXT.shift(-1)).fill_null(value=False)
# A resampled candle has no prices of its own, so its decimals count as 0. It is offered only where nothing else is
# known; if it could win by the decimals of others, the order of arrival would decide.
_OWN_DECIMALS = pl.when(~_IS_MADE).then(pl.col("_decimals")).otherwise(0).cast(pl.Int8).alias("_decimals")


def broken_rules(interval: Interval, now: int) -> dict[str, pl.Expr]:
    """Return the possible errors of a row: a readable reason → an expression that is true where it applies.

    The rows have the columns `time` (seconds since the epoch, integer), `open`, `high`, `low`, `close`,
    `volume` and `trades` (floats). Where several apply, the first one is the reason to report. A null stands
    for a field that cannot be read as a number; the parser reports it.

    Args:
        interval: The interval that the times must be aligned to.
        now: The current time, in seconds since the epoch; a candle cannot start after it.
    """
    prices = [pl.col(name) for name in ("open", "high", "low", "close")]
    return {
        "a price is not a finite number": ~pl.all_horizontal(price.is_finite() for price in prices),
        "a price is not positive": pl.any_horizontal(price <= 0 for price in prices),
        "volume is not a finite number": ~pl.col("volume").is_finite(),
        "volume is negative": pl.col("volume") < 0,
        "trade count is not a whole number from 0 to 2147483647": ~(
            (pl.col("trades") >= 0) & (pl.col("trades") <= 2**31 - 1) & (pl.col("trades") == pl.col("trades").floor())
        ),
        "low is above open, high or close": pl.any_horizontal(
            pl.col("low") > pl.col(name) for name in ("open", "high", "close")
        ),
        "high is below open or close": pl.any_horizontal(pl.col("high") < pl.col(name) for name in ("open", "close")),
        f"time is not a multiple of {interval.seconds} s": pl.col("time") % interval.seconds != 0,
        "time is before 2011": pl.col("time") < EARLIEST_TIME,
        "time is in the future": pl.col("time") > now,
    }


def is_sound(rows: pl.DataFrame, interval: Interval, now: int) -> bool:
    """Return whether no rule of `broken_rules` applies to any of the rows, which have no nulls.

    Most files need only this check. It costs 0.05 ms for 2,000 rows; evaluating all rules for each row costs 0.5 ms,
    as much as parsing them. No comparison holds for NaN, and low and high bound the other prices.
    """
    time, low, high, volume, trades = (rows[name].to_numpy() for name in ("time", "low", "high", "volume", "trades"))
    prices = [rows[name].to_numpy() for name in ("open", "close")]
    return bool(
        (low > 0).all()
        and (high < inf).all()
        and all((low <= price).all() and (price <= high).all() for price in prices)
        and (volume >= 0).all()
        and (volume < inf).all()
        and (trades >= 0).all()
        and (trades <= 2**31 - 1).all()
        and (trades.astype("int64") == trades).all()
        and (time % interval.seconds == 0).all()
        and (time >= EARLIEST_TIME).all()
        and (time <= now).all()
    )


def seconds_of(times: pl.Expr) -> pl.Expr:
    """Return a time column as seconds since the epoch (Int64)."""
    return times.dt.epoch("s")


def seconds_in(candles: pl.DataFrame) -> pl.Series:
    """Return the column `time` of some candles as seconds since the epoch (Int64)."""
    # NumPy on the stored microseconds: an operation of Polars costs four times as much on short frames.
    return pl.Series("time", candles["time"].cast(pl.Int64).to_numpy() // 1_000_000)


def time_from_seconds(seconds: pl.Expr) -> pl.Expr:
    """Return seconds since the epoch (Int64) as a time column."""
    return (seconds * 1_000_000).cast(TIME)


def finished(candles: pl.DataFrame, source: Source) -> pl.DataFrame:
    """Return candles that come from no archive with all columns of `CANDLE_SCHEMA`, in their order."""
    return (
        with_flow(candles)
        .with_columns(pl.lit(source.value, dtype=SOURCE).alias("source"), pl.lit(0, dtype=pl.Int32).alias("release"))
        .select(CANDLE_SCHEMA.names())
    )


def are_independent(one: Account, other: Account) -> bool:
    """Return whether two sources are independent, so that agreement between them confirms a candle.

    Two archives are independent if both are releases and end on different days: a loose file may be a copy from any
    release, and a candle does not identify one of two releases that end on the same day. Resampled candles are not a
    source.
    """
    (source, release), (source_of_other, release_of_other) = one, other
    if Source.RESAMPLED in (source, source_of_other):
        return False
    if source != source_of_other:
        return True
    return source == Source.CSV and 0 not in (release, release_of_other) and release != release_of_other


def merge(stored: pl.DataFrame, offered: pl.DataFrame) -> pl.DataFrame:
    """Return the candles of both frames, sorted and unique by time.

    Where both have a candle, the greater trade count wins, then the prices with more decimals (a resampled candle has
    none of its own), then CSV > TRADES > RESAMPLED > OHLC, then the later release, then a fixed order of values. This
    is a total order of rows by their content, so the order in which sources arrive never matters. Counts come first
    because the known defects of archives are missing trades; decimals come next because old eras are rounded in some
    sources and not in others.

    The flow decides nothing. It is that of the kept candle, or of another that agrees with it in trade count, prices
    and volume and tells more of it. Resampled candles neither give theirs to another candle nor get one.

    Args:
        stored: Columns of `CANDLE_SCHEMA`, sorted and unique by time.
        offered: The same columns and order.
    """
    if stored.is_empty():
        return offered
    if offered.is_empty():
        return stored
    if stored["time"][-1] < offered["time"][0]:
        return pl.concat([stored, offered])
    if offered["time"][-1] < stored["time"][0]:
        return pl.concat([offered, stored])
    if not (has_flow(stored) or has_flow(offered)):  # to sort three columns of nulls would cost a third of the rest
        return with_flow(_greatest(without_flow(stored), without_flow(offered)))
    merged = _greatest(stored, offered)
    for told in (stored, offered):
        merged = filled(merged, told, is_account=IS_ACCOUNT)
    return merged


def _greatest(stored: pl.DataFrame, offered: pl.DataFrame) -> pl.DataFrame:
    """Return the greatest candle of each time."""
    keys = {f"_{index}": key for index, key in enumerate(_PRECEDENCE)}
    both = pl.concat([stored, offered]).with_columns(**keys, _decimals=pl.lit(0, pl.Int8))
    both = both.sort("time", "_0", "_decimals", *list(keys)[1:])
    if (is_tied := both.select(_IS_TIED).to_series()).any():
        tied = both.filter(is_tied)
        both = pl.concat(
            [
                both.filter(~is_tied),
                tied.with_columns(most_decimals(tied).alias("_decimals")).with_columns(_OWN_DECIMALS),
            ]
        )
        both = both.sort("time", "_0", "_decimals", *list(keys)[1:])
    return both.unique("time", keep="last", maintain_order=True).drop("_decimals", *keys)


def contradicting(merged: pl.DataFrame, loser: pl.DataFrame) -> pl.DataFrame:
    """Return the candles of `loser` whose prices, volume or trade count differ from those that a merge kept.

    A copy that differs only in provenance or in the noise of its volume does not count as different.
    """
    names = (*PRICES, "trade_count")
    kept = merged.select("time", *(pl.col(name).alias(f"kept_{name}") for name in (*names, "volume")))
    most = pl.max_horizontal("volume", "kept_volume")
    is_other = pl.any_horizontal(
        *(pl.col(name) != pl.col(f"kept_{name}") for name in names),
        (pl.col("volume") - pl.col("kept_volume")).abs() > VOLUME_TOLERANCE * most,
    )
    return loser.join(kept, on="time", maintain_order="left").filter(is_other).select(loser.columns)


def outvoted(merged: pl.DataFrame, loser: pl.DataFrame) -> pl.DataFrame:
    """Return the candles of `loser` whose trade count differs from that of the candle that a merge kept.

    These contradict the stored candles, unlike a copy that differs in provenance or in the noise of its volume.
    """
    kept = merged.select("time", pl.col("trade_count").alias("kept"))
    return (
        loser.join(kept, on="time", maintain_order="left").filter(pl.col("trade_count") != pl.col("kept")).drop("kept")
    )
