"""Candles from OHLC replies. A reply answers for the committed candles that it lists, never for its last row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import polars as pl

from kraken_pipeline.coverage.ranges import Span, Spans, normalise
from kraken_pipeline.errors import ExchangeUnavailable
from kraken_pipeline.kraken.replies import OhlcRow
from kraken_pipeline.kraken.rows import Reject
from kraken_pipeline.market.candle import broken_rules, time_from_seconds
from kraken_pipeline.market.flow import told_vwap, with_flow
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.resample import NO_CANDLES


@dataclass(frozen=True, slots=True)
class Ohlc:
    """The content of an OHLC reply.

    Attributes:
        candles: The columns of `resample`; without quiet ones. Of the flow a reply has `vwap` alone, cut to the pair's
            decimals. A quote volume made of it would not be exact, so that column is null.
        listed: The spans that the reply answers for: the committed candles that it lists, with or without trades.
        committed: The end of the last committed candle, in seconds since the epoch. It is later neither than the
            start of the last row nor than the reply's `last` allows.
        rejects: Rows that are not candles, or that contradict each other; their times are not in `listed`.
        made_at: When the reply was given, in seconds since the epoch by the local clock; infinite if not recorded.
    """

    candles: pl.DataFrame
    listed: Spans
    committed: int
    rejects: tuple[Reject, ...] = ()
    made_at: float = inf


def read_ohlc(rows: Sequence[OhlcRow], last: int, interval: Interval, asked: str) -> Ohlc:
    """Read the rows of a reply.

    The last row is the current candle, which still changes. It is always present, so a reply without rows is an
    error.

    Args:
        rows: The rows as `replies.parse_ohlc` returns them.
        last: The start of the last committed candle, according to the reply.
        interval: The interval that was requested.
        asked: The request, for messages.

    Raises:
        ExchangeUnavailable: The reply has no row.
    """
    if not rows:
        raise ExchangeUnavailable(f"{asked}: the reply has no row, not even the current candle")
    committed = interval.floor(min(last + interval.seconds, rows[-1][0]))
    frame = pl.DataFrame(
        [(row[0], *row[1:5], row[6], float(row[7]), row[5]) for row in rows if row[0] < committed],
        schema={
            "time": pl.Int64(),
            **dict.fromkeys(("open", "high", "low", "close", "volume", "trades", "vwap"), pl.Float64()),
        },
        orient="row",
    )
    if frame.is_empty():
        return Ohlc(NO_CANDLES, (), committed)
    rules = {**broken_rules(interval, committed), **_contradictions()}
    reasons = pl.coalesce(
        *(pl.when(broken).then(pl.lit(reason)) for reason, broken in rules.items()), pl.lit(None, pl.String)
    )
    judged = frame.with_columns(reasons.alias("reason"))
    good = judged.filter(pl.col("reason").is_null())
    rejects = tuple(
        Reject(0, ",".join(str(value) for value in row[:-1]), str(row[-1]), int(row[0]))
        for row in judged.filter(pl.col("reason").is_not_null()).drop("vwap").rows()
    )
    listed = normalise(Span(time, time + interval.seconds) for time in good["time"])
    traded = good.filter(pl.col("trades") > 0).select(
        time_from_seconds(pl.col("time")).alias("time"),
        "open",
        "high",
        "low",
        "close",
        "volume",
        pl.col("trades").cast(pl.Int32).alias("trade_count"),
        told_vwap(pl.col("vwap")),
    )
    return Ohlc(with_flow(traded), listed, committed, rejects)


def _contradictions() -> dict[str, pl.Expr]:
    """Return the rules for rows of a reply in addition to those for all candles."""
    moved = (pl.col("volume") != 0) | (pl.col("low") != pl.col("high"))
    return {
        "a trade count of 0 has a volume, or prices that differ": (pl.col("trades") == 0) & moved,
        # It is unknown which of them is right, so all are rejected.
        "the reply has two rows for the same time": pl.col("time").is_duplicated(),
        "the time is not later than that of the previous row": pl.col("time") <= pl.col("time").shift(1).cum_max(),
    }
