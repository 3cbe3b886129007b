"""What a backfill did."""

from __future__ import annotations

from dataclasses import dataclass

from kraken_pipeline.workflow.backfill.resampling import SeriesOutcome
from kraken_pipeline.workflow.gaps.gaps import Gap


@dataclass(frozen=True, slots=True)
class BackfillOutcome:
    """What a backfill did.

    Attributes:
        filled: The series in which something was filled.
        gaps: The gaps that are left, with their routes; all of them are on record.
        requests: How many requests it made.
        failed: What was asked for in vain, with the error.
        notes: What else people should know: why something was not asked for, what an answer lacked.
        refuted: How many spans were taken back because another interval contradicts them.
        conflicts: How many contradictions were left to a person.
        healed: How many contradictions are none any more.
    """

    filled: tuple[SeriesOutcome, ...]
    gaps: tuple[Gap, ...]
    requests: int = 0
    failed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    refuted: int = 0
    conflicts: int = 0
    healed: int = 0
