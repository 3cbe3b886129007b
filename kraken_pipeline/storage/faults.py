"""Turns errors of disks, databases and Parquet files into errors whose messages say what to do."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import sqlalchemy as sa

from kraken_pipeline.errors import Busy, CatalogLost, DiskFull, PipelineError, StoreError, StoreUnavailable

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # the end of an operating system error in a Polars message
_DAMAGED = ("not a database", "malformed", "no such table", "no such column", "has no column", "already exists")
_MALFORMED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_CATALOG = "the catalog "
_OURS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError)
"""Bugs of this program, which keep their traceback."""


def is_read_only(path: Path) -> bool:
    """Check whether a path exists and this process may not write it."""
    return path.exists() and not os.access(path, os.W_OK)


def is_malformed(error: BaseException) -> bool:
    """Check whether an error is SQLite's report that its file is malformed or not a database."""
    cause = getattr(error, "orig", error)
    return isinstance(cause, sqlite3.Error) and getattr(cause, "sqlite_errorcode", 0) & 0xFF in _MALFORMED


def malformed(place: str, said: str) -> CatalogLost:
    """Return the error for a catalog that SQLite cannot read."""
    return CatalogLost(
        f"{_CATALOG}{place} is damaged ({said[:200]}): kraken-pipeline recover sets it aside and builds a new one "
        "from the lake"
    )


def fault_of(error: BaseException, what: str = "") -> PipelineError | None:
    """Return the pipeline's error for a fault of the machine or of a file; None for what may be a bug.

    Args:
        error: The error raised; its causes are examined too.
        what: The thing worked on, for errors that do not name it: `the catalog /data/catalog.sqlite`.
    """
    seen: BaseException | None = error
    while seen is not None:
        if (found := _meaning(seen, what)) is not None:
            return found
        seen = seen.__cause__
    return None


@contextmanager
def faults_explained(what: str = "") -> Iterator[None]:
    """Replace an error raised in a block by the one that `fault_of` returns for it.

    Raises:
        PipelineError: `fault_of` explains the error.
    """
    try:
        yield
    except (Exception, pl.exceptions.PanicException) as error:
        if (fault := fault_of(error, what)) is None or fault is error:
            raise
        raise fault from error


def _meaning(error: BaseException, what: str) -> PipelineError | None:
    if isinstance(error, PipelineError):
        return error
    if isinstance(error, sa.exc.DBAPIError) and error.orig is not None:
        return _of_sqlite(error.orig, what) if isinstance(error.orig, sqlite3.Error) else _of_server(error, what)
    if isinstance(error, sqlite3.Error):
        return _of_sqlite(error, what)
    if isinstance(error, OSError):
        return _of_system(error, what)
    if isinstance(error, (pl.exceptions.PolarsError, pl.exceptions.PanicException)):
        return _of_polars(error, what)
    return None


def _of_sqlite(error: BaseException, what: str) -> PipelineError | None:
    if not isinstance(error, sqlite3.Error) or isinstance(error, _OURS):
        return None
    where, text = what or "Dagster's history", " ".join(str(error).split())
    if "syntax error" in text and "malformed" not in text:  # also a bug of this program
        return None
    # On a full disk, SQLite's shared-memory file cannot grow either.
    if "disk is full" in text or getattr(error, "sqlite_errorname", "") == "SQLITE_IOERR_SHMSIZE":
        return DiskFull(_full(where))
    if "readonly database" in text:
        return StoreError(_only_to_read(where))
    if "is locked" in text:
        return Busy(f"{where} has been locked by another process for too long; try again later")
    if any(sign in text for sign in _DAMAGED):
        if where.startswith(_CATALOG):
            return malformed(where.removeprefix(_CATALOG), text)
        return StoreError(f"{where} is damaged ({text}); move that file away, and a new one is created")
    if "disk I/O error" in text:
        return StoreError(
            f"{where} cannot be used ({text}); check the disk and its free space, and run the same command again to "
            "continue"
        )
    return StoreError(f"{where} cannot be used ({text})")


def _of_server(error: sa.exc.DBAPIError, what: str) -> PipelineError | None:
    if not isinstance(error, sa.exc.OperationalError):
        return None
    text = " ".join(str(error.orig).split())
    return StoreUnavailable(f"{what or 'the server of a database'} does not answer ({text}); try again later")


def _of_system(error: OSError, what: str) -> PipelineError:
    where = str(error.filename) if error.filename else what
    number = error.errno or _number_in(str(error))
    if number in _FULL:
        return DiskFull(_full(where or "a file"))
    if number == errno.EROFS:
        return StoreError(_only_to_read(where or "a file"))
    return StoreError(str(error))


def _of_polars(error: BaseException, what: str) -> PipelineError:
    text = " ".join(str(error).split())
    number = _number_in(text)
    if number in _FULL:
        return DiskFull(_full(what or "the lake"))
    if number == errno.EROFS:
        return StoreError(_only_to_read(what or "the lake"))
    return StoreError(f"{what or 'a Parquet file of the lake'} cannot be read ({text[:300]})")


def _number_in(text: str) -> int | None:
    found = _OS_ERROR.search(text)
    return int(found[1]) if found else None


def _full(where: str) -> str:
    return f"the disk is full: {where} cannot be written; free space, and run the same command again to continue"


def _only_to_read(where: str) -> str:
    return f"{where} cannot be written: it is read-only for this user"
