"""The programs as a user starts them: in processes of their own, on a home of the test's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 120


def environment(home: Path) -> dict[str, str]:
    """An environment in which everything lies in one folder; the project's own `.env` is out of reach."""
    instance = home.parent / f"{home.name}-instance"
    instance.mkdir(exist_ok=True)
    shutil.copy(ROOT / "dagster.yaml", instance)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KRAKEN_", "DAGSTER_"))}
    return kept | {
        "DAGSTER_HOME": str(instance),
        "KRAKEN_PIPELINE_HOME": str(home),
        "KRAKEN_DAGSTER_STORAGE": str(home / "dagster"),
        "KRAKEN_SETTLE_SECONDS": "0",
        "PYTHONPATH": str(ROOT),
    }


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """`kraken-pipeline ARGUMENTS`, started."""
    return subprocess.Popen(
        [sys.executable, "-m", "kraken_pipeline.cli", *arguments],
        cwd=home.parent,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(home: Path, *arguments: str, code: int = 0) -> str:
    """What `kraken-pipeline ARGUMENTS` prints on standard output; its exit code must be the one expected."""
    process = start(home, *arguments)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    return out


def run_json(home: Path, *arguments: str, code: int = 0) -> Any:
    """The JSON that a command with `--json` prints, alone."""
    return json.loads(run(home, *arguments, "--json", code=code))


def dagster(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`dagster ARGUMENTS`, run to its end in the folder of the home."""
    return subprocess.run(
        [sys.executable, "-m", "dagster", *arguments],
        cwd=home.parent,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
