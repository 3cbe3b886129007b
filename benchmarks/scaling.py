"""`python -m benchmarks.scaling`: the catalog under 1, 4, 16 and 64 writers, and the cost of the steps of a run.

`writers` has so many processes do the catalog's part of the work of groups of pairs, all of it together the same work,
on a PostgreSQL of its own: transactions a second, CPU of the server and of the writers, and what the server's
processes waited for. `run` ingests an archive with KRAKEN_EXECUTOR=multiprocess, catalog and history in PostgreSQL:
CPU of each step. docs/scaling.md says what follows from the figures.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psycopg
import yaml  # type: ignore[import-untyped]
from dagster import EventLogEntry
from dagster._serdes import deserialize_value

from benchmarks.scaling_writer import FILES, pairs_of, write
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.stores import opened
from kraken_pipeline_tests.support.servers import PostgreSQL

ROOT = Path(__file__).parents[1]
WRITERS = (1, 4, 16, 64)
GROUPS = 128
"""The groups that all writers do together."""
_TICKS = os.sysconf("SC_CLK_TCK")
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of some work to the database's server and to those who use it.

    Attributes:
        seconds: Seconds by the clock.
        clients: Seconds of CPU of the writers, or of the processes of a run.
        server: Seconds of CPU of the server's processes.
        transactions: The number of transactions in the catalog's database, reads and locks included.
        writes: The number of those that wrote.
        log_bytes: The bytes that the server wrote to its write-ahead log.
        waits: What the server's busy processes were seen to wait for, by kind; the empty name for those at work.
        deadlocks: The number of deadlocks.
    """

    seconds: float
    clients: float
    server: float
    transactions: int
    writes: int
    log_bytes: int
    waits: dict[str, int]
    deadlocks: int


@dataclass(frozen=True, slots=True)
class Steps:
    """The CPU of the steps of a run, in seconds.

    Attributes:
        first: That of the first step, which finds the files and deals them out.
        groups: That of each group.
        last: That of the last step.
        driver: That of the process that drives the run, and of the server that its steps are forked from.
        walls: The time of each step by the clock: the first, all groups together, the last.
        peak_mib: The most memory of a process of each of the three.
        phases: The time of each phase of the last step by the clock, in seconds.
    """

    first: float = 0.0
    groups: list[float] = field(default_factory=list)
    last: float = 0.0
    driver: float = 0.0
    walls: tuple[float, float, float] = (0.0, 0.0, 0.0)
    peak_mib: tuple[float, float, float] = (0.0, 0.0, 0.0)
    phases: dict[str, float] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write what was measured to a file."""
    asked = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="kraken-scaling-") as temporary:
        folder = Path(temporary)
        found = _of_writers(folder, asked) if asked.what == "writers" else _of_runs(folder, asked)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("what", choices=("writers", "run"))
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there as well")
    parser.add_argument("--rounds", type=int, default=3, help="how often each number of writers, or of workers")
    parser.add_argument("--counts", metavar="N,N", help="the numbers of writers (1,4,16,64) or of workers (1,2)")
    parser.add_argument("--groups", type=int, default=GROUPS, help="the groups that all writers do together")
    parser.add_argument("--archive", metavar="FOLDER", type=Path, help="the folder with the archive of `run`")
    return parser


def _counts(asked: argparse.Namespace, default: Sequence[int]) -> Sequence[int]:
    return [int(count) for count in asked.counts.split(",")] if asked.counts else default


# --- writers


def _of_writers(folder: Path, asked: argparse.Namespace) -> list[dict[str, Any]]:
    found = []
    print("writers  tx/s  files/s  ms CPU a file: writer  server  a file: tx  writes  KiB log  waits")
    for _ in range(asked.rounds):
        for count in _counts(asked, WRITERS):
            cost, files = measured_writers(folder, count, max(1, asked.groups // count))
            found.append({"writers": count, "files": files, **asdict(cost)})
            seen = sum(cost.waits.values()) or 1
            told = Counter(cost.waits).most_common(4)
            waits = ", ".join(f"{name or 'CPU'} {number / seen:.0%}" for name, number in told)
            print(
                f"{count:7}  {cost.transactions / cost.seconds:4.0f}  {files / cost.seconds:7.0f}"
                f"  {1e3 * cost.clients / files:21.2f}  {1e3 * cost.server / files:6.2f}"
                f"  {cost.transactions / files:10.2f}  {cost.writes / files:6.3f}"
                f"  {cost.log_bytes / 1024 / files:7.1f}  {waits}",
                flush=True,
            )
    return found


def measured_writers(folder: Path, count: int, groups: int) -> tuple[Cost, int]:
    """Have some writers do the catalog's part of so many groups each; return the cost and the number of files."""
    home = folder / f"home-{count}-{time.time_ns()}"
    with PostgreSQL(folder / f"postgresql-{time.time_ns()}") as server:
        url = server.database("catalog")
        settings = load_settings(
            _env_file=None,
            kraken_pipeline_home=home,
            kraken_catalog_url=url,
            kraken_workers=1,
            kraken_catalog_pool=2,
        )
        server.execute("ALTER SYSTEM SET max_connections = 1000")
        server.restart()
        with opened(settings) as stores:  # makes the tables, too
            stores.lake.asset_ids.register(pair for number in range(count) for pair in pairs_of(number, groups))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.scaling_writer"])
        with context.Manager() as manager, ProcessPoolExecutor(count, mp_context=context) as pool:
            barrier = manager.Barrier(count + 1)
            work = [pool.submit(_written, settings, number, groups, barrier) for number in range(count)]
            barrier.wait(600)
            with _measured(server, url) as costs:
                done = [future.result() for future in work]
        clients = sum(written.cpu for written in done)
        cost = costs(max(written.seconds for written in done), clients)
    shutil.rmtree(home, ignore_errors=True)
    return cost, count * groups * FILES


