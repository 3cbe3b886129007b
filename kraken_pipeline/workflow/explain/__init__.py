"""Explanation of one candle: its origin, the candles it replaced, and its proof."""
