"""Backfilling: gaps filled by resampling, by OHLC and by trades."""
