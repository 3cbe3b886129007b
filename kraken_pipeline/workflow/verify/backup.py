"""Backups: saves the catalog at one moment, then the lake, and restores both into an empty home.

The catalog comes first, so runs may continue during a backup. Candles that the lake receives in between are in the
backup without coverage, and the verification after a restore adopts them. In the opposite order, the catalog would
claim coverage whose candles are missing.

Files of the lake are never changed in place: a write renames a new file over the old one. A hard link on the same file
system is therefore a copy that uses no space; it does not protect against failure of the disk.

A write may replace the files of a series by those of another layout during a backup. The folders are then copied once
more, so that no series is missing because its files vanished while they were listed.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import sqlalchemy as sa

from kraken_pipeline.errors import CatalogLost, InvalidRequest, StoreError
from kraken_pipeline.market.moment import iso, parse_moment
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.catalog import dumps
from kraken_pipeline.storage.catalog.copies import copy_catalog
from kraken_pipeline.storage.catalog.database import Catalog, new_catalog, open_catalog
from kraken_pipeline.storage.lake import last_write, loss
from kraken_pipeline.storage.paths import Layout, layout_of, linked, named_in, sync_file, sync_folder
from kraken_pipeline.storage.records import manifest
from kraken_pipeline.storage.stores import Stores, opened, place_of_lake, pool_sizes
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.releases import folder
from kraken_pipeline.workflow.run_spec import RunSpec
from kraken_pipeline.workflow.verify.bucket_copies import LAKE_FOLDERS, download, upload
from kraken_pipeline.workflow.verify.verification import Verification, verify

_OF_HOME = ("reports", folder.RELEASES)
FOLDERS = (*LAKE_FOLDERS, *_OF_HOME)
"""The folders that are backed up beside the catalog. Settings are excluded: they contain passwords."""
_ABOUT = "backup.json"
_SCRATCH = "tmp"
_CATALOGS = (dumps.SQLITE_NAME, dumps.POSTGRESQL_NAME)


@dataclass(frozen=True, slots=True)
class Backup:
    """The description of a backup in its `backup.json`.

    Attributes:
        home: The home that was backed up.
        catalog: The name of the file with the saved catalog.
        migration: The migration of the catalog.
        version: The version of this program.
        started_at: The start in seconds since the epoch; the moment of the catalog.
        finished_at: The end in seconds since the epoch; None before that.
        files: The number of files beside the catalog.
        bytes: Their size in bytes.
        linked: The number of them that are hard links to files of the home.
    """

    home: str
    catalog: str
    migration: str | None
    version: str
    started_at: int
    finished_at: int | None = None
    files: int = 0
    bytes: int = 0
    linked: int = 0

    def as_json(self) -> dict[str, object]:
        """Return the description as `backup.json` and `backup --json` show it."""
        return {
            **asdict(self),
            "started_at": iso(self.started_at),
            "finished_at": None if self.finished_at is None else iso(self.finished_at),
        }


_Identity = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Copied:
    """A file in a backup or a restored home: its size in bytes, and whether it is a hard link."""

    bytes: int
    is_link: bool


# --- saving


def back_up(stores: Stores, to: Path, *, links: bool = True) -> Backup:
    """Save a home to a folder; an earlier backup of it there is updated.

    An earlier backup keeps its catalog until all files are copied. Then the files of a series are removed from it that
    files of another layout have replaced. Of releases, only one is removed that the home has replaced by another one of
    its name. Nothing else is removed.

    Args:
        stores: The stores of the home.
        to: The folder.
        links: Whether files become hard links where possible.

    Raises:
        InvalidRequest: The folder contains something else, or is the home or a part of what is backed up.
        StoreError: The catalog cannot be saved.
    """
    home, to = stores.settings.home, to.expanduser().absolute()
    _require_room(home, to)
    to.mkdir(parents=True, exist_ok=True)
    name = dumps.SQLITE_NAME if stores.catalog.is_sqlite else dumps.POSTGRESQL_NAME
    about = Backup(
        home=str(home),
        catalog=name,
        migration=stores.catalog.revision(),
        version=importlib.metadata.version("kraken_pipeline"),
        started_at=int(time.time()),
    )
    if not (to / _ABOUT).exists():
        _write(to, about)
    saved = to / f"{name}.new"
    saved.unlink(missing_ok=True)
    dumps.save(stores.catalog, saved)
    sync_file(saved)
    for replaced in folder.other_releases(home, to):
        shutil.rmtree(to / folder.RELEASES / replaced)
    copied = _copy_folders(home, to, _of_home(stores.settings), links=links)
    if stores.settings.kraken_lake_url is not None:
        copied |= {path: _Copied(size, False) for path, size in download(stores, to, to / _SCRATCH).items()}
    for other in _CATALOGS:
        if other != name:
            (to / other).unlink(missing_ok=True)
    saved.rename(to / name)
    _remove_replaced(to, copied)
    shutil.rmtree(to / _SCRATCH)
    done = replace(
        about,
        finished_at=int(time.time()),
        files=len(copied),
        bytes=sum(file.bytes for file in copied.values()),
        linked=sum(file.is_link for file in copied.values()),
    )
    _write(to, done)
    return done


def _of_home(settings: Settings) -> tuple[str, ...]:
    """Return the folders to save that lie in the home."""
    return FOLDERS if settings.kraken_lake_url is None else _OF_HOME


def _require_room(home: Path, to: Path) -> None:
    if to == home or any(to.is_relative_to(home / name) for name in FOLDERS):
        raise InvalidRequest(f"{to} is a part of the home; name a folder outside of {home}")
    if to.exists() and not to.is_dir():
        raise InvalidRequest(f"{to} is not a folder")
    if to.is_dir() and any(to.iterdir()):
        earlier = _read(to)
        if earlier is None:
            raise InvalidRequest(f"{to} is not empty and has no backup; name an empty folder, or an earlier backup")
        if earlier.home != str(home):
            raise InvalidRequest(f"{to} has a backup of {earlier.home}, not of {home}; name another folder")


def _read(folder: Path) -> Backup | None:
    try:
        said = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        moments = {name: said[name] and parse_moment(said[name]) for name in ("started_at", "finished_at")}
        return Backup(**{**said, **moments})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, InvalidRequest):
        return None


def _write(folder: Path, about: Backup) -> None:
    written = folder / f"{_ABOUT}.new"
    written.write_text(json.dumps(about.as_json(), indent=2) + "\n", encoding="utf-8")
    sync_file(written)
    written.rename(folder / _ABOUT)
    sync_folder(folder)


# --- files


def _copy_folders(source: Path, target: Path, folders: Sequence[str], *, links: bool) -> dict[str, _Copied]:
    """Copy some folders of a home, and return the files by their paths relative to it."""
    scratch = target / _SCRATCH
    scratch.mkdir(parents=True, exist_ok=True)
    while True:
        copied: dict[str, _Copied] = {}
        linked_before: dict[_Identity, Path] = {}
        vanished: list[object] = []
        for path in (path for name in folders for path in _files_below(source / name, vanished)):
            relative = path.relative_to(source)
            try:
                is_link = _copy(path, target / relative, scratch, linked_before, links=links)
                copied[relative.as_posix()] = _Copied((target / relative).stat().st_size, is_link)
            except FileNotFoundError:
                if not path.is_symlink():  # one that leads nowhere is there, and has nothing to copy
                    vanished.append(path)
        if not vanished:
            return copied


def _files_below(folder: Path, vanished: list[object]) -> Iterator[Path]:
    """Yield the files below a folder, and add to a list what vanishes while it is listed.

    Raises:
        OSError: A folder cannot be listed for another reason, so that its files would be missing.
    """

    def note(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error
        vanished.append(error)

    if not folder.exists():
        return
    for at, _, names in os.walk(folder, onerror=note):
        for name in sorted(names):
            yield Path(at) / name


def _remove_replaced(target: Path, copied: Mapping[str, _Copied]) -> None:
    """Remove the candles from an earlier backup that were replaced by files of another layout, which are copied."""
    layouts = {(named_in(path)[0], layout) for path in copied if (layout := layout_of(path)) is not None}
    held = {series for series, _ in layouts}
    for path in list(_files_below(target / "lake", [])):
        name = path.relative_to(target).as_posix()
        series, layout = named_in(name)[0], layout_of(name)
        if layout is not None and series in held and (series, layout) not in layouts:
            path.unlink()
            if layout is Layout.FORMER:
                with suppress(OSError):  # somebody put another file into it
                    path.parent.rmdir()


def _copy(path: Path, target: Path, scratch: Path, linked_before: dict[_Identity, Path], *, links: bool) -> bool:
    """Copy or link a file to its target atomically, and return whether it is a hard link to the original.

    Files that are links to each other, as those of a release and of the lake, are one file in the copy too.

    Args:
        path: The file.
        target: Its target.
        scratch: A folder of the target's file system for files that are not complete yet.
        linked_before: The target of each earlier file that has several links, by identity; it is added to.
        links: Whether the target becomes a hard link where possible.
    """
    here = path.stat()
    # An inode is used again when its file is gone, so that it identifies a file only with size and time.
    identity = here.st_dev, here.st_ino, here.st_size, here.st_mtime_ns
    source = linked_before.setdefault(identity, target) if here.st_nlink > 1 else target
    if target.exists():
        there = target.stat()
        if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
            if links:
                return True
        elif (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns):
            return False
    target.parent.mkdir(parents=True, exist_ok=True)
    written = scratch / uuid.uuid4().hex
    try:
        is_link = links and linked(path, written)
        if not is_link and (source == target or not linked(source, written)):
            shutil.copy2(path, written)
            sync_file(written)
        written.replace(target)
    finally:
        written.unlink(missing_ok=True)
    return is_link


# --- restoring


def restore(settings: Settings, source: Path, run: RunContext, *, links: bool = True) -> tuple[Backup, Verification]:
    """Restore a backup into a home without candles, and verify the result.

    Candles that the lake received after the catalog was saved are adopted without coverage. Ingesting the same archives
    again grants it.

    Args:
        settings: The settings of the home.
        source: The folder of the backup.
        run: The context of the run, which receives the progress of the verification.
        links: Whether files become hard links where possible.

    Raises:
        InvalidRequest: There is no complete backup, the home has candles, or its catalog is not empty.
        StoreError: The catalog cannot be restored.
    """
    home, source = settings.home, source.expanduser().absolute()
    command = f"restore {source}"
    about = _read(source)
    if about is None or about.finished_at is None or not (source / about.catalog).is_file():
        raise InvalidRequest(f"{source} has no complete backup")
    if about.catalog == dumps.POSTGRESQL_NAME and sa.make_url(settings.catalog_url).get_backend_name() == "sqlite":
        raise InvalidRequest(
            f"{source} has a catalog of PostgreSQL: set KRAKEN_CATALOG_URL to an empty PostgreSQL database"
        )
    home.mkdir(parents=True, exist_ok=True)
    loss.require_finished(home, command)
    if others := folder.other_releases(source, home):
        raise InvalidRequest(
            f"the home has another release {others[0]} than the backup, and a release is never replaced; delete it, or "
            f"move {home / folder.RELEASES / others[0]} to another folder"
        )
    if not loss.is_unfinished(home):
        _require_empty(settings)
    with loss.unfinished(home, command):
        last_write.forget(home)
        _copy_folders(source, home, _of_home(settings), links=links)
        if settings.kraken_lake_url is not None:
            upload(source, place_of_lake(settings), home / "tmp")
        _restore_catalog(settings, source / about.catalog)
    with opened(settings) as stores:
        with suppress(StoreError):  # the catalog has the ids as well
            stores.lake.asset_ids.adopt()
        stores.lake.asset_ids.copy()
        with stores.catalog.write() as connection:  # what was stored after the backup is not known
            manifest.begin_history(connection, None, time.time_ns() // 1_000)
        return about, verify(stores, RunSpec(), run)


def _require_empty(settings: Settings) -> None:
    place = place_of_lake(settings)
    if loss.has_candles(place):
        raise InvalidRequest(f"{place.place} already has candles; a backup can only be restored into an empty home")
    with closing(_unopened(settings)) as catalog:
        if not _is_blank(catalog):
            raise InvalidRequest(
                f"the catalog {catalog.place} is not empty; a backup can only be restored into an empty catalog"
            )


def _unopened(settings: Settings) -> Catalog:
    return new_catalog(settings.catalog_url, pool_sizes(settings))


def _is_blank(catalog: Catalog) -> bool:
    """Return whether a catalog has no content; it may lack its tables or not exist at all."""
    if catalog.is_sqlite and not Path(catalog.place).exists():
        return True
    try:
        with catalog.read() as connection:
            has_tables = sa.inspect(connection).has_table("alembic_version")
    except CatalogLost:  # it is damaged, and will be set aside
        return True
    if not has_tables:
        return True
    catalog.upgrade()
    return loss.is_empty(catalog)


def _restore_catalog(settings: Settings, saved: Path) -> None:
    with closing(_unopened(settings)) as catalog:
        if saved.name == dumps.POSTGRESQL_NAME:
            dumps.load(catalog, saved)
            return
        path = Path(catalog.place) if catalog.is_sqlite else settings.home / "tmp" / f"{uuid.uuid4().hex}.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        loss.set_aside(path)
    shutil.copyfile(saved, path)
    sync_file(path)
    if not catalog.is_sqlite:
        _move(settings, path)


def _move(settings: Settings, path: Path) -> None:
    """Copy a SQLite catalog into the server's database, and remove the file."""
    try:
        with (
            closing(open_catalog(f"sqlite:///{path}")) as copy,
            closing(open_catalog(settings.catalog_url, pool_sizes(settings))) as catalog,
        ):
            copy_catalog(copy, catalog)
    finally:
        path.unlink(missing_ok=True)
