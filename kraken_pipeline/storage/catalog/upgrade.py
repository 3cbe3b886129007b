"""Migrates a catalog's database with Alembic. Only a catalog that is not up to date imports it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from filelock import FileLock

from kraken_pipeline.storage.catalog.migrations import FOLDER

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
    """Migrate a database to the newest migration, within an open transaction."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
