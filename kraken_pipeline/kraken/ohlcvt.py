"""Reader of candle archives: `time,open,high,low,close,volume,trades`, one line per candle that had a trade.

Files that other programs wrote have rows for quiet time, too. Such a row is not a candle; it says that nobody traded.
It is believed between two candles of the file. Before the first candle and after the last it is no evidence.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from math import gcd
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kraken_pipeline.coverage.ranges import Span, Spans, normalise
from kraken_pipeline.errors import UnreadableArchive
from kraken_pipeline.kraken.dialect import CANDLES, Dialect, Headed, dialect_of
from kraken_pipeline.kraken.manifest import ReleaseManifest
from kraken_pipeline.kraken.order import holes, order_of
from kraken_pipeline.kraken.rows import (
    LINE,
    MOST_SPANS,
    REJECTS_TOGETHER,
    Block,
    ColumnType,
    Facts,
    Format,
    Reject,
    StreamDigest,
    Unanswered,
    line_blocks,
    parse_block,
    require_rows,
    require_some_good,
)
from kraken_pipeline.market.candle import TIME, broken_rules, is_sound, time_from_seconds
from kraken_pipeline.market.flow import told_vwap
from kraken_pipeline.market.interval import Interval

COLUMNS = CANDLES.usual
COARSER_ROWS = 24
"""The number of rows that are enough to tell a file's interval from the distances of its times."""
MOST_OF_YEAR = 2_000_000
"""The most rows of one year in a file out of order; they are sorted together."""
MOST_UNPLACED = 200_000
"""The most rejected rows of a file out of order; they are held in memory until all rows are known."""
_CHAIN_ROWS = 1_000
_NOT_WHOLE = "trade count is not a whole number"
_NO_TRADE = "volume without a trade"
_DISORDER = ("low is above", "high is below")
_UNBELIEVABLE = ("time is not a multiple", "time is before 2011", "time is in the future")


class OutOfOrder(Exception):
    """The rows are not in order of time, or repeat a time: the file must be read with `sort_in`."""


