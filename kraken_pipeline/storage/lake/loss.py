"""Loss: a catalog that is not the one that the lake was written with, and unfinished commands to recover it.

If the catalog is empty beside a lake that is not, or older than the lake, its claims of what is covered, missing or
complete are wrong. Every command then refuses it with one sentence, until it is recovered or restored.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import sqlalchemy as sa

from kraken_pipeline.errors import CatalogLost, StoreError
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.database import Catalog
from kraken_pipeline.storage.faults import is_malformed
from kraken_pipeline.storage.lake import last_write
from kraken_pipeline.storage.lake.files import LakeFiles
from kraken_pipeline.storage.paths import sync_folder

RECOVER = "recover"
_UNFINISHED = "unfinished"
_EVIDENCE = (
    schema.lake_files,
    schema.unadopted,
    schema.extents,
    schema.grants,
    schema.files,
    schema.damages,
)
"""The tables of which at least one has rows in any home with candles."""


def require_catalog(home: Path, files: LakeFiles, catalog: Catalog) -> None:
    """Check that a catalog is the one that the lake was written with.

    Raises:
        CatalogLost: It is not, or a command to recover it is unfinished.
        StoreError: The catalog has a lake on record, and there is none at the URL of the settings.
    """
    require_finished(home)
    is_blank = is_empty(catalog)
    if not is_blank and _has_lake(catalog):
        files.require_any()
    if is_blank and has_candles(files) and is_empty(catalog):  # again: a run may be writing its first candles
        raise CatalogLost(
            f"the catalog {catalog.place} is empty, and the lake in {files.place}/lake is not: kraken-pipeline "
            f"{RECOVER} builds a new one from the lake and the archives, or with --from copies the one that the "
            "lake was written with"
        )
    # Checked twice: a run may replace that very file during one check, but hardly during both.
    if _missed(home, files, catalog) is not None and (last := _missed(home, files, catalog)) is not None:
        raise CatalogLost(
            f"the catalog {catalog.place} is older than the lake: it has no record of the last write of "
            f"{last.path}; kraken-pipeline {RECOVER} keeps its records and adds what the lake got since"
        )


def is_empty(catalog: Catalog) -> bool:
    """Return whether a catalog has no record of a candle, an archive or damage."""
    with catalog.read() as connection:
        return not any(
            connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() for table in _EVIDENCE
        )


def _has_lake(catalog: Catalog) -> bool:
    """Return whether a file of candles is on record that is not only announced."""
    files = schema.lake_files
    is_there = files.c.path.like("lake/interval=%") & files.c.is_announced.is_(False)
    with catalog.read() as connection:
        return connection.execute(sa.select(sa.literal(1)).where(is_there).limit(1)).first() is not None


def has_candles(files: LakeFiles) -> bool:
    """Return whether there is any file of candles in a lake."""
    return any(path.startswith("lake/interval=") and path.endswith(".parquet") for path in files.below("lake"))


def _missed(home: Path, files: LakeFiles, catalog: Catalog) -> last_write.LastWrite | None:
    with catalog.read() as connection:
        return last_write.unknown(home, files, connection)


# --- unfinished commands


@contextmanager
def unfinished(home: Path, command: str) -> Iterator[None]:
    """Mark the home as unfinished while a command runs, so that all other commands refuse it.

    Args:
        home: The home.
        command: The command that has to be run again if it does not finish.
    """
    mark = home / _UNFINISHED
    mark.write_text(command, encoding="utf-8")
    yield
    mark.unlink()


def is_unfinished(home: Path) -> bool:
    """Return whether a command in a home is unfinished."""
    return (home / _UNFINISHED).exists()


def require_finished(home: Path, command: str | None = None) -> None:
    """Check that no command in a home is unfinished, other than this one.

    Raises:
        CatalogLost: Another command is unfinished.
    """
    try:
        begun = (home / _UNFINISHED).read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    if begun != command:
        raise CatalogLost(
            f"kraken-pipeline {begun} is at work in {home}, or was stopped before its end: the catalog is "
            "incomplete until it is done; if it is not at work, run it again"
        )


# --- damaged catalogs


def set_malformed_aside(path: Path, lock: Path) -> Path | None:
    """Rename an SQLite catalog that is damaged, with its other files; nothing is deleted.

    Args:
        path: The file.
        lock: The lock to hold meanwhile, so that of two concurrent recoveries none sets the new catalog aside.

    Returns:
        The new path; None where the catalog is whole or does not exist.
    """
    from filelock import FileLock  # noqa: PLC0415 - only a recovery needs it

    with FileLock(lock, timeout=600):
        if not path.exists() or _is_whole(path):
            return None
        return set_aside(path)


def set_aside(path: Path) -> Path:
    """Rename an SQLite catalog, with its other files, and return its new path."""
    target = path.with_name(f"{path.name}.{time.time_ns():020d}")
    for suffix in ("-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(target.with_name(target.name + suffix))
    sync_folder(path.parent)
    return target


def _is_whole(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path, timeout=60)) as connection:
            return connection.execute("PRAGMA integrity_check(1)").fetchall() == [("ok",)]
    except sqlite3.Error as error:
        if is_malformed(error):
            return False
        raise StoreError(f"the catalog {path} cannot be read: {error}") from error
