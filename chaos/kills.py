"""`python -m chaos.kills`: kills what an ingest by several processes needs, at random moments, and checks every claim.

A process of a step, a worker with all of its processes, the driver of the run, the broker, and the server of the
database: with `KRAKEN_EXECUTOR=multiprocess` and with Celery on RabbitMQ, catalog and history in PostgreSQL. After each
kill the run has to end complete, or failed with a sentence; the same command has to complete it; and what is there in
the end has to be what an undisturbed run leaves. The exit code is 1 if anything was otherwise.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.claims import HomeState, state_of
from kraken_pipeline.coverage.ranges import lies_in, subtract
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.stores import opened
from kraken_pipeline_tests.support.databases import copy_of_template
from kraken_pipeline_tests.support.homes import rows_of, settings_of, write_shelf
from kraken_pipeline_tests.support.ingests import COMMAND, home_beside, state, write_archives
from kraken_pipeline_tests.support.processes import Running
from kraken_pipeline_tests.support.servers import PostgreSQL, RabbitMQ
from kraken_pipeline_tests.support.shell import ROOT, TIMEOUT, Said, ended, start
from kraken_pipeline_tests.support.workers import Worker, children

VICTIMS: Mapping[str, Sequence[str]] = {
    "celery": ("child", "worker", "driver", "broker", "database"),
    "multiprocess": ("child", "driver", "database"),
}
_HEALED = frozenset(Series(f"K{number:02d}USD", Interval.D1) for number in range(3))
"""A wrong file brings their first candles, and the run itself replaces them."""
_REST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill.

    Attributes:
        seed: The seed of its campaign.
        number: Its number in the campaign, which decides with the seed what is killed, and when.
        executor: The executor of the run.
        victim: What is killed.
        share: When, as a share of the time that an undisturbed run takes.
        away: How long a server stays away, in seconds.
    """

    seed: int
    number: int
    executor: str
    victim: str
    share: float
    away: float

    def __str__(self) -> str:
        """Return what repeats it, and what it is."""
        when = f"{self.victim} of {self.executor} at {self.share:.0%}"
        return f"--seed {self.seed} --only {self.number}: {when}"


def kill_of(seed: int, number: int) -> Kill:
    """Return a kill of a campaign; each kind of kill comes once in eight."""
    chance = random.Random(f"{seed}:{number}")
    kinds = [(executor, victim) for executor, victims in VICTIMS.items() for victim in victims]
    executor, victim = kinds[number % len(kinds)]
    return Kill(seed, number, executor, victim, chance.uniform(0.05, 1.0), chance.uniform(0, 2))


@dataclass(slots=True)
class Result:
    """What came of a kill.

    Attributes:
        kill: The kill.
        end: How the run ended that was hit.
        wrong: Everything that was not as it has to be.
        said: What the run printed.
    """

    kill: Kill
    end: str = ""
    wrong: list[str] = field(default_factory=list)
    said: str = ""


