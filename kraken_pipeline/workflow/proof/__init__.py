"""Proof from outside the lake: counting trades by their ids, and comparing stored candles with fresh replies."""
