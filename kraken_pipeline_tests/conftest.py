"""What all tests share: how long Hypothesis searches, that nothing comes in from outside, and homes to work in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline_tests.support.homes import Shelf, settings_of, write_shelf
from kraken_pipeline_tests.support.marks import mark_by_fixtures, no_process
from kraken_pipeline_tests.support.remembering import remember_migrations

pytest_plugins = ("kraken_pipeline_tests.support.fixtures",)

# The same examples in every run, so that a failure is one in every run; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("steady", deadline=None, max_examples=40, derandomize=True, database=None)
settings.register_profile("explore", deadline=None, max_examples=1_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests by what they ask for."""
    mark_by_fixtures(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Fixtures of any scope start no process for a test whose marks do not tell of one."""
    with no_process(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Nor does the test."""
    with no_process(item):
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def _nothing_from_outside() -> Iterator[None]:
    """No setting of the developer's shell reaches a test; what is the same for each of them is read once."""
    with pytest.MonkeyPatch.context() as patch:
        remember_migrations(patch)
        for name in [name for name in os.environ if name.startswith(("KRAKEN_", "DAGSTER_"))]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Archives of a small world, only to read."""
    return write_shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with nothing in it but a migrated catalog, to copy: migrations cost more than most tests."""
    home = tmp_path_factory.mktemp("empty") / "home"
    with opened(settings_of(home)):
        return home


@pytest.fixture
def home(tmp_path: Path, empty_home: Path) -> Path:
    """An empty home of the test's own."""
    return Path(shutil.copytree(empty_home, tmp_path / "home"))


@pytest.fixture
def stores(home: Path) -> Iterator[Stores]:
    """The stores of that home."""
    with opened(settings_of(home)) as found:
        yield found
