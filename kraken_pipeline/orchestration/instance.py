"""The Dagster instance of a home, for programs that Dagster did not start, and the state that an instance records."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dagster as dg
from dagster._core.storage.runs import InMemoryRunStorage, SqliteRunStorage
from filelock import FileLock

from kraken_pipeline.errors import InvalidSettings
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.faults import faults_explained, is_read_only
from kraken_pipeline.storage.run_history import history_server
from kraken_pipeline.workflow.health.dagster_health import DagsterState

HOME_VARIABLE = "DAGSTER_HOME"
STORAGE_VARIABLE = "KRAKEN_DAGSTER_STORAGE"
_DESCRIBED = "telemetry:\n  enabled: false\npython_logs:\n  python_log_level: INFO\n"
"""The description of an instance that has none. DEBUG would add a line for each process of a step."""
_QUEUED = dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])
_NOT_STARTED = dg.RunsFilter(statuses=[dg.DagsterRunStatus.NOT_STARTED])
_AT_WORK = dg.RunsFilter(
    statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
)


@contextmanager
def instance_of(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """Open the instance that `dagster.yaml` describes, or, without one, the same storage with Dagster's defaults.

    The database is created under a lock: when four processes created it at once, one used to fail. If the storage is
    read-only, a copy is opened: SQLite writes next to the database that it reads, and Dagster writes into it.

    Raises:
        InvalidSettings: DAGSTER_HOME is not an absolute path of a folder, or a variable that `dagster.yaml` reads is
            not set or wrong.
        StoreUnavailable: The server with the history does not answer.
    """
    described, storage = _described(settings)
    if is_read_only(storage) or is_read_only(storage.parent):
        with _copied(storage) as instance:
            yield instance
        return
    storage.mkdir(parents=True, exist_ok=True)
    if described.parent == storage and not described.exists():
        described.write_text(_DESCRIBED, encoding="utf-8")  # or Dagster reports the missing file
    if not described.parent.is_dir():
        raise InvalidSettings(f"{HOME_VARIABLE}: {described.parent} is not a folder; name the one with dagster.yaml")
    server = history_server(described)
    what = "" if server is None else server.place
    with FileLock(storage / "instance.lock", timeout=120), faults_explained(what):
        instance = dg.DagsterInstance.get()
        instance.get_runs(limit=1)
    try:
        yield instance
    finally:
        instance.dispose()


def state_of(instance: dg.DagsterInstance) -> DagsterState:
    """Return the state that an instance's storage has on record."""
    oldest = instance.get_run_records(_QUEUED, limit=1, ascending=True)
    return DagsterState(
        is_on_server=not isinstance(instance.run_storage, (SqliteRunStorage, InMemoryRunStorage)),
        queued=instance.get_runs_count(_QUEUED) if oldest else 0,
        queued_since=oldest[0].create_timestamp.timestamp() if oldest else None,
        not_started=instance.get_runs_count(_NOT_STARTED),
        at_work=instance.get_runs_count(_AT_WORK),
        heartbeats={name: beat.timestamp for name, beat in instance.get_daemon_heartbeats().items()},
        needed=frozenset(instance.get_required_daemon_types()),
    )


def state_now(settings: Settings) -> DagsterState:
    """Open the instance of a home and return its state, without Dagster's patience with a server that is away.

    Raises:
        InvalidSettings: The instance file cannot be used, or a variable that it reads is not set or wrong.
        StoreUnavailable: The server with the history does not answer.
    """
    if (server := history_server(_described(settings)[0])) is not None:
        server.require_answer()
    with instance_of(settings) as instance:
        return state_of(instance)


def _described(settings: Settings) -> tuple[Path, Path]:
    """Set the variables that `dagster.yaml` reads to their defaults; return its path, and the folder of the storage."""
    for name, default in ((STORAGE_VARIABLE, settings.home / "dagster"), (HOME_VARIABLE, "")):
        if not os.environ.get(name):  # an empty variable counts as not set
            os.environ[name] = str(default or os.environ[STORAGE_VARIABLE])
    if not Path(os.environ[HOME_VARIABLE]).is_absolute():
        raise InvalidSettings(f"{HOME_VARIABLE} must be an absolute path, not {os.environ[HOME_VARIABLE]}")
    return Path(os.environ[HOME_VARIABLE]) / "dagster.yaml", Path(os.environ[STORAGE_VARIABLE])


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
