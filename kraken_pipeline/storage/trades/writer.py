"""Writing trades: those of a source are merged with the kept ones into files beside the lake.

::

    announced → moved → confirmed, together with the grants of the same source; the replaced ones retired → deleted

Whoever writes holds the lock of the pair's one-minute series from `TradeWriter` until the write is confirmed.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Spans
from kraken_pipeline.errors import StoreUnavailable
from kraken_pipeline.market.trade import TOLD_SCHEMA
from kraken_pipeline.storage.lake.files import Put
from kraken_pipeline.storage.lake.lake import Lake
from kraken_pipeline.storage.records import damage as damages
from kraken_pipeline.storage.records.damage import Damage
from kraken_pipeline.storage.trades import manifest
from kraken_pipeline.storage.trades.files import read_file, write_trades
from kraken_pipeline.storage.trades.kept import (
    KeptTrades,
    TradeSource,
    answered_by,
    merged,
    overlap,
)
from kraken_pipeline.storage.trades.manifest import TradeFile
from kraken_pipeline.storage.trades.months import by_month, frames_by_month

PARTS = 32
"""The most files of a month. A page adds a small file: to write the month anew for each would take seconds."""
HELD_ROWS = 1_000_000
"""The number of trades of one source that are held in memory (40 MB); more are spilled until all of it is read."""


@dataclass(slots=True)
class StagedTrades:
    """A write to the trade lake whose files still lie beside it.

    Attributes:
        pair: The pair.
        moves: The written files, each with its record.
        retired: The paths of the files that they replace.
        left: The paths of files that an earlier write has left, which was killed before it had deleted them.
    """

    pair: str
    moves: list[tuple[Put, TradeFile]] = field(default_factory=list)
    retired: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[TradeFile]:
        """The records of the written files."""
        return [file for _, file in self.moves]

    @property
    def is_empty(self) -> bool:
        """Whether it changes nothing."""
        return not (self.moves or self.retired)

    def discard(self) -> None:
        """Delete the files that were written and not moved."""
        for put, _ in self.moves:
            put.written.unlink(missing_ok=True)
        self.moves.clear()


class TradeWriter:
    """A writer that stages what one source has of a pair: `add` frames in its order, then `finish`.

    What a source answers for is known once all of it was read, so its trades are held until then.

    Args:
        lake: The lake.
        pair: The pair.
        now: The time of the run, in seconds since the epoch.
    """

    def __init__(self, lake: Lake, pair: str, now: int) -> None:
        self._lake = lake
        self._pair = pair
        self._now = now
        self._held: dict[int, list[pl.DataFrame]] = {}
        self._rows = 0
        self._spilled: dict[int, list[Path]] = {}
        self.has_ids = False

    def add(self, trades: pl.DataFrame) -> None:
        """Add trades with the columns of `TOLD_SCHEMA`, none of them earlier than those added before."""
        self.has_ids = self.has_ids or trades["trade_id"].null_count() < trades.height
        for month, its in frames_by_month(trades):
            self._held.setdefault(month, []).append(its)
        self._rows += trades.height
        if self._rows > HELD_ROWS:
            self._spill()

    def _spill(self) -> None:
        held, self._held, self._rows = self._held, {}, 0
        for month, frames in held.items():
            path = self._lake.scratch / f"{uuid.uuid4().hex}.parquet"
            self._spilled.setdefault(month, []).append(path)
            pl.concat(frames).write_parquet(path, compression="lz4")

    def finish(self, source: TradeSource, spans: Spans) -> StagedTrades:
        """Merge what was added with the kept trades, and stage the months that change.

        Args:
            source: The source.
            spans: The time for which it answers, on the grid of minutes; trades outside are left out.
        """
        staged = StagedTrades(self._pair)
        months = dict(by_month(spans))
        try:
            records = _records(self._lake, self._pair, months, staged)
            for month, answered in months.items():
                offered = answered_by(source, self._told(month), answered)
                stage_month(self._lake, staged, month, records.get(month, ()), offered, self._now)
        except BaseException:
            staged.discard()
            raise
        finally:
            self.discard()
        return staged

    def _told(self, month: int) -> pl.DataFrame:
        spilled = [pl.read_parquet(path) for path in self._spilled.get(month, ())]
        parts: list[pl.DataFrame] = [*spilled, *self._held.get(month, ()), pl.DataFrame(schema=TOLD_SCHEMA)]
        return pl.concat(parts)

    def discard(self) -> None:
        """Drop what was added."""
        for path in (path for paths in self._spilled.values() for path in paths):
            path.unlink(missing_ok=True)
        self._spilled, self._held = {}, {}


def _records(lake: Lake, pair: str, months: Iterable[int], staged: StagedTrades) -> dict[int, list[TradeFile]]:
    """Return the confirmed files of some months, and note those that killed writes have left."""
    with lake.catalog.read() as connection:
        files = manifest.trade_files_of(connection, [pair], list(months))
        damaged = manifest.damaged_paths(connection)
    found: dict[int, list[TradeFile]] = {}
    for file in files:
        if file.is_announced:
            staged.left.append(file.path)
        elif file.path not in damaged:
            found.setdefault(file.month, []).append(file)
    return found


def stage_month(
    lake: Lake, staged: StagedTrades, month: int, known: Sequence[TradeFile], offered: KeptTrades, now: int
) -> None:
    """Stage the trades of one month together with those of its files.

    Args:
        lake: The lake.
        staged: The write, to which the file is added.
        month: The month.
        known: Its files.
        offered: The trades to add.
        now: The time of the run, in seconds since the epoch.
    """
    meets = any(overlap(file.claims, offered.claims) for file in known)
    if not meets and len(known) < PARTS:
        staged.moves.append(write_trades(lake, staged.pair, month, offered, now))
        return
    held, sound = read_all(lake, known)
    every = merged([held, offered])
    if every.claims != held.claims or not every.trades.equals(held.trades):
        staged.moves.append(write_trades(lake, staged.pair, month, every, now))
        staged.retired += [file.path for file in sound]


def read_all(lake: Lake, files: Iterable[TradeFile]) -> tuple[KeptTrades, list[TradeFile]]:
    """Return the trades of some files together, and those files that are whole; damage of the others is recorded."""
    found: list[Damage] = []
    sound: list[TradeFile] = []
    parts: list[KeptTrades] = []
    for file in files:
        trades = read_file(lake.files, file, is_whole=True)
        if isinstance(trades, Damage):
            found.append(trades)
            continue
        sound.append(file)
        parts.append(KeptTrades(trades, file.claims))
    damages.notice(lake.catalog, lake, found)
    return merged(parts), sound


def stage_changes(
    lake: Lake, pair: str, months: Iterable[int], change: Callable[[KeptTrades], KeptTrades], now: int
) -> StagedTrades:
    """Stage the months of a pair with their trades changed.

    Args:
        lake: The lake.
        pair: The pair.
        months: The months.
        change: Returns what is to be kept of the trades of a month.
        now: The time of the run, in seconds since the epoch.
    """
    staged = StagedTrades(pair)
    try:
        for month, files in _records(lake, pair, months, staged).items():
            held, sound = read_all(lake, files)
            left = change(held)
            if left.claims == held.claims and left.trades.equals(held.trades):
                continue
            if left.claims:
                staged.moves.append(write_trades(lake, pair, month, left, now))
            staged.retired += [file.path for file in sound]
    except BaseException:
        staged.discard()
        raise
    return staged


# --- committing


def begin(lake: Lake, writes: Sequence[StagedTrades]) -> None:
    """Announce staged files and move them to their places, where they claim nothing yet."""
    if not any(staged.moves for staged in writes):
        return
    for staged in writes:
        for put, _ in staged.moves:
            lake.files.sync(put.written)
    with lake.catalog.write() as connection:
        manifest.announce(connection, [file for staged in writes for file in staged.files])
    lake.files.put([[put for put, _ in staged.moves] for staged in writes])


def confirm(connection: sa.Connection, writes: Sequence[StagedTrades]) -> None:
    """Record that moved files claim what they do, and that the files which they replace claim nothing any longer."""
    for staged in writes:
        manifest.confirm(connection, staged.files, staged.retired)


def clear(lake: Lake, writes: Sequence[StagedTrades]) -> None:
    """Delete the files that writes have replaced, and those that killed writes have left."""
    gone = [path for staged in writes for path in (*staged.retired, *staged.left)]
    if not gone:
        return
    with suppress(StoreUnavailable):  # all is committed; the next write to the month deletes what is left
        lake.files.remove(gone)
        with lake.catalog.write() as connection:
            manifest.strike(connection, gone)
