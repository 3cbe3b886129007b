"""Writes that lie beside the lake: their files, and how what they bring compares with what is stored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import polars as pl

from kraken_pipeline.coverage.equality import differences, disagreeing
from kraken_pipeline.coverage.ranges import Span, Spans, lies_in, union
from kraken_pipeline.market.candle import (
    CANDLE_SCHEMA,
    Account,
    Source,
    are_independent,
)
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.paths import (
    sync_folder,
)
from kraken_pipeline.storage.records.manifest import LakeFile


class Lost(StrEnum):
    """How a candle in the ledger lost."""

    REPLACED = "REPLACED"  # it was stored, and gave way
    REFUSED = "REFUSED"  # it was offered with other prices or another trade count, and not taken
    WITHDRAWN = "WITHDRAWN"  # it was stored, and a person took it back


LEDGER_SCHEMA = pl.Schema(
    {
        **CANDLE_SCHEMA,
        "lost": pl.Enum([lost.value for lost in Lost]),
        "by": pl.String(),  # the origin of the write that caused it; of a withdrawal its reason
        "at": pl.Int64(),  # the moment of the run that did it, in seconds since the epoch
    }
)


@dataclass(frozen=True, slots=True)
class Move:
    """A written file, and where it goes.

    Attributes:
        written: Where it lies now, synced.
        final: Where it goes.
        file: What the manifest will say of it.
    """

    written: Path
    final: Path
    file: LakeFile


@dataclass(slots=True)
class Staged:
    """What a write will bring into the lake, lying beside it.

    Attributes:
        series: Whose candles.
        origin: Where they come from, for people: a file's name, `OHLC of XBTUSD 60`, `resampling`.
        now: The moment of the run that writes, in seconds since the epoch.
        changed: Candles that are new or different, or gone.
        changed_span: From the first of them to the end of the last; None where nothing changes.
        times: Start of every candle that the touched partitions will hold, in seconds, sorted.
        years: The touched partitions; None for a series that is one file.
        refused: Candles offered that contradict what is kept (another trade count), and their hull.
        outdone: Candles of another archive that were kept and gave way to greater trade counts, and their hull.
        alike: Start of every candle offered that an independent source had brought with the same values, in seconds.
        unlike: Start of every other candle, stored or offered, in the partitions that have such ones, sorted.
        compared: What these partitions reach over.
        account: Source and release of the candles offered; None where nothing was compared.
        disputed: Start of every candle offered that differs from one of the same release and trade count, in seconds.
        undisputed: Start of every candle that is kept of another source, release or trade count than before.
        moves: Written files, in the order of going.
    """

    series: Series
    origin: str
    now: int
    changed: int = 0
    changed_span: Span | None = None
    times: pl.Series = field(default_factory=lambda: pl.Series("time", [], pl.Int64()))
    years: tuple[int | None, ...] = ()
    refused: int = 0
    refused_span: Span | None = None
    outdone: int = 0
    outdone_span: Span | None = None
    alike: pl.Series = field(default_factory=lambda: pl.Series("time", [], pl.Int64()))
    unlike: pl.Series = field(default_factory=lambda: pl.Series("time", [], pl.Int64()))
    compared: Spans = ()
    account: Account | None = None
    disputed: pl.Series = field(default_factory=lambda: pl.Series("time", [], pl.Int64()))
    undisputed: pl.Series = field(default_factory=lambda: pl.Series("time", [], pl.Int64()))
    moves: list[Move] = field(default_factory=list)

    def discard(self) -> None:
        """Deletes what was written and not committed."""
        for move in self.moves:
            move.written.unlink(missing_ok=True)
        self.moves.clear()


def rename_all(stages: Iterable[Staged]) -> None:
    """Renames the written files of several writes into the lake; each is then there whole, and durable.

    First come all the renames: the first folder that is synced then takes the journal's entries of the others along,
    and each costs half of what it does alone (0.2 ms, not 0.5 ms).
    """
    changed: set[Path] = set()
    for staged in stages:
        for move in staged.moves:
            changed |= {move.final.parent, move.final.parent.parent}
            folder = move.final.parent
            while not folder.exists():
                folder = folder.parent
                changed.add(folder)
            move.final.parent.mkdir(parents=True, exist_ok=True)
            move.written.rename(move.final)
        staged.moves.clear()
    for folder in changed:
        sync_folder(folder)


def without_resampled(stored: pl.DataFrame, remade: Spans) -> pl.DataFrame:
    """Return stored candles without the resampled ones of some spans."""
    if not remade or stored.is_empty():
        return stored
    is_made = pl.col("source") == Source.RESAMPLED.value
    return stored.filter(~(is_made & lies_in(remade, seconds_in(stored))))


def changed_rows(stored: pl.DataFrame, merged: pl.DataFrame) -> pl.DataFrame:
    """Return the merged candles that are new, or differ from the stored ones."""
    if merged.height == stored.height and merged.equals(stored):
        return merged.clear()
    return merged.join(stored, on=merged.columns, how="anti", nulls_equal=True, maintain_order="left")


def count_changed(staged: Staged, count: int, times: pl.Series) -> None:
    """Add candles that are new, different or gone to what a write changes."""
    staged.changed += count
    staged.changed_span = _grown(staged.changed_span, times, staged.series.interval.seconds)


def count_refused(staged: Staged, refused: pl.DataFrame) -> None:
    """Add candles that were offered and not taken."""
    if refused.height:
        staged.refused += refused.height
        staged.refused_span = _grown(staged.refused_span, seconds_in(refused), staged.series.interval.seconds)


def count_outdone(staged: Staged, outdone: pl.DataFrame) -> None:
    """Add candles that were stored and gave way to greater trade counts."""
    if outdone.height:
        staged.outdone += outdone.height
        staged.outdone_span = _grown(staged.outdone_span, seconds_in(outdone), staged.series.interval.seconds)


def count_alike(staged: Staged, stored: pl.DataFrame, offered: pl.DataFrame, year: int | None) -> None:
    """Tells the candles of a partition that an independent source had brought alike from all others."""
    if offered.is_empty() or stored.is_empty():
        return
    staged.account = account = (offered["source"][0], offered["release"][0])
    accounts = stored.select("source", "release").unique()
    others = accounts.filter(pl.Series([are_independent(other, account) for other in accounts.iter_rows()]))
    if others.is_empty():
        return
    told = stored.join(others, on=["source", "release"], how="semi", maintain_order="left")
    alike = seconds_in(told.filter(~pl.col("time").is_in(differences(told, offered)["time"].implode())))
    if len(alike):
        every = pl.concat([seconds_in(stored), seconds_in(offered)]).unique().sort()
        staged.alike = staged.alike.append(alike)
        staged.unlike = staged.unlike.append(every.filter(~every.is_in(alike.implode())))
        staged.compared = union(staged.compared, (_reach_of(year),))


def find_disputes(
    staged: Staged, stored: pl.DataFrame, offered: pl.DataFrame, replaced: pl.DataFrame, merged: pl.DataFrame
) -> None:
    """Tells where another file of the same release had said something else, and where that is of no account any more.

    What is compared is what the kept candle is: of one source, release and trade count. Whichever of some files comes
    first, the same candles are disputed in the end.
    """
    what = ("trade_count", "source", "release")
    if replaced.height:
        kept = merged.select("time", *(pl.col(name).alias(f"kept_{name}") for name in what))
        is_other = pl.any_horizontal(pl.col(name) != pl.col(f"kept_{name}") for name in what)
        others = replaced.join(kept, on="time", how="left", maintain_order="left").filter(
            is_other.fill_null(value=True)
        )
        staged.undisputed = staged.undisputed.append(seconds_in(others))
    if offered.height and offered["source"][0] == Source.CSV.value:
        same = stored.filter(pl.col("source") == Source.CSV.value, pl.col("release") == offered["release"][0])
        staged.disputed = staged.disputed.append(disagreeing(same, offered))


def _reach_of(year: int | None) -> Span:
    """What a partition can hold: a year, or all time."""
    first, last = (1, 9999) if year is None else (year, year + 1)
    return Span(*(int(datetime(each, 1, 1, tzinfo=UTC).timestamp()) for each in (first, last)))


def seconds_in(candles: pl.DataFrame) -> pl.Series:
    """Return the start of each candle, in seconds since the epoch (Int64)."""
    return candles["time"].dt.epoch("s")


def _grown(known: Span | None, times: pl.Series, length: int) -> Span:
    start, end = int(times[0]), int(times[-1]) + length
    return Span(min(start, known.start), max(end, known.end)) if known else Span(start, end)
