"""Backfilling: filling gaps by resampling, by OHLC and by trades."""
