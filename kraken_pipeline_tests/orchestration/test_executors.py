"""Steps that are groups of pairs: what each of them requires before it does anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from kraken_pipeline.orchestration import executors
from kraken_pipeline.storage.stores import opened
from kraken_pipeline_tests.orchestration.conftest import definitions
from kraken_pipeline_tests.support.homes import Shelf, lake_of, settings_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("is_other", [False, True], ids=["the same", "another"])
def test_a_step_does_nothing_for_a_run_that_other_code_began(
    home: Path, shelf: Shelf, instance: dg.DagsterInstance, is_other: bool
) -> None:
    settings = settings_of(home, kraken_executor="multiprocess", kraken_workers=1)
    tags = {executors.CODE_TAG: "another digest" if is_other else executors.code_digest()}
    job = definitions(settings).resolve_job_def("ingest")
    config = {"archive_dirs": [str(shelf.q1)], "intervals": "60,1440", "api_backfill": False}
    done = job.execute_in_process(instance=instance, run_config=config, tags=tags, raise_on_error=False)
    assert done.success is not is_other
    with opened(settings) as stores:
        assert bool(lake_of(stores)) is not is_other
    if is_other:
        (failure,) = done.get_step_failure_events()
        reason = failure.step_failure_data.user_failure_data
        assert reason is not None
        assert reason.description is not None
        assert "restart the worker" in reason.description


def test_the_digest_of_the_code_changes_with_any_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "PACKAGE", tmp_path)
    module = tmp_path / "room" / "module.py"
    module.parent.mkdir()
    found = set()
    for content in ("a = 1", "a = 2"):
        module.write_text(content)
        executors.code_digest.cache_clear()
        found.add(executors.code_digest())
    module.rename(tmp_path / "module.py")
    assert executors.code_digest() in found, "a process keeps its digest"
    executors.code_digest.cache_clear()
    found.add(executors.code_digest())
    executors.code_digest.cache_clear()
    assert len(found) == 3


@pytest.mark.process
def test_what_is_loaded_before_steps_are_forked_starts_no_thread() -> None:
    loads = "".join(f"import {module}\n" for module in executors.LOADED_BEFORE_FORK)
    counts = "print(len(os.listdir('/proc/self/task')), 'polars' in sys.modules, gc.get_threshold()[0])"
    said = subprocess.run(
        [sys.executable, "-c", f"import gc, os, sys\n{loads}{counts}"], check=True, capture_output=True, text=True
    )
    assert said.stdout == "1 False 100000\n"