class Ground:
    """Archives, servers, and what an undisturbed run leaves.

    Args:
        folder: An empty folder for all of it.
        database: The server of catalog and history.
        broker: The broker.
        series: The number of pairs beside a few real ones.
        workers: KRAKEN_WORKERS, which decides the number of steps.
    """

    def __init__(self, folder: Path, database: PostgreSQL, broker: RabbitMQ, series: int, workers: int) -> None:
        self.database, self.broker = database, broker
        self.archives = write_archives(folder / "archives", write_shelf(folder / "shelf"), series, parts=1)
        instance = folder / "instance"
        instance.mkdir()
        shutil.copy(ROOT / "deploy" / "dagster.yaml", instance)
        history = database.database("history").replace("postgresql://", "postgresql+psycopg2://")
        self._common = {
            "DAGSTER_HOME": str(instance),
            "KRAKEN_DAGSTER_POSTGRES_URL": history,
            "KRAKEN_WORKERS": str(workers),
            "KRAKEN_LOG_LEVEL": "CRITICAL",
        }
        self.seconds: dict[str, float] = {}
        self.undisturbed: dict[str, Any] = {}
        self.claims = HomeState({}, {})

    def prepare(self, executors: Sequence[str] = tuple(VICTIMS)) -> None:
        """Run undisturbed, in one process and with some executors; remember what is left, and the time that each takes.

        Raises:
            RuntimeError: A run fails, or leaves something else than one process does.
        """
        for executor in ("in_process", *executors):
            with self.home(f"undisturbed-{executor}") as (home, catalog), self._worker(home, catalog, executor):
                began = time.monotonic()
                said = ended(self.begin(home, catalog, executor))
                self.seconds[executor] = time.monotonic() - began
                if "SUCCESS" not in said.out:
                    raise RuntimeError(f"an undisturbed run fails: {said.out}\n{said.err}")
                found = state(home, kraken_catalog_url=catalog)
                if self.undisturbed and (other := _differences(found, self.undisturbed)):
                    raise RuntimeError(f"an undisturbed run with {executor} leaves other {', '.join(other)}")
                if not self.undisturbed:
                    self.undisturbed, self.claims = found, _claims(home, catalog)

    @contextmanager
    def home(self, name: str) -> Iterator[tuple[Path, str]]:
        """Yield a home beside the archives, and the URL of its empty catalog."""
        home = home_beside(self.archives, name)
        home.parent.mkdir()
        catalog = copy_of_template(self.database)
        try:
            yield home, catalog
        finally:
            self.database.start()
            self.database.drop(catalog)
            shutil.rmtree(home.parent)

    def settings(self, home: Path, catalog: str, executor: str) -> dict[str, str]:
        """Return the variables of commands and workers."""
        return {
            **self._common,
            "KRAKEN_CATALOG_URL": catalog,
            "KRAKEN_DAGSTER_STORAGE": str(home / "dagster"),
            "KRAKEN_EXECUTOR": executor,
            "KRAKEN_CELERY_URL": self.broker.url,
        }

    def begin(self, home: Path, catalog: str, executor: str) -> Running:
        """Start the command."""
        return start(home, *COMMAND, **self.settings(home, catalog, executor))

    @contextmanager
    def _worker(self, home: Path, catalog: str, executor: str) -> Iterator[Worker | None]:
        if executor != "celery":
            yield None
            return
        worker = Worker(home, self.settings(home, catalog, executor))
        try:
            worker.start()
            yield worker
        finally:
            worker.kill()

    def tried(self, kill: Kill) -> Result:
        """Kill, and see what comes of it."""
        result = Result(kill)
        with (
            self.home(f"kill-{kill.seed}-{kill.number}") as (home, catalog),
            self._worker(home, catalog, kill.executor) as worker,
        ):
            driver = self.begin(home, catalog, kill.executor)
            time.sleep(kill.share * self.seconds[kill.executor])
            self._strike(kill, driver, worker)
            _check_claims(result, "after the kill", self.claims, home, catalog)
            said = _ended(driver)
            result.said = f"{said.out}\n{said.err}"
            if worker is not None:
                result.said += worker.said()
            result.end = _end_of(said)
            if not result.end:
                result.wrong.append("the run ended without a sentence, or did not end")
            _check_claims(result, "after the run", self.claims, home, catalog)
            again = _ended(self.begin(home, catalog, kill.executor))
            if "SUCCESS" not in again.out or "Traceback" in again.out + again.err:
                result.wrong.append(f"the same command did not complete it: {again.out}\n{again.err}")
            self._check_end(result, home, catalog)
        return result

    def _strike(self, kill: Kill, driver: Running, worker: Worker | None) -> None:
        if kill.victim == "driver":
            driver.kill()
        elif kill.victim == "child":
            those = worker.children if worker is not None else _steps_of(driver.pid)
            for process in random.Random(kill.seed).sample(those, min(1, len(those))):
                os.kill(process, signal.SIGKILL)
        elif kill.victim == "worker" and worker is not None:
            worker.kill()
            worker.start()
        else:
            server = self.broker if kill.victim == "broker" else self.database
            server.kill()
            time.sleep(kill.away)
            server.start()

    def _check_end(self, result: Result, home: Path, catalog: str) -> None:
        until = time.monotonic() + _REST_SECONDS
        with opened(settings_of(home, kraken_catalog_url=catalog)) as stores:
            while stores.locks.is_any_running() and time.monotonic() < until:
                time.sleep(0.1)  # a step outlives its driver until it is done
            if stores.locks.is_any_running():
                result.wrong.append("a lock of a run or a step is left")
            granted = rows_of(stores, schema.grants, "pair", "interval", "start", "end", "source", "trades", "file_id")
        if len(granted) != len(set(granted)):
            result.wrong.append("something was granted twice")
        found = state(home, kraken_catalog_url=catalog)
        result.wrong += [f"other {what} than undisturbed" for what in _differences(found, self.undisturbed)]


