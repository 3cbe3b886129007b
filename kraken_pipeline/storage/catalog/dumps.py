"""Dumps: saving a catalog to a file as of one moment, while other processes write, and restoring it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from kraken_pipeline.errors import StoreError
from kraken_pipeline.storage.catalog.database import Catalog
from kraken_pipeline.storage.catalog.schema import metadata

SQLITE_NAME = "catalog.sqlite"
POSTGRESQL_NAME = "catalog.dump"
_DEBIAN = Path("/usr/lib/postgresql")
_ENVIRONMENT = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "passfile": "PGPASSFILE",
    "options": "PGOPTIONS",
    "service": "PGSERVICE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "connect_timeout": "PGCONNECT_TIMEOUT",
}


def save(catalog: Catalog, target: Path) -> None:
    """Save a catalog as of this moment, without blocking other processes.

    Args:
        catalog: The catalog.
        target: A file that does not exist yet: an SQLite database, or a dump in the format of `pg_dump`.

    Raises:
        StoreError: It cannot be saved, or the saved copy is damaged.
    """
    if catalog.is_sqlite:
        _save_sqlite(Path(catalog.place), target)
    else:
        _run("pg_dump", catalog, "--format=custom", "--no-owner", "--no-privileges", f"--file={target}")


def _save_sqlite(path: Path, target: Path) -> None:
    try:
        with closing(sqlite3.connect(path, timeout=60)) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)  # in one step: with several, each write of another process would restart it
            found = copy.execute("PRAGMA integrity_check(1)").fetchall()
    except sqlite3.Error as error:
        raise StoreError(f"the catalog {path} cannot be saved: {error}") from error
    if found != [("ok",)]:
        raise StoreError(f"the catalog {path} is damaged ({found[0][0]}): kraken-pipeline recover builds a new one")


def load(catalog: Catalog, dump: Path) -> None:
    """Restore a catalog on PostgreSQL from a dump, into a database that has only tables without rows.

    Raises:
        StoreError: It cannot be restored; the database is then as before, without those tables.
    """
    with catalog.write() as connection:
        metadata.drop_all(connection)
        connection.execute(sa.text("DROP TABLE IF EXISTS alembic_version"))
    database = make_conninfo(dbname=str(catalog.engine.url.database))
    how = ("--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges")
    _run("pg_restore", catalog, *how, f"--dbname={database}", str(dump))


def _run(name: str, catalog: Catalog, *arguments: str) -> None:
    """Run a PostgreSQL program on a catalog; the password is in its environment, hidden from process lists."""
    url = catalog.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    said = {_ENVIRONMENT[key]: str(value) for key, value in conninfo_to_dict(url).items() if key in _ENVIRONMENT}
    command = [_program(name), "--no-password", *arguments]
    done = subprocess.run(  # noqa: S603 - a PostgreSQL program, with our own arguments
        command, env={**os.environ, **said}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        message = " ".join(done.stderr.split()) or f"its exit code was {done.returncode}"
        raise StoreError(f"{name} failed on the catalog {catalog.place}: {message}")


def _program(name: str) -> str:
    """Return the path of a PostgreSQL client program, the newest of several: it must not be older than the server."""
    versions = sorted(
        (path for path in _DEBIAN.glob(f"*/bin/{name}") if path.parts[-3].isdecimal()),
        key=lambda path: int(path.parts[-3]),
    )
    found = str(versions[-1]) if versions else shutil.which(name)
    if found is None:
        raise StoreError(
            f"{name} is not installed, and a catalog on PostgreSQL needs it: apt-get install postgresql-client"
        )
    return found
