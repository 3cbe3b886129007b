"""The homes that are damaged, and the commands that are run on them."""

from __future__ import annotations

import shutil
import sqlite3
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path

import pytest

from chaos.claims import HomeState, state_of
from kraken_pipeline.cli import options
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.orchestration import steps
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.catalog.states import FileStatus
from kraken_pipeline.storage.faults import fault_of
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.verify.repair import repair
from kraken_pipeline_tests.support.exchanges import stop_clock
from kraken_pipeline_tests.support.homes import NOW, SPRING, Shelf, settings_of, write_shelf
from kraken_pipeline_tests.support.homes import run as ingest_here
from kraken_pipeline_tests.support.processes import Running
from kraken_pipeline_tests.support.shell import Said, ended, shell, start

TRACEBACK = -1
"""Stands for the exit code of a command that ended with an error nobody foresaw."""
FILL = ("ingest", "--intervals", "60,1440", "--complete")
ARCHIVES_ONLY = ("ingest", "--intervals", "1,60,1440", "--no-api-backfill")
_PATIENCE = 60


class Playground:
    """A folder with a home that is filled anew for each try, beside the archives that it was filled from.

    The home always lies in the same place, because the catalog names places.

    Args:
        folder: Where everything lies.
        exchange: Answers for the world, and stays there: what the archives lack can be fetched.
    """

    def __init__(self, folder: Path, exchange: DemoExchange) -> None:
        self.folder = folder
        self.world = folder / "world"
        self.home = self.world / "home"
        self.archives = self.world / "archives"
        self._exchange = exchange
        self.shelf = _write_archives(folder / "shelf")

    # --- the copies

    @cached_property
    def _filled(self) -> Path:
        """Everything, from archives and the exchange; what came first from trades lies in the ledger."""
        self.reset_empty()
        later = self.folder / self.shelf.q2.name
        shutil.move(self.archives / later.name, later)
        self._must(*FILL)
        shutil.move(later, self.archives / later.name)
        self._must(*ARCHIVES_ONLY)
        self._must(*FILL)
        return Path(shutil.copytree(self.world, self.folder / "filled"))

    @cached_property
    def _with_log(self) -> Path:
        """The filled home as a process leaves it that is killed: with what was committed last in SQLite's log."""
        self.reset()
        database = self.home / "catalog.sqlite"
        with closing(sqlite3.connect(database)) as holding:
            holding.execute("SELECT count(*) FROM files").fetchone()
            next(iter(self.home.glob("lake/interval=60/pair=XBTUSD/*"))).unlink()
            self.run("repair")
            kept = {path: path.read_bytes() for path in (database, database.with_name("catalog.sqlite-wal"))}
        for path, content in kept.items():
            path.write_bytes(content)
        return Path(shutil.copytree(self.world, self.folder / "with-log"))

    @cached_property
    def expected(self) -> HomeState:
        """What the filled home holds."""
        self.reset()
        return self.state()

    @cached_property
    def expected_of_archives(self) -> HomeState:
        """What a home holds that was filled from the archives alone."""
        self.reset_empty()
        self._must(*ARCHIVES_ONLY)
        return self.state()

    def prepare(self) -> None:
        """Make what tries are compared with, before the first one begins."""
        _ = self.expected, self.expected_of_archives

    def _must(self, *arguments: str) -> None:
        done = self.command(*arguments)
        if done.code != 0:
            raise RuntimeError(f"the home could not be filled: {done.err or done.out}")

    def reset(self) -> None:
        """Put a copy of the filled home in the home's place."""
        self._put(self._filled)

    def reset_with_log(self) -> None:
        """Put a copy of the filled home there whose catalog was not closed."""
        self._put(self._with_log)

    def _put(self, copy: Path) -> None:
        shutil.rmtree(self.world, ignore_errors=True)
        shutil.copytree(copy, self.world)

    def reset_empty(self) -> None:
        """Put an empty home there, with archives in its drop folder and beside it."""
        shutil.rmtree(self.world, ignore_errors=True)
        shutil.copytree(self.shelf.q2.parent, self.archives)
        (self.home / "drop").mkdir(parents=True)
        for path in (self.shelf.q1, self.shelf.minutes):
            shutil.move(self.archives / path.name, self.home / "drop" / path.name)

    def state(self) -> HomeState:
        """Read what the home holds now."""
        with opened(self.settings()) as stores:
            return state_of(stores)

    # --- the commands

    def settings(self) -> Settings:
        """Return the home's settings."""
        given = {"kraken_api_url": self._exchange.url, "kraken_breaker_failures": 1_000}
        return settings_of(self.home, kraken_archive_dirs=str(self.archives), **given)

    @property
    def _variables(self) -> dict[str, str]:
        return {"KRAKEN_API_URL": self._exchange.url, "KRAKEN_ARCHIVE_DIRS": str(self.archives)}

    def command(self, *arguments: str) -> Said:
        """Run `kraken-pipeline ARGUMENTS` in this process, at the moment at which the world ends."""
        with pytest.MonkeyPatch.context() as patch:
            stop_clock(patch, NOW, options, steps)
            try:
                return shell(self.home, *arguments, **self._variables)
            except Exception:
                return Said(TRACEBACK, "", traceback.format_exc())

    def run(self, name: str) -> Said:
        """Do what `repair` or `ingest` of the archives does, without Dagster around it, which costs seconds."""
        try:
            with opened(self.settings()) as stores:
                if name == "repair":
                    found = repair(stores, run_spec(), RunContext("repair", NOW)).verification
                    return Said(int(bool(found.damaged)), found.status, "; ".join(map(str, found.damaged)))
                done = ingest_here(stores, intervals="1,60,1440", api_backfill=False)
                failed = [outcome.reason for outcome in done.files.values() if outcome.status is FileStatus.FAILED]
                return Said(int(bool(failed)), "", "; ".join(map(str, failed)))
        except Exception as error:
            if (fault := fault_of(error)) is None:
                return Said(TRACEBACK, "", traceback.format_exc())
            return Said(1, "", str(fault))

    def begin(self, *arguments: str) -> Running:
        """Start `kraken-pipeline ARGUMENTS` in a process of its own, and wait until it begins to work."""
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        more = {**self._variables, "CHAOS_READY": str(ready), "KRAKEN_LOG_LEVEL": "CRITICAL"}
        process = start(self.home, *arguments, program="chaos.command", **more)
        until = time.monotonic() + _PATIENCE
        while not ready.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        return process

    def in_process_of_its_own(self, *arguments: str) -> Said:
        """Run `kraken-pipeline ARGUMENTS` in a process of its own to its end."""
        return ended(self.begin(*arguments))


def _write_archives(folder: Path) -> Shelf:
    folder.mkdir(parents=True)
    shelf = write_shelf(folder)
    for path in (shelf.q3, shelf.complete):
        path.unlink()
    return shelf


@contextmanager
def playground(folder: Path) -> Iterator[Playground]:
    """Open a playground whose exchange answers for as long as a block runs."""
    with DemoExchange(SPRING) as exchange:
        yield Playground(folder, exchange)