class CandleReader:
    """A reader of one file of candles. It yields blocks, and gathers `facts` on the way."""

    def __init__(
        self,
        stream: IO[bytes],
        interval: Interval,
        now: int,
        *,
        manifest: ReleaseManifest | None = None,
        sort_in: Path | None = None,
    ) -> None:
        """Prepare a reader; nothing is read yet.

        Args:
            stream: The file's bytes.
            interval: The length of its candles.
            now: The current time (seconds since the epoch); a candle that starts later is rejected.
            manifest: The manifest of the file's release, if there is one.
            sort_in: A folder for temporary files, to sort a file that is out of order. The rows then come sorted, with
                only the last row of a repeated time.
        """
        self._stream = stream
        self._interval = interval
        self._now = now
        self._manifest = manifest
        self._sort_in = sort_in
        self._columns = _Judge(interval)
        self._grid = _Grid(interval)
        self._quiet: list[pl.Series] = []  # the times at which rows say that nobody traded
        self._unanswered = Unanswered(interval, neighbours_too=False)
        self.facts = Facts()

    def blocks(self) -> Generator[Block, None, None]:
        """Yield the candles, sorted and unique by time across blocks, and the rejected rows.

        A block's rows have the columns of `CANDLE_SCHEMA` up to `trade_count`, and `vwap` if the file has it.

        Raises:
            OutOfOrder: The rows are not strictly ascending in time and `sort_in` is not given.
            UnreadableArchive: The file has no good row, or its columns or times are wrong.
        """
        if self._sort_in is None:
            yield from self._in_order(self._parsed())
        else:
            with tempfile.TemporaryDirectory(dir=self._sort_in) as scratch:
                yield from self._sorted(self._parsed(), Path(scratch))
        self._unanswered.add_spans(self._outer_quiet())
        self.facts.unanswered = self._unanswered.spans()
        require_rows(self.facts, "candle")
        self._grid.require_own()

    def _parsed(self) -> Iterator[Block]:
        digest = StreamDigest()
        stream = Headed(self._stream)
        dialect = dialect_of(stream.head, CANDLES, self._manifest)
        form = _format(self._interval, self._now, dialect)
        self._columns.is_asked = not dialect.is_named
        line = 1
        for data in line_blocks(stream, digest):
            rows = data
            if line <= dialect.header_lines:
                rows = data[data.index(b"\n") + 1 :]
                line += 1
            for block in parse_block(rows, line, form):
                line += block.rows.height + len(block.rejects)
                self.facts.rejected += len(block.rejects)
                self._columns.collect(block)
                yield block
                require_some_good(self.facts, line - 1, "candle")
        self.facts.lines = line - 1
        self.facts.sha256 = digest.hexdigest()
        self._columns.require_sound()
        self._columns.require_chained()

    def _in_order(self, blocks: Iterable[Block]) -> Iterator[Block]:
        reached = 0
        for block in blocks:
            times = block.rows["time"]
            if block.rows.height:
                if times[0] <= reached or not (times.slice(1) > times.head(-1)).all():
                    raise OutOfOrder
                reached = int(times[-1])
                self._grid.collect(times)
                self._columns.chain(block.rows)
            traded = self._traded(block)
            self._unanswered.collect(traded)
            yield self._noted(traded)

    def _traded(self, block: Block) -> Block:
        """Return the block without the rows for quiet time, whose times are recorded."""
        trades = block.rows["trades"]
        if block.rows.is_empty() or (_lowest(trades) > 0 and not trades.null_count()):
            return block
        is_traded = trades > 0
        traded = block.rows.filter(is_traded)
        quiet = block.rows.filter(~is_traded.fill_null(value=False))["time"]
        self._quiet.append(quiet)
        self.facts.quiet += len(quiet)
        return Block(traded, block.rejects)

    def _contradict_quiet(self, traded: pl.Series) -> None:
        """Exclude the candles for which another row says that nobody traded: the file contradicts itself."""
        for quiet in self._quiet:
            self._contradict(quiet.filter(quiet.is_in(traded.implode())).unique())

    def _outer_quiet(self) -> Spans:
        """Return the time of quiet rows before the first candle and after the last, where they are no evidence."""
        if not self._quiet or self.facts.first_time is None or self.facts.last_time is None:
            return ()
        times = pl.concat(self._quiet).unique().sort()
        outer = times.filter((times < self.facts.first_time) | (times > self.facts.last_time))
        step = self._interval.seconds
        if len(outer) > MOST_SPANS:
            before, after = outer.filter(outer < self.facts.first_time), outer.filter(outer > self.facts.last_time)
            return tuple(Span(int(some[0]), int(some[-1]) + step) for some in (before, after) if len(some))
        starts = outer.filter((outer.diff() != step).fill_null(value=True))
        ends = outer.filter((outer.diff().shift(-1) != step).fill_null(value=True)) + step
        return tuple(Span(start, end) for start, end in zip(starts.to_list(), ends.to_list(), strict=True))

    def _sorted(self, blocks: Iterable[Block], scratch: Path) -> Iterator[Block]:
        """Spill the rows by year, then sort one year at a time, so that memory does not grow with the file."""
        years: Counter[int] = Counter()
        repeats: list[pl.Series] = [pl.Series([], dtype=pl.UInt32())]
        placed: list[pl.DataFrame] = [pl.DataFrame(schema={"time": pl.Int64(), LINE: pl.UInt32()})]
        rejects: list[Reject] = []
        for number, read in enumerate(blocks):
            block = self._traded(read)
            placed.append(block.rows.select("time", LINE))
            rejects += [replace(reject, text="") for reject in block.rejects]
            if block.rejects:
                yield Block(_as_candles(block.rows.clear()), block.rejects)
            year = time_from_seconds(pl.col("time")).dt.year().alias("year")
            for (key,), rows in block.rows.with_columns(year).partition_by("year", as_dict=True).items():
                years[int(key)] += rows.height
                rows.drop("year").write_parquet(scratch / f"{key}-{number:06d}.parquet")
            _require_sortable(years, len(rejects))
        for year_number in sorted(years):
            rows = pl.read_parquet(sorted(scratch.glob(f"{year_number}-*.parquet"))).sort("time", LINE)
            last = pl.col("time") != pl.col("time").shift(-1)
            kept = rows.filter(last.fill_null(value=True))
            self._columns.chain(kept)
            yield from self._repeated(rows.filter(~last), kept, repeats)
            yield self._noted(Block(kept, ()))
        self._columns.require_chained()
        rows = pl.concat(placed)
        placed.clear()  # rows of fifteen years of minutes take 100 MiB, and each copy of them as much
        self._check_grid(rows["time"])
        self._contradict_quiet(rows["time"])
        if any(map(len, repeats)):
            rows = rows.filter(~pl.col(LINE).is_in(pl.concat(repeats).implode()))
        self._judge(rows, rejects)

    def _check_grid(self, times: pl.Series) -> None:
        ordered = pl.concat([times, *self._quiet]).sort()
        self._grid.collect(ordered.filter((ordered.diff() != 0).fill_null(value=True)))

    def _judge(self, rows: pl.DataFrame, rejects: Sequence[Reject]) -> None:
        """Exclude the spans that are doubtful because rows are outside the file's order, or were rejected.

        Args:
            rows: `time` and `line` of the good rows, without those that repeat another.
            rejects: The rejected rows.
        """
        order = order_of(rows["time"].to_numpy())
        if order.is_shuffled:
            if any(reject.time is None for reject in rejects):  # it may belong anywhere
                for bounds in holes(rows["time"].sort().to_numpy(), self._interval.seconds):
                    self._unanswered.add_between(*bounds)
            self._unanswered.add(*(reject.time for reject in rejects if reject.time is not None))
            return
        self._unanswered.add_between(*order.doubtful)
        if not rejects:
            return
        # Read from its end, a descending file is an ascending one.
        number = -pl.col(LINE).cast(pl.Int64) if order.descends else pl.col(LINE).cast(pl.Int64)
        standing = rows.filter(pl.Series(order.believed)).select("time", number).sort(LINE)
        turned = [replace(reject, line=-reject.line) for reject in reversed(rejects)] if order.descends else rejects
        self._unanswered.collect(Block(standing, tuple(turned)))

    def _repeated(self, rows: pl.DataFrame, kept: pl.DataFrame, repeats: list[pl.Series]) -> Iterator[Block]:
        """Reject the rows replaced by a later one of the same time; lines with equal values are added to `repeats`.

        If the values differ, the file contradicts itself, and does not answer for that candle.
        """
        values = [name for name in COLUMNS if name != "time"]
        same = pl.all_horizontal(pl.col(name) == pl.col(f"{name}_kept") for name in values).fill_null(value=False)
        compared = rows.join(kept.drop(LINE), on="time", suffix="_kept").with_columns(same.alias("same"))
        repeats.append(compared.filter(pl.col("same"))[LINE])
        self._contradict(compared.filter(~pl.col("same"))["time"].unique())
        for some in compared.iter_slices(REJECTS_TOGETHER):
            rejects = []
            for row in some.iter_rows(named=True):
                reason = "the time is repeated" if row["same"] else "the time is repeated with other values"
                text = ",".join(str(row[name]) for name in COLUMNS)
                rejects.append(Reject(row[LINE], text, f"{reason}; the last row of that time is used", row["time"]))
            self.facts.rejected += len(rejects)
            require_some_good(self.facts, self.facts.lines, "candle")
            yield Block(_as_candles(kept.clear()), tuple(rejects))

    def _contradict(self, times: pl.Series) -> None:
        """Exclude candles that the file contradicts itself about.

        Raises:
            UnreadableArchive: There are too many of them.
        """
        step = self._interval.seconds
        self._unanswered.add(*times.to_list())
        spans = (Span(time, time + step) for time in times.to_list())
        self.facts.contradicted = normalise((*self.facts.contradicted, *spans))
        if len(self.facts.contradicted) > MOST_SPANS:
            raise UnreadableArchive(
                f"it contradicts itself about more than {MOST_SPANS:,} candles: rows of one time differ; split it into "
                "the files that it was made of, or download it again"
            )

    def _noted(self, block: Block) -> Block:
        rows = block.rows
        if rows.height:
            self.facts.rows += rows.height
            if self.facts.first_time is None:
                self.facts.first_time = int(rows["time"][0])
            self.facts.last_time = int(rows["time"][-1])
            self.facts.trades += int(rows["trades"].sum())
        return Block(_as_candles(rows), block.rejects)


