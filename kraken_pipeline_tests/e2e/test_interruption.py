"""A run that is killed leaves nothing that the same command does not make whole."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.storage.stores import opened
from kraken_pipeline_tests.e2e import programs
from kraken_pipeline_tests.homes import Q2, SPRING, Shelf, evidence_of, files_of, lake_of, letters, settings_of

pytestmark = pytest.mark.e2e
MEMBERS = 160
"""Three batches: long enough to be killed in the middle of."""
COMMAND = ("ingest", "--intervals", "60,1440", "--archive-dir")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Path:
    """A release of many members, one of them with a bad row and one damaged; and a loose file."""
    folder = tmp_path_factory.mktemp("archives")
    with zipfile.ZipFile(shelf.q2) as release:
        text = release.read("XBTUSD_60.csv")
    with zipfile.ZipFile(folder / shelf.q2.name, "w", zipfile.ZIP_DEFLATED) as release:
        for number in range(MEMBERS):
            release.writestr(f"K{number:03d}USD_60.csv", text)
        release.writestr("BADUSD_60.csv", b"nonsense\n" + text)
        release.writestr("EMPTYUSD_60.csv", b"")
    (folder / "XBTUSD_1440.csv").write_text("1680307200,1,2,1,2,3,4\n1680393600,1,2,1,2,3,4\n1680480000,1,2,1,2,3,4\n")
    assert Q2.start == 1680307200
    assert SPRING.listings["XBTUSD"]
    return folder


def state(home: Path) -> dict[str, Any]:
    """What a home holds, without what depends on the moment of asking: gaps reach up to it."""
    with opened(settings_of(home)) as stores:
        evidence = evidence_of(stores)
        gaps = {(pair, interval, start) for pair, interval, start, *_ in evidence.pop("gaps")}
        rejected = [
            (letter["location"], letter["line"], letter["text"], letter["reason"]) for letter in letters(stores)
        ]
        return {
            "lake": lake_of(stores),
            "files": files_of(stores),
            "gaps": gaps,
            "letters": sorted(rejected, key=str),
            "assets": stores.lake.assets().select("pair", "base", "quote").rows(),
            **evidence,
        }


def counts(home: Path) -> dict[str, int]:
    """How many files have each status, while a run is at work."""
    catalog = home / "catalog.sqlite"
    if not catalog.exists():
        return {}
    try:
        with sqlite3.connect(f"file:{catalog}?mode=ro", uri=True, timeout=5) as connection:
            return dict(connection.execute("SELECT status, count(*) FROM files GROUP BY status").fetchall())
    except sqlite3.OperationalError:
        return {}  # the tables are not there yet
    finally:
        if "connection" in locals():
            connection.close()


def kill_when(home: Path, archives: Path, is_there: Callable[[dict[str, int]], bool]) -> dict[str, int]:
    """Starts an ingest, kills it with SIGKILL when it has got so far, and says how far it was."""
    process = programs.start(home, *COMMAND, str(archives))
    deadline = time.monotonic() + programs.TIMEOUT
    while not is_there(counts(home)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return counts(home)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, archives: Path) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("undisturbed") / "home"
    programs.run(home, *COMMAND, str(archives), code=1)
    return state(home)


@pytest.mark.parametrize(
    ("moment", "is_there"),
    [
        ("before the first file is done", lambda found: found.get("INGESTING", 0) > 0),
        ("in the middle", lambda found: found.get("COMPLETED", 0) > MEMBERS // 3),
    ],
    ids=["first", "middle"],
)
def test_a_killed_ingest_ends_as_an_undisturbed_one_when_it_is_run_again(
    tmp_path: Path,
    archives: Path,
    undisturbed: dict[str, Any],
    moment: str,
    is_there: Callable[[dict[str, int]], bool],
) -> None:
    home = tmp_path / "home"
    left = kill_when(home, archives, is_there)
    assert left.get("COMPLETED", 0) < MEMBERS, f"it was over before it was killed: {moment}"
    killed = programs.run_json(home, "status")[0]
    assert (killed["status"], killed["finished_at"]) == ("INTERRUPTED", None)

    out = programs.run(home, *COMMAND, str(archives), code=1)

    assert f"Run {killed['run_id'][:8]} is INTERRUPTED" in out
    after = state(home)
    assert after.keys() == undisturbed.keys()
    for what, expected in undisturbed.items():
        assert after[what] == expected, what
    assert not list((home / "lake").rglob("*.tmp"))


def test_a_killed_run_is_resumed_with_its_own_configuration(tmp_path: Path, archives: Path) -> None:
    home = tmp_path / "home"
    kill_when(home, archives, lambda found: found.get("INGESTING", 0) > 0)
    killed = programs.run_json(home, "status")[0]

    resumed = programs.run_json(home, "ingest", "--resume", killed["run_id"][:8], code=1)

    assert resumed["status"] == "SUCCESS"
    assert resumed["files_ingested"] == MEMBERS + 2
    assert "Run" not in programs.run(home, *COMMAND, str(archives), code=1).split("SUCCESS")[0]


def test_two_ingests_at_once_end_as_one(tmp_path: Path, archives: Path, undisturbed: dict[str, Any]) -> None:
    home = tmp_path / "home"
    both = [programs.start(home, *COMMAND, str(archives)) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=programs.TIMEOUT)
        assert "SUCCESS" in out, f"{out}\n{err}"
    after = state(home)
    for what in ("lake", "coverage", "extents", "grants", "assets"):
        assert after[what] == undisturbed[what], what


def test_a_run_started_by_dagster_needs_no_daemon(tmp_path: Path, archives: Path) -> None:
    home = tmp_path / "home"
    config = f'{{"archive_dirs": ["{archives}"], "pairs": ["K001USD", "K002USD"], "intervals": "60"}}'
    workspace = str(programs.ROOT / "workspace.yaml")
    launched = programs.dagster(home, "job", "launch", "-w", workspace, "-j", "ingest", "--config-json", config)
    assert launched.returncode == 0, launched.stderr
    deadline = time.monotonic() + programs.TIMEOUT
    while (run := programs.run_json(home, "status")[0])["status"] in (
        "STARTING",
        "STARTED",
        "NOT_STARTED",
        "INTERRUPTED",
    ):
        assert time.monotonic() < deadline
    assert (run["status"], run["files_ingested"]) == ("SUCCESS", 2)
    with opened(settings_of(home)) as stores:
        assert [str(series) for series in stores.lake.series() if series.interval == Interval.H1] == [
            "K001USD 60",
            "K002USD 60",
        ]