def _ended(driver: Running) -> Said:
    try:
        return ended(driver)
    except subprocess.TimeoutExpired:
        driver.kill()
        out, err = driver.communicate()
        return Said(-1, f"It did not end within {TIMEOUT} s.\n{out}", err)


def _end_of(said: Said) -> str:
    """Return how a run ended: `complete`, `failed` with a sentence, or `killed`; nothing for any other end."""
    if said.code == -signal.SIGKILL:
        return "killed"
    if said.code < 0 or "Traceback" in said.out + said.err:
        return ""
    return "complete" if "SUCCESS" in said.out else "failed" if "FAILURE" in said.out or said.err.strip() else ""


def _steps_of(driver: int) -> list[int]:
    """Return the processes of steps, each of which the driver has spawned."""
    return [process for process in children(driver) if b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes()]


def _claims(home: Path, catalog: str) -> HomeState:
    with opened(settings_of(home, kraken_catalog_url=catalog)) as stores:
        return state_of(stores)


def _check_claims(result: Result, when: str, expected: HomeState, home: Path, catalog: str) -> None:
    """Compare what is claimed with what an undisturbed run leaves: no more is covered, and it is the same."""
    found = _claims(home, catalog)
    for series, spans in found.covered.items():
        if subtract(spans, expected.covered.get(series, ())):
            result.wrong.append(f"{when} more of {series} is covered than undisturbed")
            continue
        if series in _HEALED:
            continue
        true, said = expected.candles[series], found.candles[series]
        if not true.filter(lies_in(spans, true["time"])).equals(said.filter(lies_in(spans, said["time"]))):
            result.wrong.append(f"{when} {series} has other candles than undisturbed")


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    return [what for what, value in expected.items() if found[what] != value]


@contextmanager
def ground(folder: Path, series: int = 40, workers: int = 2) -> Iterator[Ground]:
    """Yield the archives and the servers of a campaign; see `Ground`."""
    with ExitStack() as stack:
        database = stack.enter_context(PostgreSQL(folder / "postgresql"))
        broker = stack.enter_context(RabbitMQ(folder / "rabbitmq"))
        yield Ground(folder, database, broker, series, workers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a campaign; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m chaos.kills", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="decides when, and what of several")
    parser.add_argument("--kills", type=int, default=20, help="their number")
    parser.add_argument("--only", type=int, action="append", help="only the kill of this number; may be repeated")
    asked = parser.parse_args(arguments)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="kraken-kills-") as folder, ground(Path(folder)) as made:
        made.prepare()
        print(f"undisturbed: {', '.join(f'{name} {took:.0f} s' for name, took in made.seconds.items())}", flush=True)
        for number in asked.only or range(asked.kills):
            result = made.tried(kill_of(asked.seed, number))
            print(f"{result.kill}: {result.end or 'FAILED'}", flush=True)
            failed += bool(result.wrong)
            for wrong in result.wrong:
                print(f"  {wrong}")
            if result.wrong:
                print(result.said)
    print(f"{failed} failures")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
