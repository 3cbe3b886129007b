"""Staged writes: files that lie beside the lake, and how their candles compare with the stored ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

import polars as pl

from kraken_pipeline.coverage.equality import differences, disagreeing
from kraken_pipeline.coverage.ranges import Span, Spans, lies_in, union
from kraken_pipeline.market.candle import (
    CANDLE_SCHEMA,
    Account,
    Source,
    are_independent,
    seconds_in,
)
from kraken_pipeline.market.flow import FLOW, has_flow
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.lake.files import LakeFiles, Put
from kraken_pipeline.storage.records.manifest import LakeFile


class Lost(StrEnum):
    """The reason why a candle is in the ledger."""

    REPLACED = "REPLACED"  # it was stored and was replaced
    REFUSED = "REFUSED"  # it was offered with other prices or another trade count, and was refused
    WITHDRAWN = "WITHDRAWN"  # it was stored and a person withdrew it


LEDGER_SCHEMA = pl.Schema(
    {
        **CANDLE_SCHEMA,
        "lost": pl.Enum([lost.value for lost in Lost]),
        "by": pl.String(),  # the origin of the write that caused it; for a withdrawal, its reason
        "at": pl.Int64(),  # the time of the run that did it, in seconds since the epoch
    }
)


@dataclass(frozen=True, slots=True)
class Move:
    """A written file and its destination.

    Attributes:
        put: The written file and its destination in the lake or the ledger.
        file: The record for the manifest.
    """

    put: Put
    file: LakeFile


_NO_TIMES = pl.Series("time", [], pl.Int64())


def _no_times() -> pl.Series:
    return _NO_TIMES.clone()  # a new one takes twenty times as long


@dataclass(slots=True)
class Staged:
    """A write to the lake whose files still lie beside it.

    Attributes:
        series: The series.
        origin: The origin of the candles, for display: a file's name, `OHLC of XBTUSD 60`, `resampling`.
        now: The time of the run that writes, in seconds since the epoch.
        changed: The number of candles that are new, different or gone.
        changed_span: The time from the first of these to the end of the last; None where nothing changes.
        added: The ranges in which all candles that there are after the write are new: no earlier one lies in them.
        enriched_span: The hull of the candles that only get another flow. They are stored and published, and nothing
            that was compared or proven is affected; None where there are none.
        times: The start of every candle that the touched partitions will hold, in seconds, sorted.
        years: The years of the touched files, replaced ones of another layout included; None for a file of all years.
        refused: The number of offered candles that contradict the stored ones (another trade count).
        refused_span: The hull of these; None where there are none.
        outdone: The number of stored candles of another archive that were replaced by greater trade counts.
        outdone_span: The hull of these; None where there are none.
        alike: The start of every offered candle that equals a stored one of an independent source, in seconds.
        unlike: The start of every other candle, stored or offered, in the partitions that have such ones, sorted.
        compared: The time range of these partitions.
        account: The source and release of the offered candles; None where nothing was compared.
        disputed: The start of every offered candle that differs from one of the same release and trade count, in
            seconds.
        undisputed: The start of every candle now kept from another source, release or trade count than before.
        moves: The written files, in the order in which they are moved.
        retired: The paths on record that hold no candles of the series after the write, because
            it leaves the series in another layout.
    """

    series: Series
    origin: str
    now: int
    changed: int = 0
    changed_span: Span | None = None
    added: Spans = ()
    enriched_span: Span | None = None
    times: pl.Series = field(default_factory=_no_times)
    years: tuple[int | None, ...] = ()
    refused: int = 0
    refused_span: Span | None = None
    outdone: int = 0
    outdone_span: Span | None = None
    alike: pl.Series = field(default_factory=_no_times)
    unlike: pl.Series = field(default_factory=_no_times)
    compared: Spans = ()
    account: Account | None = None
    disputed: pl.Series = field(default_factory=_no_times)
    undisputed: pl.Series = field(default_factory=_no_times)
    moves: list[Move] = field(default_factory=list)
    retired: tuple[str, ...] = ()
    _synced: int = 0

    def sync(self, files: LakeFiles) -> None:
        """Sync the written files to disk that were not synced yet, if their destination requires it."""
        for move in self.moves[self._synced :]:
            files.sync(move.put.written)
            self._synced += 1

    def discard(self) -> None:
        """Delete the files that were written and not committed."""
        for move in self.moves:
            move.put.written.unlink(missing_ok=True)
        self.moves.clear()


def move_all(files: LakeFiles, stages: Sequence[Staged]) -> None:
    """Move the written files of several writes, which are synced, into the lake; each is then there and durable.

    Raises:
        WriteConflict: A file is no longer the one that the write has read.
    """
    files.put([[move.put for move in staged.moves] for staged in stages])
    for staged in stages:
        staged.moves.clear()


def without_resampled(stored: pl.DataFrame, remade: Spans) -> pl.DataFrame:
    """Return stored candles without the resampled ones in some spans."""
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
    """Add candles that are new, different or gone to the changed ones of a write."""
    staged.changed += count
    staged.changed_span = _grown(staged.changed_span, times, staged.series.interval.seconds)


def note_added(staged: Staged, stored: pl.DataFrame, merged: pl.DataFrame) -> None:
    """Add the ranges of new candles to a write, given those of a file before and after it."""
    times, before = seconds_in(merged).to_numpy(), seconds_in(stored).to_numpy()
    if not len(times):
        return
    length = staged.series.interval.seconds
    # Between two earlier candles, or before the first or after the last, all new ones make one range.
    place = before.searchsorted(times)
    is_new = before.take(place, mode="clip") != times if len(before) else place == 0
    new, gap = times[is_new], place[is_new]
    if len(new):
        firsts = [0, *(gap[1:] != gap[:-1]).nonzero()[0] + 1]
        lasts = [*(first - 1 for first in firsts[1:]), len(new) - 1]
        spans = (Span(int(new[a]), int(new[b]) + length) for a, b in zip(firsts, lasts, strict=True))
        staged.added = (*staged.added, *spans)


def note_enriched(staged: Staged, enriched: pl.DataFrame) -> None:
    """Add candles that only get another flow to a write."""
    if enriched.height:
        staged.enriched_span = _grown(staged.enriched_span, seconds_in(enriched), staged.series.interval.seconds)


def split_enriched(stored: pl.DataFrame, changed: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the changed candles that differ from the stored ones in more than their flow, and the others."""
    if not has_flow(changed):
        return changed, changed.clear()
    names = [name for name in stored.columns if name not in FLOW]
    enriched = changed.join(stored, on=names, how="semi", maintain_order="left")
    return changed.join(enriched.select("time"), on="time", how="anti", maintain_order="left"), enriched


