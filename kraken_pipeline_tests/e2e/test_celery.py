"""Runs whose steps are taken by Celery workers: with Redis as the broker, and as production has them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline_tests.e2e.test_executors import begun, is_at_rest
from kraken_pipeline_tests.support.fixtures import need
from kraken_pipeline_tests.support.ingests import COMMAND, assert_same, home_beside, state
from kraken_pipeline_tests.support.servers import Redis
from kraken_pipeline_tests.support.shell import ended, start
from kraken_pipeline_tests.support.workers import worker

pytestmark = [pytest.mark.slow, pytest.mark.process, pytest.mark.servers]

CELERY = {"KRAKEN_EXECUTOR": "celery", "KRAKEN_WORKERS": "2"}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Redis of its own, and the settings that name it."""
    need(Redis)
    with Redis(tmp_path / "redis") as server:
        yield {**CELERY, "KRAKEN_CELERY_URL": server.url}


def test_workers_leave_what_one_process_leaves(
    archives: Path, undisturbed: dict[str, Any], broker: Mapping[str, str]
) -> None:
    home = home_beside(archives, "celery")
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
