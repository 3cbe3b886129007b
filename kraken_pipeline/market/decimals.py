"""Decimals of prices: the number of digits after the decimal point."""

from __future__ import annotations

import polars as pl

PRICES = ("open", "high", "low", "close")
MOST_DECIMALS = 12
"""Kraken's finest prices have ten; a price that needs more than twelve is float noise and counts as twelve."""


def decimals(prices: pl.Series) -> pl.Series:
    """Return the number of decimals of each price in its shortest form, without trailing zeros (Int8).

    A price with k decimals is a whole number divided by 10^k, and float division rounds correctly. Rounding a price to
    k decimals therefore returns the same float exactly when it has no more decimals. Half a million prices, most with
    five decimals, take 80 ms, the same as through their text, which writes small ones as 1e-8; with one decimal 23 ms.
    """
    import numpy as np  # noqa: PLC0415 - takes a tenth of a second, and commands that only read do not need it

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
    """Return the largest number of decimals among the four prices of each candle (Int8)."""
    return pl.DataFrame([decimals(candles[name]).alias(name) for name in PRICES]).max_horizontal().alias("decimals")
