"""The Dagster instance of a home, for programs that Dagster did not start."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from filelock import FileLock

from kraken_pipeline.settings import Settings

HOME_VARIABLE = "DAGSTER_HOME"
STORAGE_VARIABLE = "KRAKEN_DAGSTER_STORAGE"


@contextmanager
def instance_of(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The instance that `dagster.yaml` describes, or, without one, the same storage with Dagster's defaults.

    Its database is created under a lock: of four processes that find none, one used to fail.
    """
    storage = Path(os.environ.setdefault(STORAGE_VARIABLE, str(settings.home / "dagster")))
    storage.mkdir(parents=True, exist_ok=True)
    described = Path(os.environ.setdefault(HOME_VARIABLE, str(storage))) / "dagster.yaml"
    if described.parent == storage and not described.exists():
        described.write_text("telemetry:\n  enabled: false\n", encoding="utf-8")  # or Dagster says where it is missing
    with FileLock(storage / "instance.lock", timeout=120):
        instance = dg.DagsterInstance.get()
        instance.get_runs(limit=1)
    try:
        yield instance
    finally:
        instance.dispose()
