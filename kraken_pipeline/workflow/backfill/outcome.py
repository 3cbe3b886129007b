"""The outcome of a backfill."""

from __future__ import annotations

from dataclasses import dataclass

from kraken_pipeline.workflow.backfill.resampling import SeriesOutcome
from kraken_pipeline.workflow.gaps.gaps import Gap


@dataclass(frozen=True, slots=True)
class BackfillOutcome:
    """The outcome of a backfill.

    Attributes:
        filled: The series in which something was filled.
        gaps: The gaps that are left, with their routes; all of them are recorded.
        requests: The number of requests that it made.
        failed: The fetches that failed, with the error.
        notes: Notes for people: why something was not asked for, what a reply lacked.
        refuted: The number of spans that were refuted because another interval contradicts them.
        conflicts: The number of contradictions that were left to a person.
        healed: The number of contradictions that no longer exist.
    """

    filled: tuple[SeriesOutcome, ...]
    gaps: tuple[Gap, ...]
    requests: int = 0
    failed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    refuted: int = 0
    conflicts: int = 0
    healed: int = 0
