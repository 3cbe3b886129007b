"""Every test of this folder runs on SQLite and on PostgreSQL; what it asks for as `stores` or `url` lies there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline_tests.support.databases import Databases
from kraken_pipeline_tests.support.homes import settings_of
from kraken_pipeline_tests.support.servers import PostgreSQL


@dataclass(frozen=True, slots=True)
class Backend:
    """What makes databases, each gone when its block ends.

    Attributes:
        home: A home whose SQLite catalog is migrated, to be copied.
        server: The worker's PostgreSQL; None where catalogs are SQLite's.
        databases: Those of the server that hold a catalog.
    """

    home: Path
    server: PostgreSQL | None = None
    databases: Databases | None = None

    @contextmanager
    def empty(self, folder: Path) -> Iterator[str]:
        """The URL of a database with nothing in it."""
        if self.server is None:
            yield f"sqlite:///{folder / 'catalog.sqlite'}"
        else:
            self.server.start()  # where an earlier test has killed it and left it so
            with self._dropped(self.server, self.server.database()) as url:
                yield url

    @contextmanager
    def migrated(self, folder: Path) -> Iterator[str]:
        """The URL of a catalog without records; copied, because migrations cost more than most tests."""
        if self.server is None:
            shutil.copy(self.home / "catalog.sqlite", folder)
            yield f"sqlite:///{folder / 'catalog.sqlite'}"
        else:
            assert self.databases is not None
            with self.databases.one() as url:
                yield url

    @contextmanager
    def _dropped(self, server: PostgreSQL, url: str) -> Iterator[str]:
        yield url
        server.start()
        server.drop(url)


@pytest.fixture(scope="session", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def backend(request: pytest.FixtureRequest, empty_home: Path) -> Backend:
    """Where the databases of a test lie."""
    if request.param == "sqlite":
        return Backend(empty_home)
    server = request.getfixturevalue("postgresql")
    return Backend(empty_home, server, Databases(server))


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
