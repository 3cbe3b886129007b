"""Lazy reading of stored candles: Polars reads only the files, columns and rows that a query needs."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from kraken_pipeline.coverage.ranges import EVER
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.candle import CANDLE_SCHEMA, time_from_seconds
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.paths import is_former
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow.reading.candles import named
from kraken_pipeline.workflow.reading.request import COLUMNS, PAIR, Moment, chosen_columns, seconds_of_moment

_FOLDERS = {"interval": pl.Int64(), PAIR: pl.String()}
_FORMER_FOLDERS = {**_FOLDERS, "year": pl.Int64()}


def scan_candles(
    pair: str | Sequence[str],
    interval: int | str,
    start: Moment | None = None,
    end: Moment | None = None,
    *,
    columns: Sequence[str] | None = None,
    settings: Settings | None = None,
) -> pl.LazyFrame:
    """Return the stored candles of some pairs as a lazy frame, which reads nothing until it is collected.

    Only the files of these pairs are read that may hold candles of this time, and of these only the columns and the
    row groups that the query needs. The files are those of this moment: collect the frame before the next run of the
    pipeline, or scan again.

    Args:
        pair: The name of a pair, or a list of names.
        interval: One of the ten intervals that are stored: minutes, or `1h`, `1d`. `read_candles` makes others.
        start: The earliest start of a candle: an ISO date or time, a datetime, or seconds since the epoch.
        end: The end, in the same forms; a candle that starts then is left out. All times are UTC.
        columns: The columns, in this order; all by default.
        settings: The settings; those from the environment by default.

    Returns:
        The columns of `read_candles` after a first column `pair`. Rows have no fixed order: sort them if it matters.

    Raises:
        InvalidRequest: A name, the interval, a time or a column is wrong, or a pair is unknown. Or weekly or 15-day
            candles of none of the pairs are stored.
        DamagedFile: A file is not the one that was written.
    """
    wanted = chosen_columns(columns, [PAIR, *COLUMNS])
    stored = Interval.parse(interval)
    first, last = seconds_of_moment(start), seconds_of_moment(end)
    if first is not None and last is not None and first >= last:
        raise InvalidRequest("end must be later than start; the range is half-open, so end itself is excluded")
    with opened(settings or load_settings()) as stores:
        names = named(pair, stores)
        series = [Series(name, stored) for name in names]
        known = stores.lake.manifest.reread_all(series)
        if not stored.in_archives and not any(its.layout or its.is_unadopted for its in known.values()):
            raise InvalidRequest(
                f"no candles of {stored.value} minutes are stored: read_candles makes them of finer ones; to have them "
                f"stored from then on, name them: kraken-pipeline ingest --intervals {stored.value}"
            )
        found = [path for one_series in series for path in stores.lake.locations(one_series, first, last)]
    parts = [
        # Files of earlier versions have no flow.
        pl.scan_parquet(
            paths, schema=CANDLE_SCHEMA, missing_columns="insert", hive_partitioning=True, hive_schema=folders
        )
        for former, folders in ((True, _FORMER_FOLDERS), (False, _FOLDERS))
        if (paths := [path for path in found if is_former(path) is former])
    ]
    if not parts:
        return pl.LazyFrame(schema={PAIR: pl.String(), **CANDLE_SCHEMA}).select(wanted)
    candles = pl.concat(part.select(PAIR, *COLUMNS) for part in parts)
    begin, until = first if first is not None else EVER.start, last if last is not None else EVER.end
    is_in_time = pl.col("time").is_between(
        time_from_seconds(pl.lit(begin)), time_from_seconds(pl.lit(until)), closed="left"
    )
    return (candles if first is None and last is None else candles.filter(is_in_time)).select(wanted)
