"""Jobs other than `ingest` whose steps are processes of their own: they leave what one process leaves."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from kraken_pipeline.demo.clock import FixedClock
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.market.moment import iso
from kraken_pipeline.workflow.side_by_side import PROCESS_KILLED
from kraken_pipeline_tests.e2e.test_executors import PROCESSES, is_at_rest, step_processes, steps
from kraken_pipeline_tests.support.exchanges import BEGIN, NOW, SUMMER, asked, copied, write_home, write_hours
from kraken_pipeline_tests.support.ingests import assert_same, copy_of, proven
from kraken_pipeline_tests.support.processes import Running
from kraken_pipeline_tests.support.shell import TIMEOUT, ended, shell, start

pytestmark = [pytest.mark.slow, pytest.mark.process]

REPAIR = ("verify", "--repair", "--no-api-backfill", "--archive-dir", "../archives")
RECONCILE = ("reconcile", "--full", "--json")


def damage(home: Path) -> None:
    """Damage one file of the lake, and remove another."""
    first, second, *_ = sorted((home / "lake").glob("interval=60/pair=*/*.parquet"))
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    second.unlink()


def in_groups(process: Running, home: Path, job: str) -> set[int]:
    """The processes of the first groups of a run once they are there."""
    deadline = time.monotonic() + TIMEOUT
    before: set[int] = set()
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        while True:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            there = set(step_processes(process.pid))
            begun = [
                entry
                for run in instance.get_runs(dg.RunsFilter(job_name=job), limit=1)
                for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_WORKER_STARTING)
                if "[" in str(entry.step_key)
            ]
            if begun and (of_groups := there - before):
                return of_groups
            if not begun:
                before |= there
            time.sleep(0.02)


@pytest.mark.parametrize("command", [RECONCILE, REPAIR], ids=["reconcile", "verify --repair"])
def test_groups_in_processes_of_their_own_leave_what_one_process_leaves(
    ingested: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    found: list[tuple[int, list[str], Mapping[str, Any]]] = []
    for name, variables in (("alone", {}), ("in groups", PROCESSES)):
        home = copy_of(ingested, f"{command[0]} {name}")
        if command is REPAIR:
            damage(home)
        said = ended(start(home, *command, **variables))
        lines = [line for line in said.out.splitlines() if "candles" not in line and " in " not in line]
        found.append((said.code, lines, proven(home)))
    monkeypatch.setenv("KRAKEN_DAGSTER_STORAGE", str(home / "dagster"))
    assert any("[" in step for step in steps(home))
    (code, out, expected), (code_of_groups, out_of_groups, left) = found
    assert (code_of_groups, out_of_groups) == (code, out)
    assert_same(dict(left), dict(expected))
    assert is_at_rest(home)


@pytest.mark.parametrize(
    ("command", "job"), [(RECONCILE, "reconcile"), (REPAIR, "verify_lake")], ids=["reconcile", "verify --repair"]
)
def test_a_run_whose_group_is_killed_is_completed_by_the_same_command(
    ingested: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], job: str
) -> None:
    home = copy_of(ingested, f"{command[0]} killed")
    monkeypatch.setenv("KRAKEN_DAGSTER_STORAGE", str(home / "dagster"))
    if command is REPAIR:
        damage(home)
    process = start(home, *command, **PROCESSES)
    for pid in in_groups(process, home, job):
        os.kill(pid, signal.SIGKILL)
    said = ended(process)
    assert said.code != 0
    assert PROCESS_KILLED in " ".join((said.out + said.err).split())
    again = ended(start(home, *command, **PROCESSES))
    whole = copy_of(ingested, f"{command[0]} whole")
    if command is REPAIR:
        damage(whole)
    expected = shell(whole, *command)
    assert again.code == expected.code, f"{again.out}\n{again.err}"
    assert_same(proven(home), proven(whole))
    assert is_at_rest(home)


def test_groups_make_the_requests_of_a_run_while_its_driver_holds_the_only_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_home(tmp_path / "first" / "home", write_hours(tmp_path / "archives"))
    command = ("backfill", "--complete", "--start", iso(BEGIN), "--end", iso(BEGIN + 7 * DAY), "--json")
    found = []
    for name, variables in (("alone", {}), ("in groups", {**PROCESSES, "KRAKEN_PARALLEL_RUNS": "1"})):
        home = copied(first, tmp_path / name)
        with DemoExchange(SUMMER, clock=FixedClock(NOW)) as exchange:
            said = ended(start(home, *command, **variables, KRAKEN_API_URL=exchange.url))
            requests = [request for request in asked(exchange) if request != "SystemStatus"]
        assert said.code == 0, said.err
        outcome = said.json["outcome"]
        assert outcome.pop("requests") >= len(requests)
        found.append((outcome, requests, proven(home)))
    (outcome, requests, expected), (of_groups, requests_of_groups, left) = found
    assert any(request.startswith("Trades") for request in requests)
    assert (of_groups, requests_of_groups) == (outcome, requests)
    monkeypatch.setenv("KRAKEN_DAGSTER_STORAGE", str(home / "dagster"))
    assert any(step.startswith("request_candles[") for step in steps(home))
    assert_same(left, expected)
    assert is_at_rest(home)
