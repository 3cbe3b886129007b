"""The Dagster instance of a home, for programs that Dagster did not start."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dagster as dg
from filelock import FileLock

from kraken_pipeline.errors import InvalidSettings
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.faults import is_read_only

HOME_VARIABLE = "DAGSTER_HOME"
STORAGE_VARIABLE = "KRAKEN_DAGSTER_STORAGE"
_DESCRIBED = "telemetry:\n  enabled: false\npython_logs:\n  python_log_level: INFO\n"
"""The description of an instance that has none. DEBUG would add a line for each process of a step."""


@contextmanager
def instance_of(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """Open the instance that `dagster.yaml` describes, or, without one, the same storage with Dagster's defaults.

    The database is created under a lock: when four processes created it at once, one used to fail. If the storage is
    read-only, a copy is opened: SQLite writes next to the database that it reads, and Dagster writes into it.

    Raises:
        InvalidSettings: DAGSTER_HOME is not an absolute path.
    """
    for name, default in ((STORAGE_VARIABLE, settings.home / "dagster"), (HOME_VARIABLE, "")):
        if not os.environ.get(name):  # an empty variable counts as not set
            os.environ[name] = str(default or os.environ[STORAGE_VARIABLE])
    if not Path(os.environ[HOME_VARIABLE]).is_absolute():
        raise InvalidSettings(f"{HOME_VARIABLE} must be an absolute path, not {os.environ[HOME_VARIABLE]}")
    storage = Path(os.environ[STORAGE_VARIABLE])
    if is_read_only(storage) or is_read_only(storage.parent):
        with _copied(storage) as instance:
            yield instance
        return
    storage.mkdir(parents=True, exist_ok=True)
    described = Path(os.environ[HOME_VARIABLE]) / "dagster.yaml"
    if described.parent == storage and not described.exists():
        described.write_text(_DESCRIBED, encoding="utf-8")  # or Dagster reports the missing file
    with FileLock(storage / "instance.lock", timeout=120):
        instance = dg.DagsterInstance.get()
        instance.get_runs(limit=1)
    try:
        yield instance
    finally:
        instance.dispose()


@contextmanager
def _copied(storage: Path) -> Iterator[dg.DagsterInstance]:
    with tempfile.TemporaryDirectory(prefix="kraken-history-") as folder, ExitStack() as stack:
        copy = Path(folder) / "dagster"
        if storage.exists():
            shutil.copytree(storage, copy, ignore=shutil.ignore_patterns("*.lock", "storage", "compute_logs"))
        copy.mkdir(exist_ok=True)
        before = {name: os.environ.get(name) for name in (STORAGE_VARIABLE, HOME_VARIABLE)}
        stack.callback(_restore, before)
        os.environ[STORAGE_VARIABLE] = str(copy)
        if before[HOME_VARIABLE] == str(storage):
            os.environ[HOME_VARIABLE] = str(copy)
            (copy / "dagster.yaml").write_text(_DESCRIBED, encoding="utf-8")
        instance = stack.enter_context(dg.DagsterInstance.get())
        yield instance


def _restore(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