def _written(settings: Settings, number: int, groups: int, barrier: Any) -> Any:
    return write(settings, number, groups, barrier)


@contextmanager
def _measured(server: PostgreSQL, url: str) -> Iterator[Any]:
    """Measure what the server does in a block; yields the function that returns the cost after it."""
    process = server._process
    assert process is not None
    before, waits, over = _figures(server, url), Counter[str](), Event()
    cpu = _server_cpu(process.pid)
    watcher = Thread(target=_watch, args=(server.url, waits, over))
    watcher.start()
    after: dict[str, Any] = {}
    try:
        yield lambda seconds, clients: Cost(
            seconds,
            clients,
            after["cpu"] - cpu,
            after["transactions"] - before["transactions"],
            after["writes"] - before["writes"],
            after["log"] - before["log"],
            dict(waits),
            after["deadlocks"] - before["deadlocks"],
        )
    finally:
        over.set()
        watcher.join()
        after["cpu"] = _server_cpu(process.pid)
        time.sleep(1.5)  # a session tells its statistics a second after its last transaction, or when it ends
        after |= _figures(server, url)


def _figures(server: PostgreSQL, url: str) -> dict[str, int]:
    name = url.rpartition("/")[2]
    ((transactions, deadlocks),) = server.execute(
        f"SELECT xact_commit + xact_rollback, deadlocks FROM pg_stat_database WHERE datname = '{name}'"
    )
    ((log, writes),) = server.execute(
        "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint,"
        " pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
    )
    return {"transactions": int(transactions), "deadlocks": int(deadlocks), "log": int(log), "writes": int(writes)}


