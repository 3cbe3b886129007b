"""Reader of trades archives, which folds them to one-minute candles.

::

    1672531436,90.540000,1.10448420                                    seconds, price, volume; no header
    90.54,1.1,1767225600.1234,b,l,,1234567                             since 2026Q1, under a header that
                                                                       names six of its seven fields

Other headers are followed, too (`kraken.dialect`).

Rows without an id are never deduplicated: equal rows are separate fills. Rows with a repeated id are rejected. Rows
are read in the order of their ids if their times rise with them. Where ids should be consecutive and are not, the file
does not answer for the minutes around the break.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from math import inf
from operator import attrgetter
from typing import IO

import polars as pl

from kraken_pipeline.coverage.density import AbsentIds, Density
from kraken_pipeline.coverage.ranges import Span, lies_in
from kraken_pipeline.kraken.dialect import TRADES, Headed, dialect_of
from kraken_pipeline.kraken.rows import (
    LINE,
    REJECTS_TOGETHER,
    TEXT_CHARACTERS,
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
from kraken_pipeline.market.candle import EARLIEST_TIME, TIME, seconds_in
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.resample import TradeFold
from kraken_pipeline.market.trade import told

_line = attrgetter("line")
_BACKWARDS = "time runs backwards"
_REPEATED_ID = "the trade id is repeated"
_TIME_RULES = frozenset({"time is not a finite number", "time is before 2011", "time is in the future"})
_SIDE = pl.col("side").str.strip_chars()
_BOUGHT = pl.when(_SIDE == "b").then(pl.col("volume")).when(_SIDE == "s").then(0.0).alias("buy_volume")
"""The part of a trade's volume that the taker bought. Archives before 2026Q1 have no sides."""
_TYPES: Mapping[str, ColumnType] = {
    "time": pl.Float64(),
    "price": pl.Float64(),
    "volume": pl.Float64(),
    "trade_id": pl.Int64(),
}


def _broken_rules(now: int) -> dict[str, pl.Expr]:
    return {
        "price is not a finite number": ~pl.col("price").is_finite(),
        "price is not positive": pl.col("price") <= 0,
        "volume is not a finite number": ~pl.col("volume").is_finite(),
        "volume is not positive": pl.col("volume") <= 0,
        "time is not a finite number": ~pl.col("time").is_finite(),
        "time is before 2011": pl.col("time") < EARLIEST_TIME,
        "time is in the future": pl.col("time") > now,
    }


def _is_sound(rows: pl.DataFrame, now: int) -> bool:
    time, price, volume = rows["time"], rows["price"], rows["volume"]
    return (
        (price > 0).all()
        and (price < inf).all()
        and (volume > 0).all()
        and (volume < inf).all()
        and (time >= EARLIEST_TIME).all()
        and (time <= now).all()
    )


