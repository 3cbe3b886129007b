"""The cache of the exchange's replies: in memory, on the machine, and in Redis."""
