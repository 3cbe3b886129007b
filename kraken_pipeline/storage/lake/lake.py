"""The lake: validated candles in Parquet, a folder a series, readable by Polars, DuckDB and Spark as it is.

::

    <home>/lake/interval=60/pair=XBTUSD/candles.parquet
    <home>/lake/interval=1/pair=XBTUSD/year=2025/candles.parquet     1, 5, 15 and 30 minutes
    <home>/replaced/interval=60/pair=XBTUSD/….parquet                the ledger: what gave way, in order of their names

A file is written under `<home>/tmp`, synced, announced in the manifest and renamed, so that a reader sees the old or
the new one, whole. Whoever writes a series holds its lock from `writer` until `lake_write.commit` has returned.

A file that is not the one that was written is damage: it answers nothing, what it covered is covered no longer from
then on, and whoever reads it gets a `DamagedFile`. Readers compare existence, size, and what the file's own footer says
(which write, how many rows); a writer, whose merge would give damage a new digest, compares the digest of all bytes.

The lake keeps the winner of each merge. Whoever lost stands in the ledger, beside the lake, because a stray file under
`lake/` breaks `scan_parquet(folder)`. Its file is moved before the candles that replace what it holds: a crash between
the two leaves an entry too many, which doing the write again repeats, and `replaced` gives once.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import file_digest, sha256
from io import BufferedReader
from pathlib import Path
from urllib.parse import unquote

import polars as pl
import sqlalchemy as sa
from filelock import FileLock

from kraken_pipeline.coverage.equality import differences, disagreeing
from kraken_pipeline.coverage.ranges import Span, Spans, lies_in, union
from kraken_pipeline.errors import DamagedFile, StoreError
from kraken_pipeline.market.candle import (
    CANDLE_SCHEMA,
    Account,
    Source,
    are_independent,
    contradicting,
    merge,
    outvoted,
    seconds_of,
)
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import as_datetime
from kraken_pipeline.market.pair import Pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.database import Catalog
from kraken_pipeline.storage.catalog.schema import assets as asset_ids
from kraken_pipeline.storage.catalog.states import DamageKind
from kraken_pipeline.storage.lake.inspection import DIGEST, ROWS, WRITE_ID, Inspector, unreadable
from kraken_pipeline.storage.lake.row_digest import row_digest
from kraken_pipeline.storage.paths import (
    candles_path,
    is_split_by_year,
    make_folder,
    spelled,
    sync_file,
    sync_folder,
)
from kraken_pipeline.storage.postgresql import alone
from kraken_pipeline.storage.records import damage as damages
from kraken_pipeline.storage.records import manifest
from kraken_pipeline.storage.records.damage import Damage
from kraken_pipeline.storage.records.manifest import LakeFile, Manifest

ROW_GROUP_ROWS = 20_000
"""Measured: a two-week slice of 100 pairs costs half of what it does in one row group, for 2 % of size."""

ZSTD_LEVEL = 1
"""Measured on 5 million one-minute candles: 0.44 s and 101 MB, against 0.55 s and 105 MB at Polars' default."""

_FILE = "candles.parquet"
ASSETS_SCHEMA = pl.Schema({"asset_id": pl.Int32(), "pair": pl.String(), "base": pl.String(), "quote": pl.String()})
ASSET_IDS_FILE = "assets.parquet"
_TIMES = pl.Schema({"time": pl.Int64()})
_NOTHING = pl.DataFrame(schema=CANDLE_SCHEMA)
_BATCH_SECONDS = 366 * 86_400


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


