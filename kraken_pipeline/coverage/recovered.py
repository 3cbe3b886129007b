"""What candles say for themselves when nothing else is left that says where they come from.

A candle is evidence of its own slot: source and release stand in its row. It says nothing of the slots beside it,
which may have been quiet or missing. And it speaks only where its source had all of its time: the last candle of an
archive is stored as it was when the archive was made, and answered for nothing.
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
    """What an archive file that is at hand has spoken about: what it did not answer for there, its rows do not either.

    Attributes:
        source: Of its candles.
        release: As they say it: the day on which its release ends, in days since the epoch; 0 where it is no release.
        span: From its first candle to the end of its last one.
    """

    source: Source
    release: int
    span: Span


def own_grants(
    rows: pl.DataFrame, interval: Interval, known: Spans, spoken: tuple[Spoken, ...], verified_at: int
) -> list[Grant]:
    """Return what candles grant by themselves: one grant for each run of them from one source, without a slot between.

    Args:
        rows: `time`, `source`, `release` and `trade_count`, sorted and unique by time.
        interval: Whose candles.
        known: What is covered already, or refuted.
        spoken: What the archives that are at hand have spoken about.
        verified_at: When they were written, in seconds since the epoch.
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
    """Whether a candle reaches over the end of a quarter: a quarterly archive has a part of such a one at its ends."""
    if interval <= Interval.D1:
        return pl.lit(value=False)
    last = pl.col("time") + pl.duration(seconds=interval.seconds - 1)
    return pl.col("time").dt.quarter() != last.dt.quarter()
