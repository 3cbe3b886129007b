"""Every test of this folder runs on SQLite and on PostgreSQL; what it asks for as `stores` or `url` lies there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from psycopg import sql

from kraken_pipeline.storage.catalog import open_catalog
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline_tests.homes import settings_of
from kraken_pipeline_tests.servers import PostgreSQL

TEMPLATE = "template_catalog"


@dataclass(frozen=True, slots=True)
class Backend:
    """What makes databases, each gone when its block ends.

    Attributes:
        home: A home whose SQLite catalog is migrated, to be copied.
        server: The worker's PostgreSQL; None where catalogs are SQLite's.
    """

    home: Path
    server: PostgreSQL | None

    @contextmanager
    def empty(self, folder: Path) -> Iterator[str]:
        """The URL of a database with nothing in it."""
        if self.server is None:
            yield f"sqlite:///{folder / 'catalog.sqlite'}"
            return
        self.server.start()
        url = self.server.database()
        yield url
        self.server.start()
        self.server.drop(url)

    @contextmanager
    def migrated(self, folder: Path) -> Iterator[str]:
        """The URL of a catalog without records; copied, because migrations cost more than most tests."""
        with self.empty(folder) as url:
            if self.server is None:
                shutil.copy(self.home / "catalog.sqlite", folder)
            else:
                self._copy(self.server, url)
            yield url

    def _copy(self, server: PostgreSQL, url: str) -> None:
        names = sql.Identifier(url.rpartition("/")[2]), sql.Identifier(TEMPLATE)
        if not server.execute(f"SELECT 1 FROM pg_database WHERE datname = '{TEMPLATE}'"):
            open_catalog(server.database(TEMPLATE)).close()
        server.drop(url)
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest, empty_home: Path) -> Backend:
    """Where the databases of a test lie."""
    return Backend(empty_home, request.getfixturevalue("postgresql") if request.param == "postgresql" else None)


@pytest.fixture
def url(backend: Backend, tmp_path: Path) -> Iterator[str]:
    """An empty database of the test's own."""
    with backend.empty(tmp_path) as found:
        yield found


@pytest.fixture
def stores(backend: Backend, tmp_path: Path) -> Iterator[Stores]:
    """The stores of an empty home of the test's own."""
    with backend.migrated(tmp_path) as found, opened(settings_of(tmp_path / "home", kraken_catalog_url=found)) as there:
        yield there
