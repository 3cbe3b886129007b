"""Explaining one candle: where it comes from, what lost to it, and what proves it."""
