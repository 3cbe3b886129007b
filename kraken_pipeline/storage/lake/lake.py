"""The lake: validated candles in Parquet, one folder for each series, readable as is by Polars, DuckDB and Spark.

::

    <home>/lake/interval=60/pair=XBTUSD/candles.parquet
    <home>/lake/interval=1/pair=XBTUSD/year=2025/candles.parquet     1, 5, 15 and 30 minutes
    <home>/replaced/interval=60/pair=XBTUSD/….parquet                the ledger, in the order of the file names

A file is written under `<home>/tmp`, synced, announced in the manifest and renamed, so that a reader sees either the
old or the new file in full. Whoever writes holds the lock of the series from the `CandleWriter` until
`lake_write.commit` has returned.

A file that is not the one that was written is damage: it is not read, its span is no longer covered, and its readers
get a `DamagedFile`. Readers compare existence, size and footer (the id of the write and the number of rows). Writers
compare the digest of all bytes, because their merge would give damaged data a new, valid digest.

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
from io import BufferedReader
from pathlib import Path
from urllib.parse import unquote

import polars as pl

from kraken_pipeline.coverage.ranges import Spans
from kraken_pipeline.errors import DamagedFile
from kraken_pipeline.market.candle import CANDLE_SCHEMA, SOURCE, seconds_of, time_from_seconds
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import as_datetime
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.database import Catalog
from kraken_pipeline.storage.catalog.states import DamageKind
from kraken_pipeline.storage.lake.asset_ids import AssetIds
from kraken_pipeline.storage.lake.inspection import Inspector, unreadable
from kraken_pipeline.storage.lake.staged import (
    LEDGER_SCHEMA,
)
from kraken_pipeline.storage.paths import (
    candles_path,
    is_split_by_year,
    make_folder,
    spelled,
    sync_folder,
)
from kraken_pipeline.storage.records import damage as damages
from kraken_pipeline.storage.records import manifest
from kraken_pipeline.storage.records.damage import Damage
from kraken_pipeline.storage.records.manifest import LakeFile, Manifest

_FILE = "candles.parquet"
_TIMES = pl.Schema({"time": pl.Int64()})
ACTIVITY = pl.Schema({"time": pl.Int64(), "trade_count": pl.Int32(), "source": SOURCE})
"""The columns of `Lake.activity`."""
_BATCH_SECONDS = 366 * 86_400


class Lake:
    """The candles under one home.

    Args:
        home: The folder.
        catalog: The catalog with the manifest and the ids of pairs.
    """

    def __init__(self, home: Path, catalog: Catalog) -> None:
        self.home = home
        self.root = home / "lake"
        self.ledger = home / "replaced"
        self.scratch = home / "tmp"
        self.manifest = Manifest(catalog)
        self.inspector = Inspector(home, self.manifest)
        self.catalog = catalog
        for folder in (self.root, self.scratch):
            make_folder(folder)
        self.asset_ids = AssetIds(home, catalog)

    # --- reading

    def read(self, series: Series, start: int | None = None, end: int | None = None) -> pl.DataFrame:
        """Return the candles that start in `[start, end)`, with the columns of `CANDLE_SCHEMA`, sorted, unique by time.

        Raises:
            DamagedFile: A file to be read is not the one that was written.
        """
        found = [(year, path) for year, path in self.partitions(series) if year_meets(year, start, end)]
        # Whole years need no filter, which would cost as much as reading them.
        within = _within(start, end) if any(_year_is_cut(year, start, end) for year, _ in found) else []
        return self._collected(series, [path for _, path in found], lambda frame: frame.filter(*within), CANDLE_SCHEMA)

    def without_trades(self, series: Series) -> pl.DataFrame:
        """Return the rows without a trade, which versions before migration 0010 stored from files that had some.

        Raises:
            DamagedFile: A file to be read is not the one that was written.
        """
        paths = [path for _, path in self.partitions(series)]
        return self._collected(series, paths, lambda frame: frame.filter(pl.col("trade_count") == 0), CANDLE_SCHEMA)

    def batches(self, series: Series, spans: Spans, grid: Interval) -> Iterator[pl.DataFrame]:
        """Yield the candles in some ranges, in order, about a year at a time, never cut within a candle of `grid`."""
        for span in spans:
            at = span.start
            while at < span.end:
                until = min(span.end, grid.floor(at + _BATCH_SECONDS))
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
        """Return the start of every candle in `[start, end)`, in seconds (Int64), sorted; without some partitions.

        Damaged files are left out. Their spans are no longer covered, so the missing candles do not pass for quiet
        time.
        """
        left_out = set(without)
        paths = [
            path for year, path in self.partitions(series) if year not in left_out and year_meets(year, start, end)
        ]
        return self._undamaged(series, paths, _within(start, end), _TIMES).to_series()

    def activity(self, series: Series, start: int | None = None, end: int | None = None) -> pl.DataFrame:
        """Return when and how much a market traded in `[start, end)`, sorted; damaged files are left out.

        Returns:
            One row a candle: `time`, its start in seconds (Int64), `trade_count` (Int32) and `source`.
        """
        paths = [path for year, path in self.partitions(series) if year_meets(year, start, end)]
        return self._undamaged(series, paths, _within(start, end), ACTIVITY)

    def sound_times(self, series: Series, without: Collection[str] = ()) -> pl.Series:
        """Return the start of every candle in the undamaged files, for recording damage.

        Args:
            series: The series.
            without: The paths of damaged files that are not on record as such yet.
        """
        paths = [path for _, path in self.partitions(series) if self.inspector.relative(path) not in without]
        return self._undamaged(series, paths, [], _TIMES, is_noted=False).to_series()

    def _undamaged(
        self, series: Series, paths: list[Path], within: list[pl.Expr], schema: pl.Schema, *, is_noted: bool = True
    ) -> pl.DataFrame:
        """Return columns of the candles in those of some files that are not damaged, with times in seconds."""
        others = [name for name in schema if name != "time"]
        while True:
            try:
                return self._collected(
                    series,
                    paths,
                    lambda frame: frame.filter(*within).select(seconds_of(pl.col("time")), *others),
                    schema,
                    is_noted=is_noted,
                )
            except DamagedFile as error:
                paths = [path for path in paths if self.inspector.relative(path) not in error.paths]

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
        recorded = (self.home / path for path in self.manifest.of(series).files if not path.startswith("lake/"))
        paths = sorted({*self.ledger_folder(series).glob("*.parquet"), *recorded})
        found = self._collected(series, paths, lambda frame: frame.filter(*_within(start, end)), LEDGER_SCHEMA)
        return found.unique([name for name in LEDGER_SCHEMA if name != "at"], keep="first", maintain_order=True)

    def series(self) -> list[Series]:
        """Return every series that has or once had candles, sorted."""
        found = {Series(pair, interval) for interval in Interval for pair in self._spelled_pairs(interval)}
        return sorted(found | self.manifest.series())

    def _spelled_pairs(self, interval: Interval) -> Iterator[str]:
        folder = self.root / f"interval={interval.value}"
        if folder.is_dir():
            for path in folder.iterdir():
                yield unquote(path.name.removeprefix("pair="))

    def _folder(self, series: Series) -> Path:
        return self.root / f"interval={series.interval.value}" / f"pair={spelled(series.pair)}"

    def ledger_folder(self, series: Series) -> Path:
        """Return the folder of a series in the ledger."""
        return self.ledger / self._folder(series).relative_to(self.root)

    def ledger_files(self, series: Series) -> list[Path]:
        """Return the files of a series in the ledger, in the order in which they were written."""
        return sorted(self.ledger_folder(series).glob("*.parquet"))

    def path(self, series: Series, year: int | None) -> Path:
        """Return the path of the candles of a series, of one year where it is split by years."""
        return self.home / candles_path(series, year)

    def partitions(self, series: Series) -> list[tuple[int | None, Path]]:
        """Return the files of a series that exist or are on record, each with its year, in order of time."""
        recorded = {file.year for files in self.manifest.of(series).files.values() for file in files if file.is_candles}
        if not is_split_by_year(series.interval):
            path = self.path(series, None)
            return [(None, path)] if recorded or path.exists() else []
        found = (path.parent.name.removeprefix("year=") for path in self._folder(series).glob(f"*/{_FILE}"))
        years = {year for year in recorded if year is not None} | {int(year) for year in found if year.isdecimal()}
        return [(year, self.path(series, year)) for year in sorted(years)]

    def candle_files(self, series: Series) -> list[LakeFile] | None:
        """Return the records of a series' candle files, announced ones included; None if some are not on record."""
        known = self.manifest.of(series)
        if known.is_unadopted:
            return None
        return [file for files in known.files.values() for file in files if file.is_candles]

    # --- inspection

    def damaged(self, series: Series) -> list[Damage]:
        """Return the damage of a series' files, in the lake and in the ledger, that a reader would detect."""
        found: list[Damage] = []
        recorded = {self.home / path for path in self.manifest.of(series).files}
        ledger = self.ledger_folder(series).glob("*.parquet")
        for path in sorted({*(path for _, path in self.partitions(series)), *recorded, *ledger}):
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

    def _collected(
        self,
        series: Series,
        paths: Sequence[Path],
        query: Callable[[pl.LazyFrame], pl.LazyFrame],
        schema: pl.Schema,
        *,
        is_noted: bool = True,
    ) -> pl.DataFrame:
        """Return the result of a query over files, which are opened once: a writer may replace them meanwhile.

        Raises:
            DamagedFile: One of them is not the one that was written. The damage is recorded first if `is_noted`.
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
        """Return the damage of the first of some files that cannot be read."""
        for path in paths:
            try:
                pl.read_parquet(path, hive_partitioning=False)
            except (pl.exceptions.PolarsError, OSError):
                return self.inspector.damage(series, path, DamageKind.UNREADABLE, unreadable(error))
        return self.inspector.damage(series, paths[0], DamageKind.UNREADABLE, unreadable(error))

    def set_aside(self, damage: Damage) -> str | None:
        """Move a damaged file to `<home>/damaged` and delete its record; the caller holds the lock of its series.

        Returns:
            The new path, relative to the home; None where the file was missing.
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


def _within(start: int | None, end: int | None) -> list[pl.Expr]:
    # A literal made from a datetime costs twenty times as much, half of a small read.
    first = [] if start is None else [pl.col("time") >= time_from_seconds(pl.lit(start))]
    return first + ([] if end is None else [pl.col("time") < time_from_seconds(pl.lit(end))])


def _year_is_cut(year: int | None, start: int | None, end: int | None) -> bool:
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
