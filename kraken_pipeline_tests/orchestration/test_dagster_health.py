"""What `health` reads from Dagster's storage, on disk and on a server, and what it says if that is not there."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._daemon.types import DaemonHeartbeat

from kraken_pipeline.definitions import build_definitions
from kraken_pipeline.errors import InvalidSettings, PipelineError, StoreUnavailable
from kraken_pipeline.orchestration.instance import instance_of, state_now, state_of
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.run_history import VARIABLE
from kraken_pipeline_tests.support.shell import ROOT, shell

pytestmark = pytest.mark.slow

NOBODY_AT = "127.0.0.1:9"


@pytest.fixture
def production(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The instance of deploy/, whose history is on a server."""
    folder = tmp_path / "instance"
    folder.mkdir()
    shutil.copy(ROOT / "deploy" / "dagster.yaml", folder)
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    monkeypatch.delenv(VARIABLE, raising=False)
    return folder


def test_the_state_of_a_home_without_runs(settings: Settings) -> None:
    state = state_now(settings)
    assert (state.is_on_server, state.queued, state.queued_since, state.at_work) == (False, 0, None, 0)
    assert state.heartbeats == {}
    assert "SENSOR" in state.needed


def test_the_state_counts_runs_by_what_they_wait_for_and_knows_the_oldest_in_the_queue(settings: Settings) -> None:
    job = build_definitions().resolve_job_def("check_health")
    location = RegisteredCodeLocationOrigin("kraken_pipeline")
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), "check_health")
    queued = [dg.DagsterRunStatus.QUEUED] * 2
    others = (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.SUCCESS)
    with instance_of(settings) as instance:
        for status in (*queued, *others):
            instance.create_run_for_job(job, status=status, remote_job_origin=origin)
        records = instance.get_run_records(dg.RunsFilter(statuses=queued), ascending=True)
        created = [record.create_timestamp.timestamp() for record in records]
        assert created[0] < created[1], "the runs are told apart by when they were created"
        instance.add_daemon_heartbeat(DaemonHeartbeat(1_700_000_000.0, "SENSOR", "daemon", []))
        state = state_of(instance)
    assert (state.queued, state.not_started, state.at_work) == (2, 1, 1)
    assert state.queued_since == created[0]
    assert state.needed_heartbeats == {"SENSOR": 1_700_000_000.0}


def test_a_server_with_the_history_answers(
    production: Path, settings: Settings, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, postgresql_url.replace("postgresql", "postgresql+psycopg2", 1))
    state = state_now(settings)
    assert state.is_on_server
    assert "QUEUED_RUN_COORDINATOR" in state.needed


@pytest.mark.parametrize(
    ("url", "error", "sentence"),
    [
        ("", InvalidSettings, f"{VARIABLE} is not set, and .*dagster.yaml reads it; set it to postgresql"),
        ("postgresql://me:hunter2@db/kraken", InvalidSettings, "is not a URL that Dagster can use; it has the form"),
        ("hunter2", InvalidSettings, "is not a URL that Dagster can use"),
        (
            f"postgresql+psycopg2://me:hunter2@{NOBODY_AT}/kraken",
            StoreUnavailable,
            rf"Dagster's storage at {NOBODY_AT}/kraken does not answer .*; start its server, or correct {VARIABLE}",
        ),
    ],
)
def test_a_history_that_cannot_be_read_is_a_sentence_without_the_password(
    production: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    error: type[PipelineError],
    sentence: str,
) -> None:
    monkeypatch.setenv(VARIABLE, url)
    began = time.monotonic()
    with pytest.raises(error, match=sentence) as raised:
        state_now(settings)
    assert time.monotonic() - began < 5, "Dagster's own patience is 13 s"
    assert "hunter2" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_refused_login_is_told_without_the_password(
    production: Path, settings: Settings, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = postgresql_url.partition("@")[0].rpartition(":")[2]
    wrong = postgresql_url.replace("postgresql", "postgresql+psycopg2", 1).replace(secret, "hunter2")
    monkeypatch.setenv(VARIABLE, wrong)
    with pytest.raises(StoreUnavailable, match="password authentication failed") as raised:
        state_now(settings)
    assert "hunter2" not in str(raised.value)


def test_a_folder_that_is_not_there_is_named(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "none"))
    with pytest.raises(InvalidSettings, match=r"DAGSTER_HOME: .*none is not a folder; name the one"):
        state_now(settings)


def test_the_command_fails_with_the_sentence_and_the_other_checks(production: Path, tmp_path: Path) -> None:
    said = shell(tmp_path / "home", "health", "--json", DAGSTER_HOME=str(production))
    checks = {check["name"]: check for check in said.json["checks"]}
    assert (said.code, checks["dagster"]["status"], checks["catalog"]["status"]) == (1, "failed", "ok")
    assert checks["dagster"]["detail"].startswith(f"{VARIABLE} is not set")
    assert not {"dagster daemon", "dagster queue"} & set(checks)
