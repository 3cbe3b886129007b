"""Creates the tables of a new catalog, and migrates an earlier one with Alembic.

Only a catalog that is not up to date imports this module.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import sqlalchemy as sa
from filelock import FileLock

from kraken_pipeline.storage.catalog.migrations import FOLDER, VERSIONS, revisions
from kraken_pipeline.storage.catalog.schema import history_starts, metadata
from kraken_pipeline.storage.catalog.seals import sealed

if TYPE_CHECKING:
    from kraken_pipeline.storage.catalog.database import Catalog


@contextmanager
def locked(catalog: Catalog, seconds: float) -> Iterator[None]:
    """Let one process after another migrate a catalog; each waits for the lock of an SQLite file for some seconds."""
    database = catalog.engine.url.database
    if catalog.is_sqlite and database:
        with FileLock(f"{database}.migration.lock", timeout=seconds):
            yield
    elif catalog.is_sqlite:
        yield
    else:
        with closing(catalog.locks()) as locks, locks.migration():
            yield


def upgrade(connection: sa.Connection) -> None:
    """Bring a database to the newest migration, within an open transaction.

    A new database gets all tables at once: the migrations lead to the same ones, in seven times the time.
    """
    names = set(sa.inspect(connection).get_table_names())
    # A database with a migration on record and no tables has lost them, and must not pass for a new one.
    is_migrated = VERSIONS.name in names and connection.scalar(sa.select(VERSIONS.c.version_num)) is not None
    if is_migrated or metadata.tables.keys() & names:
        _migrate(connection)
    else:
        metadata.create_all(connection, checkfirst=False)
        VERSIONS.create(connection, checkfirst=True)
        connection.execute(sa.insert(VERSIONS).values(version_num=revisions()[-1]))
        begin = {"pair": "", "interval": 0, "starts_at": time.time_ns() // 1_000}
        connection.execute(sa.insert(history_starts).values(sealed(history_starts, begin)))


def _migrate(connection: sa.Connection) -> None:
    # Alembic takes a third of a second to import, and a new catalog does without.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
