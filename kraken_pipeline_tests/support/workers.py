"""A Celery worker as a process of its own, to be watched, stopped, killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from kraken_pipeline_tests.support.processes import Program, Running, started
from kraken_pipeline_tests.support.servers import alive, wait_for
from kraken_pipeline_tests.support.shell import ROOT, TIMEOUT, environment

PROCESSES = 2
_OPTIONS = ("--queues", "dagster", "--concurrency", str(PROCESSES), "--loglevel", "INFO")
_QUICK = ("--without-gossip", "--without-mingle")


class Worker:
    """A worker with processes for steps, for one home.

    Args:
        home: The home, beside which its log lies.
        variables: The settings that differ from those of any command of the tests.
        code: The folder with the code of another version; None for this one.
    """

    def __init__(self, home: Path, variables: Mapping[str, str], code: Path | None = None) -> None:
        self.log = home.parent / "worker.log"
        options = (*_OPTIONS, *_QUICK, "--logfile", str(self.log))
        arguments = ("--app", "kraken_pipeline.orchestration.celery", "worker", *options)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KRAKEN_", "DAGSTER_"))}
        given = {**kept, **environment(home), **variables, "PYTHONPATH": str(code or ROOT)}
        self._program = Program("celery", arguments, home.parent, given)
        self._is_other = code is not None
        self._process: Running | subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Starts it and waits until it takes steps."""
        before = self.said().count(" ready.")
        self._process = _started_afresh(self._program) if self._is_other else started(self._program)
        wait_for(lambda: self.said().count(" ready.") > before, "the worker", TIMEOUT)

    def said(self) -> str:
        """Its log."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    @property
    def children(self) -> list[int]:
        """The processes that do steps."""
        return children(self._pid)

    @property
    def _pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Ends it with all of its processes at once, as a machine that loses its power does."""
        if self._process is None:
            return
        those = kill_with_children(self._pid)
        self._process.communicate()
        self._process = None
        wait_for(lambda: not any(alive(process) for process in those), "the end of killed processes")


def _started_afresh(program: Program) -> subprocess.Popen[str]:
    """A program in a process that has loaded nothing of the project before, whose code may be another."""
    return subprocess.Popen(
        [sys.executable, "-m", program.module, *program.arguments],
        cwd=program.folder,
        env=dict(program.variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextmanager
def worker(home: Path, variables: Mapping[str, str]) -> Iterator[Worker]:
    """A worker that takes steps as long as the block runs."""
    made = Worker(home, variables)
    try:
        made.start()
        yield made
    finally:
        made.kill()


def kill_with_children(process: int) -> list[int]:
    """Ends a process with those that it has started, at once, as the end of a container does; returns the latter."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGSTOP)  # so that it makes no more of them to miss
    those = children(process)
    for each in (process, *those):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    return those


def children(process: int) -> list[int]:
    """The processes that a process has started and not yet ended."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], check=False, capture_output=True, text=True)
    return [number for number in map(int, listed.stdout.split()) if alive(number)]
