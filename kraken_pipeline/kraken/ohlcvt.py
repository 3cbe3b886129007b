"""Candle archives: `time,open,high,low,close,volume,trades`, one line a candle that had a trade."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import IO

import polars as pl

from kraken_pipeline.coverage.ranges import Span, normalise
from kraken_pipeline.errors import UnreadableArchive
from kraken_pipeline.kraken.order import FOREVER, order_of
from kraken_pipeline.kraken.rows import (
    LINE,
    Block,
    Digest,
    Facts,
    Format,
    Reject,
    Unanswered,
    line_blocks,
    parse_block,
    require_rows,
)
from kraken_pipeline.market.candle import broken_rules, is_sound, time_from_seconds
from kraken_pipeline.market.interval import Interval

COLUMNS = ("time", "open", "high", "low", "close", "volume", "trades")
_SYNONYMS = {"timestamp": "time", "count": "trades", "trade_count": "trades"}
_UNBELIEVABLE = ("time is not a multiple", "time is before 2011", "time is in the future")


class OutOfOrder(Exception):
    """The rows are not in order of time, or repeat one: the file must be read with `sort`."""


def columns_of(names: Sequence[str]) -> tuple[str, ...]:
    """This project's names for the columns that a manifest lists; the usual ones where it lists none.

    Raises:
        UnreadableArchive: A candle's column is missing or unknown.
    """
    columns = tuple(_SYNONYMS.get(name.lower(), name.lower()) for name in names) or COLUMNS
    if sorted(columns) != sorted(COLUMNS):
        raise UnreadableArchive(f"its manifest lists the columns {', '.join(names)}; a candle has {', '.join(COLUMNS)}")
    return columns


class CandleReader:
    """Reads one file of candles, in blocks, and gathers `facts` on the way."""

    def __init__(
        self,
        stream: IO[bytes],
        interval: Interval,
        now: int,
        *,
        columns: Sequence[str] = COLUMNS,
        has_header: bool = False,
        sort_in: Path | None = None,
    ) -> None:
        """Reads nothing yet.

        Args:
            stream: The file's bytes.
            interval: The length of its candles.
            now: The moment of asking (seconds since the epoch); no candle starts after it.
            columns: The names of the fields, in order.
            has_header: Whether the first line holds names.
            sort_in: A folder to sort in, for a file that is out of order; the rows then come sorted, and of
                repeated times only the last.
        """
        self._stream = stream
        self._interval = interval
        self._form = _format(interval, now, tuple(columns))
        self._has_header = has_header
        self._sort_in = sort_in
        self._unanswered = Unanswered(interval, neighbours_too=False)
        self.facts = Facts()

    def blocks(self) -> Generator[Block, None, None]:
        """The candles, sorted and unique by time from block to block, and the rejected rows.

        A block's rows have the columns of `CANDLE_SCHEMA` up to `trade_count`.

        Raises:
            OutOfOrder: The rows are not strictly ascending in time and `sort_in` is not given.
            UnreadableArchive: There is not one good row.
        """
        if self._sort_in is None:
            yield from self._in_order(self._parsed())
        else:
            with tempfile.TemporaryDirectory(dir=self._sort_in) as scratch:
                yield from self._sorted(self._parsed(), Path(scratch))
        self.facts.unanswered = self._unanswered.spans()
        require_rows(self.facts, "candle")

    def _parsed(self) -> Iterator[Block]:
        digest = Digest()
        line = 1
        for data in line_blocks(self._stream, digest):
            block = parse_block(data, line, self._form)
            lines = block.rows.height + len(block.rejects)
            if line == 1 and self._has_header:
                block = Block(block.rows, tuple(reject for reject in block.rejects if reject.line != 1))
            line += lines
            yield block
        self.facts.lines = line - 1
        self.facts.sha256 = digest.hexdigest()

    def _in_order(self, blocks: Iterable[Block]) -> Iterator[Block]:
        for block in blocks:
            times = block.rows["time"]
            if block.rows.height:
                follows = self.facts.last_time is None or times[0] > self.facts.last_time
                if not follows or not (times.slice(1) > times.head(-1)).all():
                    raise OutOfOrder
            self._unanswered.take(block)
            yield self._noted(block)

    def _sorted(self, blocks: Iterable[Block], scratch: Path) -> Iterator[Block]:
        """Spills the rows by year, then sorts a year at a time, so that memory does not grow with the file."""
        years: set[int] = set()
        repeats: list[int] = []
        placed: list[pl.DataFrame] = [pl.DataFrame(schema={"time": pl.Int64(), LINE: pl.UInt32()})]
        rejects: list[Reject] = []
        for number, block in enumerate(blocks):
            placed.append(block.rows.select("time", LINE))
            rejects += block.rejects
            if block.rejects:
                yield Block(_as_candles(block.rows.clear()), block.rejects)
            year = time_from_seconds(pl.col("time")).dt.year().alias("year")
            for (key,), rows in block.rows.with_columns(year).partition_by("year", as_dict=True).items():
                years.add(int(key))
                rows.drop("year").write_parquet(scratch / f"{key}-{number:06d}.parquet")
        for year_number in sorted(years):
            rows = pl.read_parquet(sorted(scratch.glob(f"{year_number}-*.parquet"))).sort("time", LINE)
            last = pl.col("time") != pl.col("time").shift(-1)
            kept = rows.filter(last.fill_null(value=True))
            repeated = self._repeated(rows.filter(~last), kept, repeats)
            yield self._noted(Block(kept, repeated))
        self._judge(pl.concat(placed).filter(~pl.col(LINE).is_in(repeats)), rejects)

    def _judge(self, rows: pl.DataFrame, rejects: Sequence[Reject]) -> None:
        """Takes out what the file does not answer for because rows stand outside its order, or were rejected.

        Args:
            rows: `time` and `line` of the good ones, but for those that repeat another.
            rejects: The bad ones.
        """
        order = order_of(rows["time"].to_numpy())
        if order.is_shuffled:
            rows = rows.sort("time")
            if any(reject.time is None for reject in rejects):  # it may belong anywhere
                self._unanswered.add_between(*pairwise([0, *rows["time"].to_list(), FOREVER]))
            self._unanswered.add(*(reject.time for reject in rejects if reject.time is not None))
            return
        self._unanswered.add_between(*order.doubtful)
        # From the other end, a file that descends is one that rises.
        number = -pl.col(LINE).cast(pl.Int64) if order.descends else pl.col(LINE).cast(pl.Int64)
        standing = rows.filter(pl.Series(order.believed)).select("time", number).sort(LINE)
        turned = [replace(reject, line=-reject.line) for reject in reversed(rejects)] if order.descends else rejects
        self._unanswered.take(Block(standing, tuple(turned)))

    def _repeated(self, rows: pl.DataFrame, kept: pl.DataFrame, repeats: list[int]) -> tuple[Reject, ...]:
        """The rows that a later one of the same time outdoes; lines that say the same are added to `repeats`.

        Where they say something else, the file contradicts itself, and does not answer for that candle.
        """
        values = [name for name in COLUMNS if name != "time"]
        same = pl.all_horizontal(pl.col(name) == pl.col(f"{name}_kept") for name in values)
        compared = rows.join(kept.drop(LINE), on="time", suffix="_kept").with_columns(same.alias("same"))
        rejects = []
        for row in compared.iter_rows(named=True):
            if row["same"]:
                repeats.append(row[LINE])
            else:
                candle = Span(row["time"], row["time"] + self._interval.seconds)
                self._unanswered.add(row["time"])
                self.facts.contradicted = normalise((*self.facts.contradicted, candle))
            reason = "the time is repeated" if row["same"] else "the time is repeated with other values"
            text = ",".join(str(row[name]) for name in self._form.columns)
            rejects.append(Reject(row[LINE], text, f"{reason}; the file's last row for it counts", row["time"]))
        return tuple(rejects)

    def _noted(self, block: Block) -> Block:
        rows = block.rows
        if rows.height:
            self.facts.rows += rows.height
            if self.facts.first_time is None:
                self.facts.first_time = int(rows["time"][0])
            self.facts.last_time = int(rows["time"][-1])
            self.facts.trades += int(rows["trades"].sum())
        return Block(_as_candles(rows), block.rejects)


@lru_cache(maxsize=64)  # a release has thousands of files of seven intervals
def _format(interval: Interval, now: int, columns: tuple[str, ...]) -> Format:
    rules = broken_rules(interval, now)
    return Format(
        {name: pl.Int64() if name == "time" else pl.Float64() for name in columns},
        rules,
        frozenset(reason for reason in rules if reason.startswith(_UNBELIEVABLE)),
        partial(is_sound, interval=interval, now=now),
    )


_CANDLE = (
    time_from_seconds(pl.col("time")),
    *(pl.col(name) for name in ("open", "high", "low", "close", "volume")),
    pl.col("trades").cast(pl.Int32).alias("trade_count"),
)


def _as_candles(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(_CANDLE)
