"""The collector of reference cycles: seldom at work in processes of this program, and never in short commands."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


def collect_seldom() -> None:
    """Look for cycles after 100,000 new objects instead of 700, in a process that is this program's own.

    A catalog is read into a million small objects without cycles, and to look for cycles takes a fifth of that time. Of
    the time that Dagster and this program take to load, it takes a quarter.
    """
    gc.set_threshold(100_000, 10, 10)


@contextmanager
def no_collection() -> Iterator[None]:
    """Look for no cycles during a command: it makes a million objects without any, and ends.

    To look for cycles takes a tenth of the time of `report`.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
