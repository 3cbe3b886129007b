"""Lakes to test with, each with a small catalog of its own, and the one way into them without the rest of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.database import Catalog
from kraken_pipeline.storage.lake.lake import Lake
from kraken_pipeline.storage.lake.staged import Staged, move_all
from kraken_pipeline.storage.lake.stored_series import by_year
from kraken_pipeline.storage.lake.writer import stage_file
from kraken_pipeline.storage.paths import former_path
from kraken_pipeline.storage.records import manifest


def lake_at(home: Path) -> Lake:
    """The lake of a home, with a catalog that is made without migrations: those cost more than most tests."""
    home.mkdir(parents=True, exist_ok=True)
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    with catalog.write() as connection:
        schema.metadata.create_all(connection)
    return Lake(home, catalog)


def rewritten(lake: Lake, series: Series, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """Puts other candles into each file of a series, on record as if they had been ingested: no damage, but wrong."""
    for year, path in lake.partitions(series):
        staged = Staged(series, "a test", 0)
        with lake.files.open(path) as stream:
            version, candles = lake.files.version_of(stream), pl.read_parquet(stream, hive_partitioning=False)
        stage_file(lake, staged, change(candles), path, year, replaces=version)
        bring_in(lake, staged)


def bring_in(lake: Lake, staged: Staged) -> None:
    """Moves what is staged into the lake and puts it on record, as `lake_write.commit` does."""
    files = [move.file for move in staged.moves]
    move_and_die(lake, staged)
    with lake.catalog.write() as connection:
        manifest.confirm(connection, files)
        manifest.retire(connection, staged.retired)
    lake.clear([staged.series])
    lake.manifest.forget([staged.series])


def move_and_die(lake: Lake, staged: Staged) -> None:
    """Moves what is staged into the lake, announced and not confirmed: here a writer was killed."""
    with lake.catalog.write() as connection:
        manifest.announce(connection, [move.file for move in staged.moves])
    move_all(lake.files, [staged])
    lake.manifest.forget([staged.series])


def into_former_layout(lake: Lake) -> list[Series]:
    """Stores the series of less than an hour as earlier versions did, a folder a year, and returns them."""
    found = [series for series in lake.series() if series.interval < Interval.H1 and lake.partitions(series)]
    for series in found:
        staged = Staged(series, "a test", 0, retired=tuple(lake.manifest.reread(series).candles()))
        for year, candles in by_year(lake.read(series)):
            stage_file(lake, staged, candles, former_path(series, year), year)
        bring_in(lake, staged)
    return found