def _require_sortable(years: Mapping[int, int], rejected: int) -> None:
    """Refuse a file out of order that has too many rows to be sorted in memory.

    Args:
        years: The number of its rows in each year.
        rejected: The number of its rejected rows.

    Raises:
        UnreadableArchive: It has.
    """
    year, most = max(years.items(), key=itemgetter(1), default=(0, 0))
    if most > MOST_OF_YEAR:
        raise UnreadableArchive(
            f"its rows are out of order, and more than {MOST_OF_YEAR:,} of them are in {year}, which has no more than "
            "527,040 minutes; remove rows that are there twice"
        )
    if rejected > MOST_UNPLACED:
        raise UnreadableArchive(
            f"its rows are out of order, and more than {MOST_UNPLACED:,} of them were rejected, so that nobody can say "
            "where they belong; see its dead letters, and download it again"
        )


class _Grid:
    """A check for a file of coarser candles than its name says, by the distances of its times."""

    def __init__(self, interval: Interval) -> None:
        self._interval = interval
        self._rows = 0
        self._first = 0
        self._last: int | None = None  # the latest time so far
        self._divisor = 0  # the greatest common divisor of all distances so far

    def collect(self, times: pl.Series) -> None:
        """Add times, which must be later than those before."""
        self._rows += len(times)
        if self._divisor == self._interval.seconds or not len(times):
            return
        seconds = times.to_numpy()
        if self._last is None:
            self._first = self._last = int(seconds[0])
        for some in (seconds[:1_000], seconds):  # the first thousand settle it for most files
            distances = np.diff(some, prepend=self._last)
            self._divisor = gcd(self._divisor, int(np.gcd.reduce(distances)))
            if self._divisor == self._interval.seconds:
                return
        self._last = int(seconds[-1])

    def require_own(self) -> None:
        """Refuse a file whose rows are all as far apart as those of a coarser interval.

        Raises:
            UnreadableArchive: All distances are multiples of a coarser interval.
        """
        coarser = [
            interval for interval in Interval if interval > self._interval and self._divisor % interval.seconds == 0
        ]
        # A stock that trades half of each day has every other half-day only: a day apart, but not at the start of days.
        coarser = [
            interval for interval in coarser if interval != 2 * self._interval or self._first % interval.seconds == 0
        ]
        if self._rows >= COARSER_ROWS and coarser:
            minutes = coarser[-1].value
            raise UnreadableArchive(
                f"its name says candles of {self._interval.value} min, and all of its {self._rows} rows are multiples "
                f"of {minutes} min apart: if they are candles of {minutes} min, name it ..._{minutes}.csv"
            )


