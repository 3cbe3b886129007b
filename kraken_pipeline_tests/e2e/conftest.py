"""Archives to ingest, and what a run of them leaves that nothing happened to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline_tests.support.homes import Shelf
from kraken_pipeline_tests.support.ingests import COMMAND, MEMBERS, home_beside, state, write_archives
from kraken_pipeline_tests.support.shell import shell


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Path:
    """A release of many members, one of them with a bad row and one empty; a whole one; and loose files."""
    return write_archives(tmp_path_factory.mktemp("killed") / "archives", shelf)


@pytest.fixture(scope="session")
def undisturbed(archives: Path) -> dict[str, Any]:
    """What a run leaves behind that nothing happened to."""
    home = home_beside(archives, "undisturbed")
    home.parent.mkdir()
    said = shell(home, *COMMAND)
    assert said.code == 1, "a file is empty, and fails"
    found = state(home)
    statuses = [row[4] for row in found["files"]]
    assert (statuses.count("COMPLETED"), statuses.count("FAILED"), len(statuses)) == (MEMBERS + 10, 1, MEMBERS + 11)
    return found


@pytest.fixture(scope="session")
def ingested(archives: Path) -> Path:
    """A home with all archives, which is only copied."""
    home = home_beside(archives, "ingested")
    home.parent.mkdir()
    assert shell(home, *COMMAND).code == 1, "a file is empty, and fails"
    return home