def _watch(url: str, waits: Counter[str], over: Event) -> None:
    """Count what busy sessions wait for, five times a second."""
    with psycopg.connect(url, autocommit=True) as connection:
        while not over.wait(_POLL_SECONDS):
            rows = connection.execute(
                "SELECT coalesce(wait_event_type || ' ' || wait_event, '') FROM pg_stat_activity "
                "WHERE state = 'active' AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            ).fetchall()
            waits.update(row[0] for row in rows)


def _server_cpu(postmaster: int) -> float:
    """Return the seconds of CPU of a server's processes, ended ones included."""
    ticks = sum(_ticks(postmaster, of_ended=True))
    for child in _children(postmaster):
        ticks += sum(_ticks(child))
    return ticks / _TICKS


def _ticks(pid: int, *, of_ended: bool = False) -> tuple[int, int]:
    """Return the ticks of a process, and those of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0
    own, ended = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return own, ended if of_ended else 0


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, path.read_text().split())
    return found


# --- runs


def _of_runs(folder: Path, asked: argparse.Namespace) -> list[dict[str, Any]]:
    assert asked.archive is not None, "name the folder of an archive: --archive"
    found = []
    print("workers  s CPU: first  groups (number)  last  driver  server  s wall: first  groups  last  tx  MiB log")
    for _ in range(asked.rounds):
        for count in _counts(asked, (1, 2)):
            steps, cost = measured_run(folder, asked.archive.resolve(), count)
            found.append({"workers": count, **asdict(steps), **asdict(cost)})
            first, groups, last = steps.walls
            print(
                f"{count:7}  {steps.first:12.1f}  {sum(steps.groups):6.1f} ({len(steps.groups):6})  {steps.last:4.1f}"
                f"  {steps.driver:6.1f}  {cost.server:6.1f}  {first:13.1f}  {groups:6.1f}  {last:4.1f}"
                f"  {cost.transactions}  {cost.log_bytes / 2**20:.1f}",
                flush=True,
            )
            print("  last step, s wall: " + ", ".join(f"{name} {took:.1f}" for name, took in steps.phases.items()))
    return found


def measured_run(folder: Path, archive: Path, workers: int) -> tuple[Steps, Cost]:
    """Ingest an archive with so many processes for its steps, and return what the steps cost and what all of it did."""
    home = folder / f"run-{workers}-{time.time_ns()}"
    instance = folder / f"instance-{time.time_ns()}"
    instance.mkdir()
    with PostgreSQL(folder / f"postgresql-{time.time_ns()}") as server:
        url, history = server.database("catalog"), server.database("history")
        described = yaml.safe_load((ROOT / "dagster.yaml").read_text(encoding="utf-8"))
        described["storage"] = {"postgres": {"postgres_url": history.replace("postgresql", "postgresql+psycopg2", 1)}}
        (instance / "dagster.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
        environment = {
            **_with_bytecode(folder),
            "DAGSTER_HOME": str(instance),
            "KRAKEN_PIPELINE_HOME": str(home),
            "KRAKEN_DAGSTER_STORAGE": str(home / "dagster"),
            "KRAKEN_CATALOG_URL": url,
            "KRAKEN_EXECUTOR": "multiprocess",
            "KRAKEN_WORKERS": str(workers),
            "KRAKEN_SETTLE_SECONDS": "0",
            "DAGSTER_EVENT_BATCH_SIZE": "100",
        }
        command = (
            sys.executable,
            "-m",
            "kraken_pipeline",
            "ingest",
            "--archive-dir",
            str(archive),
            "--no-api-backfill",
        )
        with (home.with_suffix(".log")).open("wb") as log, _measured(server, url) as costs:
            began = time.perf_counter()
            with subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT) as process:
                steps = _watched_steps(process)
            seconds = time.perf_counter() - began
        if process.returncode != 0:
            raise RuntimeError(home.with_suffix(".log").read_text()[-2_000:])
        steps = replace(steps, phases=_phases_of_last(server, history))
        clients = steps.first + sum(steps.groups) + steps.last + steps.driver
        cost = costs(seconds, clients)
    shutil.rmtree(home, ignore_errors=True)
    return steps, cost


def _with_bytecode(folder: Path) -> dict[str, str]:
    """Return variables of processes that find all modules compiled, as those of an installed program do."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("KRAKEN_", "DAGSTER_"))}
    others.pop("PYTHONDONTWRITEBYTECODE", None)
    variables = {**others, "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    subprocess.run((sys.executable, "-c", "import kraken_pipeline.definitions"), env=variables, cwd=ROOT, check=True)
    return variables


def _phases_of_last(server: PostgreSQL, history: str) -> dict[str, float]:
    """Return the time of each phase of the last step of the newest run, as its output says."""
    rows = server.execute("SELECT event FROM event_logs WHERE dagster_event_type = 'STEP_OUTPUT' ORDER BY id", history)
    entry = deserialize_value(rows[-1][0], EventLogEntry)
    assert entry.dagster_event is not None
    metadata = entry.dagster_event.step_output_data.metadata
    phases = {label: value for label, value in metadata.items() if label.startswith("seconds ")}
    return {label.removeprefix("seconds "): float(value.value) for label, value in phases.items()}  # type: ignore[arg-type]


@dataclass(slots=True)
class _Seen:
    """A process of a step, as it was seen last."""

    began: float
    ended: float
    cpu: float
    peak_mib: float


def _watched_steps(process: subprocess.Popen[bytes]) -> Steps:
    """Watch the processes of a run until it ends; they are seen five times a second."""
    seen: dict[int, _Seen] = {}
    driver = 0.0
    while process.poll() is None:
        now = time.perf_counter()
        of_driver = _children(process.pid)
        driver = sum(sum(_ticks(pid)) for pid in (process.pid, *of_driver)) / _TICKS
        for step in (step for server in of_driver for step in _children(server)):
            cpu = _tree_cpu(step)
            known = seen.setdefault(step, _Seen(now, now, cpu, 0.0))
            known.ended, known.cpu = now, max(known.cpu, cpu)
            known.peak_mib = max(known.peak_mib, _peak_mib(step))
        time.sleep(_POLL_SECONDS)
    first, *groups, last = sorted(seen.values(), key=lambda step: step.began)
    return Steps(
        first.cpu,
        [step.cpu for step in groups],
        last.cpu,
        driver,
        (
            first.ended - first.began,
            max(step.ended for step in groups) - min(step.began for step in groups),
            last.ended - last.began,
        ),
        (first.peak_mib, max(step.peak_mib for step in groups), last.peak_mib),
    )


def _tree_cpu(pid: int) -> float:
    return sum(_ticks(pid, of_ended=True)) / _TICKS + sum(_tree_cpu(child) for child in _children(pid))


def _peak_mib(pid: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    sys.exit(main())
