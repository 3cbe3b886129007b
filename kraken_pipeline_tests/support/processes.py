"""Other processes to test with: each runs one function of the tests, and is killed if it outlives its test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def process(function: Callable[..., None], *arguments: str | int) -> Iterator[subprocess.Popen[str]]:
    """Runs a function, with these arguments, in a process of its own."""
    code = f"from {function.__module__} import {function.__name__} as function; function(*{arguments!r})"
    running = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def line(running: subprocess.Popen[Any]) -> str:
    """Waits for the next line that a process prints."""
    assert running.stdout is not None
    return str(running.stdout.readline()).strip()


def tell(running: subprocess.Popen[Any]) -> None:
    """Lets a process go on that waits for a line."""
    assert running.stdin is not None
    running.stdin.write("\n")
    running.stdin.flush()


def result(running: subprocess.Popen[Any]) -> str:
    """Waits for the end of a process, which must be a good one, and gives what it printed."""
    printed, _ = running.communicate()
    assert running.returncode == 0
    return str(printed).strip()