class Lake:
    """The candles under one home.

    Args:
        home: The folder.
        catalog: Where the manifest and the ids of pairs are on record.
    """

    def __init__(self, home: Path, catalog: Catalog) -> None:
        self.home = home
        self.root = home / "lake"
        self.ledger = home / "replaced"
        self.scratch = home / "tmp"
        self.manifest = Manifest(catalog)
        self.inspector = Inspector(home, self.manifest)
        self.catalog = catalog
        self.assets_path = self.root / ASSET_IDS_FILE
        self._assets_lock = home / "locks" / "assets.lock"
        for folder in (self.root, self.scratch, self._assets_lock.parent):
            make_folder(folder)

    # --- reading

    def read(self, series: Series, start: int | None = None, end: int | None = None) -> pl.DataFrame:
        """The candles that start in `[start, end)`, with the columns of `CANDLE_SCHEMA`, sorted and unique by time.

        Raises:
            DamagedFile: A file that is to be read is not the one that was written.
        """
        found = [(year, path) for year, path in self.partitions(series) if _year_meets(year, start, end)]
        # Of whole years there is nothing to leave out, and looking for it costs as much as reading them.
        within = _within(start, end) if any(_year_is_cut(year, start, end) for year, _ in found) else []
        return self._collected(series, [path for _, path in found], lambda frame: frame.filter(*within), CANDLE_SCHEMA)

    def without_trades(self, series: Series) -> pl.DataFrame:
        """The rows without a trade, which versions before migration 0010 stored from files that had some.

        Raises:
            DamagedFile: A file that is to be read is not the one that was written.
        """
        paths = [path for _, path in self.partitions(series)]
        return self._collected(series, paths, lambda frame: frame.filter(pl.col("trade_count") == 0), CANDLE_SCHEMA)

    def batches(self, series: Series, spans: Spans, grid: Interval) -> Iterator[pl.DataFrame]:
        """The candles in some ranges, in order, about a year at a time, never cut within a candle of `grid`."""
        for each in spans:
            at = each.start
            while at < each.end:
                until = min(each.end, grid.floor(at + _BATCH_SECONDS))
                if (frame := self.read(series, at, until)).height:
                    yield frame
                at = until

    def times(
        self,
        series: Series,
        without: Iterable[int | None] = (),
        start: int | None = None,
        end: int | None = None,
    ) -> pl.Series:
        """The start of every candle in `[start, end)`, in seconds (Int64), sorted; without those in some partitions.

        A damaged file holds none: what it covered is not covered, so that nothing is taken for quiet time.
        """
        left_out = set(without)
        paths = [
            path for year, path in self.partitions(series) if year not in left_out and _year_meets(year, start, end)
        ]

        return self._times(series, paths, _within(start, end), is_noted=True)

    def sound_times(self, series: Series, without: Collection[str] = ()) -> pl.Series:
        """The start of every candle in the files that are not damaged; whoever puts damage on record asks for it.

        Args:
            series: Whose.
            without: Paths of files that are damaged, and not on record as such yet.
        """
        paths = [path for _, path in self.partitions(series) if self.inspector.relative(path) not in without]
        return self._times(series, paths, [], is_noted=False)

    def _times(self, series: Series, paths: list[Path], within: list[pl.Expr], *, is_noted: bool) -> pl.Series:
        while True:
            try:
                return self._collected(
                    series,
                    paths,
                    lambda frame: frame.filter(*within).select(seconds_of(pl.col("time"))),
                    _TIMES,
                    is_noted=is_noted,
                ).to_series()
            except DamagedFile as error:
                paths = [path for path in paths if self.inspector.relative(path) not in error.paths]

    def replaced(self, series: Series, start: int | None = None, end: int | None = None) -> pl.DataFrame:
        """What lost of the candles that start in `[start, end)`, and to what.

        Args:
            series: Whose.
            start: In seconds since the epoch; from the first on where it is None.
            end: The same, half-open.

        Returns:
            One row a loser, in the order in which they lost, with the columns of `LEDGER_SCHEMA`. What lost in the
            same way to the same origin more than once, as a file that is read again does, is one row: the first.
        """
        recorded = (self.home / path for path in self.manifest.of(series).files if not path.startswith("lake/"))
        paths = sorted({*self._ledger_folder(series).glob("*.parquet"), *recorded})
        found = self._collected(series, paths, lambda frame: frame.filter(*_within(start, end)), LEDGER_SCHEMA)
        return found.unique([name for name in LEDGER_SCHEMA if name != "at"], keep="first", maintain_order=True)

    def series(self) -> list[Series]:
        """Every series that has candles, or once had, sorted."""
        found = {Series(pair, interval) for interval in Interval for pair in self._spelled_pairs(interval)}
        return sorted(found | self.manifest.series())

    def _spelled_pairs(self, interval: Interval) -> Iterator[str]:
        folder = self.root / f"interval={interval.value}"
        if folder.is_dir():
            for path in folder.iterdir():
                yield unquote(path.name.removeprefix("pair="))

    def _folder(self, series: Series) -> Path:
        return self.root / f"interval={series.interval.value}" / f"pair={spelled(series.pair)}"

    def _ledger_folder(self, series: Series) -> Path:
        return self.ledger / self._folder(series).relative_to(self.root)

    def ledger_files(self, series: Series) -> list[Path]:
        """The files of a series in the ledger, in the order in which they were written."""
        return sorted(self._ledger_folder(series).glob("*.parquet"))

    def path(self, series: Series, year: int | None) -> Path:
        """Where the candles of a series lie, of one year where it is split by years."""
        return self.home / candles_path(series, year)

    def partitions(self, series: Series) -> list[tuple[int | None, Path]]:
        """The files of a series that are there or on record, each with its year, in order of time."""
        recorded = {file.year for files in self.manifest.of(series).files.values() for file in files if file.is_candles}
        if not is_split_by_year(series.interval):
            path = self.path(series, None)
            return [(None, path)] if recorded or path.exists() else []
        found = (path.parent.name.removeprefix("year=") for path in self._folder(series).glob(f"*/{_FILE}"))
        years = {year for year in recorded if year is not None} | {int(year) for year in found if year.isdecimal()}
        return [(year, self.path(series, year)) for year in sorted(years)]

    # --- what is there against what was written

    def damaged(self, series: Series) -> list[Damage]:
        """The files of a series, in the lake and in the ledger, that a reader would refuse."""
        found: list[Damage] = []
        recorded = {self.home / path for path in self.manifest.of(series).files}
        ledger = self._ledger_folder(series).glob("*.parquet")
        for path in sorted({*(path for _, path in self.partitions(series)), *recorded, *ledger}):
            stream, damage = self.inspector.open(series, path)
            if stream is not None:
                stream.close()
            if damage is not None:
                found.append(damage)
        return found

    def is_sound(self, series: Series) -> bool:
        """Tell whether every file of a series in the lake passes a reader's check; damage is put on record."""
        found = [damage for damage in self.damaged(series) if damage.is_candles]
        damages.notice(self.catalog, self, found)
        return not found

    def _collected(
        self,
        series: Series,
        paths: Sequence[Path],
        query: Callable[[pl.LazyFrame], pl.LazyFrame],
        schema: pl.Schema,
        *,
        is_noted: bool = True,
    ) -> pl.DataFrame:
        """The result of a query over files; they are opened once, because by then a writer may have replaced them.

        Raises:
            DamagedFile: One of them is not the one that was written; it is on record by then.
        """
        with contextlib.ExitStack() as opened:
            streams: list[BufferedReader] = []
            found: list[Damage] = []
            for path in paths:
                stream, damage = self.inspector.open(series, path)
                if stream is not None:
                    streams.append(opened.enter_context(stream))
                if damage is not None:
                    found.append(damage)
            if not found and not streams:
                return pl.DataFrame(schema=schema)
            if not found:
                try:
                    return query(pl.scan_parquet(streams, hive_partitioning=False)).collect()  # type: ignore[arg-type]
                except pl.exceptions.PolarsError as error:
                    found = [self._unreadable(series, paths, error)]
        if is_noted:
            damages.notice(self.catalog, self, found)
        raise damages.refusal(found)

    def _unreadable(self, series: Series, paths: Sequence[Path], error: Exception) -> Damage:
        """Which of some files cannot be read."""
        for path in paths:
            try:
                pl.read_parquet(path, hive_partitioning=False)
            except (pl.exceptions.PolarsError, OSError):
                return self.inspector.damage(series, path, DamageKind.UNREADABLE, unreadable(error))
        return self.inspector.damage(series, paths[0], DamageKind.UNREADABLE, unreadable(error))

    # --- writing

    def writer(self, series: Series, *, origin: str, now: int, remade: Spans = ()) -> CandleWriter:
        """Takes candles in order of time and stages them merged with those the lake has.

        Args:
            series: Whose.
            origin: Where they come from, for people and for the ledger.
            now: The moment of the run, in seconds since the epoch.
            remade: Where the offered ones were resampled, and take the place of what was resampled there before: such a
                candle has no say of its own, and would keep what its finer candles no longer hold.
        """
        return CandleWriter(self, Staged(series, origin, now), remade)

    def _to_merge(self, series: Series, path: Path) -> pl.DataFrame:
        """What a file holds that is about to be merged into, if all its bytes are those that were written.

        A damaged one is set aside: what it held is a gap by then, and nothing of it is carried on.
        """
        stream, damage = self.inspector.open(series, path, is_whole=True)
        if stream is not None:
            with stream:
                try:
                    return pl.read_parquet(stream, hive_partitioning=False)
                except pl.exceptions.PolarsError as error:
                    damage = self.inspector.damage(series, path, DamageKind.UNREADABLE, unreadable(error))
        if damage is not None:
            damages.notice(self.catalog, self, [damage])
            self.set_aside(damage)
        return _NOTHING

    def set_aside(self, damage: Damage) -> str | None:
        """Move a damaged file to `<home>/damaged` and take it off the record; whoever does so holds its series' lock.

        Returns:
            Where it lies now, relative to the home; None where it was missing.
        """
        path = self.home / damage.path
        moved_to: str | None = None
        if path.exists():
            target = self.home / "damaged" / f"{damage.path}.{time.time_ns():020d}"
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
            sync_folder(path.parent)
            sync_folder(target.parent)
            moved_to = self.inspector.relative(target)
        with self.catalog.write() as connection:
            manifest.strike(connection, [damage.path])
            damages.settle(connection, damage, moved_to)
        if damage.series is not None:
            self.manifest.forget([damage.series])
        return moved_to

    def stage_partition(
        self, series: Series, year: int | None, offered: list[pl.DataFrame], staged: Staged, remade: Spans = ()
    ) -> None:
        """Merges frames, in order of time, into one partition and writes the result beside the lake."""
        path = self.path(series, year)
        candles = pl.concat(offered, rechunk=False) if len(offered) > 1 else offered[0]
        stored = self._to_merge(series, path)
        staying = _without_resampled(stored, remade)
        gone = stored.height - staying.height
        # What comes after all that is there, as most updates and every page of trades do, contradicts nothing of it:
        # comparing a year of minutes row by row would cost most of the time and of the memory of such a write.
        is_appended = not (gone or candles.is_empty()) and (
            stored.is_empty() or stored["time"][-1] < candles["time"][0]
        )
        merged = merge(staying, candles)
        changed = candles if is_appended else _changed(stored, merged)
        if not is_appended:
            replaced = stored.join(changed.select("time"), on="time", how="semi", maintain_order="left")
            if gone:
                vanished = stored.join(merged.select("time"), on="time", how="anti", maintain_order="left")
                replaced, changed = (pl.concat([each, vanished]).sort("time") for each in (replaced, changed))
            refused = contradicting(merged, candles)
            self._stage_losers(staged, {Lost.REPLACED: replaced, Lost.REFUSED: refused})
            _count_refused(staged, outvoted(merged, refused))
            if candles.height and candles["source"][0] == Source.CSV.value:
                _count_outdone(staged, outvoted(merged, replaced.filter(pl.col("source") == Source.CSV.value)))
            _count_alike(staged, stored, candles, year)
            _find_disputes(staged, stored, candles, replaced, merged)
        times = _seconds(merged)
        if changed.height:
            self.stage_file(staged, merged, path, year, times)
            _count_changed(staged, changed.height, times if changed is merged else _seconds(changed))
        staged.times = staged.times.append(times)
        staged.years = (*staged.years, year)

    def stage_rest(self, staged: Staged, remade: Spans) -> None:
        """Stages the partitions in which something was remade and nothing came of it."""
        for year, _ in self.partitions(staged.series):
            if year not in staged.years and any(_year_meets(year, span.start, span.end) for span in remade):
                self.stage_partition(staged.series, year, [_NOTHING], staged, remade)

    def stage_removal(self, series: Series, gone: pl.DataFrame, *, origin: str, now: int) -> Staged:
        """Stages a series without some of its candles, which go into the ledger as withdrawn.

        Args:
            series: Whose.
            gone: The candles, as the lake has them.
            origin: Why, for the ledger.
            now: The moment, in seconds since the epoch.
        """
        staged = Staged(series, origin, now)
        try:
            for year, path in self.partitions(series):
                leaving = gone if year is None else gone.filter(pl.col("time").dt.year() == year)
                if leaving.is_empty():
                    continue
                stored = self._to_merge(series, path)
                rest = stored.join(leaving.select("time"), on="time", how="anti", maintain_order="left")
                self._stage_losers(staged, {Lost.WITHDRAWN: leaving})
                self.stage_file(staged, rest, path, year)
                _count_changed(staged, leaving.height, _seconds(leaving))
                staged.times = staged.times.append(_seconds(rest))
                staged.years = (*staged.years, year)
        except BaseException:
            staged.discard()
            raise
        return staged

    def _stage_losers(self, staged: Staged, losers: Mapping[Lost, pl.DataFrame]) -> None:
        """Writes what loses into a file of the ledger; it is moved before the candles that it lost to."""
        frames = [
            lost.with_columns(pl.lit(how.value, LEDGER_SCHEMA["lost"]).alias("lost"))
            for how, lost in losers.items()
            if lost.height
        ]
        if frames:
            told = (pl.lit(staged.origin).alias("by"), pl.lit(staged.now, pl.Int64).alias("at"))
            # By the clock, not by the run's moment: the writes of a run have to stay in their order.
            name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:12]}.parquet"
            self.stage_file(
                staged,
                pl.concat(frames).sort("time", maintain_order=True).with_columns(told),
                self._ledger_folder(staged.series) / name,
            )

    def stage_file(
        self, staged: Staged, rows: pl.DataFrame, path: Path, year: int | None = None, times: pl.Series | None = None
    ) -> None:
        """Writes a file beside the lake, with what the manifest will say of it, and puts it among what is staged.

        Args:
            staged: Where it is put.
            rows: What it holds, in order of time.
            path: Where it will lie.
            year: Whose candles they are, where the series is split by years.
            times: When the rows start, in seconds since the epoch, where the caller knows.
        """
        name = uuid.uuid4().hex
        written = self.scratch / f"{name}.parquet"
        write_id, digest = f"{time.time_ns():020d}-{name[:12]}", row_digest(rows)
        try:
            rows.write_parquet(
                written,
                row_group_size=ROW_GROUP_ROWS,
                compression_level=ZSTD_LEVEL,
                metadata={WRITE_ID: write_id, ROWS: str(rows.height), DIGEST: digest},
            )
            sync_file(written)
            with written.open("rb") as stream:
                sha256 = file_digest(stream, "sha256").hexdigest()
            size = written.stat().st_size
        except BaseException:
            written.unlink(missing_ok=True)
            raise
        times = _seconds(rows) if times is None else times
        file = LakeFile(
            path=self.inspector.relative(path),
            series=staged.series,
            year=year,
            rows=rows.height,
            first_time=int(times[0]) if rows.height else None,
            last_time=int(times[-1]) if rows.height else None,
            bytes=size,
            sha256=sha256,
            digest=digest,
            write_id=write_id,
            written_at=staged.now,
        )
        staged.moves.append(Move(written, path, file))

    # --- asset ids

    def assets(self) -> pl.DataFrame:
        """Every pair the lake ever held: `asset_id`, `pair`, `base`, `quote`. Ids are never reused."""
        with self.catalog.read() as connection:
            rows = connection.execute(sa.select(asset_ids).order_by(asset_ids.c.asset_id)).all()
        return pl.DataFrame(rows, schema=ASSETS_SCHEMA, orient="row")

    def register(self, pairs: Iterable[Pair]) -> list[Pair]:
        """Gives an id to every pair that has none; returns those that are new."""
        wanted = {pair.name: pair for pair in pairs}
        known = set(self.assets()["pair"])
        if wanted.keys() <= known:
            return []
        with self.catalog.write() as connection:
            alone(connection, asset_ids)  # otherwise two processes would give one id to two pairs
            known = set(connection.scalars(sa.select(asset_ids.c.pair)))
            new = [pair for name, pair in sorted(wanted.items()) if name not in known]
            first = int(connection.scalar(sa.select(sa.func.coalesce(sa.func.max(asset_ids.c.asset_id), 0))) or 0) + 1
            rows = [
                {"asset_id": asset_id, "pair": pair.name, "base": pair.base, "quote": pair.quote}
                for asset_id, pair in enumerate(new, start=first)
            ]
            if rows:
                connection.execute(sa.insert(asset_ids), rows)
        if new:
            self.copy_assets()
        return new

    def copy_assets(self) -> None:
        """Write the ids of pairs beside the candles, for whoever reads the lake without the catalog."""
        with FileLock(self._assets_lock, timeout=60, is_singleton=False):
            written = self.scratch / f"{uuid.uuid4().hex}.parquet"
            self.assets().write_parquet(written)  # read under the lock, so that no older copy replaces a newer one
            sync_file(written)
            content = written.read_bytes()
            with self.catalog.write() as connection:
                manifest.record_assets(connection, self.inspector.relative(self.assets_path), content)
            written.rename(self.assets_path)
            sync_folder(self.root)

    def import_assets(self) -> None:
        """Take over the ids of a lake whose catalog has none: they were kept in the file alone before.

        Raises:
            StoreError: The file cannot be read.
        """
        if self.assets_path.exists() and self.assets().is_empty():
            self.adopt_assets()

    def adopt_assets(self) -> None:
        """Take over the ids of pairs that the file knows and the catalog does not.

        Raises:
            StoreError: The file cannot be read.
        """
        try:
            kept = pl.read_parquet(self.assets_path).select(ASSETS_SCHEMA.names()).to_dicts()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise StoreError(
                f"{self.assets_path}, which has the ids of pairs, {unreadable(error)}: kraken-pipeline recover gives "
                "new ones"
            ) from error
        with self.catalog.write() as connection:
            alone(connection, asset_ids)
            known = connection.execute(sa.select(asset_ids.c.asset_id, asset_ids.c.pair)).all()
            ids, pairs = {row.asset_id for row in known}, {row.pair for row in known}
            rows = [row for row in kept if row["asset_id"] not in ids and row["pair"] not in pairs]
            if rows:
                connection.execute(sa.insert(asset_ids), rows)

    def restore_assets(self) -> bool:
        """Take the ids over from the file, where that is the one that was written; tell whether it is."""
        with self.catalog.read() as connection:
            recorded = manifest.digest_of(connection, self.inspector.relative(self.assets_path))
        try:
            content = self.assets_path.read_bytes()
        except OSError:
            return False
        if sha256(content).hexdigest() != recorded:
            return False
        rows = pl.read_parquet(content).select(ASSETS_SCHEMA.names()).to_dicts()
        with self.catalog.write() as connection:
            alone(connection, asset_ids)
            connection.execute(sa.delete(asset_ids))
            connection.execute(sa.insert(asset_ids), rows)
        return True

    def pairs(self) -> list[Pair]:
        """Every pair that has an id, by name."""
        return [Pair(row["pair"], row["base"], row["quote"]) for row in self.assets().sort("pair").to_dicts()]

    def sweep(self, before: float) -> int:
        """Deletes what a killed writer left beside the lake, if last touched before a moment (seconds)."""
        swept = 0
        for path in self.scratch.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    if path.is_dir():  # where a file out of order was being sorted
                        shutil.rmtree(path)
                    else:
                        path.unlink()
                    swept += 1
        return swept


