"""A digest of candles: equal for equal rows, whatever file, compression or library version they are stored with."""

from __future__ import annotations

import numpy as np
import polars as pl

from kraken_pipeline.market.candle import CANDLE_SCHEMA
from kraken_pipeline.market.flow import FLOW, has_flow

_ALWAYS = [name for name in CANDLE_SCHEMA.names() if name not in FLOW]
_NULL = 0x9E3779B97F4A7C15
"""The part of a null of `FLOW` in a sum of bits, so that it differs from a zero."""


def row_digest(rows: pl.DataFrame) -> str:
    """Return the digest of some rows: for each column of `CANDLE_SCHEMA`, the sum of the bits of its values.

    Damage changes bits of single values, and a 64-bit sum shows any such change at a tenth of the cost of SHA-256 over
    the same columns. The digest of the file's bytes is the strong one. This one shows whether the rows of a file that
    no manifest names are whole, and whether QuestDB's rows are those that were sent.

    The columns `FLOW` have a part only if any row has a value in one of them, so a digest has 9 or 12 parts. Rows
    without a flow have the digest that earlier versions gave them, whether their file has the columns or not.

    Args:
        rows: A frame with these columns, or without `FLOW`; the other columns of the ledger are not part of the digest.

    Returns:
        Sixteen hexadecimal digits for each column, in the order of the schema, joined by dashes.
    """
    names = CANDLE_SCHEMA.names() if has_flow(rows) else _ALWAYS
    return "-".join(f"{(_sum_of_bits(rows[name]) + _of_nulls(rows[name])) % (1 << 64):016x}" for name in names)


def _of_nulls(column: pl.Series) -> int:
    return column.null_count() * _NULL if column.name in FLOW else 0


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
    parts = zip(CANDLE_SCHEMA.names(), digest.split("-"), strict=False)  # without `FLOW` there are fewer
    return "-".join(part for name, part in parts if name != "release")
