"""Stored series: the candles that a write to a series finds in the lake, and the layout that a series is to have.

A file costs two syncs, about a kilobyte of metadata, and its rewriting when a candle in it changes. A series in one
file has the fewest files; a file for each year limits how much a new candle rewrites. Which of both a series has
follows from its number of candles alone, so that it is the same whatever the order of writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise

import polars as pl

from kraken_pipeline.market.candle import CANDLE_SCHEMA, TIME
from kraken_pipeline.market.flow import with_flow
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import DamageKind
from kraken_pipeline.storage.lake.files import Version
from kraken_pipeline.storage.lake.inspection import unreadable
from kraken_pipeline.storage.lake.lake import Lake
from kraken_pipeline.storage.lake.staged import Staged
from kraken_pipeline.storage.paths import Layout, candles_path, former_path, layout_of
from kraken_pipeline.storage.records import damage as damages
from kraken_pipeline.storage.records.manifest import SeriesFiles

WHOLE_ROWS = 150_000
"""The most candles of a series in one file: 104 days of minutes, or 17 years of hours."""

NO_CANDLES = pl.DataFrame(schema=CANDLE_SCHEMA)


def layout_for(rows: int) -> Layout:
    """Return the layout of a series with a number of candles."""
    return Layout.WHOLE if rows <= WHOLE_ROWS else Layout.YEARS


def is_misplaced(known: SeriesFiles) -> bool:
    """Return whether a series is to be stored in another layout, or files of another layout are to be deleted.

    A series from before the manifest stays as it is until `verify` has put all of its files on record, and one whose
    first write was killed until the next write.
    """
    layout = known.layout
    is_confirmed = any(not file.is_announced for files in known.candles().values() for file in files)
    if layout is None or known.is_unadopted or not is_confirmed:
        return False
    return layout is not layout_for(recorded_rows(known)) or bool(known.retired(layout))


def recorded_rows(known: SeriesFiles) -> int:
    """Return the number of candles in the files of a series, as the manifest has them on record."""
    return sum(files[0].rows for files in known.candles().values())


class StoredSeries:
    """The stored candles of a series while a write to it is staged; the caller holds its lock.

    Args:
        lake: The lake.
        series: The series.
        known: The records of the series, read while the lock was held.
    """

    def __init__(self, lake: Lake, series: Series, known: SeriesFiles) -> None:
        self._lake = lake
        self._series = series
        self._known = known
        self.files = dict(lake.partitions(series))
        """Year → path of the files that hold the candles, in order; the year is None for a file of all years."""
        self._candles: pl.DataFrame | None = None
        self._versions: dict[str, Version | None] = {}
        path = next(iter(self.files.values()), None)
        self._layout = None if path is None else layout_of(path)
        self.fixed = self._layout if known.is_unadopted else None
        """The layout that the series keeps whatever its number of candles; None for a series that is on record."""
        is_large = self.fixed is not None or layout_for(recorded_rows(known)) is Layout.YEARS
        self.is_split = self._layout in (Layout.YEARS, Layout.FORMER) and is_large
        """Whether the series is stored by years and stays so. Each year is then read and written by itself."""
        self.is_misplaced = is_misplaced(known)
        """Whether a write that adds no candle is still needed, because files are to be in another layout or deleted."""

    def all(self) -> pl.DataFrame:
        """Return all candles, of which there are few or which are in one file."""
        if self._candles is None:
            frames = [self.read(path) for path in self.files.values()]
            self._candles = pl.concat(frames) if frames else NO_CANDLES
        return self._candles

    def of(self, year: int | None) -> pl.DataFrame:
        """Return the candles of a year, or all for None."""
        if year is None:
            return self.all()
        if not self.is_split:
            return dict(by_year(self.all())).get(year, NO_CANDLES)
        path = self.files.get(year)
        return NO_CANDLES if path is None else self.read(path)

    @property
    def years(self) -> list[int]:
        """The years that it has candles of, in order."""
        if self.is_split:
            return [year for year in self.files if year is not None]
        return [year for year, _ in by_year(self.all())]

    def read(self, path: str) -> pl.DataFrame:
        """Return the candles of a file to be merged into, after comparing all its bytes with the manifest.

        A damaged file is set aside, and no candles are returned: its span is a gap by then.
        """
        lake, series = self._lake, self._series
        self._versions[path] = None
        stream, damage = lake.inspector.open(series, path, is_whole=True)
        if stream is not None:
            with stream:
                try:
                    candles = with_flow(pl.read_parquet(stream, hive_partitioning=False))
                except pl.exceptions.PolarsError as error:
                    damage = lake.inspector.damage(series, path, DamageKind.UNREADABLE, unreadable(error))
                else:
                    self._versions[path] = lake.files.version_of(stream)
                    return candles
        if damage is not None:
            damages.notice(lake.catalog, lake, [damage])
            lake.set_aside(damage)
        return NO_CANDLES

    def version(self, path: str) -> Version | None:
        """Return the version of the object that a write to a path replaces; None where there is none, or a folder.

        It is the version that was read. An object that is on record and was not read is left of a write in another
        layout that was killed.
        """
        if path not in self._versions and path in self._known.files:
            self._versions[path] = self._lake.files.version(path)
        return self._versions.get(path)

    def path(self, year: int | None) -> str:
        """Return the path for the candles of a year, or for all candles where it is None."""
        if self.fixed is Layout.FORMER and year is not None:
            return former_path(self._series, year)
        return candles_path(self._series, year)

    def is_at(self, year: int | None) -> bool:
        """Return whether the candles of a year, or all for None, are already in the file that `path` names."""
        return self.files.get(year) == self.path(year)

    @property
    def left_over(self) -> tuple[str, ...]:
        """The paths on record that hold no candles of the series, because a write in another layout was killed."""
        return tuple(self._known.retired(self._known.layout))

    def retire(self, staged: Staged) -> None:
        """Add to a write what is no longer to be read once it is committed: all files of any other layout."""
        if not staged.years:
            staged.retired = self.left_over
            return
        layout = layout_of(self.path(staged.years[0]))
        staged.retired = tuple(self._known.retired(layout))
        if layout is not self._layout:
            staged.years = tuple(dict.fromkeys((*staged.years, *self.files)))


def by_year(candles: pl.DataFrame) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield candles, sorted by time, year by year."""
    if candles.is_empty():
        return
    first, last = candles["time"][0].year, candles["time"][-1].year
    new_years = [datetime(year, 1, 1, tzinfo=UTC) for year in range(first + 1, last + 1)]
    # To look them up among half a million sorted candles takes 0.3 ms; to compare the year of each takes 24 ms.
    edges = candles["time"].search_sorted(pl.Series(new_years, dtype=TIME)).to_list() if new_years else []
    for year, (begin, end) in enumerate(pairwise([0, *edges, candles.height]), first):
        if begin < end:
            yield year, candles.slice(begin, end - begin)