class _Judge:
    """A check for a file without a header whose columns cannot be the assumed ones, by their values."""

    def __init__(self, interval: Interval) -> None:
        self._interval = interval
        self._chain: list[tuple[NDArray[Any], ...]] = []  # times, opens, closes
        self._chained = 0
        self.is_asked = True  # False if a header or a manifest names the columns: that is believed
        self._lines = 0
        self._disordered = 0
        self._fractional = 0
        self._has_parts = False  # whether a good row has a volume that is not a whole number

    def collect(self, block: Block) -> None:
        """Count the rows of a block; until a row is rejected there is nothing to check."""
        if not self.is_asked or not (block.rejects or self._lines):
            return
        self._lines += block.rows.height + len(block.rejects)
        self._disordered += sum(reject.reason.startswith(_DISORDER) for reject in block.rejects)
        self._fractional += sum(reject.reason.startswith(_NOT_WHOLE) for reject in block.rejects)
        volumes = block.rows["volume"]
        self._has_parts |= bool((volumes != volumes.floor()).any())
        if self._lines > COARSER_ROWS:
            self.require_sound()  # before a large file has as many dead letters as lines

    def require_sound(self) -> None:
        """Refuse a file whose rows contradict the assumed order of columns.

        Raises:
            UnreadableArchive: Low, high or the trade count cannot be in their columns.
        """
        if self._disordered >= 2 and self._disordered * 2 > self._lines:
            raise UnreadableArchive(
                _misnamed(
                    f"low or high is not the lowest or highest price in {self._disordered} of {self._lines} lines"
                )
            )
        if self._fractional >= 2 and (self._fractional * 2 > self._lines or not self._has_parts):
            raise UnreadableArchive(
                _misnamed(
                    f"the trade count, the last column, has decimals in {self._fractional} of {self._lines} lines; "
                    "it seems to be swapped with the volume"
                )
            )

    def chain(self, rows: pl.DataFrame) -> None:
        """Add rows in order of time; the first thousand of a file are checked."""
        if self.is_asked and self._chained < _CHAIN_ROWS:
            self._chain.append(tuple(rows[name][:_CHAIN_ROWS].to_numpy() for name in ("time", "open", "close")))
            self._chained += rows.height
            if self._chained >= _CHAIN_ROWS:
                self.require_chained()

    def require_chained(self) -> None:
        """Refuse a file whose candles close at the open of the candle before.

        Raises:
            UnreadableArchive: Open and close have changed places.
        """
        if not self._chain:
            return
        times, opens, closes = (np.concatenate(column) for column in zip(*self._chain, strict=True))
        self._chain = []
        follows = times[1:] - times[:-1] == self._interval.seconds
        if np.count_nonzero(follows) < COARSER_ROWS:
            return
        forth = np.abs(opens[1:] - closes[:-1])[follows].sum()
        back = np.abs(closes[1:] - opens[:-1])[follows].sum()
        if forth > 2 * back:
            raise UnreadableArchive(
                _misnamed("candles close where the previous ones opened; open and close seem to be swapped")
            )


