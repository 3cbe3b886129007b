"""`kraken-pipeline` on a home of a test's own, in this process or in one of its own, with no outer setting."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.cli.app import main
from kraken_pipeline.logs import LOGGER
from kraken_pipeline.settings import Settings
from kraken_pipeline_tests.support.homes import NOBODY
from kraken_pipeline_tests.support.processes import Program, Running, started
from kraken_pipeline_tests.support.remembering import remember_engines

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 120
_UNSET = tuple(name.upper() for name in Settings.model_fields)


@dataclass(frozen=True, slots=True)
class Said:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be JSON and nothing else."""
        return json.loads(self.out)


def environment(home: Path) -> dict[str, str]:
    """Everything lies in one folder; an instance of Dagster's is described by the project's own file."""
    instance = home.parent / f"{home.name}-instance"
    instance.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "dagster.yaml", instance)
    return {
        "DAGSTER_HOME": str(instance),
        "KRAKEN_PIPELINE_HOME": str(home),
        "KRAKEN_DAGSTER_STORAGE": str(home / "dagster"),
        "KRAKEN_SETTLE_SECONDS": "0",
        "KRAKEN_API_URL": NOBODY,
        "KRAKEN_API_RETRY_SECONDS": "0",
        "KRAKEN_API_RATE": "50",
    }


def shell(home: Path, *arguments: str, **variables: str) -> Said:
    """`kraken-pipeline ARGUMENTS` in the home's folder, run to its end in this process."""
    # An empty variable counts as not set, and keeps what a developer's .env says of it out.
    every = {**dict.fromkeys(_UNSET, ""), **environment(home), "KRAKEN_LOG_LEVEL": "CRITICAL", **variables}
    out, err = io.StringIO(), io.StringIO()
    logger = logging.getLogger(LOGGER)
    logging_before = logger.handlers, logger.level, logger.propagate
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        remember_engines(patch)
        patch.chdir(home.parent)
        for name, value in every.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["kraken-pipeline", *arguments])
        try:
            main()
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        finally:
            logger.handlers, level, logger.propagate = logging_before
            logger.setLevel(level)
    return Said(code, out.getvalue(), err.getvalue())


def start(home: Path, *arguments: str, program: str = "kraken_pipeline.cli.app", **variables: str) -> Running:
    """A program in a process of its own, started in the home's folder."""
    return started(program_on(home, *arguments, program=program, **variables))


def start_on(terminal: int, home: Path, *arguments: str, program: str = "kraken_pipeline", **variables: str) -> Running:
    """A program in a process of its own, on the terminal or the file of this descriptor."""
    return started(program_on(home, *arguments, program=program, **variables), terminal)


def program_on(home: Path, *arguments: str, program: str, **variables: str) -> Program:
    """A program that is to be started in the home's folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KRAKEN_", "DAGSTER_"))}
    given = {**kept, **dict.fromkeys(_UNSET, ""), **environment(home), "PYTHONPATH": str(ROOT), **variables}
    return Program(program, arguments, home.parent, given)


def ended(process: Running) -> Said:
    """What a started program did, when it has come to its end."""
    out, err = process.communicate(timeout=TIMEOUT)
    return Said(process.returncode, out, err)
