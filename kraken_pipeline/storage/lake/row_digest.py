"""A digest of candles: equal for equal rows, whatever file, compression or version of a library they lie in."""

from __future__ import annotations

import numpy as np
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
    return "-".join(f"{_sum_of_bits(rows[name]):016x}" for name in CANDLE_SCHEMA.names())


def _sum_of_bits(column: pl.Series) -> int:
    # By NumPy: each expression of Polars takes longer to set up than a small file has to be summed.
    values = column.drop_nulls() if column.null_count() else column
    if isinstance(column.dtype, pl.Enum):
        values = values.to_physical()
    numbers = values.to_numpy()
    bits = numbers.astype(np.int64) if numbers.dtype.kind in "iu" else numbers
    return int(bits.view(np.uint64).sum(dtype=np.uint64))


def without_release(digest: str) -> str:
    """Return a digest without its part for `release`, which QuestDB does not keep."""
    parts = zip(CANDLE_SCHEMA.names(), digest.split("-"), strict=True)
    return "-".join(part for name, part in parts if name != "release")