class CandleWriter:
    """Stages one series: `add` frames in order of time, then `finish`.

    A year that is complete is written and synced beside the reading of the next one: with 5 million rows in ten years,
    that takes a quarter off the time of both. The last year, which for most files is the only one, starts no thread.
    """

    def __init__(self, lake: Lake, staged: Staged, remade: Spans) -> None:
        self._lake = lake
        self._staged = staged
        self._remade = remade
        self._open: list[pl.DataFrame] = []
        self._year: int | None = None
        self._beside = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def add(self, candles: pl.DataFrame) -> None:
        """Takes candles with the columns of `CANDLE_SCHEMA`, sorted and unique by time, later than those before."""
        if candles.is_empty():
            return
        if not is_split_by_year(self._staged.series.interval):
            self._open.append(candles)
            return
        first, last = candles["time"][0].year, candles["time"][-1].year
        for year in range(first, last + 1):
            part = candles if first == last else candles.filter(pl.col("time").dt.year() == year)
            if part.height:
                self._roll(year)
                self._open.append(part)

    def _roll(self, year: int) -> None:
        if self._open and year != self._year:
            self._wait()
            self._writing = self._beside.submit(self._write, self._year, self._open)
            self._open = []
        self._year = year

    def _write(self, year: int | None, candles: list[pl.DataFrame]) -> None:
        self._lake.stage_partition(self._staged.series, year, candles, self._staged, self._remade)

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def finish(self) -> Staged:
        """What is staged, ready to be committed or discarded."""
        self._wait()
        self._beside.shutdown()
        if self._open:
            self._write(self._year, self._open)
            self._open = []
        if self._remade:
            self._lake.stage_rest(self._staged, self._remade)
        return self._staged

    def discard(self) -> None:
        """Gives up: nothing of it will reach the lake."""
        self._beside.shutdown()
        self._open = []
        self._staged.discard()


