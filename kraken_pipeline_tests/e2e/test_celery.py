"""Runs whose steps are taken by Celery workers, with Redis or RabbitMQ as the broker."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from kraken_pipeline_tests.e2e.test_executors import begun, is_at_rest
from kraken_pipeline_tests.support.fixtures import need
from kraken_pipeline_tests.support.ingests import COMMAND, assert_same, copy_of, home_beside, proven, state
from kraken_pipeline_tests.support.servers import RabbitMQ, Redis, wait_for
from kraken_pipeline_tests.support.shell import ROOT, TIMEOUT, ended, shell, start
from kraken_pipeline_tests.support.workers import Worker, worker

pytestmark = [pytest.mark.slow, pytest.mark.process, pytest.mark.servers]

CELERY = {"KRAKEN_EXECUTOR": "celery", "KRAKEN_WORKERS": "2"}


@pytest.fixture(params=[Redis])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A broker of its own, Redis unless a test names others, and the settings that name it."""
    need(request.param)
    with request.param(tmp_path / "broker") as server:
        yield {**CELERY, "KRAKEN_CELERY_URL": server.url}


def starts(home: Path) -> dict[str, int]:
    """How often each step of the newest run was started."""
    found: dict[str, int] = {}
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        (run_id,) = instance.get_run_ids(limit=1)
        for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_START):
            found[str(entry.step_key)] = found.get(str(entry.step_key), 0) + 1
    return found


@pytest.mark.parametrize("broker", [Redis, RabbitMQ], indirect=True)
def test_workers_leave_what_one_process_leaves(
    archives: Path, undisturbed: dict[str, Any], broker: Mapping[str, str], request: pytest.FixtureRequest
) -> None:
    home = home_beside(archives, f"celery-{len(request.node.name)}")
    home.parent.mkdir()
    with worker(home, broker) as its:
        said = ended(start(home, *COMMAND, **broker))
    assert said.code == 1, f"a file is empty, and fails: {said.out}\n{said.err}"
    assert "SUCCESS" in said.out
    assert_same(state(home), undisturbed)
    assert is_at_rest(home)
    assert its.said().count("succeeded in") >= 5, "the first step, the last one, and several groups"
    word = broker["KRAKEN_CELERY_URL"].partition(":")[2].partition(":")[2].partition("@")[0]
    kept = [path for path in home.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]
    assert kept == [], "the broker's password is in no run's record"


def test_the_step_of_a_killed_process_is_delivered_again(
    archives: Path, undisturbed: dict[str, Any], broker: Mapping[str, str]
) -> None:
    home = home_beside(archives, "celery-killed")
    home.parent.mkdir()
    with worker(home, broker) as its:
        driver = begun(home, broker)
        for child in its.children:
            os.kill(child, signal.SIGKILL)
        said = ended(driver)
    assert "SUCCESS" in said.out, f"{said.out}\n{said.err}"
    assert_same(state(home), undisturbed)
    assert is_at_rest(home)


def test_workers_compare_groups_of_pairs_as_one_process_does(ingested: Path, broker: Mapping[str, str]) -> None:
    command = ("reconcile", "--full", "--json")
    alone, home = copy_of(ingested, "compared alone"), copy_of(ingested, "compared by workers")
    said = shell(alone, *command)
    with worker(home, broker):
        of_workers = ended(start(home, *command, **broker))
    assert (of_workers.code, of_workers.out) == (said.code, said.out)
    assert_same(proven(home), proven(alone))
    assert is_at_rest(home)
    log = (home.parent / "worker.log").read_text()
    assert log.count("succeeded in") >= 3, "the first step, the last one, and at least one group"


