"""A digest of candles: equal for equal rows, whatever file, compression or version of a library they lie in."""

from __future__ import annotations

import polars as pl

from kraken_pipeline.market.candle import CANDLE_SCHEMA


def row_digest(rows: pl.DataFrame) -> str:
    """Return the digest of some rows: for each column of `CANDLE_SCHEMA` the sum of its values' bits.

    Damage changes bits of single values, and a sum in 64 bits shows any such change. It is a tenth of the price of
    SHA-256 over the same columns: the digest of the file's bytes is the strong one, this one says of a file that no
    manifest names whether its rows are whole, and of QuestDB's rows whether they are those that were sent.

    Args:
        rows: Frame with these columns; of the ledger's other columns nothing is in the digest.

    Returns:
        Sixteen hexadecimal digits a column, in the order of the schema, joined by dashes.
    """
    sums = rows.select(_bits(name).sum().alias(name) for name in CANDLE_SCHEMA.names()).row(0)
    return "-".join(f"{value:016x}" for value in sums)


def _bits(name: str) -> pl.Expr:
    column = pl.col(name)
    if CANDLE_SCHEMA[name] == pl.Float64():
        return column.reinterpret(dtype=pl.UInt64())
    return column.to_physical().cast(pl.Int64).reinterpret(dtype=pl.UInt64())


def without_release(digest: str) -> str:
    """Return a digest without its part for `release`, which QuestDB does not keep."""
    parts = zip(CANDLE_SCHEMA.names(), digest.split("-"), strict=True)
    return "-".join(part for name, part in parts if name != "release")
