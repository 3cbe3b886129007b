"""Defects of real archives, as values that are applied on request.

A `Defect` states what is wrong, where (release, pair, interval) and when. The writers of `archives` apply it to their
files, the server of `exchange` to its answers, in this order::

    spoil_candles   candles are wrong, or a row must be rejected
    spoil_text      a number is written in another way, or a line cannot be read
    spoil_file      the file is damaged, or absent
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import polars as pl

from kraken_pipeline.demo.listing import LOT_DECIMALS
from kraken_pipeline.demo.world import SECOND_NS, World, tally
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.interval import Interval


class DefectKind(StrEnum):
    """The kinds of defects."""

    # Data: the content of a file or a reply is not true.
    MISSING_CANDLE = "the candle has no row"
    SHORT_CANDLE = "the candle was cut before it ended: it has only the first half of its trades"
    FEWER_TRADES = "volume and trade count are about 0.25 % too low, prices are right: releases that disagree"
    REPEATED_TIME = "a second row for the same time follows, with the first half of the trades"
    SPIKE = "the high is ten times what it was"
    SHIFTED = "times are several hours late"
    FALSE_QUIET = "the OHLC endpoint reports that nobody traded"

    # Rows that a reader must reject.
    HIGH_BELOW_LOW = "the high is below the low"
    MISALIGNED = "the time is not the start of a candle"
    NEGATIVE_VOLUME = "the volume is negative"
    UNREADABLE = "the close is not a number"
    CUT_LINE = "the line ends after the close"

    # Formats: other ways to write the same numbers (the noise is below 1e-12 of the volume).
    SCIENTIFIC = "the volume is in scientific notation: 3.811e-05"
    INTEGER_VOLUME = "an integer volume has no decimals: 1868"
    COUNT_AS_FLOAT = "the trade count has decimals: 11.0"
    NOISY_VOLUME = "the volume has the rounding error of a sum of floats: 3529536.4586280505"

    # Files.
    MISSING_MEMBER = "the archive lacks the file"
    GARBAGE = "the file has bytes that are not text"
    TRUNCATED = "the file ends in the middle, as after an interrupted download"


_FORMATS = (DefectKind.SCIENTIFIC, DefectKind.INTEGER_VOLUME, DefectKind.COUNT_AS_FLOAT, DefectKind.NOISY_VOLUME)
_DAMAGES = (DefectKind.GARBAGE, DefectKind.TRUNCATED)
_OF_WHOLE_FILES = (
    *_FORMATS,
    *_DAMAGES,
    DefectKind.MISSING_MEMBER,
    DefectKind.SHIFTED,
    DefectKind.FEWER_TRADES,
)
_NEED_TWO_TRADES = (DefectKind.SHORT_CANDLE, DefectKind.FEWER_TRADES, DefectKind.REPEATED_TIME)


@dataclass(frozen=True, slots=True)
class Defect:
    """A defect and its place.

    Attributes:
        kind: The kind of defect.
        pair: The market's altname; None for all.
        interval: The interval of the candles; None for all.
        time: The start of the candle, in seconds since the epoch; None for the whole file. Kinds that make a candle
            wrong require it, except SHIFTED and FEWER_TRADES, which may affect whole files.
        until: The first candle after `time` that is right again; None if only the one at `time` is affected.
        release: The name of the file that has it (Kraken_OHLCVT_Q2_2023.zip, XBTUSD_60.csv); None for all.
        hours: The hours by which times are late, for SHIFTED.
    """

    kind: DefectKind
    pair: str | None = None
    interval: Interval | None = None
    time: int | None = None
    until: int | None = None
    release: str | None = None
    hours: int = 0

    def concerns(self, release: str, pair: str | None = None, interval: Interval | None = None) -> bool:
        """Return whether a file, or a member of a file, has the defect."""
        return self.release in (None, release) and self.pair in (None, pair) and self.interval in (None, interval)

    @property
    def damages_file(self) -> bool:
        """Whether the defect is in the bytes of a file, not in a row."""
        return self.kind in _DAMAGES

    @property
    def rows(self) -> pl.Expr:
        """An expression for the rows with the defect, by their column `time` (seconds since the epoch)."""
        if self.time is None:
            return pl.lit(value=True)
        return pl.col("time").is_between(self.time, self.until or self.time + 1, closed="left")


def check_defects(world: World, defects: Iterable[Defect]) -> None:
    """Refuse defects that cannot be planted: a test that relies on an absent defect proves nothing.

    Raises:
        InvalidRequest: A defect's place is incomplete, or its candle has no trade, or too few.
    """
    for defect in defects:
        if defect.time is None and defect.kind in _OF_WHOLE_FILES:
            continue
        if defect.pair is None or defect.interval is None or defect.time is None:
            raise InvalidRequest(f"{defect} must name the pair, the interval and the time of a candle")
        until = defect.until or defect.time + 1
        counts = world.candles(defect.pair, defect.interval, defect.time, until)["trade_count"].to_list()
        needed = 2 if defect.kind in _NEED_TWO_TRADES else 1
        if max(counts, default=0) < needed:
            raise InvalidRequest(
                f"{defect} cannot be planted: there is no candle with at least {needed} trade(s) at its time"
            )


def spoil_candles(
    world: World, pair: str, interval: Interval, tallies: pl.DataFrame, defects: Sequence[Defect]
) -> pl.DataFrame:
    """Return the candles of a file with its defects applied.

    Args:
        world: The world that they come from.
        pair: The altname of their pair.
        interval: Their length.
        tallies: The candles, with the columns and order of `world.tally`.
        defects: The defects of this file; kinds that do not affect candles are ignored.
    """
    for defect in defects:
        rows = defect.rows
        match defect.kind:
            case DefectKind.MISSING_CANDLE:
                tallies = tallies.filter(~rows)
            case DefectKind.SHORT_CANDLE:
                short = _first_halves(world, pair, interval, tallies.filter(rows))
                tallies = pl.concat([tallies.filter(~rows), short]).sort("time")
            case DefectKind.REPEATED_TIME:
                short = _first_halves(world, pair, interval, tallies.filter(rows))
                tallies = pl.concat([tallies, short]).sort("time", maintain_order=True)
            case DefectKind.FEWER_TRADES:
                fewer = rows & (pl.col("trade_count") > 1) & (pl.col("lots") > 1)
                tallies = _with(tallies, fewer, "lots", pl.col("lots") - 1 - pl.col("lots") // 400)
                tallies = _with(tallies, fewer, "trade_count", pl.col("trade_count") - 1 - pl.col("trade_count") // 400)
            case DefectKind.SPIKE:
                tallies = _with(tallies, rows, "high", pl.col("high") * 10)
            case DefectKind.SHIFTED:
                tallies = _with(tallies, rows, "time", pl.col("time") + defect.hours * 3_600)
            case DefectKind.HIGH_BELOW_LOW:
                tallies = _with(tallies, rows, "high", pl.col("low") - 1)
            case DefectKind.MISALIGNED:
                tallies = _with(tallies, rows, "time", pl.col("time") + 7)
    return tallies


def _with(frame: pl.DataFrame, rows: pl.Expr, column: str, value: pl.Expr | pl.Series) -> pl.DataFrame:
    return frame.with_columns(pl.when(rows).then(value).otherwise(pl.col(column)).alias(column))


def _first_halves(world: World, pair: str, interval: Interval, tallies: pl.DataFrame) -> pl.DataFrame:
    halves = [tallies.clear()]
    for start in tallies["time"]:
        trades = world.trades(pair, start * SECOND_NS, (start + interval.seconds) * SECOND_NS)
        halves.append(tally(trades.head(max(1, trades.height // 2)), interval))
    return pl.concat(halves)


def spoil_text(rows: pl.DataFrame, defects: Sequence[Defect]) -> pl.DataFrame:
    """Return the rows of a file as text with its defects applied.

    Args:
        rows: The fields as text (`open`, `high`, `low`, `close`, `volume`, `trades`), and as integers `time` and
            `lots`.
        defects: The defects of this file; kinds that do not affect text are ignored.

    Returns:
        The same columns; a null is a field that the line no longer has.
    """
    for defect in defects:
        where = defect.rows
        match defect.kind:
            case DefectKind.NEGATIVE_VOLUME:
                rows = _with(rows, where, "volume", "-" + pl.col("volume"))
            case DefectKind.UNREADABLE:
                rows = _with(rows, where, "close", pl.lit("n/a"))
            case DefectKind.CUT_LINE:
                rows = _with(rows, where, "volume", pl.lit(None, pl.String))
                rows = _with(rows, where, "trades", pl.lit(None, pl.String))
            case DefectKind.SCIENTIFIC:
                rows = _with(rows, where, "volume", _scientific(pl.col("lots")))
            case DefectKind.INTEGER_VOLUME:
                rows = _with(rows, where, "volume", pl.col("volume").str.strip_suffix(".0"))
            case DefectKind.COUNT_AS_FLOAT:
                rows = _with(rows, where, "trades", pl.col("trades") + ".0")
            case DefectKind.NOISY_VOLUME:
                noisy = [repr(lots / 10**LOT_DECIMALS * (1 + 2**-50)) for lots in rows["lots"].to_list()]
                rows = _with(rows, where, "volume", pl.Series(noisy, dtype=pl.String))
    return rows


def _scientific(lots: pl.Expr) -> pl.Expr:
    """Return volumes as Python writes small floats: one digit, the other digits, and an exponent of two digits."""
    digits = lots.cast(pl.String)
    others = digits.str.slice(1).str.strip_chars_end("0")
    exponent = digits.str.len_chars().cast(pl.Int64) - 1 - LOT_DECIMALS
    return pl.concat_str(
        digits.str.slice(0, 1),
        pl.when(others == "").then(pl.lit("")).otherwise("." + others),
        pl.when(exponent < 0).then(pl.lit("e-")).otherwise(pl.lit("e+")),
        exponent.abs().cast(pl.String).str.zfill(2),
    )


def spoil_content(name: str, content: bytes, defects: Iterable[Defect]) -> bytes:
    """Return a file's bytes with its defects applied.

    Args:
        name: The file's name; garbage is always the same for one name.
        content: The whole content of the file.
        defects: The defects of the file; kinds that do not affect bytes are ignored.
    """
    for defect in defects:
        if defect.kind is DefectKind.GARBAGE:
            content = hashlib.shake_128(name.encode()).digest(4_096)
        elif defect.kind is DefectKind.TRUNCATED:
            content = content[: len(content) * 3 // 5]
    return content


def spoil_file(path: Path, defects: Iterable[Defect]) -> None:
    """Damage a file on disk as `spoil_content` does."""
    damage = [defect for defect in defects if defect.damages_file]
    if damage:
        path.write_bytes(spoil_content(path.name, path.read_bytes(), damage))
