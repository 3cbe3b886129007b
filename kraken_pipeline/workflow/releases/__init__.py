"""Releases of datasets: immutable copies of selected candles, with a digest of what is claimed about them."""
