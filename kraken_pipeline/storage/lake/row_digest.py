"""A digest of candles: equal for equal rows, whatever file, compression or library version they are stored with."""

from __future__ import annotations

import numpy as np
import polars as pl

from kraken_pipeline.market.candle import CANDLE_SCHEMA


def row_digest(rows: pl.DataFrame) -> str:
    """Return the digest of some rows: for each column of `CANDLE_SCHEMA`, the sum of the bits of its values.

    Damage changes bits of single values, and a 64-bit sum shows any such change at a tenth of the cost of SHA-256 over
    the same columns. The digest of the file's bytes is the strong one. This one shows whether the rows of a file that
    no manifest names are whole, and whether QuestDB's rows are those that were sent.

    Args:
        rows: A frame with these columns; the other columns of the ledger are not part of the digest.

    Returns:
        Sixteen hexadecimal digits for each column, in the order of the schema, joined by dashes.
    """
    return "-".join(f"{_sum_of_bits(rows[name]):016x}" for name in CANDLE_SCHEMA.names())


def _sum_of_bits(column: pl.Series) -> int:
    # NumPy, because setting up a Polars expression takes longer than summing a small file.
    values = column.drop_nulls() if column.null_count() else column
    if isinstance(column.dtype, pl.Enum):
        if len(values) and values.min() == values.max():  # one source, as in most files
            return len(values) * column.dtype.categories.to_list().index(values[0])
        values = values.to_physical()
    numbers = values.to_numpy()
    bits = numbers.astype(np.int64) if numbers.dtype.kind in "iu" else numbers
    return int(bits.view(np.uint64).sum(dtype=np.uint64))


def without_release(digest: str) -> str:
    """Return a digest without its part for `release`, which QuestDB does not keep."""
    parts = zip(CANDLE_SCHEMA.names(), digest.split("-"), strict=True)
    return "-".join(part for name, part in parts if name != "release")
