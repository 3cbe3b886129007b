"""The catalog database of evidence, gaps and files: SQLite by default, PostgreSQL for many concurrent processes.

This module opens it, migrates it and provides transactions. `file_records`, `evidence_records`, `gap_records`,
`publications` and `dead_letters` define what is written in them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from kraken_pipeline.errors import InvalidRequest, StoreError
from kraken_pipeline.storage.catalog.migrations import VERSIONS, revisions
from kraken_pipeline.storage.faults import fault_of, faults_explained, is_read_only, malformed
from kraken_pipeline.storage.locks.locks import AdvisoryLocks, Locks
from kraken_pipeline.storage.paths import make_folder
from kraken_pipeline.storage.pools import PoolStats
from kraken_pipeline.storage.postgresql import PoolSizes, PostgreSQL, going_away

_BUSY_SECONDS = 60


class Catalog:
    """A catalog database.

    A write transaction on SQLite acquires the write lock at once (BEGIN IMMEDIATE). Measured with four processes, a
    plain BEGIN lost a third of the transactions to "database is locked", and BEGIN IMMEDIATE lost none.

    Args:
        url: An SQLAlchemy URL; `postgresql://` means psycopg 3.
        sizes: The pool sizes for connections to a server; unused for SQLite.
    """

    def __init__(self, url: str, sizes: PoolSizes | None = None) -> None:
        parsed = sa.make_url(url)
        self._sizes = sizes or PoolSizes()
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self._path = Path(parsed.database) if self.is_sqlite and parsed.database else None
        # SQLite writes beside a database even to read it, unless it is told that no other process writes.
        self.is_read_only = self._path is not None and (is_read_only(self._path) or is_read_only(self._path.parent))
        self._server = None if self.is_sqlite else PostgreSQL(parsed, self._sizes)
        if self._server is not None:
            self.engine = self._server.engine
        elif self._path is not None and self.is_read_only:
            self.engine = sa.create_engine(parsed, creator=partial(_connect_only_to_read, self._path))
        else:
            self.engine = sa.create_engine(parsed)
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)

    @property
    def place(self) -> str:
        """The location, for display: a file, or the URL of a server's database without the password."""
        return str(self._path or self.engine.url.render_as_string(hide_password=True))

    @property
    def name(self) -> str:
        """The display name."""
        return f"the catalog {self.place}"

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def warm(self) -> None:
        """Open the first connections to a server."""
        if self._server is not None:
            self._server.warm()

    @property
    def statistics(self) -> PoolStats | None:
        """The usage of the connection pool; None for SQLite, which has no server."""
        return self._server.statistics if self._server is not None else None

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Open a write transaction, which commits all or nothing. Do no HTTP and no Parquet work in it.

        Raises:
            StoreUnavailable: The server does not answer, or went away during the transaction. Nothing was written,
                unless the server went away at the moment of the commit.
        """
        if self.is_read_only:
            raise StoreError(f"{self.name} cannot be written: it is read-only for this user")
        with self._connected() as connection, connection.begin():
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open a read-only transaction, which sees one consistent state.

        Raises:
            StoreUnavailable: The server does not answer, or went away during the transaction.
        """
        with self._connected() as connection:
            if self.is_sqlite:
                yield connection.execution_options(read_only=True)
            else:  # by default each statement of a transaction would see another state
                yield connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @contextmanager
    def _connected(self) -> Iterator[sa.Connection]:
        if self._server is None:
            with faults_explained(self.name), self.engine.connect() as connection:
                yield connection
        else:
            with going_away(), self._server.connect() as connection:
                yield connection

    def require_sound(self) -> None:
        """Check the integrity of an SQLite database; PostgreSQL needs no check.

        Raises:
            CatalogLost: SQLite finds its file damaged.
        """
        if not self.is_sqlite:
            return
        with self.read() as connection:
            found = connection.scalars(sa.text("PRAGMA integrity_check(3)")).all()
        if list(found) != ["ok"]:
            raise malformed(self.place, "; ".join(map(str, found)))

    def revision(self) -> str | None:
        """Return the current migration of the database; None before the first."""
        with self.read() as connection:
            if not sa.inspect(connection).has_table(VERSIONS.name):
                return None
            return connection.scalars(sa.select(VERSIONS.c.version_num)).one_or_none()

    def upgrade(self) -> None:
        """Upgrade the database to the newest migration; safe to call from many processes at once.

        Raises:
            StoreError: The database is newer than this program.
        """
        *_, newest = known = revisions()
        if (current := self.revision()) == newest:
            return
        if current is not None and current not in known:
            raise StoreError(
                f"the catalog is at migration {current}, which this version of kraken_pipeline does not know; "
                "install the version that wrote it, or a newer one; if there is none, the catalog is damaged, and "
                "`kraken-pipeline recover` builds a new one from the lake"
            )
        if self.is_read_only:
            raise StoreError(
                f"{self.name} is at migration {current}, and cannot be migrated to {newest}: it is read-only for "
                "this user; run any command once as a user who may write it"
            )
        # A catalog is created or migrated once.
        from kraken_pipeline.storage.catalog.upgrade import locked, upgrade  # noqa: PLC0415

        with locked(self, _BUSY_SECONDS), self.write() as connection:
            upgrade(connection)

    def locks(self) -> Locks:
        """Return locks in the database itself; not for SQLite, which has none."""
        # As many connections as locks: a holder that waited for a connection for its next lock could deadlock itself.
        sizes = replace(self._sizes, overflow=-1)
        return Locks(AdvisoryLocks(PostgreSQL(self.engine.url, sizes, isolation_level="AUTOCOMMIT")))