def _without_resampled(stored: pl.DataFrame, remade: Spans) -> pl.DataFrame:
    if not remade or stored.is_empty():
        return stored
    is_made = pl.col("source") == Source.RESAMPLED.value
    return stored.filter(~(is_made & lies_in(remade, _seconds(stored))))


def _changed(stored: pl.DataFrame, merged: pl.DataFrame) -> pl.DataFrame:
    if merged.height == stored.height and merged.equals(stored):
        return merged.clear()
    return merged.join(stored, on=merged.columns, how="anti", nulls_equal=True, maintain_order="left")


def _count_changed(staged: Staged, count: int, times: pl.Series) -> None:
    staged.changed += count
    staged.changed_span = _grown(staged.changed_span, times, staged.series.interval.seconds)


def _count_refused(staged: Staged, refused: pl.DataFrame) -> None:
    if refused.height:
        staged.refused += refused.height
        staged.refused_span = _grown(staged.refused_span, _seconds(refused), staged.series.interval.seconds)


def _count_outdone(staged: Staged, outdone: pl.DataFrame) -> None:
    if outdone.height:
        staged.outdone += outdone.height
        staged.outdone_span = _grown(staged.outdone_span, _seconds(outdone), staged.series.interval.seconds)


def _count_alike(staged: Staged, stored: pl.DataFrame, offered: pl.DataFrame, year: int | None) -> None:
    """Tells the candles of a partition that an independent source had brought alike from all others."""
    if offered.is_empty() or stored.is_empty():
        return
    staged.account = account = (offered["source"][0], offered["release"][0])
    accounts = stored.select("source", "release").unique()
    others = accounts.filter(pl.Series([are_independent(other, account) for other in accounts.iter_rows()]))
    if others.is_empty():
        return
    told = stored.join(others, on=["source", "release"], how="semi", maintain_order="left")
    alike = _seconds(told.filter(~pl.col("time").is_in(differences(told, offered)["time"].implode())))
    if len(alike):
        every = pl.concat([_seconds(stored), _seconds(offered)]).unique().sort()
        staged.alike = staged.alike.append(alike)
        staged.unlike = staged.unlike.append(every.filter(~every.is_in(alike.implode())))
        staged.compared = union(staged.compared, (_reach_of(year),))


