"""What a command imports, and what the list of commands says without importing any."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster  # noqa: F401 - starts a process when it is imported, which a test may not
import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from kraken_pipeline.cli.app import app
from kraken_pipeline.cli.groups import Command, Group
from kraken_pipeline.collector import no_collection
from kraken_pipeline.errors import StoreError
from kraken_pipeline.storage.catalog.database import open_catalog
from kraken_pipeline.storage.catalog.migrations import FOLDER, revisions
from kraken_pipeline.storage.stores import opened
from kraken_pipeline_tests.support.homes import Shelf, run, settings_of
from kraken_pipeline_tests.support.shell import ROOT, environment, shell

NOT_NEEDED = ("alembic", "dagster", "numpy", "psycopg", "questdb", "redis", "requests")
PROGRAM = f"""
import json, sys
from kraken_pipeline.__main__ import main
sys.argv = ["kraken-pipeline", "gaps"]
try:
    main()
finally:
    print(json.dumps([name for name in {NOT_NEEDED} if name in sys.modules]), file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.process
def test_gaps_imports_no_server_and_nothing_that_only_runs_need(tmp_path: Path, shelf: Shelf) -> None:
    home = tmp_path / "home"
    with opened(settings_of(home)) as stores:
        run(stores, shelf.q1, shelf.q3)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), **environment(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Gaps, the longest first" in done.stdout
    assert json.loads(done.stderr) == []


def test_no_cycles_are_looked_for_during_a_command_and_again_afterwards_even_if_it_fails() -> None:
    @no_collection()
    def command() -> None:
        assert not gc.isenabled()
        raise ValueError("it fails")

    assert gc.isenabled()
    with pytest.raises(ValueError, match="it fails"):
        command()
    assert gc.isenabled()


def members(group: Group) -> Iterator[tuple[str, Command | Group, Any]]:
    """Every member of a group and of the groups in it: its name, what the group knows of it, and the loaded command."""
    for name, member in group.members.items():
        loaded = group.commands[name]
        yield name, member, loaded
        if isinstance(member, Group):
            yield from members(member)


def test_a_summary_is_the_first_sentence_of_the_help_of_its_command() -> None:
    found = list(members(app))
    assert len(found) > 20
    wrong = {
        name: member.summary
        for name, member, loaded in found
        if member.summary != loaded.get_short_help_str(sys.maxsize)
    }
    assert wrong == {}


def test_the_numbers_of_the_migrations_are_those_that_alembic_knows() -> None:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    scripts = ScriptDirectory.from_config(config)
    assert revisions() == [each.revision for each in reversed(list(scripts.walk_revisions()))]
    assert revisions()[-1] == scripts.get_current_head()


def test_a_catalog_with_two_current_migrations_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    catalog = open_catalog(url)
    with catalog.write() as connection:
        connection.execute(sa.text("INSERT INTO alembic_version VALUES ('0001')"))
    catalog.close()
    with pytest.raises(StoreError, match=r"cannot be opened: .*Multiple rows"):
        open_catalog(url)


def test_a_command_that_does_not_exist_is_wrong_use(tmp_path: Path) -> None:
    said = shell(tmp_path / "home", "gasp")
    assert (said.code, "Did you mean 'gaps'" in said.err) == (2, True)
