"""Reading candles for notebooks, and exporting them to files for other programs."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl

from kraken_pipeline.coverage.ranges import Spans, intersect, span
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.candle import CANDLE_SCHEMA, seconds_of, time_from_seconds
from kraken_pipeline.market.flow import FLOW, without_empty_flow
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import as_datetime, parse_moment
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.records import evidence_records
from kraken_pipeline.storage.stores import Stores, opened

COLUMNS = ("time", "open", "high", "low", "close", "volume", "trade_count", "source", *FLOW)


def read_candles(
    pair: str,
    interval: int,
    *,
    start: str | datetime | int | None = None,
    end: str | datetime | int | None = None,
    fill_quiet: bool = False,
    settings: Settings | None = None,
) -> pl.DataFrame:
    """Return the candles of one series.

    Args:
        pair: Any name of the pair: XBTUSD, XBT/USD, BTCUSD.
        interval: The interval in minutes.
        start: The earliest start of a candle: an ISO date or time, a datetime, or seconds since the epoch.
        end: The end, in the same forms; a candle that starts then is left out. All times are UTC.
        fill_quiet: Whether candles without a trade are filled in where coverage proves that there was none: open,
            high, low and close are the previous close, volume and trade count are 0, all other columns are null.
        settings: The settings; those from the environment by default.

    Returns:
        One row for each candle, sorted by time: `time` (datetime[us, UTC], the candle's start), `open`, `high`, `low`,
        `close` (in the quote currency), `volume` (in the base asset), `trade_count`, `source` (CSV, TRADES,
        RESAMPLED or OHLC), `vwap` (the average price, weighted by volume), `quote_volume` (the volume in the quote
        currency) and `buy_volume` (the part of the volume that takers bought). The last three are null where the
        source does not tell them, as most archives of candles do not. Empty if nothing is stored.

    Raises:
        InvalidRequest: The pair's name, the interval or a time is wrong.
    """
    with opened(settings or load_settings()) as stores:
        series = Series(parse_pair(pair).name, Interval.parse(interval))
        return read_series(stores, series, start=_seconds(start), end=_seconds(end), fill_quiet=fill_quiet)


def read_series(
    stores: Stores, series: Series, *, start: int | None, end: int | None, fill_quiet: bool = False
) -> pl.DataFrame:
    """Return the candles of a series that start in `[start, end)` (seconds since the epoch), as `read_candles` does."""
    if start is not None and end is not None and start >= end:
        raise InvalidRequest("end must be later than start; the range is half-open, so end itself is excluded")
    candles = stores.lake.read(series, start, end).select(COLUMNS)
    if not fill_quiet:
        return candles
    with stores.catalog.read() as connection:
        covered = evidence_records.coverage_of(connection, [series.interval], [series.pair]).get(series, [])
    window = span(series.interval.ceil(start or 0), end if end is not None else 1 << 40)
    return _filled(stores, series, candles, intersect(tuple(record.span for record in covered), window))


def _filled(stores: Stores, series: Series, candles: pl.DataFrame, covered: Spans) -> pl.DataFrame:
    """Add a row for every covered slot without a candle, from the first candle ever on."""
    earlier = stores.lake.read(series, None, covered[0].start if covered else 0).tail(1) if covered else candles.clear()
    length = series.interval.seconds
    grid = pl.concat(
        [pl.int_range(span.start, span.end, length, dtype=pl.Int64, eager=True) for span in covered]
        or [pl.Series([], dtype=pl.Int64)]
    )
    slots = pl.DataFrame({"time": grid}).select(time_from_seconds(pl.col("time")))
    known = pl.concat([earlier.select(COLUMNS), candles]).unique("time", keep="last").sort("time")
    close = known.select("time", pl.col("close").alias("previous"))
    filled = (
        slots.join(candles.select("time"), on="time", how="anti")
        .sort("time")
        .join_asof(close, on="time")
        .filter(pl.col("previous").is_not_null())
        .select(
            "time",
            *(pl.col("previous").alias(name) for name in ("open", "high", "low", "close")),
            pl.lit(0.0).alias("volume"),
            pl.lit(0, dtype=pl.Int32).alias("trade_count"),
            pl.lit(None, dtype=CANDLE_SCHEMA["source"]).alias("source"),
        )
    )
    return pl.concat([candles, filled], how="diagonal").sort("time")


def export(candles: pl.DataFrame, path: Path) -> None:
    """Write candles to a `.csv` (time in seconds since the epoch) or a `.parquet` file.

    A `.csv` has the columns `FLOW` only if a candle has a value in one of them.

    Raises:
        InvalidRequest: The file's name has another ending.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise InvalidRequest(f"{path} must end in .csv or .parquet, which is the format to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        candles.write_parquet(path)
    else:
        without_empty_flow(candles).with_columns(seconds_of(pl.col("time"))).write_csv(path)


def _seconds(moment: str | datetime | int | None) -> int | None:
    if isinstance(moment, str):
        return parse_moment(moment)
    if isinstance(moment, datetime):
        return int((moment if moment.tzinfo else moment.replace(tzinfo=as_datetime(0).tzinfo)).timestamp())
    return moment
