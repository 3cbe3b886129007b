"""Disks of a test's own: small ones that fill up, and folders that are only to read."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


@contextmanager
def mounted(at: Path, *arguments: str) -> Iterator[Path]:
    """Something that is mounted on a folder for as long as a block runs."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    at.mkdir(parents=True)
    mount(*arguments, str(at))
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)
