"""A small exchange that stands in for Kraken.

It makes trades from a seed and derives everything from them: archives (with the defects of real ones, where asked
for), a REST server (with the quirks and, where asked for, the failures of the real one), and the true candle of
every pair, interval and time. Imports `market` and `errors` only, so that it cannot agree with the pipeline by
sharing its code.
"""
