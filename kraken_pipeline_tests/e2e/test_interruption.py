"""A run that is killed leaves nothing that the same command does not make whole; two at once do what one does."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import time
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.demo.archives import candles_name
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.storage.stores import opened
from kraken_pipeline_tests.homes import Q1, Q2, Shelf, evidence_of, files_of, lake_of, letters, settings_of
from kraken_pipeline_tests.shell import ROOT, TIMEOUT, Said, ended, shell, start

pytestmark = pytest.mark.e2e
SERIES, PARTS = 14, 15
MEMBERS = SERIES * PARTS
"""Many files of a few series: each batch takes one of each, and reporting few series to Dagster takes little time."""
COMMAND = ("ingest", "--intervals", "60,1440", "--archive-dir", "../archives")


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Path:
    """A release of many members, one of them with a bad row and one empty; a whole one; and loose files."""
    folder = tmp_path_factory.mktemp("killed") / "archives"
    folder.mkdir()
    with zipfile.ZipFile(shelf.q2) as release:
        lines = release.read("XBTUSD_60.csv").splitlines(keepends=True)
    length = len(lines) // PARTS
    with zipfile.ZipFile(folder / candles_name(Q2), "w", zipfile.ZIP_DEFLATED) as release:
        for part in range(PARTS):
            text = b"".join(lines[part * length : (part + 1) * length])
            for number in range(SERIES):
                release.writestr(f"{part:02d}/K{number:02d}USD_60.csv", text)
        release.writestr("BADUSD_60.csv", b"nonsense\n" + b"".join(lines))
        release.writestr("EMPTYUSD_60.csv", b"")
    shutil.copy(shelf.q1, folder)
    assert shelf.q1.name == candles_name(Q1)
    days = "".join(f"{Q2.start + day * DAY},1,2,1,2,3,4\n" for day in range(3))
    for number in range(3):
        (folder / f"K{number:02d}USD_1440.csv").write_text(days)
    return folder


def state(home: Path, **more: Any) -> dict[str, Any]:
    """What a home holds, without ids, runs and moments; the newest gaps reach up to the moment of asking."""
    with opened(settings_of(home, **more)) as stores:
        evidence = evidence_of(stores)
        return evidence | {
            "gaps": {gap[:3] for gap in evidence["gaps"]},
            "lake": lake_of(stores),
            "files": files_of(stores),
            "letters": sorted((Path(each["location"]).name, each["line"], each["reason"]) for each in letters(stores)),
            "assets": stores.lake.assets().select("pair", "base", "quote").sort("pair").rows(),
        }


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for what, value in expected.items():
        assert found[what] == value, what


def home_beside(archives: Path, name: str) -> Path:
    """A home from which `../archives` leads to the archives."""
    return archives.parent / name / "home"


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
    assert f"Run {killed['run_id'][:8]} is INTERRUPTED; this run takes up what it left" in again.out
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