def _find_disputes(
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
        staged.undisputed = staged.undisputed.append(_seconds(others))
    if offered.height and offered["source"][0] == Source.CSV.value:
        same = stored.filter(pl.col("source") == Source.CSV.value, pl.col("release") == offered["release"][0])
        staged.disputed = staged.disputed.append(disagreeing(same, offered))


def _reach_of(year: int | None) -> Span:
    """What a partition can hold: a year, or all time."""
    first, last = (1, 9999) if year is None else (year, year + 1)
    return Span(*(int(datetime(each, 1, 1, tzinfo=UTC).timestamp()) for each in (first, last)))


def _within(start: int | None, end: int | None) -> list[pl.Expr]:
    first = [] if start is None else [pl.col("time") >= as_datetime(start)]
    return first + ([] if end is None else [pl.col("time") < as_datetime(end)])


def _seconds(candles: pl.DataFrame) -> pl.Series:
    return candles["time"].dt.epoch("s")


def _grown(known: Span | None, times: pl.Series, length: int) -> Span:
    start, end = int(times[0]), int(times[-1]) + length
    return Span(min(start, known.start), max(end, known.end)) if known else Span(start, end)


def _year_is_cut(year: int | None, start: int | None, end: int | None) -> bool:
    if year is None:
        return start is not None or end is not None
    return (start is not None and as_datetime(start) > datetime(year, 1, 1, tzinfo=UTC)) or (
        end is not None and as_datetime(end) < datetime(year + 1, 1, 1, tzinfo=UTC)
    )


def _year_meets(year: int | None, start: int | None, end: int | None) -> bool:
    if year is None:
        return True
    return (start is None or as_datetime(start).year <= year) and (end is None or as_datetime(end - 1).year >= year)
