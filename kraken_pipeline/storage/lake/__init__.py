"""The lake: the Parquet files of candles, their reading and writing, and the inspection for damage."""
