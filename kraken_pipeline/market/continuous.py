"""Joining the candles of a pair that was renamed into one series, with the seam between the two names on record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from kraken_pipeline.market.candle import seconds_of
from kraken_pipeline.market.decimals import PRICES
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.pair_history import Rename, predecessors

_PRICES = (*PRICES, "vwap")
_VOLUMES = ("volume", "buy_volume")
"""Columns in the base asset, which the ratio of a rename multiplies. The quote asset stays, and so does its volume."""


@dataclass(frozen=True, slots=True)
class Seam:
    """The place where a joined series changes from one name to the next. Times are in seconds since the epoch.

    Attributes:
        rename: The rename.
        moment: The time from which on the rows are those of the new name: the date of the rename, or the first candle
            of the new name if the date is unknown. None if the date is unknown and the new name has no candle.
        old_last: The start of the last candle of the old name in the series; None if there is none.
        new_first: The start of the first candle of the new name in the series; None if there is none.
        overlap: The starts of the first and the last candle within the time in which both names have candles; None if
            there is no such time.
        old_left_out: The number of candles of the old name from `moment` on, which are not in the series.
        new_left_out: The number of candles of the new name before `moment`, which are not in the series.
    """

    rename: Rename
    moment: int | None
    old_last: int | None
    new_first: int | None
    overlap: tuple[int, int] | None
    old_left_out: int
    new_left_out: int

    @property
    def gap(self) -> int | None:
        """The seconds from the start of the last old candle to that of the first new one; None if either is absent."""
        return None if self.old_last is None or self.new_first is None else self.new_first - self.old_last

    @property
    def ratio(self) -> float:
        """The number by which the old prices were divided and the old volumes multiplied."""
        return self.rename.ratio

    def sentence(self) -> str:
        """Return the seam in words."""
        before, after = self.rename.before, self.rename.after
        if self.old_last is None or self.new_first is None:
            alone = before if self.new_first is None else after
            one_sided = (
                f"there are only candles of {alone}" if self.old_last != self.new_first else "no candle of either"
            )
            return f"{before} became {after}: {one_sided}"
        dated = "by its date" if self.rename.moment is not None else "by the candles, because its date is unknown"
        parts = [
            f"{before} became {after}, joined {dated}: the last candle of {before} is of {iso(self.old_last)}, "
            f"the first one of {after} of {iso(self.new_first)}"
        ]
        if self.ratio != 1:
            parts.append(f"prices of {before} are divided by {self.ratio:g}, volumes multiplied")
        if self.overlap is not None:
            parts.append(
                f"both names have candles from {iso(self.overlap[0])} to {iso(self.overlap[1])}; left out are "
                f"{self.old_left_out:,} of {before} and {self.new_left_out:,} of {after}"
            )
        return "; ".join(parts)


def continuous(old: pl.DataFrame, new: pl.DataFrame, rename: Rename) -> tuple[pl.DataFrame, Seam]:
    """Join the candles of two names of a pair: those of the old name end where those of the new name begin.

    The candles of the two names are never mixed. Before the seam there are only old ones, from it on only new ones. If
    the date of the rename is unknown, the seam is the first candle of the new name. What is left out is in the seam.

    Args:
        old: The candles under the old name, sorted by time; with a column `pair` if they are joined themselves.
        new: The candles under the new name, with the same columns.
        rename: The rename.

    Returns:
        The joined candles, and the seam. A first column `pair` has the name under which each candle was traded. Prices
        and volumes of the old name are in units of the new one.
    """
    firsts, lasts = (_first(old), _first(new)), (_last(old), _last(new))
    moment = rename.moment if rename.moment is not None else firsts[1]
    if moment is None:
        kept_old, kept_new = old, new
    else:
        seconds = seconds_of(pl.col("time"))
        kept_old, kept_new = old.filter(seconds < moment), new.filter(seconds >= moment)
    seam = Seam(
        rename=rename,
        moment=moment,
        old_last=_last(kept_old),
        new_first=_first(kept_new),
        overlap=_overlap(firsts, lasts),
        old_left_out=old.height - kept_old.height,
        new_left_out=new.height - kept_new.height,
    )
    joined = pl.concat([_named(_rescaled(kept_old, rename.ratio), rename.before), _named(kept_new, rename.after)])
    return joined, seam


def continuous_candles(pair: str, candles_of: Callable[[str], pl.DataFrame]) -> tuple[pl.DataFrame, tuple[Seam, ...]]:
    """Join the candles of a pair with those under all of its former names.

    Args:
        pair: The present name of the pair.
        candles_of: Returns the candles under a name, all with the same columns, sorted by time.

    Returns:
        The joined candles, as `continuous` returns them, and the seams in order of time: none for a pair that was never
        renamed.

    Raises:
        InvalidRequest: The text cannot be the name of a pair.
    """
    renames = predecessors(pair)[::-1]
    joined = _named(candles_of(renames[0].before if renames else pair), renames[0].before if renames else pair)
    seams: list[Seam] = []
    for rename in renames:
        joined, seam = continuous(joined, candles_of(rename.after), rename)
        seams.append(seam)
    return joined, tuple(seams)


def _named(candles: pl.DataFrame, pair: str) -> pl.DataFrame:
    """Return candles with the name of their pair in the first column, unless they have it already."""
    if "pair" in candles.columns:
        return candles.select("pair", pl.exclude("pair"))
    return candles.select(pl.lit(pair, dtype=pl.String).alias("pair"), pl.all())


def _rescaled(candles: pl.DataFrame, ratio: float) -> pl.DataFrame:
    """Return candles in units of the new asset; at a ratio of 1 the values stay as they are, bit for bit."""
    if ratio == 1:
        return candles
    there = set(candles.columns)
    return candles.with_columns(
        *(pl.col(name) / ratio for name in _PRICES if name in there),
        *(pl.col(name) * ratio for name in _VOLUMES if name in there),
    )


def _first(candles: pl.DataFrame) -> int | None:
    return None if candles.is_empty() else int(candles["time"][0].timestamp())


def _last(candles: pl.DataFrame) -> int | None:
    return None if candles.is_empty() else int(candles["time"][-1].timestamp())


def _overlap(firsts: tuple[int | None, int | None], lasts: tuple[int | None, int | None]) -> tuple[int, int] | None:
    begins, ends = [first for first in firsts if first is not None], [last for last in lasts if last is not None]
    if len(begins) < 2 or max(begins) > min(ends):
        return None
    return max(begins), min(ends)
