"""A run that is killed leaves nothing that the same command does not make whole; two at once do what one does."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.demo.archives import candles_name
from kraken_pipeline.storage.stores import opened
from kraken_pipeline_tests.support.homes import Q2, settings_of
from kraken_pipeline_tests.support.ingests import COMMAND, MEMBERS, assert_same, home_beside, state
from kraken_pipeline_tests.support.shell import ROOT, TIMEOUT, Said, ended, shell, start

pytestmark = pytest.mark.slow


def counts(home: Path) -> dict[str, int]:
    """How many files have each status, while a run is at work."""
    catalog = home / "catalog.sqlite"
    if not catalog.exists():
        return {}
    try:
        with closing(sqlite3.connect(f"file:{catalog}?mode=ro", uri=True, timeout=5)) as connection:
            return dict(connection.execute("SELECT status, count(*) FROM files GROUP BY status").fetchall())
    except sqlite3.OperationalError:
        return {}  # the tables are not there yet


def kill_when(home: Path, is_there: Callable[[dict[str, int]], bool]) -> dict[str, int]:
    """Starts the ingest, kills it with SIGKILL when it has got so far, and says how far that was."""
    home.parent.mkdir()
    process = start(home, *COMMAND)
    deadline = time.monotonic() + TIMEOUT
    while not is_there(counts(home)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return counts(home)


@pytest.mark.parametrize("done", [1, MEMBERS // 2], ids=["soon", "halfway"])
def test_a_killed_ingest_ends_as_an_undisturbed_one_when_it_is_run_again(
    archives: Path, undisturbed: dict[str, Any], done: int
) -> None:
    home = home_beside(archives, f"killed-{done}")
    left = kill_when(home, lambda found: found.get("COMPLETED", 0) >= done)
    assert done <= left["COMPLETED"] < MEMBERS, f"it was over before it was killed: {left}"
    assert left.get("PENDING", 0) + left.get("INGESTING", 0) > 0
    killed = shell(home, "status", "--json").json[0]
    assert (killed["status"], killed["finished_at"]) == ("INTERRUPTED", None)

    again = shell(home, *COMMAND)

    assert again.code == 1
    assert f"Run {killed['run_id'][:8]} is INTERRUPTED; this run ingests what it left" in again.out
    assert_same(state(home), undisturbed)
    assert list((home / "tmp").iterdir()) == [] or all(path.suffix == ".parquet" for path in (home / "tmp").iterdir())


def test_a_killed_run_is_resumed_with_its_own_configuration(archives: Path, undisturbed: dict[str, Any]) -> None:
    home = home_beside(archives, "resumed")
    kill_when(home, lambda found: found.get("INGESTING", 0) > 0)
    killed = shell(home, "status", "--json").json[0]

    resumed = shell(home, "ingest", "--resume", killed["run_id"][:8], "--json")

    assert resumed.code == 1
    assert (resumed.json["status"], resumed.json["intervals"]) == ("SUCCESS", [60, 1440])
    assert_same(state(home), undisturbed)
    # It is made up for, and no longer spoken of.
    assert "is INTERRUPTED" not in shell(home, *COMMAND).out


def test_two_ingests_at_once_end_as_one(archives: Path, undisturbed: dict[str, Any]) -> None:
    home = home_beside(archives, "both")
    shutil.copytree(archives, home / "drop")
    command = ("ingest", "--intervals", "60,1440")
    for process in [start(home, *command), start(home, *command)]:
        said = ended(process)
        assert "SUCCESS" in said.out, f"{said.out}\n{said.err}"
    after = state(home)
    # What one of them was about to read when the other had taken it stays on record, as SKIPPED.
    after["files"] = [record for record in after["files"] if "SKIPPED" not in record]
    assert_same(after, undisturbed)
    # What was taken whole has moved, and only that.
    assert {path.name for path in (home / "drop").glob("*.*")} == {candles_name(Q2)}
    assert len(list((home / "drop" / "ingested").iterdir())) == 4


def test_a_run_that_dagster_launches_needs_no_daemon(archives: Path) -> None:
    home = home_beside(archives, "launched")
    home.parent.mkdir()
    config = f'{{"archive_dirs": ["{archives}"], "pairs": ["K01USD", "K02USD"], "intervals": "1440"}}'
    arguments = ("job", "launch", "-w", str(ROOT / "workspace.yaml"), "-j", "ingest", "--config-json", config)
    launched = ended(start(home, *arguments, program="dagster"))
    assert launched.code == 0, launched.err

    deadline = time.monotonic() + TIMEOUT
    told: dict[str, Any] = {"status": "NOT_STARTED"}
    while told["status"] not in ("SUCCESS", "FAILURE"):
        assert time.monotonic() < deadline, told
        time.sleep(0.2)
        said: Said = shell(home, "status", "--json")
        told = said.json[0]
    assert (told["status"], told["files_ingested"], told["assets"]) == ("SUCCESS", 2, ["K01USD", "K02USD"])
    with opened(settings_of(home)) as stores:
        assert [str(series) for series in stores.lake.series()] == ["K01USD 1440", "K02USD 1440"]
