"""Runs that commands execute: they belong to the code location that the workspace serves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml  # type: ignore[import-untyped]

from kraken_pipeline.definitions import bound_ingest, defs
from kraken_pipeline.orchestration.execution import BEGUN_BY_TAG, CODE_LOCATION, REPOSITORY, execute
from kraken_pipeline.orchestration.instance import instance_of
from kraken_pipeline.orchestration.jobs.ingest_job import ingest_job
from kraken_pipeline.orchestration.runs import RESUMES_TAG
from kraken_pipeline.settings import load_settings
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.homes import Shelf

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def on_disk() -> Iterator[dg.DagsterInstance]:
    """The instance that a command opens."""
    with instance_of(load_settings()) as found:
        yield found


def test_the_names_of_the_origin_are_those_that_the_workspaces_serve() -> None:
    for path in ("workspace.yaml", "deploy/workspace.yaml"):
        (served,) = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))["load_from"]
        (described,) = served.values()
        assert described["location_name"] == CODE_LOCATION
    assert defs.get_repository_def().name == REPOSITORY


def test_a_run_is_found_by_the_filters_of_its_jobs_page_and_of_the_timeline(
    on_disk: dg.DagsterInstance, shelf: Shelf
) -> None:
    spec = run_spec(archive_dirs=[str(shelf.minutes)], dry_run=True)
    run_id = execute(on_disk, bound_ingest, spec, "an-earlier-run")
    of_page = dg.RunsFilter(job_name=ingest_job.name, tags={".dagster/repository": f"{REPOSITORY}@{CODE_LOCATION}"})
    (run,) = on_disk.get_runs(of_page)
    assert (run.run_id, run.status) == (run_id, dg.DagsterRunStatus.SUCCESS)
    origin = run.remote_job_origin
    assert origin is not None
    assert (origin.location_name, origin.repository_origin.repository_name, origin.job_name) == (
        CODE_LOCATION,
        REPOSITORY,
        ingest_job.name,
    )
    assert run.tags[RESUMES_TAG] == "an-earlier-run"
    assert BEGUN_BY_TAG in run.tags
    # The code that a re-execution imports.
    assert run.job_code_origin is not None
    assert run.job_code_origin.job_name == "ingest"


def test_a_run_that_fails_is_told_by_its_status(on_disk: dg.DagsterInstance) -> None:
    run_id = execute(on_disk, bound_ingest, run_spec(pairs="XBTUSD"))
    run = on_disk.get_run_by_id(run_id)
    assert run is not None
    assert run.status is dg.DagsterRunStatus.FAILURE
