"""The lake: Parquet files of candles, how they are written, and whether they are still what was written."""