def new_catalog(url: str, sizes: PoolSizes | None = None) -> Catalog:
    """Return the catalog at an SQLAlchemy URL, without connecting to it.

    Raises:
        StoreError: The URL names no usable database.
    """
    try:
        return Catalog(url, sizes)
    except (sa.exc.ArgumentError, ImportError) as error:
        raise StoreError(f"KRAKEN_CATALOG_URL names no database that can be used: {error}") from error
    except ValueError:  # its message quotes the text in place of the port, perhaps the password
        raise StoreError("KRAKEN_CATALOG_URL names no database that can be used: its port is not a number") from None


def has_password(url: str) -> bool:
    """Return whether the SQLAlchemy URL of a catalog has a password in it.

    Raises:
        InvalidRequest: It is no URL of a database.
    """
    try:
        return sa.make_url(url).password is not None
    except sa.exc.ArgumentError:
        raise InvalidRequest("that names no database; write sqlite:////a/path/catalog.sqlite") from None


def open_catalog(url: str, sizes: PoolSizes | None = None) -> Catalog:
    """Open the catalog at an SQLAlchemy URL; create or upgrade it where needed.

    Raises:
        StoreError: It cannot be opened, or is newer than this program.
        CatalogLost: It is an SQLite file that is damaged, or no database at all.
        StoreUnavailable: Its server does not answer.
    """
    catalog = new_catalog(url, sizes)
    with ExitStack() as failing:
        failing.callback(catalog.close)
        try:
            if catalog.is_sqlite and catalog.engine.url.database:
                make_folder(Path(catalog.engine.url.database).parent)
            catalog.warm()
            catalog.upgrade()
        except (sa.exc.SQLAlchemyError, OSError) as error:
            fault = None if isinstance(error, OSError) else fault_of(error, catalog.name)
            raise fault or StoreError(f"{catalog.name} cannot be opened: {_first_line(error)}") from error
        failing.pop_all()
    return catalog


def _first_line(error: BaseException) -> str:
    """Return the first line of an error's own message, without the statement, values and link of SQLAlchemy."""
    message = getattr(error, "orig", None) or error
    return (str(message).strip().splitlines() or [type(message).__name__])[0]


def _connect_only_to_read(path: Path) -> sqlite3.Connection:
    """Open a database where nothing can be written beside it.

    Raises:
        StoreError: It was not closed cleanly, and the last commits cannot be read without writing.
    """
    log = path.with_name(f"{path.name}-wal")
    # With `immutable`, SQLite does not read the log, which holds the last commits.
    is_closed = not (log.exists() and log.stat().st_size)
    uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if is_closed else ''}"
    connection = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)
    connection.text_factory = _text
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError as error:
        connection.close()
        if is_closed or "unable to open" not in str(error):
            raise
        raise StoreError(
            f"the catalog {path} was in use when it was made read-only: its last commits are in {log.name}, which "
            "cannot be read without writing; copy the home to a folder that can be written"
        ) from error
    return connection


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.text_factory = _text
    connection.isolation_level = None  # the driver starts no transaction by itself: `_begin_sqlite` does
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_SECONDS * 1000}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # commits survive a power cut: files are moved after them
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


_text = partial(str, encoding="utf-8", errors="replace")
"""Decodes a text; replaces damaged bytes, so that the row fails its checksum and queries do not fail."""


def _begin_sqlite(connection: sa.Connection) -> None:
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
