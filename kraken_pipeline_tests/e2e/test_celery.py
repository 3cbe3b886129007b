"""Runs whose steps are taken by Celery workers, with Redis as the broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline_tests.e2e.conftest import COMMAND, assert_same, copy_of, home_beside, proven, state
from kraken_pipeline_tests.e2e.test_executors import begun, is_at_rest
from kraken_pipeline_tests.support.fixtures import need
from kraken_pipeline_tests.support.servers import Redis, wait_for
from kraken_pipeline_tests.support.shell import ROOT, TIMEOUT, ended, environment, shell, start

pytestmark = [pytest.mark.slow, pytest.mark.process, pytest.mark.servers]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Redis of its own, and the settings that name it."""
    need(Redis)
    with Redis(tmp_path / "redis") as server:
        server.start()
        yield {"KRAKEN_EXECUTOR": "celery", "KRAKEN_CELERY_URL": server.url, "KRAKEN_WORKERS": "2"}


@contextmanager
def worker(home: Path, variables: Mapping[str, str]) -> Iterator[int]:
    """A Celery worker of two processes; yields its number, and ends it with all of them."""
    given = {**os.environ, **environment(home), **variables, "PYTHONPATH": str(ROOT)}
    app = ("--app", "kraken_pipeline.orchestration.celery")
    options = (
        "--queues",
        "dagster",
        "--concurrency",
        "2",
        "--loglevel",
        "INFO",
        "--without-gossip",
        "--without-mingle",
    )
    with (home.parent / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", *app, "worker", *options],
            cwd=home.parent,
            env=given,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            wait_for(lambda: b" ready." in (home.parent / "worker.log").read_bytes(), "the worker", TIMEOUT)
            yield process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], check=False, capture_output=True, text=True)
    return [int(line) for line in listed.stdout.split()]


def test_workers_leave_what_one_process_leaves(
    archives: Path, undisturbed: dict[str, Any], broker: Mapping[str, str]
) -> None:
    home = home_beside(archives, "celery")
    home.parent.mkdir()
    with worker(home, broker):
        said = ended(start(home, *COMMAND, **broker))
    assert said.code == 1, f"a file is empty, and fails: {said.out}\n{said.err}"
    assert "SUCCESS" in said.out
    assert_same(state(home), undisturbed)
    assert is_at_rest(home)
    log = (home.parent / "worker.log").read_text()
    assert log.count("succeeded in") >= 5, "the first step, the last one, and several groups"
    word = broker["KRAKEN_CELERY_URL"].partition(":")[2].partition(":")[2].partition("@")[0]
    kept = [path for path in home.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]
    assert kept == [], "the broker's password is in no run's record"


def test_the_step_of_a_killed_process_is_delivered_again(
    archives: Path, undisturbed: dict[str, Any], broker: Mapping[str, str]
) -> None:
    home = home_beside(archives, "celery-killed")
    home.parent.mkdir()
    with worker(home, broker) as pid:
        driver = begun(home, broker)
        for child in children(pid):
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
