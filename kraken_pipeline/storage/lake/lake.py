"""The lake: validated candles in Parquet, one folder for each series, readable as is by Polars, DuckDB and Spark.

::

    lake/interval=60/pair=XBTUSD/candles.parquet                     a series of up to `WHOLE_ROWS` candles
    lake/interval=1/pair=XBTUSD/2025.parquet                         a larger one: a file for each calendar year
    replaced/interval=60/pair=XBTUSD/….parquet                       the ledger, in the order of the file names

They lie in the home, or in a bucket (`storage.lake.files`). A file is written under `<home>/tmp`, announced in the
manifest and moved to its place, so that a reader sees either the old or the new file in full. Whoever writes holds the
lock of the series from the `CandleWriter` until `lake_write.commit` has returned.

The layout of a series follows from its number of candles alone, and a write changes it where it no longer fits
(`storage.lake.writer`). Readers read the files that the manifest names for the layout of the moment. They open all of
them before they read any, and begin again if the layout changed meanwhile.

A file that is not the one that was written is damage: it is not read, its span is no longer covered, and its readers
get a `DamagedFile`. Readers compare existence, size and footer (the id of the write and the number of rows). Writers
compare the digest of all bytes, because their merge would give damaged data a new, valid digest. So do readers of a
bucket, who get all bytes anyway.

The lake keeps the winner of each merge. The loser goes into the ledger, which lies beside the lake because a stray file
under `lake/` breaks `scan_parquet(folder)`. The ledger's file is moved before the candles that replace its content. A
crash between the two moves leaves an extra entry; repeating the write adds it again, and `replaced` returns it once.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from kraken_pipeline.coverage.batches import batches, most_candles, read_within
from kraken_pipeline.coverage.ranges import Spans
from kraken_pipeline.errors import DamagedFile
from kraken_pipeline.market.candle import CANDLE_SCHEMA, SOURCE, seconds_of, time_from_seconds
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import as_datetime
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.database import Catalog
from kraken_pipeline.storage.catalog.states import DamageKind
from kraken_pipeline.storage.lake.asset_ids import AssetIds
from kraken_pipeline.storage.lake.files import LakeFiles, LocalFiles, OpenFile
from kraken_pipeline.storage.lake.inspection import Inspector, unreadable
from kraken_pipeline.storage.lake.staged import LEDGER_SCHEMA
from kraken_pipeline.storage.paths import (
    Layout,
    layout_of,
    make_folder,
    named_in,
    series_folder,
)
from kraken_pipeline.storage.records import damage as damages
from kraken_pipeline.storage.records import manifest
from kraken_pipeline.storage.records.damage import Damage
from kraken_pipeline.storage.records.manifest import LakeFile, Manifest

Choose = Callable[[], tuple[list[str], list[pl.Expr]]]
"""A function that returns the files to read as things stand, in order, and the conditions for their candles."""
_TIMES = pl.Schema({"time": pl.Int64()})
ACTIVITY = pl.Schema({"time": pl.Int64(), "trade_count": pl.Int32(), "source": SOURCE})
"""The columns of `Lake.activity`."""


class Lake:
    """The candles of one home.

    Args:
        home: The folder, in which files are staged.
        catalog: The catalog with the manifest and the ids of pairs.
        files: The place of the files; the home by default.
    """

    def __init__(self, home: Path, catalog: Catalog, files: LakeFiles | None = None) -> None:
        self.home = home
        self.files = LocalFiles(home) if files is None else files
        self.scratch = home / "tmp"
        self.manifest = Manifest(catalog)
        self.inspector = Inspector(self.files, self.manifest)
        self.catalog = catalog
        self.files.prepare()
        make_folder(self.scratch)
        self.asset_ids = AssetIds(home, self.files, catalog)

    # --- reading

    def read(self, series: Series, start: int | None = None, end: int | None = None) -> pl.DataFrame:
        """Return the candles that start in `[start, end)`, with the columns of `CANDLE_SCHEMA`, sorted, unique by time.

        Raises:
            DamagedFile: A file to be read is not the one that was written.
        """
        return self._collected(series, self._chooser(series, start, end), lambda frame: frame, CANDLE_SCHEMA)

    def locations(self, series: Series, start: int | None = None, end: int | None = None) -> list[str]:
        """Return the absolute paths or URLs of the files that may hold candles that start in `[start, end)`, in order.

        They are for a reader that opens them itself, and soon: a later write may replace or delete them.

        Raises:
            DamagedFile: One of the files of a folder is not the one that was written. Objects of a bucket are not
                checked, which would read them whole.
        """
        paths = [path for _, path in self._partitions_within(series, start, end)]
        if not self.files.is_read_whole:
            with contextlib.ExitStack() as opened:
                _, found = self._opened(series, paths, opened)
            if found:
                damages.notice(self.catalog, self, found)
                raise damages.refusal(found)
        return [self.files.location(path) for path in paths]

    def without_trades(self, series: Series) -> pl.DataFrame:
        """Return the rows without a trade, which versions before migration 0010 stored from files that had some.

        Raises:
            DamagedFile: A file to be read is not the one that was written.
        """
        quiet = pl.col("trade_count") == 0
        return self._collected(series, self._chooser(series), lambda frame: frame.filter(quiet), CANDLE_SCHEMA)

    def batches(self, series: Series, spans: Spans, grid: Interval) -> Iterator[pl.DataFrame]:
        """Yield the candles in some ranges, in order, as many at a time as a year has minutes.

        Args:
            series: The series.
            spans: The ranges, on the grid of `grid`.
            grid: The interval whose candles are not cut.
        """

        def read(_: Interval, start: int, end: int) -> pl.DataFrame:
            return self.read(series, start, end)

        for part in batches(spans, series.interval, grid, lambda _, start, end: self.most(series, start, end)):
            if (frame := read_within(read, series.interval, part)).height:
                yield frame

    def most(self, series: Series, start: int, end: int) -> int:
        """Return an upper bound of the number of candles that start in `[start, end)`, without reading them."""
        bound = most_candles(series.interval, start, end)
        if (files := self.candle_files(series)) is None:
            return bound
        return min(bound, sum(file.rows for file in files if file.overlaps(start, end)))

    def times(
        self,
        series: Series,
        without: Iterable[int | None] = (),
        start: int | None = None,
        end: int | None = None,
    ) -> pl.Series:
        """Return the start of every candle in `[start, end)`, in seconds (Int64), sorted; without some partitions.

        Damaged files are left out. Their spans are no longer covered, so the missing candles do not pass for quiet
        time.
        """
        return self._undamaged(series, start, end, _TIMES, years=set(without)).to_series()

    def activity(self, series: Series, start: int | None = None, end: int | None = None) -> pl.DataFrame:
        """Return when and how much a market traded in `[start, end)`, sorted; damaged files are left out.

        Returns:
            One row a candle: `time`, its start in seconds (Int64), `trade_count` (Int32) and `source`.
        """
        return self._undamaged(series, start, end, ACTIVITY)

    def sound_times(self, series: Series, without: Collection[str] = ()) -> pl.Series:
        """Return the start of every candle in the undamaged files, for recording damage.

        Args:
            series: The series.
            without: The paths of damaged files that are not on record as such yet.
        """
        return self._undamaged(series, None, None, _TIMES, paths=set(without), is_noted=False).to_series()

    def _undamaged(
        self,
        series: Series,
        start: int | None,
        end: int | None,
        schema: pl.Schema,
        *,
        years: Collection[int | None] = (),
        paths: Collection[str] = (),
        is_noted: bool = True,
    ) -> pl.DataFrame:
        """Return columns of the candles that start in `[start, end)`, with times in seconds, of undamaged files.

        Args:
            series: The series.
            start: The start, in seconds since the epoch; unbounded where it is None.
            end: The end, likewise, excluded.
            schema: The columns.
            years: The years of files to leave out.
            paths: The paths of files to leave out.
            is_noted: Whether damage is recorded.
        """
        others = [name for name in schema if name != "time"]
        left_out = set(paths)
        while True:
            try:
                return self._collected(
                    series,
                    self._chooser(series, start, end, years, left_out),
                    lambda frame: frame.select(seconds_of(pl.col("time")), *others),
                    schema,
                    is_noted=is_noted,
                )
            except DamagedFile as error:
                left_out |= set(error.paths)

    def replaced(self, series: Series, start: int | None = None, end: int | None = None) -> pl.DataFrame:
        """Return the candles in the ledger that start in `[start, end)`, each with the reason.

        Args:
            series: The series.
            start: The start, in seconds since the epoch; unbounded where it is None.
            end: The end, likewise, excluded.

        Returns:
            One row for each candle, in the order in which they were added, with the columns of `LEDGER_SCHEMA`. A
            candle that was added more than once for the same reason by the same origin, as when a file is read again,
            is one row: the first.
        """
        recorded = [path for path in self.manifest.of(series).files if not path.startswith("lake/")]
        paths = sorted({*self._seen_in_ledger(series), *recorded})
        within = _within(start, end)
        found = self._collected(
            series, lambda: (paths, within), lambda frame: frame, LEDGER_SCHEMA, stored=LEDGER_SCHEMA
        )
        return found.unique([name for name in LEDGER_SCHEMA if name != "at"], keep="first", maintain_order=True)

    def ledger(self, series: Series, paths: Sequence[str], start: int | None, end: int | None) -> pl.DataFrame:
        """Return the candles of some files of the ledger that start in `[start, end)`, in the order of the files.

        Raises:
            DamagedFile: One of the files is not the one that was written.
        """
        within = _within(start, end)
        return self._collected(
            series, lambda: (list(paths), within), lambda frame: frame, LEDGER_SCHEMA, stored=LEDGER_SCHEMA
        )

    def series(self) -> list[Series]:
        """Return every series that has or once had candles, sorted."""
        found = self.files.series() if self.files.is_listed_by_readers else set()
        return sorted(found | self.manifest.series())

    def ledger_files(self, series: Series) -> list[str]:
        """Return the files of a series in the ledger, in the order in which they were written."""
        return sorted(path for path in self.files.below(ledger_folder(series)) if path.endswith(".parquet"))

    def _seen_in_ledger(self, series: Series) -> list[str]:
        return self.ledger_files(series) if self.files.is_listed_by_readers else []

    def partitions(self, series: Series) -> list[tuple[int | None, str]]:
        """Return the files that hold the candles of a series now, each with its year, in order of time.

        These are the files of its layout that are on record. In a folder they are also those that the manifest does not
        know: in a home from before there was one, those that hold candles; in any other, damage that has to be
        detected.
        """
        known = self.manifest.of(series)
        is_listed = self.files.is_listed_by_readers
        if known.layout is None and (not is_listed or self.files.exists(series_folder(series))):
            known = self.manifest.reread(series)  # the first files of the series may be younger than what is cached
        layout = known.layout
        seen = self.files.candle_paths(series) if is_listed else []
        unknown = {path: layout_of(path) for path in seen if path not in known.files}
        if layout is None:
            layout = next((its for its in Layout if its in unknown.values()), None)
        years = {path: files[0].year for path, files in known.candles().items()}
        years |= {path: named_in(path)[1] for path, its in unknown.items() if its is layout}
        return sorted(((year, path) for path, year in years.items()), key=lambda file: file[0] or 0)

    def _partitions_within(self, series: Series, start: int | None, end: int | None) -> list[tuple[int | None, str]]:
        """Return the year and the path of each partition that may hold candles with a start in `[start, end)`."""
        return [(year, path) for year, path in self.partitions(series) if year_meets(year, start, end)]

    def clear(self, series: Collection[Series]) -> None:
        """Delete the files of layouts that some series no longer have, and their records; the caller holds the locks.

        They are the files that a write has replaced by those of another layout, or those of a write that was killed.
        """
        known = self.manifest.reread_all(series)
        retired = [path for its in known.values() if its.layout for path in its.retired(its.layout)]
        self.files.remove(retired)
        if retired:
            with self.catalog.write() as connection:
                manifest.strike(connection, retired)
            self.manifest.forget(series)

    def candle_files(self, series: Series) -> list[LakeFile] | None:
        """Return the records of a series' candle files, announced ones included; None if some are not on record."""
        known = self.manifest.of(series)
        if known.is_unadopted:
            return None
        return [file for files in known.candles().values() for file in files]

    # --- inspection

    def damaged(self, series: Series) -> list[Damage]:
        """Return the damage of a series' files, in the lake and in the ledger, that a reader would detect."""
        found: list[Damage] = []
        known = self.manifest.of(series)
        recorded = known.files.keys() - known.retired(known.layout)
        for path in sorted({*(path for _, path in self.partitions(series)), *recorded, *self._seen_in_ledger(series)}):
            stream, damage = self.inspector.open(series, path)
            if stream is not None:
                stream.close()
            if damage is not None:
                found.append(damage)
        return found

    def is_sound(self, series: Series) -> bool:
        """Return whether every file of a series in the lake passes a reader's check; record any damage."""
        found = [damage for damage in self.damaged(series) if damage.is_candles]
        damages.notice(self.catalog, self, found)
        return not found

    def _chooser(
        self,
        series: Series,
        start: int | None = None,
        end: int | None = None,
        without: Collection[int | None] = (),
        left_out: Collection[str] = (),
    ) -> Choose:
        """Return a function that chooses the files that may hold candles that start in `[start, end)`.

        Args:
            series: The series.
            start: The start, in seconds since the epoch; unbounded where it is None.
            end: The end, likewise, excluded.
            without: The years of files to leave out.
            left_out: The paths of files to leave out.
        """

        def choose() -> tuple[list[str], list[pl.Expr]]:
            found = [
                (year, path)
                for year, path in self._partitions_within(series, start, end)
                if year not in without and path not in left_out
            ]
            # Files that are wanted whole need no filter, which would cost as much as reading them.
            files = self.manifest.of(series).files
            is_cut = any(_is_cut(files.get(path, ()), year, start, end) for year, path in found)
            return [path for _, path in found], _within(start, end) if is_cut else []

        return choose

    def _collected(
        self,
        series: Series,
        choose: Choose,
        query: Callable[[pl.LazyFrame], pl.LazyFrame],
        schema: pl.Schema,
        *,
        stored: pl.Schema = CANDLE_SCHEMA,
        is_noted: bool = True,
    ) -> pl.DataFrame:
        """Return the result of a query over files, which are opened once: a writer may replace them meanwhile.

        Args:
            series: The series.
            choose: Chooses the files, and the conditions for their candles.
            query: The query.
            schema: The columns of the result.
            stored: The columns of the files.
            is_noted: Whether damage is recorded.

        Raises:
            DamagedFile: One of them is not the one that was written. The damage is recorded first if `is_noted`.
        """
        while True:
            with contextlib.ExitStack() as opened:
                known = self.manifest.of(series)
                paths, within = choose()
                streams, found = self._opened(series, paths, opened)
                if len(streams) + len(found) < len(paths):
                    self.manifest.reread(series)  # a file that was only announced may have been replaced since
                if self.manifest.of(series) != known:
                    # Newer files may have another layout, or candles outside the time that the older ones had.
                    continue
                if not found and not streams:
                    return pl.DataFrame(schema=schema)
                if not found:
                    try:
                        candles = pl.scan_parquet(
                            streams,  # type: ignore[arg-type]
                            schema=stored,
                            # Files of earlier versions have no flow.
                            missing_columns="insert",
                            hive_partitioning=False,
                        )
                        return query(candles.filter(*within)).collect()
                    except pl.exceptions.PolarsError as error:
                        found = [self._unreadable(series, paths, error)]
            if is_noted:
                damages.notice(self.catalog, self, found)
            raise damages.refusal(found)

    def _opened(
        self, series: Series, paths: Sequence[str], opened: contextlib.ExitStack
    ) -> tuple[list[OpenFile], list[Damage]]:
        """Open files, to be closed with a stack; return those that are sound, and the damage of others."""
        streams: list[OpenFile] = []
        found: list[Damage] = []
        for path in paths:
            stream, damage = self.inspector.kept(series, path), None
            if stream is None:
                stream, damage = self.inspector.open(series, path)
            if stream is not None:
                opened.callback(stream.close)
                streams.append(stream)
            if damage is not None:
                found.append(damage)
        return streams, found

    def _unreadable(self, series: Series, paths: Sequence[str], error: Exception) -> Damage:
        """Return the damage of the first of some files that cannot be read."""
        for path in paths:
            try:
                with self.files.open(path) as stream:
                    pl.read_parquet(stream, hive_partitioning=False)
            except (pl.exceptions.PolarsError, OSError):
                return self.inspector.damage(series, path, DamageKind.UNREADABLE, unreadable(error))
        return self.inspector.damage(series, paths[0], DamageKind.UNREADABLE, unreadable(error))

    def set_aside(self, damage: Damage) -> str | None:
        """Move a damaged file to `damaged/` and delete its record; the caller holds the lock of its series.

        Returns:
            The new path; None where the file was missing.
        """
        target = f"damaged/{damage.path}.{time.time_ns():020d}"
        moved_to = target if self.files.set_aside(damage.path, target) else None
        with self.catalog.write() as connection:
            manifest.strike(connection, [damage.path])
            damages.settle(connection, damage, moved_to)
        if damage.series is not None:
            self.manifest.forget([damage.series])
        return moved_to

    def sweep(self, before: float) -> int:
        """Delete the leftovers of killed writers last modified before a moment (seconds), and return their number."""
        swept = 0
        for path in self.scratch.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    if path.is_dir():  # in which an unsorted file was being sorted
                        shutil.rmtree(path)
                    else:
                        path.unlink()
                    swept += 1
        return swept


