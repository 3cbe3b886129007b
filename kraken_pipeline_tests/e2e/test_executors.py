"""Runs whose steps are groups of pairs in processes of their own: they leave what one process leaves."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow.side_by_side import PROCESS_KILLED
from kraken_pipeline_tests.e2e.test_interruption import counts
from kraken_pipeline_tests.support.homes import settings_of
from kraken_pipeline_tests.support.ingests import COMMAND, MEMBERS, assert_same, home_beside, state
from kraken_pipeline_tests.support.processes import Running
from kraken_pipeline_tests.support.shell import TIMEOUT, ended, shell, start
from kraken_pipeline_tests.support.workers import children

pytestmark = [pytest.mark.slow, pytest.mark.process]

PROCESSES = {"KRAKEN_EXECUTOR": "multiprocess", "KRAKEN_WORKERS": "2"}


def begun(home: Path, variables: Mapping[str, str] = PROCESSES, options: Sequence[str] = ()) -> Running:
    """A run that has begun to ingest."""
    home.parent.mkdir(exist_ok=True)
    process = start(home, *COMMAND, *options, **variables)
    deadline = time.monotonic() + TIMEOUT
    while not counts(home).get("INGESTING"):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def step_processes(driver: int) -> list[int]:
    """The processes of the steps of a run, which the server forks that the driver has started."""
    return [step for child in children(driver) for step in children(child)]


def steps(home: Path) -> set[str]:
    """The steps of the newest run."""
    reference = dg.DagsterInstance.from_config(str(home / "dagster"))
    with reference as instance:
        (run,) = instance.get_runs(limit=1)
        return {event.step_key for event in instance.all_logs(run.run_id) if event.step_key is not None}


def materialised(home: Path) -> Counter[tuple[str, str, bool]]:
    """How often the newest run materialised each partition: its asset, its key, and whether a group of files did."""
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        (run,) = instance.get_runs(limit=1)
        entries = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    events = [entry.dagster_event for entry in entries if entry.dagster_event is not None]
    return Counter(
        (str(event.asset_key), str(event.partition), "[" in str(event.step_key))
        for event in events
        if event.partition is not None
    )


def is_at_rest(home: Path) -> bool:
    with opened(settings_of(home)) as stores:
        return not stores.locks.is_any_running()


def test_steps_in_processes_of_their_own_leave_what_one_process_leaves(
    archives: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = home_beside(archives, "processes")
    process = begun(home, options=["--no-api-backfill"])
    (status,) = shell(home, "status", "--json").json
    assert (status["status"], status["job"]) == ("STARTED", "ingest"), "the process that drives it holds its lock"
    said = ended(process)
    assert said.code == 1, "a file is empty, and fails"
    assert "DEBUG" not in said.out + said.err
    assert_same(state(home), undisturbed)
    assert is_at_rest(home)
    (status,) = shell(home, "status", "--json").json
    assert (status["files_ingested"], status["files_total"]) == (MEMBERS + 10, MEMBERS + 11)
    monkeypatch.setenv("KRAKEN_DAGSTER_STORAGE", str(home / "dagster"))
    groups = {step for step in steps(home) if step.startswith("ingest_files[")}
    assert len(groups) > 2
    assert all(re.fullmatch(r"ingest_files\[\d{3}_[A-Z0-9]+\]", step) for step in groups), "with its first pair"
    found = materialised(home)
    assert {key for _, key, _ in found} >= {"K00USD|60", "BADUSD|60", "XBTUSD|1440"}
    assert set(found.values()) == {1}
    assert all(of_group for *_, of_group in found)


@pytest.mark.parametrize("who", ["a step", "the driver"])
def test_a_run_of_which_a_process_is_killed_is_completed_by_the_same_command(
    archives: Path, undisturbed: dict[str, Any], who: str
) -> None:
    home = home_beside(archives, f"killed {who}")
    process = begun(home)
    of_steps = step_processes(process.pid)
    assert of_steps
    os.kill(process.pid if who == "the driver" else of_steps[0], signal.SIGKILL)
    said = ended(process)
    assert said.code != 0
    assert "SUCCESS" not in said.out
    if who == "a step":
        assert PROCESS_KILLED in " ".join(said.out.split())
    again = ended(start(home, *COMMAND, **PROCESSES))
    assert "SUCCESS" in again.out, f"{again.out}\n{again.err}"
    assert_same(state(home), undisturbed)
    deadline = time.monotonic() + TIMEOUT
    while not is_at_rest(home):  # a step outlives its driver until it is done
        assert time.monotonic() < deadline
        time.sleep(0.1)