def _misnamed(what: str) -> str:
    return (
        f"its columns cannot be {', '.join(COLUMNS)}: {what}; add a header with the names of its columns, or "
        "download it again"
    )


@lru_cache(maxsize=64)  # a release has thousands of files of seven intervals
def _format(interval: Interval, now: int, dialect: Dialect) -> Format:
    rules = {**broken_rules(interval, now), _NO_TRADE: (pl.col("trades") == 0) & (pl.col("volume") > 0)}
    wanted: dict[str, ColumnType] = {"time": pl.Int64(), **dict.fromkeys(COLUMNS[1:], pl.Float64())}
    wanted["vwap"] = pl.String()  # a candle whose average price cannot be read is still a candle
    columns = {
        name if name in wanted else f"_{place}": wanted.get(name, pl.String())
        for place, name in enumerate(dialect.columns)
    }
    # In a file without counts, a volume only shows that there was at least one trade.
    derived = () if "trades" in columns else ((pl.col("volume") > 0).cast(pl.Float64).alias("trades"),)
    is_quiet = (
        (pl.col("trades").fill_null(0) == 0)
        & (pl.col("volume").fill_null(0) == 0)
        & (pl.col("trades").is_not_null() | pl.col("volume").is_not_null())
        & (pl.col("time") % interval.seconds == 0)
        & (pl.col("time") <= now)
    )
    return Format(
        columns,
        rules,
        frozenset(reason for reason in rules if reason.startswith(_UNBELIEVABLE)),
        partial(_is_plain, interval=interval, now=now),
        quiet=is_quiet,
        derived=derived,
        is_quoted=dialect.is_quoted,
    )


def _is_plain(rows: pl.DataFrame, interval: Interval, now: int) -> bool:
    """Return whether all rows are good candles with a trade each."""
    return rows.is_empty() or (is_sound(rows, interval, now) and _lowest(rows["trades"]) >= 1)


def _lowest(counts: pl.Series) -> float:
    lowest = counts.min()
    return lowest if isinstance(lowest, float) else 0.0


def _as_candles(rows: pl.DataFrame) -> pl.DataFrame:
    # Columns one by one: a `select` costs 0.2 ms, however few the rows.
    time = pl.Series("time", rows["time"].to_numpy() * 1_000_000, pl.Int64()).cast(TIME)
    values = (rows[name] for name in ("open", "high", "low", "close", "volume"))
    candles = pl.DataFrame([time, *values, rows["trades"].cast(pl.Int32).alias("trade_count")])
    if "vwap" not in rows.columns:
        return candles
    vwap = rows["vwap"].str.strip_chars().cast(pl.Float64, strict=False)
    return candles.with_columns(vwap).with_columns(told_vwap(pl.col("vwap")))
