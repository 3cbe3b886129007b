"""The trade lake: trades that were paged or read from archives, in Parquet, a folder for each pair and month."""
