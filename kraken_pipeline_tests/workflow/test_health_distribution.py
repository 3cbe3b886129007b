"""Health of what steps in several processes need: a folder that behaves, a broker that answers, and workers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kraken_pipeline.settings import Settings
from kraken_pipeline.storage import shared_folder
from kraken_pipeline.storage.broker import AnsweringWorkers
from kraken_pipeline.workflow.health import worker_watch
from kraken_pipeline.workflow.health.check import Check, HealthStatus
from kraken_pipeline.workflow.health.distribution import START_A_WORKER, check_folder, check_workers
from kraken_pipeline.workflow.health.worker_watch import PATIENCE_SECONDS, WorkerWatch, watched_workers
from kraken_pipeline_tests.support.fixtures import need
from kraken_pipeline_tests.support.homes import settings_of
from kraken_pipeline_tests.support.servers import Redis, wait_for

pytestmark = pytest.mark.slow
NONE = AnsweringWorkers({})
TWO = AnsweringWorkers({"celery@a": 2})


# --- the folder


@pytest.mark.process
def test_a_local_folder_guarantees_everything_and_nothing_is_left_in_it(home: Path) -> None:
    (found,) = check_folder(settings_of(home, kraken_executor="multiprocess"))
    assert found.verdict is HealthStatus.OK, found.sentence
    assert list((home / "tmp").glob("*.probe")) == []


def test_one_process_is_not_asked_for_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_folder, "__file__", "/nowhere")
    (found,) = check_folder(settings_of(home))
    assert found == Check(
        "folder", HealthStatus.OK, "off: KRAKEN_EXECUTOR is in_process, so no other machine writes the home"
    )


@pytest.mark.process
def test_a_second_process_that_cannot_work_is_a_failure(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_folder, "__file__", "/nowhere")
    (found,) = check_folder(settings_of(home, kraken_executor="multiprocess"))
    assert found.verdict is HealthStatus.FAILED
    assert "the second process ended with code 2" in found.sentence


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (b"\x01" * 65_536 + b"\x02", "seen in part"),
        (b"\x01" * 100 + b"\x02" * 65_436, "seen in part"),
        (None, "missing for a moment"),
    ],
)
def test_what_a_file_system_may_not_show_is_found(tmp_path: Path, content: bytes | None, finding: str) -> None:
    (tmp_path / "lock").touch()
    if content is not None:
        (tmp_path / "value").write_bytes(content)
    found = list(shared_folder.findings(tmp_path))
    assert found[0] == "two processes hold one lock at the same time", "nobody else holds it here"
    assert finding in found[1]


# --- workers


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Redis]:
    need(Redis)
    with Redis(tmp_path / "redis") as server:
        server.start()
        yield server


def of_celery(home: Path, broker: Redis) -> Settings:
    return settings_of(home, kraken_executor="celery", kraken_celery_url=broker.url)


@pytest.mark.servers
def test_a_broker_without_workers_and_a_broker_that_is_gone_are_failures(home: Path, broker: Redis) -> None:
    settings = of_celery(home, broker)
    (found,) = check_workers(settings)
    assert found.verdict is HealthStatus.FAILED
    assert "no worker answers" in found.sentence
    assert found.sentence.endswith(START_A_WORKER)
    broker.stop()
    (found,) = check_workers(settings)
    assert found.verdict is HealthStatus.FAILED
    assert f"the broker of KRAKEN_CELERY_URL at 127.0.0.1:{broker.port()} does not answer" in found.sentence
    assert broker.password not in found.sentence


@pytest.mark.servers
def test_a_run_without_workers_says_so_once(home: Path, broker: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_watch, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(worker_watch, "_POLL_SECONDS", 0.01)
    warnings: list[str] = []
    before = threading.active_count()
    with watched_workers(warnings.append, of_celery(home, broker)):
        wait_for(lambda: bool(warnings), "the warning", 30)
    assert threading.active_count() == before
    assert len(warnings) == 1
    assert "no worker answers" in warnings[0]
    assert START_A_WORKER in warnings[0]


def test_missing_workers_are_named_after_a_minute_and_again_after_they_came_back() -> None:
    watch = WorkerWatch("redis://host", 0.0)
    said = [
        (at, sentence)
        for at, workers in ((20, NONE), (59, NONE), (60, NONE), (80, NONE), (100, TWO), (120, NONE), (180, NONE))
        for sentence in watch.sentences(workers, float(at))
    ]
    assert PATIENCE_SECONDS == 60
    assert [at for at, _ in said] == [60, 180]
