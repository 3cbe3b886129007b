"""Grants that follow from stored candles alone, for a catalog that lost the records of their sources.

A candle is evidence of its own slot: its row holds source and release. It is no evidence of the slots beside it,
which may have been quiet or missing. It counts only if its source had all of its time: the last candle of an archive
is stored as it was when the archive was made, and no source answered for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from kraken_pipeline.coverage.evidence import RECOVERED, Grant
from kraken_pipeline.coverage.ranges import Span, Spans, lies_in
from kraken_pipeline.market.candle import Source, seconds_of
from kraken_pipeline.market.interval import Interval

_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Spoken:
    """The reach of an available archive file; its rows grant nothing there beyond what the file itself answered for.

    Attributes:
        source: The source of its candles.
        release: The `release` of its candles: the day on which the release ends, in days since the epoch; 0 for none.
        span: The span from its first candle to the end of its last one.
    """

    source: Source
    release: int
    span: Span


def own_grants(
    rows: pl.DataFrame, interval: Interval, known: Spans, spoken: tuple[Spoken, ...], verified_at: int
) -> list[Grant]:
    """Return the grants of candles alone, one for each sequence of adjacent candles from one source.

    Args:
        rows: Columns `time`, `source`, `release` and `trade_count`, sorted and unique by time.
        interval: The interval of the candles.
        known: The time that is already covered, or refuted.
        spoken: The reach of the available archives.
        verified_at: The time at which the candles were written, in seconds since the epoch.
    """
    length = interval.seconds
    timed = rows.with_columns(seconds_of(pl.col("time")).alias("start"))
    follows = (pl.col("start").shift(-1) == pl.col("start") + length) & _same("source") & _same("release")
    is_loose = (pl.col("source") == Source.CSV.value) & (pl.col("release") == 0)
    is_cut = (pl.col("source") == Source.CSV.value) & (
        (is_loose & ~follows.fill_null(value=False))
        | (
            (pl.col("release") > 0)
            & ((pl.col("start") + length > pl.col("release").cast(pl.Int64) * _DAY) | _straddles(interval))
        )
    )
    whole = timed.filter(~is_cut)
    whole = whole.filter(~lies_in(known, whole["start"]))
    for archive in spoken:
        is_its = (pl.col("source") == archive.source.value) & (pl.col("release") == archive.release)
        whole = whole.filter(~(is_its & lies_in((archive.span,), whole["start"])))
    breaks = (pl.col("start").diff() != length) | (pl.col("source") != pl.col("source").shift())
    runs = (
        whole.with_columns(breaks.fill_null(value=True).cum_sum().alias("run"))
        .group_by("run", maintain_order=True)
        .agg(
            pl.col("source").first(),
            pl.col("start").first().alias("first"),
            pl.col("start").last().alias("last"),
            pl.col("trade_count").cast(pl.Int64).sum(),
        )
    )
    return [
        Grant(Span(first, last + length), RECOVERED if source == Source.TRADES else str(source), verified_at, trades)
        for _, source, first, last, trades in runs.iter_rows()
    ]


def _same(name: str) -> pl.Expr:
    return pl.col(name).shift(-1) == pl.col(name)


def _straddles(interval: Interval) -> pl.Expr:
    """Return whether a candle reaches over a quarter's end; quarterly archives have only a part of such a candle."""
    if interval <= Interval.D1:
        return pl.lit(value=False)
    last = pl.col("time") + pl.duration(seconds=interval.seconds - 1)
    return pl.col("time").dt.quarter() != last.dt.quarter()
