"""The months by which the trade lake is divided, and the paths of their files.

::

    trades/pair=XBTUSD/month=2025-01/<id of the write>.parquet      one file or several for each month (UTC)

A file is never written over: its name is that of its write. The files of a month claim different times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import unquote

import polars as pl

from kraken_pipeline.coverage.ranges import Span, Spans
from kraken_pipeline.market.moment import as_datetime
from kraken_pipeline.storage.paths import spelled

TRADES = "trades"
"""The folder of the trade lake, beside that of candles."""
_PATH = re.compile(rf"{TRADES}/pair=([^/]+)/month=([12][0-9]{{3}})-(0[1-9]|1[0-2])/[^/]+\.parquet")


def month_of(time: int) -> int:
    """Return the month of a moment (seconds since the epoch), as a number: 202501."""
    moment = as_datetime(time)
    return moment.year * 100 + moment.month


def month_span(month: int) -> Span:
    """Return the time of a month."""
    year, number = divmod(month, 100)
    after = (year + 1, 1) if number == 12 else (year, number + 1)
    start, end = (int(datetime(*its, 1, tzinfo=UTC).timestamp()) for its in ((year, number), after))
    return Span(start, end)


def by_month(spans: Spans) -> Iterator[tuple[int, Spans]]:
    """Yield the months that a set of spans meets, in order, each with the part that lies in it."""
    parts: dict[int, list[Span]] = {}
    for span in spans:
        at = span.start
        while at < span.end:
            month = month_of(at)
            until = min(span.end, month_span(month).end)
            parts.setdefault(month, []).append(Span(at, until))
            at = until
    yield from ((month, tuple(its)) for month, its in parts.items())


def frames_by_month(trades: pl.DataFrame) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield the months of some trades, which are in order of time, each with its trades."""
    if trades.is_empty():
        return
    times = trades["time"]
    first, last = (month_of(int(times[place].timestamp())) for place in (0, -1))
    if first == last:
        yield first, trades
        return
    months = times.dt.year().cast(pl.Int64) * 100 + times.dt.month().cast(pl.Int64)
    for (month,), its in trades.group_by(months, maintain_order=True):
        yield int(str(month)), its


def trades_path(pair: str, month: int, write_id: str) -> str:
    """Return the path of a file of trades, relative to the place of the lake."""
    return f"{TRADES}/pair={spelled(pair)}/month={month // 100}-{month % 100:02d}/{write_id}.parquet"


def named_in_trades(path: str) -> tuple[str, int] | None:
    """Return the pair and the month that the path of a file of trades names; None for any other path."""
    found = _PATH.fullmatch(path)
    return None if found is None else (unquote(found[1]), int(found[2]) * 100 + int(found[3]))
