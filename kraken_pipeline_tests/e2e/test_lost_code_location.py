"""A code location that is killed with the runs that it had started: they are ended, started again, and lose nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from dagster._core.definitions.run_request import InstigatorType

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.orchestration.runs import find_run
from kraken_pipeline.storage.run_history import VARIABLE
from kraken_pipeline.storage.stores import opened
from kraken_pipeline_tests.support.daemons import CodeLocation, daemon_on
from kraken_pipeline_tests.support.databases import copy_of_template
from kraken_pipeline_tests.support.homes import settings_of
from kraken_pipeline_tests.support.ingests import SERIES, assert_same, home_beside, state
from kraken_pipeline_tests.support.processes import Running
from kraken_pipeline_tests.support.servers import PostgreSQL, wait_for
from kraken_pipeline_tests.support.shell import ROOT, ended, start

pytestmark = [pytest.mark.slow, pytest.mark.process]

RUNS = 4
"""As many as the queue of deploy/dagster.yaml lets be at work: a run that kept its place would keep a retry waiting."""
PAIRS = [f"K{number:02d}USD" for number in range(SERIES)]
OTHERS = ("XBTUSD", "ADAEUR,ZORKUSD", "BADUSD", "EMPTYUSD")
GROUPS = [[*PAIRS[run::RUNS], *OTHERS[run].split(",")] for run in range(RUNS)]
"""The pairs of each run; together all of the archives."""
HELD = [Series(PAIRS[RUNS + run], Interval.D1) for run in range(RUNS)]
"""A series of each run that no file has, so that it is written after all files were ingested."""
PATIENCE = 300.0
"""Seconds for four runs that are started at once on a busy machine with two processors."""
FAILED, SUCCEEDED = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS


@pytest.fixture
def variables(postgresql: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What production sets: the instance of deploy/, and history and catalog on a server."""
    postgresql.start()
    catalog, history = copy_of_template(postgresql), postgresql.database()
    instance = tmp_path / "instance"
    instance.mkdir()
    shutil.copy(ROOT / "deploy" / "dagster.yaml", instance)
    given = {
        "DAGSTER_HOME": str(instance),
        VARIABLE: history.replace("postgresql", "postgresql+psycopg2", 1),
        "KRAKEN_DAGSTER_STORAGE": str(tmp_path / "storage"),
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    quick = {"DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "1"}
    yield {**given, **quick, "KRAKEN_CATALOG_URL": catalog, "KRAKEN_PARALLEL_RUNS": str(RUNS)}
    for url in (catalog, history):
        postgresql.drop(url)


def test_runs_that_die_with_their_code_location_are_ended_and_their_retries_leave_what_undisturbed_ones_leave(
    archives: Path, undisturbed: dict[str, Any], postgresql: PostgreSQL, variables: dict[str, str], tmp_path: Path
) -> None:
    home, url = home_beside(archives, "code location"), variables["KRAKEN_CATALOG_URL"]
    home.parent.mkdir()
    location = CodeLocation(home, variables, "kraken_pipeline_tests.support.code_location", PATIENCE)
    workspace = location.workspace(tmp_path)

    def launch(pairs: list[str]) -> Running:
        config = {"archive_dirs": [str(archives)], "pairs": pairs, "intervals": "60,1440"}
        arguments = ("job", "launch", "-w", str(workspace), "-j", "ingest", "--config-json", json.dumps(config))
        return start(home, *arguments, program="dagster", **variables)

    try:
        location.start()
        with (
            daemon_on(workspace, home, variables) as check_daemon,
            dg.DagsterInstance.from_config(variables["DAGSTER_HOME"]) as instance,
            opened(settings_of(home, kraken_catalog_url=url)) as stores,
            psycopg.connect(url, autocommit=True) as catalog,
            psycopg.connect(variables[VARIABLE].replace("+psycopg2", ""), autocommit=True) as history,
        ):

            def each_has_ingested() -> bool:
                check_daemon()
                found = catalog.execute("SELECT DISTINCT pair FROM files WHERE status = 'COMPLETED'").fetchall()
                return {(series.pair,) for series in HELD} <= {*found}

            def runs(status: dg.DagsterRunStatus | None = None) -> list[dg.DagsterRun]:
                return list(instance.get_runs(dg.RunsFilter(statuses=None if status is None else [status])))

            def are_all(status: dg.DagsterRunStatus) -> bool:
                check_daemon()
                found = history.execute("SELECT count(*) FROM runs WHERE status = %s", (status.value,)).fetchone()
                return found == (RUNS,)

            with stores.locks.series(HELD):  # so that none of them can end before the kill
                for said in [ended(launching) for launching in map(launch, GROUPS)]:
                    assert said.code == 0, said.err
                wait_for(each_has_ingested, "files of each run", PATIENCE)
                lost = {run.run_id for run in runs(dg.DagsterRunStatus.STARTED)}
                assert len(lost) == RUNS
                assert location.kill() >= RUNS
            assert {run.run_id for run in runs(dg.DagsterRunStatus.STARTED)} == lost, "nobody has noticed"
            location.start()

            wait_for(lambda: are_all(FAILED), "the end of the lost runs", PATIENCE)
            try:
                wait_for(lambda: are_all(SUCCEEDED), "the retries", PATIENCE)
            except TimeoutError as error:
                found = [(run.parent_run_id, find_run(instance, stores.locks, run.run_id)) for run in runs()]
                raise AssertionError(found) from error

            assert {run.run_id for run in runs(FAILED)} == lost
            assert {run.parent_run_id for run in runs(SUCCEEDED)} == lost, "each was tried again"
            assert len(runs()) == 2 * RUNS
            for run_id in lost:
                assert str(find_run(instance, stores.locks, run_id).error).startswith("the process of the run is gone")
            (sensor,) = instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
            ticks = instance.get_ticks(sensor.instigator_origin_id, sensor.selector_id)[::-1]
            (end,) = [number for number, tick in enumerate(ticks) if "ended: " in str(tick.skip_reason)]
            assert ticks[end].skip_reason == f"ended: {', '.join(sorted(lost))}", "all four at one tick"
            assert json.loads(str(ticks[end - 1].cursor)) == sorted(lost), "which was the second one without them"
            assert not stores.locks.is_any_running()
        assert_same(state(home, kraken_catalog_url=url), undisturbed)
    finally:
        location.close()
