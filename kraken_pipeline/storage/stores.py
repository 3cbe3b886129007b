"""The stores of one home, opened together: lake, catalog and locks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from kraken_pipeline.errors import Busy, StoreError
from kraken_pipeline.market.tier import TierTable, load_tiers
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.catalog.database import Catalog, new_catalog, open_catalog
from kraken_pipeline.storage.faults import is_read_only
from kraken_pipeline.storage.lake import loss
from kraken_pipeline.storage.lake.files import LakeFiles, lake_files
from kraken_pipeline.storage.lake.lake import Lake
from kraken_pipeline.storage.locks.locks import FileLocks, Locks
from kraken_pipeline.storage.paths import make_folder
from kraken_pipeline.storage.postgresql import PoolSizes
from kraken_pipeline.storage.workers import Workers


@dataclass(frozen=True, slots=True)
class Stores:
    """The open stores of a home, with its settings and its tiers: what every workflow works on."""

    settings: Settings
    lake: Lake
    catalog: Catalog
    locks: Locks
    tiers: TierTable
    workers: Workers

    def close(self) -> None:
        """End the worker processes, and close the connections of the catalog and of the locks."""
        self.workers.close()
        self.locks.close()
        self.catalog.close()


def create_stores(settings: Settings, *, is_recovering: bool = False, is_worker: bool = False) -> Stores:
    """Open the stores, and create those that do not exist yet.

    Args:
        settings: The settings of the home.
        is_recovering: Whether to open the stores for a recovery: accept a lost catalog, and set a malformed one aside.
        is_worker: Whether a run that has opened them already is in progress, and this process works for it.

    Raises:
        StoreError: The home cannot be written, the catalog cannot be opened, or the bucket of the lake has no lake.
        CatalogLost: The catalog is not the one that the lake was written with.
        Busy: `is_recovering` is set while a run is in progress.
        InvalidSettings: The table of tiers is wrong.
    """
    tiers = load_tiers(settings.kraken_tiers_file)
    files_of_lake = place_of_lake(settings)
    try:
        if not settings.home.exists():
            settings.home.mkdir(parents=True)
        if isinstance(settings.drop, Path):
            make_folder(settings.drop)
        files = FileLocks(settings.home / "locks")
    except OSError as error:
        raise _cannot_be_written(settings, f" ({error})") from error
    if is_recovering and not is_worker:
        _make_way(settings, Locks(files))
    catalog = open_catalog(settings.catalog_url, pool_sizes(settings))
    with ExitStack() as failing:
        failing.callback(catalog.close)
        if not is_recovering:
            loss.require_catalog(settings.home, files_of_lake, catalog)
        lake = Lake(settings.home, catalog, files_of_lake)
        if not is_recovering:
            lake.asset_ids.import_ids()
        locks = Locks(files) if catalog.is_sqlite else catalog.locks()
        if is_recovering and not is_worker:
            failing.callback(locks.close)
            _require_rest(locks)
        failing.pop_all()
    open_elsewhere = partial(create_stores, is_recovering=is_recovering, is_worker=True)
    return Stores(settings, lake, catalog, locks, tiers, Workers(settings, open_elsewhere))


def place_of_lake(settings: Settings) -> LakeFiles:
    """Return the place of the lake's files: the home, or the bucket of the settings.

    Raises:
        InvalidSettings: The library for buckets is not installed.
    """
    return lake_files(settings.home, settings.kraken_lake_url, settings.kraken_lake_patience_seconds)


def require_writable(settings: Settings) -> None:
    """Check that the home is writable.

    Raises:
        StoreError: The home is read-only.
    """
    if is_read_only(settings.home):
        raise _cannot_be_written(settings, ": it is read-only for this user")


def _cannot_be_written(settings: Settings, why: str) -> StoreError:
    return StoreError(
        f"KRAKEN_PIPELINE_HOME: {settings.home} cannot be written{why}; name a folder that can be written"
    )


def _make_way(settings: Settings, locks: Locks) -> None:
    """Set a malformed SQLite catalog aside, unless a run is in progress."""
    _require_rest(locks)
    loss.require_finished(settings.home, loss.RECOVER)
    url = sa.make_url(settings.catalog_url)
    if url.get_backend_name() == "sqlite" and url.database:
        loss.set_malformed_aside(Path(url.database), settings.home / "locks" / "recovery.lock")


def _require_rest(locks: Locks) -> None:
    if locks.is_any_running():
        raise Busy("a run is at work in this home: wait until it is done, or terminate it, and then recover")


def pool_sizes(settings: Settings) -> PoolSizes:
    """Return the pool sizes for the catalog's server, from the settings."""
    return PoolSizes(
        settings.kraken_catalog_pool,
        settings.kraken_catalog_overflow,
        settings.kraken_catalog_recycle_seconds,
        settings.kraken_catalog_patience_seconds,
    )


@contextmanager
def opened_locks(settings: Settings) -> Iterator[Locks]:
    """Open the locks alone for the duration of a block, to see which runs are in progress.

    Raises:
        StoreError: The home cannot be written, or the catalog's URL is unusable.
    """
    catalog = new_catalog(settings.catalog_url, pool_sizes(settings))
    with (
        closing(catalog),
        closing(Locks(FileLocks(settings.home / "locks")) if catalog.is_sqlite else catalog.locks()) as locks,
    ):
        yield locks


@contextmanager
def opened(settings: Settings, *, is_recovering: bool = False) -> Iterator[Stores]:
    """Open the stores for the duration of a block; see `create_stores`."""
    stores = create_stores(settings, is_recovering=is_recovering)
    try:
        yield stores
    finally:
        stores.close()
