"""Dagster's daemon and a code location as processes of their own, for one home, at any time of Dagster's."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from kraken_pipeline_tests.support.clocks import dagsters_clock_ahead
from kraken_pipeline_tests.support.processes import Program, Running
from kraken_pipeline_tests.support.servers import HOST, Port, wait_for
from kraken_pipeline_tests.support.shell import ROOT, TIMEOUT, program_on
from kraken_pipeline_tests.support.workers import kill_with_children


class CodeLocation:
    """The process that has the code, and starts the runs; it serves the same address when it is started again.

    Args:
        home: The home, beside which its log lies.
        variables: The settings that differ from those of any command of the tests.
        module: The module with its definitions.
        patience: The seconds to wait until it serves.
    """

    def __init__(self, home: Path, variables: Mapping[str, str], module: str, patience: float = TIMEOUT) -> None:
        self._home, self._variables, self._module, self._patience = home, variables, module, patience
        self._log = home.parent / "code location.log"
        self._port = Port()
        self._process: Running | None = None

    def start(self) -> None:
        """Starts it and waits until it serves."""
        # Dagster takes the first folder of the path away in a run's process, and adds the working directory.
        module = ("--module-name", self._module, "--working-directory", str(ROOT))
        address = ("--host", HOST, "--port", str(self._port.number), "--location-name", "kraken_pipeline")
        program = program_on(self._home, "api", "grpc", *address, *module, program="dagster", **self._variables)
        self._process = started_with_log(self._log, program)
        wait_for(self._serves, "the code location", self._patience)

    def _serves(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        with socket.socket() as connection:
            return connection.connect_ex((HOST, self._port.number)) == 0

    def workspace(self, folder: Path) -> Path:
        """Writes the file that names its address to programs of Dagster's."""
        address = {"host": HOST, "port": self._port.number, "location_name": "kraken_pipeline"}
        path = folder / "workspace.yaml"
        path.write_text(yaml.safe_dump({"load_from": [{"grpc_server": address}]}))
        return path

    def kill(self) -> int:
        """Ends it with the processes of its runs, as the end of its container does; says how many these were."""
        if self._process is None:
            return 0
        those = kill_with_children(self._process.pid)
        self._process.communicate()
        self._process = None
        return len(those)

    def close(self) -> None:
        """Ends it for good."""
        self.kill()
        self._port.close()


def started_with_log(log: Path, program: Program, ahead: float = 0.0) -> Running:
    """Starts a program that writes to a file: a pipe that nobody reads would stop it when it is full.

    Args:
        log: The file, which is added to.
        program: The program.
        ahead: The seconds by which Dagster's clock is ahead in it.
    """
    with log.open("a+") as stream:
        return Running(_run, [program, ahead], (stream.fileno(),) * 3)


def _run(program: Program, ahead: float) -> None:
    with dagsters_clock_ahead(ahead):
        program.run()


@contextmanager
def daemon_on(
    workspace: Path | None, home: Path, variables: Mapping[str, str], ahead: float = 0.0
) -> Iterator[Callable[[], None]]:
    """Dagster's daemon as long as the block runs; gives a check that it does.

    Args:
        workspace: The file that names its code locations; None for a daemon without any.
        home: The home.
        variables: The settings that differ from those of any command of the tests.
        ahead: The seconds by which Dagster's clock is ahead in it.
    """
    log = home.parent / "daemon.log"
    code = ("--empty-workspace",) if workspace is None else ("-w", str(workspace))
    program = program_on(home, "run", *code, program="dagster._daemon", **variables)
    process = started_with_log(log, program, ahead)

    def is_running() -> None:
        assert process.poll() is None, log.read_text()

    try:
        yield is_running
    finally:
        kill_with_children(process.pid)
        process.communicate()
