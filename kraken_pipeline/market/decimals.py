"""Decimals of prices: with how many digits behind the point a number was written."""

from __future__ import annotations

import numpy as np
import polars as pl

PRICES = ("open", "high", "low", "close")
MOST_DECIMALS = 12
"""Kraken's finest prices have ten; what no twelve write is the noise of computing, and counts as twelve."""


def decimals(prices: pl.Series) -> pl.Series:
    """Return with how many decimals each price is written at the shortest (Int8), zeros at the end left out.

    A price with k decimals is a whole number divided by 10^k, and float division rounds correctly, so that rounding a
    price to k decimals gives the same float back exactly where it has no more. Measured on half a million prices of
    which most have five decimals: 80 ms, as by way of their text, which spells small ones 1e-8; of one decimal 23 ms.
    """
    values = prices.to_numpy()
    found = np.full(len(values), MOST_DECIMALS, dtype=np.int8)
    left = np.arange(len(values))
    for count in range(MOST_DECIMALS):
        unit = 10.0**count
        rest = values[left]
        is_written = np.round(rest * unit) / unit == rest
        found[left[is_written]] = count
        left = left[~is_written]
        if not len(left):
            break
    return pl.Series("decimals", found)


def most_decimals(candles: pl.DataFrame) -> pl.Series:
    """Return the decimals of the price of each candle that has most of them (Int8)."""
    return pl.DataFrame([decimals(candles[name]).alias(name) for name in PRICES]).max_horizontal().alias("decimals")
