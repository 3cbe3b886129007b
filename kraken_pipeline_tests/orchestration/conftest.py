"""What the tests of orchestration share: an instance, definitions on a home of the test's own, no outer settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from kraken_pipeline.definitions import build_definitions
from kraken_pipeline.orchestration.resources import STORES, stores_resource
from kraken_pipeline.settings import Settings
from kraken_pipeline_tests.support.homes import settings_of
from kraken_pipeline_tests.support.remembering import remember_engines


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a developer's `.env` nor their home can be reached."""
    remember_engines(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "DAGSTER_HOME": str(tmp_path / "dagster"),
        "KRAKEN_DAGSTER_STORAGE": str(tmp_path / "dagster"),
        "KRAKEN_PIPELINE_HOME": str(tmp_path / "home"),
        "KRAKEN_SETTLE_SECONDS": "0",
        "KRAKEN_LOG_LEVEL": "CRITICAL",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory."""
    with dg.DagsterInstance.ephemeral() as found:
        yield found


def definitions(settings: Settings) -> dg.Definitions:
    """The project's definitions on one home."""
    return build_definitions(resource_overrides={STORES: stores_resource(settings)})


@pytest.fixture
def settings(home: Path) -> Settings:
    """An empty home of the test's own."""
    return settings_of(home)
