"""The candles of a series as the lake held them at an earlier moment, rebuilt from the present ones.

Each write records the ranges in which it added candles, and the files of the ledger with the candles that it replaced
or withdrew. What happened first to a candle after a moment tells what it was then: if it was added, there was none; if
it was replaced or withdrawn, it was the one in the ledger; if nothing happened, it is the present one.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.candle import CANDLE_SCHEMA, seconds_in
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.lake.lake import Lake
from kraken_pipeline.storage.lake.staged import Lost
from kraken_pipeline.storage.records import manifest

_NEVER = np.iinfo(np.int64).max
_SECOND = 1_000_000


def candles_as_of(
    lake: Lake, series: Series, moment: int, start: int | None = None, end: int | None = None
) -> pl.DataFrame:
    """Return the candles that the lake held at a moment and that start in `[start, end)`, as `Lake.read` does.

    Args:
        lake: The lake.
        series: The series.
        moment: The moment, in microseconds since the epoch.
        start: The start, in seconds since the epoch; unbounded where it is None.
        end: The end, likewise, excluded.

    Raises:
        InvalidRequest: Writes are on record only from a later moment on; the message names it.
        StoreError: The record of a write is damaged.
        DamagedFile: A file of the lake or of the ledger is not the one that was written.
    """
    # The candles are read first: a write in between is then on record, and undone where it has no effect yet.
    present = lake.read(series, start, end)
    with lake.catalog.read() as connection:
        first = manifest.history_start(connection, series)
        if moment < first:
            raise InvalidRequest(
                f"what the lake held of {series} is on record from {iso(-(-first // _SECOND))} on: that is the first "
                "moment as of which it can be read"
            )
        commits = manifest.commits_after(connection, series, moment)
    lost: list[pl.DataFrame] = []
    for number, commit in enumerate(commits):
        if commit.ledger:
            entries = lake.ledger(series, commit.ledger, start, end).filter(pl.col("lost") != Lost.REFUSED.value)
            lost.append(entries.select(*CANDLE_SCHEMA.names(), pl.lit(number, pl.Int64).alias("_number")))
    if not commits:
        return present
    gone = pl.concat(lost).sort("time", "_number", maintain_order=True) if lost else None
    every = present.with_columns(pl.lit(_NEVER, pl.Int64).alias("_number"))
    if gone is not None:
        every = pl.concat([every, gone.unique("time", keep="first", maintain_order=True)])
    # Of each time the first row: the first that was lost since, or else the present one.
    every = every.sort("time", "_number").unique("time", keep="first", maintain_order=True)
    times = seconds_in(every).to_numpy()
    added = np.full(len(times), _NEVER)
    for number, commit in reversed(list(enumerate(commits))):
        for span in commit.added:
            added[times.searchsorted(span.start) : times.searchsorted(span.end)] = number
    was_there = added >= every["_number"].to_numpy()
    return every.filter(was_there).drop("_number")