def count_refused(staged: Staged, refused: pl.DataFrame) -> None:
    """Add candles that were offered and refused to those of a write."""
    if refused.height:
        staged.refused += refused.height
        staged.refused_span = _grown(staged.refused_span, seconds_in(refused), staged.series.interval.seconds)


def count_outdone(staged: Staged, outdone: pl.DataFrame) -> None:
    """Add candles that were stored and replaced by greater trade counts to those of a write."""
    if outdone.height:
        staged.outdone += outdone.height
        staged.outdone_span = _grown(staged.outdone_span, seconds_in(outdone), staged.series.interval.seconds)


def count_alike(staged: Staged, stored: pl.DataFrame, offered: pl.DataFrame, year: int | None) -> None:
    """Add the candles of a partition that equal those of an independent source, and all others, to a write."""
    if offered.is_empty() or stored.is_empty():
        return
    staged.account = account = (offered["source"][0], offered["release"][0])
    accounts = stored.select("source", "release").unique()
    others = accounts.filter(pl.Series([are_independent(other, account) for other in accounts.iter_rows()]))
    if others.is_empty():
        return
    same_source = stored.join(others, on=["source", "release"], how="semi", maintain_order="left")
    alike = seconds_in(same_source.filter(~pl.col("time").is_in(differences(same_source, offered)["time"].implode())))
    if len(alike):
        every = pl.concat([seconds_in(stored), seconds_in(offered)]).unique().sort()
        staged.alike = staged.alike.append(alike)
        staged.unlike = staged.unlike.append(every.filter(~every.is_in(alike.implode())))
        staged.compared = union(staged.compared, (_reach_of(year),))


def find_disputes(
    staged: Staged, stored: pl.DataFrame, offered: pl.DataFrame, replaced: pl.DataFrame, merged: pl.DataFrame
) -> None:
    """Add to a write the candles in which another file of the same release differs, and those whose disputes end.

    Disputes are about the kept candle, with its source, release and trade count. The same candles are therefore
    disputed in the end, in whatever order files are ingested.
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
    """Return the time that a file can hold: a year, or all time."""
    first, last = (1, 9999) if year is None else (year, year + 1)
    return Span(*(int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (first, last)))


def _grown(known: Span | None, times: pl.Series, length: int) -> Span:
    start, end = int(times[0]), int(times[-1]) + length
    return Span(min(start, known.start), max(end, known.end)) if known else Span(start, end)
