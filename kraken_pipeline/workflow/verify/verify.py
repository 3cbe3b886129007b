"""Checks that every stored candle keeps the rules that ingestion enforces."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from kraken_pipeline.errors import DamagedFile
from kraken_pipeline.market.candle import broken_rules, seconds_of
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.stores import Stores


def broken_candles(stores: Stores, series: Iterable[Series], now: int) -> list[tuple[Series, str, int]]:
    """Return the rules that stored candles break: series, rule, and number of candles; empty if there are none."""
    found: list[tuple[Series, str, int]] = []
    for one_series in series:
        try:
            candles = stores.lake.read(one_series)
        except DamagedFile:
            continue  # the check `lake_intact` reports it
        if candles.is_empty():
            continue
        rows = candles.with_columns(
            seconds_of(pl.col("time")).alias("time"), pl.col("trade_count").cast(pl.Float64).alias("trades")
        )
        rules = {
            **broken_rules(one_series.interval, now),
            "time is not later than the one before": pl.col("time").diff() <= 0,
        }
        counts = rows.select(rule.fill_null(value=False).sum().alias(reason) for reason, rule in rules.items())
        found += [(one_series, reason, int(count)) for reason, count in counts.row(0, named=True).items() if count]
    return found
