"""A small exchange that stands in for Kraken.

It generates trades from a seed and derives everything from them: archives (with the defects of real ones, if
requested), a REST server (with the quirks and, if requested, the failures of the real one), and the true candles of
every pair and interval. It imports only `market` and `errors`, so that it cannot agree with the pipeline by sharing its
code.
"""
