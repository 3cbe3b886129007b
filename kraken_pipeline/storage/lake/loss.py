"""Loss: a catalog that is not the one that the lake was written with, and what was begun to get it back.

Where it is empty beside a lake that is not, or older than the lake, what it says is covered, missing or complete is not
so. It is then refused with one sentence, whoever opens it, until it is recovered or restored.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import sqlalchemy as sa
from filelock import FileLock

from kraken_pipeline.errors import CatalogLost, StoreError
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.database import Catalog
from kraken_pipeline.storage.faults import is_malformed
from kraken_pipeline.storage.lake import last_write
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
"""Any home with candles has rows in one of these."""


def require_catalog(home: Path, catalog: Catalog) -> None:
    """Make sure that a catalog is the one that the lake was written with.

    Raises:
        CatalogLost: It is not, or something was begun to get it back and not brought to its end.
    """
    require_finished(home)
    if is_empty(catalog) and has_candles(home) and is_empty(catalog):  # a run may write its first ones just now
        raise CatalogLost(
            f"the catalog {catalog.place} is empty, and the lake in {home / 'lake'} is not: kraken-pipeline "
            f"{RECOVER} builds one from what is left, or with --from copies the one that the lake was written with"
        )
    # A run that replaces that very file between two looks is no sign of anything, and is not met twice.
    if _missed(home, catalog) is not None and (last := _missed(home, catalog)) is not None:
        raise CatalogLost(
            f"the catalog {catalog.place} is older than the lake: it does not know {last.path} as it was written "
            f"last; kraken-pipeline {RECOVER} keeps what it says and takes up what the lake got since"
        )


def is_empty(catalog: Catalog) -> bool:
    """Tell whether a catalog knows of no candle, no archive and no damage."""
    with catalog.read() as connection:
        return not any(
            connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() for table in _EVIDENCE
        )


def has_candles(home: Path) -> bool:
    """Tell whether there is any file of candles in the lake of a home."""
    return next((home / "lake").glob("interval=*/**/*.parquet"), None) is not None


def _missed(home: Path, catalog: Catalog) -> last_write.LastWrite | None:
    with catalog.read() as connection:
        return last_write.unknown(home, connection)


# --- what is begun and not yet done


@contextmanager
def unfinished(home: Path, command: str) -> Iterator[None]:
    """Leave a mark in the home for as long as a command is not done, which refuses the home to everybody else.

    Args:
        home: Which.
        command: What has to be run again if it does not come to its end.
    """
    mark = home / _UNFINISHED
    mark.write_text(command, encoding="utf-8")
    yield
    mark.unlink()


def is_unfinished(home: Path) -> bool:
    """Tell whether something was begun in a home that has not come to its end."""
    return (home / _UNFINISHED).exists()


def require_finished(home: Path, command: str | None = None) -> None:
    """Make sure that nothing was begun in a home that has not come to its end, unless by this command.

    Raises:
        CatalogLost: Something was.
    """
    try:
        begun = (home / _UNFINISHED).read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    if begun != command:
        raise CatalogLost(
            f"kraken-pipeline {begun} is at work in {home}, or was stopped before its end: nothing is known until it "
            "is done; run it again if it is not at work"
        )


# --- what cannot be read


def set_malformed_aside(path: Path, lock: Path) -> Path | None:
    """Rename a catalog of SQLite's that is damaged, with what belongs to it; nothing of it is deleted.

    Args:
        path: The file.
        lock: Held meanwhile, so that two that recover at once do not set the new one aside.

    Returns:
        Where it lies now; None where it is whole, or not there.
    """
    with FileLock(lock, timeout=600):
        if not path.exists() or _is_whole(path):
            return None
        return set_aside(path)


def set_aside(path: Path) -> Path:
    """Rename a catalog of SQLite's, with what belongs to it; returns where it lies now."""
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
