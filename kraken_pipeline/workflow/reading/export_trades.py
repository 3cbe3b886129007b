"""Writing kept trades to files, with a month of one pair in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from kraken_pipeline.coverage.ranges import Span, clip
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.trade import TRADE_SCHEMA
from kraken_pipeline.storage.paths import written_whole
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.storage.trades.months import month_span
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reading.export import FILES, ExportFormat, is_single, require_place
from kraken_pipeline.workflow.reading.request import PAIR
from kraken_pipeline.workflow.reading.trades import (
    covered_time,
    pairs_with_trades,
    require_covered,
    rows_by_month,
    trades_within,
)

EXPORTING = "exporting"
_TRADES_A_SECOND = 1_500_000
"""The expected pace. Measured on months of a million trades: 1.5 M a second to Parquet, 1.8 to CSV, 2.5 to Feather."""


@dataclass(frozen=True, slots=True)
class ExportedTrades:
    """The number of trades of one pair that an export has written.

    Attributes:
        pair: The name of the pair.
        trades: The number of trades; nothing is written where it is 0.
    """

    pair: str
    trades: int


def export_trades(
    stores: Stores,
    pairs: Sequence[str],
    span: Span,
    to: Path,
    how: ExportFormat | None,
    columns: Sequence[str] | None,
    run: RunContext,
    *,
    require_complete: bool = False,
) -> list[ExportedTrades]:
    """Write the kept trades of some pairs, in order of pair, time and id, and return their number for each pair.

    Args:
        stores: The stores to read.
        pairs: The names of the pairs.
        span: The time whose trades are written.
        to: The file to write, by its ending; all pairs are then written to it, several with a first column `pair`. For
            other names, the folder, with a file `XBTUSD_trades.csv` for each pair.
        how: The format; that of the ending where it is None.
        columns: The columns to write; all by default.
        run: The context of the run, to which the progress is reported.
        require_complete: Whether an error is raised if a trade of the time may be missing.

    Raises:
        InvalidRequest: The path does not fit the format, the format has no trades, or no trades of a pair are kept.
        Incomplete: `require_complete` is set, and the trades of some time are not there; it is listed.
        DamagedFile: A file to be read is not the one that was written.
    """
    if how is not None and how not in FILES:
        raise InvalidRequest(f"--format {how} has candles only: trades are written as {', '.join(FILES)}")
    require_place(to, how, FILES)
    without = sorted({*pairs} - {*pairs_with_trades(stores)})
    if without:
        raise InvalidRequest(
            f"no trades of {', '.join(without)} are kept: KRAKEN_KEEP_TRADES keeps those that are paged or read"
        )
    if require_complete:
        for pair in pairs:
            require_covered(pair, span, covered_time(stores, pair))
    reader = _Reader(stores, rows_by_month(stores, pairs, span), span, run)
    if is_single(to):
        wanted = columns or [*([PAIR] if len(pairs) > 1 else []), *TRADE_SCHEMA]
        _write((part for pair in pairs for part in reader.parts(pair, wanted)), to)
    else:
        for pair in pairs:
            _write(reader.parts(pair, columns or list(TRADE_SCHEMA)), to / f"{pair}_trades.{how}")
    return [ExportedTrades(pair, reader.read[pair]) for pair in pairs]


class _Reader:
    """A reader of the trades of a span, month by month, which reports how far it is.

    Attributes:
        read: The number of trades of each pair that were read.
    """

    def __init__(self, stores: Stores, rows: Mapping[str, Mapping[int, int]], span: Span, run: RunContext) -> None:
        self._stores = stores
        self._rows = rows
        self._span = span
        self._run = run
        self.read: dict[str, int] = {}
        run.report(phase=EXPORTING)
        run.expect(EXPORTING, sum(sum(months.values()) for months in rows.values()) / _TRADES_A_SECOND)

    def parts(self, pair: str, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yield the trades of each month of a pair that has any."""
        told = [name for name in columns if name != PAIR] or ["time"]
        self.read[pair] = 0
        for month, rows in self._rows.get(pair, {}).items():
            (part,) = clip((month_span(month),), self._span)
            trades = trades_within(self._stores, pair, part, told)
            if trades.height:
                yield trades.with_columns(pl.lit(pair).alias(PAIR)).select(columns)
            self.read[pair] += trades.height
            self._run.did(EXPORTING, rows / _TRADES_A_SECOND)
            self._run.report(candles=sum(self.read.values()))


def _write(parts: Iterator[pl.DataFrame], path: Path) -> None:
    """Write parts with the same columns to a file; nothing is written where there is none."""
    first = next(parts, None)
    if first is None:
        return
    with _appending(path, first) as append:
        append(first)
        for part in parts:
            append(part)


@contextmanager
def _appending(path: Path, like: pl.DataFrame) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Yield a function that appends trades to a file, which takes its place when the block has ended.

    PyArrow writes Parquet and Feather: Polars' own sinks, fed month by month, run ahead of the disk (60 million trades
    took 260 MB to Feather and 590 MB to CSV, and more the longer they were).
    """
    with written_whole(path) as beside, beside.open("xb") as stream:
        if path.suffix == ".csv":
            _in_seconds(like.clear()).write_csv(stream)
            yield lambda trades: _in_seconds(trades).write_csv(stream, include_header=False)
            return
        form = _as_arrow(like).schema
        with (
            pq.ParquetWriter(stream, form, compression="zstd")
            if path.suffix == ".parquet"
            else pa.ipc.new_file(stream, form, options=pa.ipc.IpcWriteOptions(compression="lz4"))
        ) as writer:
            yield lambda trades: writer.write_table(_as_arrow(trades))


def _as_arrow(trades: pl.DataFrame) -> pa.Table:
    return trades.to_arrow(compat_level=pl.CompatLevel.oldest())


def _in_seconds(trades: pl.DataFrame) -> pl.DataFrame:
    """Return trades with their times as floats of seconds since the epoch, which are written to the microsecond."""
    if "time" not in trades.columns:
        return trades
    # NumPy rounds the quotient to the nearest float. Polars multiplies by 0.000001, which adds a seventh digit.
    return trades.with_columns(pl.Series("time", trades["time"].cast(pl.Int64).to_numpy() / 1_000_000))
