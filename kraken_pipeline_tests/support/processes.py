"""Other processes to test with: forked from a server that has loaded the project, each with streams of its own.

To load Dagster and the project takes two seconds of a processor. A server loads them once for each worker of pytest and
forks a process for each test that needs one; such a process can be watched, signalled and killed like any other.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
_LOADED = (
    "kraken_pipeline.cli.app",
    "kraken_pipeline.cli.commands.run_commands",
    "kraken_pipeline.cli.commands.keep_commands",
    "kraken_pipeline.definitions",
    "kraken_pipeline.demo.exchange",
)
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(list(_LOADED))


class Running:
    """A process that was started, with the methods of `subprocess.Popen` that tests use.

    Attributes:
        stdin: What it reads; None where it has a terminal.
        stdout: What it prints, as text; None where it has a terminal.
        stderr: What it prints as errors, likewise.
    """

    def __init__(self, target: Callable[..., None], arguments: Sequence[Any], streams: Sequence[int] = ()) -> None:
        """Starts it.

        Args:
            target: What it runs, a function of a module.
            arguments: The arguments of that.
            streams: The descriptors of its standard input, output and errors; pipes where there are none.
        """
        pipes = [] if streams else [os.pipe() for _ in range(3)]
        given = streams or (pipes[0][0], pipes[1][1], pipes[2][1])
        connections = [Connection(os.dup(stream)) for stream in given]
        # A daemon of pytest's: one that outlives its test is ended with pytest.
        self._process = _SERVER.Process(
            target=_run, args=(dict(os.environ), connections, target, *arguments), daemon=True
        )
        self._process.start()
        for connection in connections:
            connection.close()
        self.stdin: IO[str] | None = None
        self.stdout: IO[str] | None = None
        self.stderr: IO[str] | None = None
        if pipes:
            for number in given:
                os.close(number)
            self.stdin = os.fdopen(pipes[0][1], "w")
            self.stdout, self.stderr = os.fdopen(pipes[1][0]), os.fdopen(pipes[2][0])

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int:
        """How it ended: its exit code, or the number of the signal that ended it, below zero."""
        assert self._process.exitcode is not None
        return self._process.exitcode

    def poll(self) -> int | None:
        """How it ended; None as long as it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end.

        Raises:
            subprocess.TimeoutExpired: It has not come within these seconds.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it a signal, where it still runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it at once."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Closes its input, reads what it prints up to its end, and waits for that.

        Raises:
            subprocess.TimeoutExpired: It has not come within these seconds.
        """
        read: dict[int, str] = {}

        def read_all(number: int, stream: IO[str]) -> None:
            with stream:
                read[number] = stream.read()

        streams = [stream for stream in (self.stdout, self.stderr) if stream is not None and not stream.closed]
        if self.stdin is not None:
            with suppress(BrokenPipeError):
                self.stdin.close()
        readers = [Thread(target=read_all, args=reading, daemon=True) for reading in enumerate(streams)]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return read.get(0, ""), read.get(1, "")


def _run(
    variables: Mapping[str, str], streams: Sequence[Connection], target: Callable[..., None], *arguments: Any
) -> None:
    """What a forked process does: it takes its environment and streams, and is a process like any other from there.

    The environment of the server is that of the test that was the first to start a process.
    """
    os.environ.clear()
    os.environ.update(variables)
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    multiprocessing.current_process().daemon = False  # it may have workers of its own
    try:
        target(*arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


@dataclass(frozen=True, slots=True)
class Program:
    """`python -m MODULE ARGUMENTS`, in a folder and with these variables of the environment and no others."""

    module: str
    arguments: Sequence[str]
    folder: Path
    variables: Mapping[str, str]

    def run(self) -> None:
        """Runs it in this process."""
        os.chdir(self.folder)
        os.environ.clear()
        os.environ.update(self.variables)
        sys.argv = [self.module, *self.arguments]
        warnings.filterwarnings("ignore", ".* found in sys.modules", RuntimeWarning)  # it was loaded before
        runpy.run_module(self.module, run_name="__main__", alter_sys=True)


def started(program: Program, terminal: int | None = None) -> Running:
    """A program in a process of its own, on a terminal where one is given."""
    return Running(Program.run, [program], () if terminal is None else (terminal,) * 3)


@contextmanager
def process(function: Callable[..., None], *arguments: str | int) -> Iterator[Running]:
    """Runs a function, with these arguments, in a process of its own."""
    running = Running(_strictly, [function, *arguments])
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def _strictly(function: Callable[..., None], *arguments: str | int) -> None:
    warnings.simplefilter("error")
    function(*arguments)


def line(running: Running) -> str:
    """Waits for the next line that a process prints."""
    assert running.stdout is not None
    return str(running.stdout.readline()).strip()


def tell(running: Running) -> None:
    """Lets a process go on that waits for a line."""
    assert running.stdin is not None
    running.stdin.write("\n")
    running.stdin.flush()


def result(running: Running) -> str:
    """Waits for the end of a process, which must be a good one, and gives what it printed."""
    printed, errors = running.communicate()
    assert running.returncode == 0, errors
    return printed.strip()
