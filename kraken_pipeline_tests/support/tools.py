"""Programs that others read candles with, each installed in an environment of its own.

`KRAKEN_TEST_FREQTRADE` and `KRAKEN_TEST_NAUTILUS` name the Python of that environment.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline_tests.support import servers

PACKAGES = {"KRAKEN_TEST_FREQTRADE": "freqtrade", "KRAKEN_TEST_NAUTILUS": "nautilus_trader"}
_PYTHONS = {variable: os.environ.get(variable, "") for variable in PACKAGES}  # before a test clears them
TIMEOUT = 180


def loaded(variable: str, program: str, *arguments: str | Path) -> Any:
    """What a program of the tool prints, as JSON; skips the test where the tool is not installed."""
    if not (python := _PYTHONS[variable]):
        reason = f"{variable} names no Python that has {PACKAGES[variable]}"
        if servers.REQUIRED:
            pytest.fail(f"{reason} (KRAKEN_TEST_SERVERS=required)", pytrace=False)
        pytest.skip(reason)
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    said = subprocess.run(
        [python, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        env=bare,
    )
    assert said.returncode == 0, f"{said.stdout}\n{said.stderr}"
    return json.loads(said.stdout.splitlines()[-1])
