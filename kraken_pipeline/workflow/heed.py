"""Heeding damage: work that meets a damaged file is done again without what that file had covered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from kraken_pipeline.errors import DamagedFile

Result = TypeVar("Result")


def heeding(work: Callable[[], Result]) -> Result:
    """Return the result of some work, which is begun again after each damaged file that it meets.

    The lake has put the damage on record by then, so that what the file had covered is a gap for the next attempt.

    Raises:
        DamagedFile: The work met the same files again, as where nothing can be put on record.
    """
    met: set[str] = set()
    while True:
        try:
            return work()
        except DamagedFile as error:
            if met >= set(error.paths):
                raise
            met |= set(error.paths)
