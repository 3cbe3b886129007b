"""Bars of kept trades for notebooks: by time, by the number of trades, by volume or by money."""

from __future__ import annotations

import polars as pl

from kraken_pipeline.coverage.ranges import Span, clip
from kraken_pipeline.market.candle import time_from_seconds
from kraken_pipeline.market.trade_bars import BAR_COLUMNS, BarFold, BarSize, Measure
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow.reading.candles import named
from kraken_pipeline.workflow.reading.request import Moment
from kraken_pipeline.workflow.reading.trades import (
    covered_time,
    months_within,
    require_covered,
    trades_within,
    wanted_span,
)


def read_bars(
    pair: str,
    *,
    by: str,
    size: float | str,
    start: Moment | None = None,
    end: Moment | None = None,
    incomplete: bool = False,
    require_complete: bool = False,
    settings: Settings | None = None,
) -> pl.DataFrame:
    """Return bars that are made of the kept trades of a pair (`KRAKEN_KEEP_TRADES`), a month in memory at a time.

    A bar of trades, volume or money ends with the trade that fills it, which belongs to it as a whole; the next one
    begins with nothing. A bar of time starts at a multiple of its width since the epoch (UTC), and there is none where
    nobody traded.

    No bar reaches over time whose trades are not all kept: the bar before it is left out as incomplete, and the first
    one after it begins with its first trade. So bars of trades, volume and money depend on where the time begins.

    Args:
        pair: Any name of the pair: XBTUSD, XBT/USD, BTCUSD.
        by: `time`, `ticks` (the number of trades), `volume` (in the base asset), or `dollars` (volume in the quote
            currency).
        size: The size of a bar. Of bars by time it is the width: `30s`, `5m`, `1h`, `1d`, or a number of minutes.
        start: The time from which trades count: an ISO date or time, a datetime, or seconds since the epoch.
        end: The end, in the same forms; a trade at that time does not count. All times are UTC.
        incomplete: Whether bars are returned that are not full, at the end of the time and before time whose trades
            are not all kept. A last column `is_whole` tells them from the others.
        require_complete: Whether an error is raised if a trade of the time may be missing.
        settings: The settings; those from the environment by default.

    Returns:
        One row for each bar, in order: `time` (datetime[us, UTC]; the start of a bar of time, of any other that of its
        first trade), `first_trade`, `last_trade`, `open`, `high`, `low`, `close`, `volume`, `trade_count`, `vwap`,
        `quote_volume` and `buy_volume` (null where the side of a trade is not known).

    Raises:
        InvalidRequest: A name, a time or the size is wrong, or a pair is unknown.
        Incomplete: `require_complete` is set, and the trades of some time are not there; it is listed.
        DamagedFile: A file to be read is not the one that was written.
    """
    bar_size, wanted = BarSize.parse(by, size), wanted_span(start, end)
    found: list[pl.DataFrame] = []
    with opened(settings or load_settings()) as stores:
        (name,) = named(pair, stores)
        covered = covered_time(stores, name)
        if require_complete:
            require_covered(name, wanted, covered)
        fold, run = BarFold(bar_size), wanted
        for whole, part in months_within(clip(covered, wanted)):
            if whole != run:
                found.append(_judged(fold.finish(), bar_size, run, is_full=False))
                fold, run = BarFold(bar_size), whole
            found.append(_judged(fold.add(trades_within(stores, name, part, BAR_COLUMNS)), bar_size, run, is_full=True))
        found.append(_judged(fold.finish(), bar_size, run, is_full=False))
    bars = pl.concat(found)
    return bars if incomplete else bars.filter("is_whole").drop("is_whole")


def _judged(bars: pl.DataFrame, size: BarSize, run: Span, *, is_full: bool) -> pl.DataFrame:
    """Return bars with a column that says whether they are whole: full, or of time that is covered whole."""
    if size.by is not Measure.TIME:
        return bars.with_columns(pl.lit(is_full).alias("is_whole"))
    begins_in = pl.col("time") >= time_from_seconds(pl.lit(run.start))
    ends_in = pl.col("time") + pl.duration(seconds=int(size.size)) <= time_from_seconds(pl.lit(run.end))
    return bars.with_columns((begins_in & ends_in).alias("is_whole"))