class TradesReader:
    """A reader of one file of trades. It yields one-minute candles in blocks, and gathers `facts` on the way."""

    def __init__(
        self,
        stream: IO[bytes],
        now: int,
        *,
        edges_are_whole: bool,
        density: Density | None = None,
        keep: Callable[[pl.DataFrame], None] | None = None,
    ) -> None:
        """Prepare a reader; nothing is read yet.

        Args:
            stream: The file's bytes.
            now: The current time (seconds since the epoch); a later trade is rejected.
            edges_are_whole: Whether the minutes of the first and the last trade are whole, as in a release, which
                begins and ends elsewhere. In a loose file they may be cut.
            density: The ranges in which the ids of the pair are consecutive.
            keep: Called with the good trades of each block, with the columns of `TOLD_SCHEMA`; some of them may lie
                in minutes for which the file turns out not to answer. None where trades are not wanted.
        """
        self._stream = stream
        self._keep = keep
        self._now = now
        self._edges_are_whole = edges_are_whole
        self._unanswered = Unanswered(Interval.M1, neighbours_too=True)
        self._rejects: list[Reject] = []
        self._ids = pl.Series("trade_id", [], pl.Int64())
        self._density = density or Density()
        self._last: tuple[int, int] | None = None  # the id of the last good trade, and its second
        self._reached = 0.0  # the latest time so far, with its fraction
        self._minutes: list[pl.Series] = []  # the first time of each minute so far
        self.facts = Facts()

    def blocks(self) -> Generator[Block, None, None]:
        """Yield the whole one-minute candles, sorted and unique by time, and the rejected rows.

        Raises:
            UnreadableArchive: The file has no good row, or its columns or times are wrong.
        """
        fold = TradeFold()
        for trades in self._trades():
            minutes = fold.add(trades)
            if minutes.height or self._rejects:
                yield Block(self._whole(minutes), self._collected_rejects())
        yield Block(self._whole(fold.finish()), ())
        self.facts.unanswered = self._unanswered.spans()
        require_rows(self.facts, "trade")

    def _collected_rejects(self) -> tuple[Reject, ...]:
        rejects, self._rejects = tuple(self._rejects), []
        return rejects

    def _whole(self, minutes: pl.DataFrame) -> pl.DataFrame:
        whole = minutes.filter(~lies_in(self._unanswered.spans(), seconds_in(minutes)))
        self.facts.trades += int(whole["trade_count"].sum())
        return whole

    def _trades(self) -> Iterator[pl.DataFrame]:
        digest = StreamDigest()
        line = 1
        stream = Headed(self._stream)
        dialect = dialect_of(stream.head, TRADES)
        form = Format(
            {name: _TYPES.get(name, pl.String()) for name in dialect.columns},
            _broken_rules(self._now),
            _TIME_RULES,
            partial(_is_sound, now=self._now),
            is_quoted=dialect.is_quoted,
        )
        for data in line_blocks(stream, digest):
            block_data = data
            if line <= dialect.header_lines:
                block_data = data[data.index(b"\n") + 1 :]
                line += 1
            parsed = parse_block(block_data, line, form)
            for block, since in chain.from_iterable(self._in_order(_by_id(block)) for block in parsed):
                line += block.rows.height + len(block.rejects)
                self._note(block, since)
                time = (pl.col("time") * 1_000_000).cast(pl.Int64).cast(TIME)
                if self._keep is not None and block.rows.height:
                    self._keep(told(block.rows.with_columns(time)))
                yield block.rows.select(time, "price", "volume", *([_BOUGHT] if "side" in block.rows.columns else []))
                require_some_good(self.facts, line - 1, "trade")
        self.facts.lines = line - 1
        self.facts.sha256 = digest.hexdigest()
        if not self._edges_are_whole and self.facts.last_time is not None:
            self._unanswered.add(self.facts.last_time)

    def _note(self, block: Block, since: Mapping[int, int]) -> None:
        self._unanswered.collect(block, since)
        self._rejects += block.rejects
        self.facts.rejected += len(block.rejects)
        if block.rows.height:
            self.facts.rows += block.rows.height
            if self.facts.first_time is None:
                self.facts.first_time = int(block.rows["time"][0])
                if not self._edges_are_whole:
                    self._unanswered.add(self.facts.first_time)
            self.facts.last_time = int(block.rows["time"][-1])
            if "trade_id" in block.rows.columns:
                self._hold_against_ids(block.rows)

    def _hold_against_ids(self, rows: pl.DataFrame) -> None:
        """Exclude the minutes between trades whose ids should be consecutive and are not."""
        ids, seconds = rows["trade_id"], rows["time"].cast(pl.Int64)
        last_id, last_second = self._last or (int(ids[0]) - 1, int(seconds[0]))
        before, earlier = ids.shift(1, fill_value=last_id), seconds.shift(1, fill_value=last_second)
        self._last = int(ids[-1]), int(seconds[-1])
        breaks = (ids - before != 1).arg_true().to_list()
        bounds = [
            (int(earlier[place]), int(seconds[place]))
            for place in breaks
            if self._is_break(int(before[place]), int(ids[place]), int(earlier[place]), int(seconds[place]))
        ]
        if bounds:
            self._unanswered.add(*(time for pair in bounds for time in pair))
            self._unanswered.add_between(*bounds)

    def _is_break(self, before: int, after: int, earlier: int, later: int) -> bool:
        if after <= before:
            return self._density.is_held(Span(earlier, max(earlier, later) + 1))
        return bool(self._density.holes([AbsentIds(before + 1, after - 1, earlier, later)]))

    def _in_order(self, block: Block) -> Iterator[tuple[Block, dict[int, int]]]:
        """Reject rows whose time runs backwards, and repeated ids (within this block and the one before).

        Yields:
            The block, or pieces of it if many rows are rejected, and for each line that runs backwards the time from
            which the rows before it are doubtful: that of the last trade that is not later. Its own time may be wrong,
            or that of any row since.
        """
        rows = block.rows
        reached = pl.max_horizontal(pl.col("time").cum_max(), pl.lit(self._reached))
        wrong = {_BACKWARDS: pl.col("time") < reached}
        if "trade_id" in rows.columns:
            repeated = pl.col("trade_id").is_in(self._ids.implode()) | ~pl.col("trade_id").is_first_distinct()
            wrong[_REPEATED_ID] = repeated
        reason = pl.coalesce(pl.when(rule).then(pl.lit(text)) for text, rule in wrong.items())
        judged = rows.with_columns(reason.alias("_reason"))
        if rows.height:
            self._reached = float(rows.select(reached.last()).item())
            self._ids = rows["trade_id"] if "trade_id" in rows.columns else self._ids
        is_good = judged["_reason"].is_null()
        minute = judged.filter(is_good)["time"]
        self._minutes.append(minute.filter((minute // 60).diff().fill_null(1) != 0))
        if is_good.all():
            yield block, {}
            return
        most = REJECTS_TOGETHER if judged.height - is_good.sum() > REJECTS_TOGETHER else judged.height
        begin = 0  # the first of the block's rejects that is not in an earlier piece
        for start in range(0, judged.height, most):
            piece = judged.slice(start, most)
            is_last = start + most >= judged.height
            end = len(block.rejects) if is_last else bisect(block.rejects, piece[LINE][-1], begin, key=_line)
            yield self._judged(piece, block.rejects[begin:end])
            begin = end

    def _judged(self, rows: pl.DataFrame, earlier: Sequence[Reject]) -> tuple[Block, dict[int, int]]:
        """Return a block of the rows that have no reason to be rejected, with the others and earlier rejects."""
        bad = rows.filter(pl.col("_reason").is_not_null())
        rejects = [
            Reject(
                row[LINE],
                ",".join(str(value) for name, value in row.items() if name not in (LINE, "_reason"))[:TEXT_CHARACTERS],
                row["_reason"],
                None if row["_reason"] == _BACKWARDS else int(row["time"]),
            )
            for row in bad.iter_rows(named=True)
        ]
        good = rows.filter(pl.col("_reason").is_null()).drop("_reason")
        return (
            Block(good, tuple(sorted((*earlier, *rejects), key=_line))),
            self._last_before(bad.filter(pl.col("_reason") == _BACKWARDS)),
        )

    def _last_before(self, rows: pl.DataFrame) -> dict[int, int]:
        """Return for each line the first good time of the latest minute that began no later than it; 0 if none did."""
        if rows.is_empty():
            return {}
        self._minutes = [pl.concat(self._minutes)]
        minutes = self._minutes[0]
        places = minutes.search_sorted(rows["time"], side="right")
        return {
            line: int(minutes[place - 1]) if place else 0
            for line, place in zip(rows[LINE].to_list(), places.to_list(), strict=True)
        }


def _by_id(block: Block) -> Block:
    """Return a block in the order of its trades' ids if times rise with them; else return it unchanged."""
    rows = block.rows
    if "trade_id" not in rows.columns or rows["trade_id"].is_sorted():
        return block
    ordered = rows.sort("trade_id", maintain_order=True)
    if not ordered["time"].is_sorted() or ordered["trade_id"].is_duplicated().any():
        return block
    # The line numbers stay in order, because they locate the rejected rows.
    return Block(ordered.with_columns(rows[LINE]), block.rejects)