def test_a_step_whose_process_is_killed_each_time_fails_with_its_pairs_and_the_same_command_goes_on(
    archives: Path, undisturbed: dict[str, Any], broker: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = home_beside(archives, "celery-poison")
    home.parent.mkdir()
    monkeypatch.setenv("KRAKEN_DAGSTER_STORAGE", str(home / "dagster"))
    with worker(home, broker) as its:
        driver = begun(home, broker)
        for time_ in range(1, 4):
            wait_for(lambda: max(starts(home).values()) >= time_, f"start {time_} of a step", TIMEOUT)  # noqa: B023
            for child in its.children:
                os.kill(child, signal.SIGKILL)
        said = ended(driver)
        told = " ".join(said.out.split())
        assert said.code == 1, f"{said.out}\n{said.err}"
        assert "3 processes were killed in a row while they worked on " in told
        assert "if memory was short, give them more of it, or fewer processes, and run the same command again" in told
        assert "Traceback" not in said.out + said.err
        again = ended(start(home, *COMMAND, **broker))
    assert "SUCCESS" in again.out, f"{again.out}\n{again.err}"
    assert_same(state(home), undisturbed)
    assert is_at_rest(home)


def stopped(its: Worker, home: Path) -> list[int]:
    """The processes that do steps, stopped while none of them keeps SQLite from being read and written."""
    for _ in range(50):
        hung = its.children
        for child in hung:
            os.kill(child, signal.SIGSTOP)
        if not (locked := [path for path in databases(home) if is_locked(path)]):
            return hung
        for child in hung:
            os.kill(child, signal.SIGCONT)
    raise AssertionError(f"at each of 50 moments a process was writing, at last to {locked}")


def databases(home: Path) -> list[Path]:
    """The SQLite databases of a home: the catalog and Dagster's."""
    return [path for pattern in ("*.sqlite", "*.db") for path in home.rglob(pattern)]


def is_locked(database: Path) -> bool:
    """Whether another process keeps a SQLite database from being written."""
    with closing(sqlite3.connect(database, timeout=0)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        connection.rollback()
    return False


def test_a_run_with_a_worker_that_hangs_is_seen_and_stopped_and_the_same_command_goes_on(
    archives: Path, undisturbed: dict[str, Any], broker: Mapping[str, str]
) -> None:
    home = home_beside(archives, "celery-hangs")
    home.parent.mkdir()
    with worker(home, broker) as its:
        driver = begun(home, broker)
        hung = stopped(its, home)
        (status,) = shell(home, "status", "--json").json
        assert (status["status"], status["job"]) == ("STARTED", "ingest")
        driver.send_signal(signal.SIGINT)
        said = ended(driver)
        assert said.code == 130, f"{said.out}\n{said.err}"
        (status,) = shell(home, "status", "--json").json
        assert status["status"] == "CANCELED"
        wait_for(lambda: is_at_rest(home), "the end of the steps that hang", TIMEOUT)
        assert not {*hung} & {*its.children}
        again = ended(start(home, *COMMAND, **broker))
    assert "SUCCESS" in again.out, f"{again.out}\n{again.err}"
    assert_same(state(home), undisturbed)


def test_a_worker_of_another_version_of_the_code_refuses_each_step_and_says_so(
    archives: Path, broker: Mapping[str, str], tmp_path: Path
) -> None:
    home = home_beside(archives, "celery-other")
    home.parent.mkdir()
    other = tmp_path / "other"
    shutil.copytree(ROOT / "kraken_pipeline", other / "kraken_pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "kraken_pipeline" / "errors.py").open("a") as module:
        module.write("\n# of another version\n")
    its = Worker(home, broker, code=other)
    try:
        its.start()
        said = ended(start(home, *COMMAND, **broker))
    finally:
        its.kill()
    assert said.code == 1
    told = " ".join(said.out.split())
    assert "this worker runs another version of the code than the process that began the run: restart" in told
    assert "Traceback" not in said.out + said.err
    assert not list(home.glob("lake/**/*.parquet"))


def test_steps_that_a_broker_lost_with_its_memory_are_submitted_again(
    archives: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    need(Redis)
    home = home_beside(archives, "celery-forgotten")
    home.parent.mkdir()
    with Redis(tmp_path / "redis") as server:
        variables = {**CELERY, "KRAKEN_CELERY_URL": server.url}
        with worker(home, variables):
            driver = begun(home, variables)
            server.kill()
            server.start()
            said = ended(driver)
    assert "SUCCESS" in said.out, f"{said.out}\n{said.err}"
    assert_same(state(home), undisturbed)
    assert is_at_rest(home)
