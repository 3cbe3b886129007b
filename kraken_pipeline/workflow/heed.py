"""Heeding damage: work that meets a damaged file is retried without what that file had covered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from kraken_pipeline.errors import DamagedFile

Result = TypeVar("Result")


def heeding(work: Callable[[], Result]) -> Result:
    """Return the result of some work, which is retried after each damaged file that it meets.

    The lake has recorded the damage by then, so that the retry sees a gap where the file had covered time.

    Raises:
        DamagedFile: The work met the same files again, for example because nothing can be recorded.
    """
    met: set[str] = set()
    while True:
        try:
            return work()
        except DamagedFile as error:
            if met >= set(error.paths):
                raise
            met |= set(error.paths)