def ledger_folder(series: Series) -> str:
    """Return the folder of a series in the ledger."""
    return f"replaced/{series_folder(series).removeprefix('lake/')}"


def _within(start: int | None, end: int | None) -> list[pl.Expr]:
    # A literal made from a datetime costs twenty times as much, half of a small read.
    first = [] if start is None else [pl.col("time") >= time_from_seconds(pl.lit(start))]
    return first + ([] if end is None else [pl.col("time") < time_from_seconds(pl.lit(end))])


def _is_cut(files: Sequence[LakeFile], year: int | None, start: int | None, end: int | None) -> bool:
    """Return whether any candle of a file, as it is on record or announced, may start outside `[start, end)`.

    Without a record, the file may have candles in all of its year, or at any time where its year is None.
    """
    if files:
        edges = [(file.first_time, file.last_time) for file in files]
        return any(
            first is None or last is None or (start is not None and first < start) or (end is not None and last >= end)
            for first, last in edges
        )
    if year is None:
        return start is not None or end is not None
    return (start is not None and as_datetime(start) > datetime(year, 1, 1, tzinfo=UTC)) or (
        end is not None and as_datetime(end) < datetime(year + 1, 1, 1, tzinfo=UTC)
    )


def year_meets(year: int | None, start: int | None, end: int | None) -> bool:
    """Return whether a partition (one year, or all time for None) can hold a candle that starts in `[start, end)`."""
    if year is None:
        return True
    return (start is None or as_datetime(start).year <= year) and (end is None or as_datetime(end - 1).year >= year)
