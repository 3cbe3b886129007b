from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.definitions import build_definitions
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.orchestration.assets.health import KEY
from kraken_pipeline.orchestration.runs import BEGINNING_SECONDS, statuses
from kraken_pipeline.storage.locks.locks import FileLocks, Locks
from kraken_pipeline.storage.records import publications
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow.health.health import NAMES
from kraken_pipeline_tests.support.homes import LISTED, NOBODY, Shelf, settings_of
from kraken_pipeline_tests.support.servers import QuestDB
from kraken_pipeline_tests.support.shell import shell

pytestmark = pytest.mark.slow

HUNTER = "hunter2 is+sec/ret"
ENCODED = "hunter2%20is%2Bsec%2Fret"
AWAY = {
    "KRAKEN_CATALOG_URL": f"postgresql://me:{ENCODED}@127.0.0.1:9/kraken",
    "KRAKEN_CACHE_URL": f"redis://:{ENCODED}@127.0.0.1:9",
    "KRAKEN_QUESTDB_URL": f"http://me:{ENCODED}@127.0.0.1:9",
    "KRAKEN_QUESTDB_PG_URL": f"postgresql://me:{ENCODED}@127.0.0.1:9/qdb",
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Nobody is waited for; the home is an empty one, and its exchange away."""
    for name, value in {
        "KRAKEN_API_URL": NOBODY,
        "KRAKEN_CATALOG_PATIENCE_SECONDS": "0.2",
        "KRAKEN_QUESTDB_TIMEOUT_SECONDS": "0.2",
    }.items():
        monkeypatch.setenv(name, value)


def looked(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    """A run of the job as the UI and the schedule start it: without a word of configuration."""
    job = build_definitions().resolve_job_def("check_health")
    return job.execute_in_process(instance=instance, raise_on_error=False)


def checks_of(result: dg.ExecuteInProcessResult) -> dict[str, tuple[bool, str]]:
    found = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert list(found) == list(NAMES)
    assert {each.asset_key for each in found.values()} == {KEY}
    assert all(each.metadata for each in found.values())
    return {name: (each.passed, each.severity.name) for name, each in found.items()}


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.step_materialization_data.materialization.metadata.items()}


def test_the_asset_has_a_check_of_everything_and_a_group_of_its_own() -> None:
    definitions = build_definitions()
    graph = definitions.resolve_asset_graph()
    node = graph.get(KEY)
    assert (node.key.to_user_string(), node.group_name) == ("operations/health", "operations")
    assert node.description
    assert {key.name for key in graph.asset_check_keys if key.asset_key == KEY} == set(NAMES)


def test_a_run_without_configuration_tells_how_everything_is(instance: dg.DagsterInstance) -> None:
    result = looked(instance)
    assert result.success
    found = checks_of(result)
    found.pop("space")
    assert found.pop("api") == (False, "WARN")  # nobody is at the exchange
    assert {passed for passed, _ in found.values()} == {True}
    told = metadata_of(result)
    assert told["verdict"] == "warning"
    listed = [line.split(" | ")[0].removeprefix("| ") for line in told["checks"].splitlines()[2:]]
    assert listed == LISTED


def test_what_has_failed_is_an_error_what_does_not_matter_yet_a_warning_and_the_run_a_success(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, url in AWAY.items():
        monkeypatch.setenv(name, url)
    result = looked(instance)
    assert result.success, "a run that fails says nothing of the other things"
    found = checks_of(result)
    assert {name for name, each in found.items() if each == (False, "ERROR")} == {"catalog", "questdb"}
    unknown = {"files", "series", "outbox", "api", "exchange", "requests", "cache"}
    assert {name for name, each in found.items() if each == (False, "WARN")} - {"space"} == {"redis", *unknown}
    assert found["lake"][0]
    told = metadata_of(result)
    assert told["verdict"] == "failed"
    assert len(told["checks"].splitlines()) == 2 + len(LISTED)


def test_a_check_that_failed_passes_again(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    with opened(settings_of(home)) as stores, stores.catalog.write() as connection:
        connection.execute(sa.text("ALTER TABLE publications RENAME TO elsewhere"))
    assert checks_of(looked(instance))["outbox"] == (False, "ERROR")
    with opened(settings_of(home)) as stores, stores.catalog.write() as connection:
        connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO publications"))
    assert checks_of(looked(instance))["outbox"][0]


def test_a_look_at_work_is_not_taken_for_an_interrupted_run_unless_it_is_old(
    instance: dg.DagsterInstance, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = build_definitions().resolve_job_def("check_health")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.NOT_STARTED)
    event = dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, job.name, message="it has begun")
    instance.report_dagster_event(event, run.run_id)
    locks = Locks(FileLocks(home / "locks"))
    assert [each.status for each in statuses(instance, locks, 1)] == ["STARTED"]
    later = time.time() + BEGINNING_SECONDS
    monkeypatch.setattr(time, "time", lambda: later)
    assert [each.status for each in statuses(instance, locks, 1)] == ["INTERRUPTED"]


# --- the console


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_run_logs_lines_of_json_that_name_run_job_and_step(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KRAKEN_LOG_FORMAT", "json")
    monkeypatch.setenv("KRAKEN_LOG_LEVEL", "DEBUG")
    result = looked(instance)
    told = lines(capsys.readouterr().err)
    assert {(line["run_id"], line["job"]) for line in told} == {(result.run_id, "check_health")}
    assert {line.get("step") for line in told} == {None, "operations__health"}
    assert {line["logger"] for line in told} == {"kraken_pipeline.runs"}


@pytest.mark.parametrize("format_", ["text", "json"])
def test_the_level_is_that_of_the_settings_and_failures_have_their_traceback(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], format_: str
) -> None:
    monkeypatch.setenv("KRAKEN_LOG_FORMAT", format_)
    monkeypatch.setenv("KRAKEN_LOG_LEVEL", "warning")
    looked(instance)
    assert capsys.readouterr().err == ""
    job = build_definitions().resolve_job_def("backfill_gaps_incremental")
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    text = capsys.readouterr().err
    if format_ == "text":
        assert "STEP_FAILURE" in text
        assert "Traceback" in text or "Stack Trace" in text
        return
    told = lines(text)
    assert {line["level"] for line in told} == {"ERROR"}
    (failure,) = [line for line in told if line.get("step") == "fill_gaps"]
    assert (failure["run_id"], failure["job"]) == (result.run_id, "backfill_gaps_incremental")
    assert "the lake is empty: ingest archives first" in failure["error"]
    assert "Stack Trace:\n" in failure["error"]


def test_a_run_that_names_a_level_has_it(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KRAKEN_LOG_LEVEL", "CRITICAL")
    monkeypatch.setenv("KRAKEN_LOG_FORMAT", "json")
    build_definitions().resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        asset_selection=[KEY],
        run_config={"loggers": {"console": {"config": {"log_level": "DEBUG"}}}},
        raise_on_error=False,
    )
    assert "operations__health" in {line.get("step") for line in lines(capsys.readouterr().err)}


# --- no password is kept anywhere


def having(folder: Path, *secrets: str) -> list[str]:
    """The files below a folder that have one of them in it."""
    files = [Path(name, each) for name, _, names in os.walk(folder) for each in names]
    assert any(re.search(r"\.db$|\.sqlite$", each.name) for each in files)
    contents = {each: each.read_bytes() for each in files if each.is_file()}
    return [str(each) for each, content in contents.items() if any(secret.encode() in content for secret in secrets)]


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[tuple[dg.DagsterInstance, Path]]:
    """An instance on disk, and where that is."""
    (tmp_path / "history").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "history")) as found:
        yield found, tmp_path


@pytest.mark.parametrize(
    ("away", "format_"), [(tuple(AWAY), "json"), (("KRAKEN_CATALOG_URL",), "text"), (tuple(AWAY)[1:], "text")]
)
def test_runs_whose_servers_are_away_leave_no_password_behind(
    on_disk: tuple[dg.DagsterInstance, Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    away: tuple[str, ...],
    format_: str,
) -> None:
    instance, folder = on_disk
    monkeypatch.setenv("KRAKEN_LOG_FORMAT", format_)
    monkeypatch.setenv("KRAKEN_LOG_LEVEL", "DEBUG")
    with opened(settings_of(folder / "home")) as stores, stores.catalog.write() as connection:
        publications.enqueue(connection, [(Series("XBTUSD", Interval.H1), Span(0, 3_600))], 0)
    for name in away:
        monkeypatch.setenv(name, AWAY[name])
    definitions = build_definitions()
    for name in ("check_health", "report_data_completeness", "publish_candles"):
        if name == "publish_candles" and "KRAKEN_QUESTDB_URL" not in away:
            continue
        result = definitions.resolve_job_def(name).execute_in_process(instance=instance, raise_on_error=False)
        assert result.success is (name == "check_health" or "KRAKEN_CATALOG_URL" not in away)
    assert having(folder, HUNTER, ENCODED, "hunter2") == []
    assert having(folder, "check_health"), "it would be found"
    said = capfd.readouterr()
    assert "check_health" in said.err
    assert ("does not answer over PGWire" in said.err) is ("KRAKEN_CATALOG_URL" not in away)
    assert "hunter2" not in said.out + said.err


def test_runs_whose_servers_answer_leave_no_password_behind(
    tmp_path: Path, shelf: Shelf, postgresql_url: str, redis_url: str, questdb: QuestDB
) -> None:
    servers = {
        "KRAKEN_CATALOG_URL": postgresql_url,
        "KRAKEN_CACHE_URL": redis_url,
        "KRAKEN_QUESTDB_URL": questdb.http_url,
        "KRAKEN_QUESTDB_PG_URL": questdb.pg_url,
        "KRAKEN_LOG_LEVEL": "DEBUG",
    }
    passwords = [re.search(r":([0-9a-f]{32})@", url)[1] for url in (postgresql_url, redis_url, questdb.http_url)]  # type: ignore[index]
    home = tmp_path / "work" / "home"
    home.parent.mkdir()
    options = ("--archive-dir", str(shelf.q1), "--intervals", "1440", "--json")
    for said in (shell(home, "ingest", *options, **servers), shell(home, "health", "--json", **servers)):
        assert said.code == 0
        assert not [password for password in passwords if password in said.out + said.err]
    assert having(home.parent, *passwords) == []
