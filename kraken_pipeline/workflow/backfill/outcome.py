"""The outcomes of filling gaps: of a series, and of a whole backfill."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kraken_pipeline.coverage.ranges import Spans, normalise
from kraken_pipeline.market.series import Series
from kraken_pipeline.workflow.gaps.gaps import Gap


@dataclass(frozen=True, slots=True)
class SeriesOutcome:
    """The outcome of filling the gaps of a series.

    Attributes:
        series: The series.
        candles_stored: The number of new or changed candles.
        spans: The spans that were filled.
    """

    series: Series
    candles_stored: int
    spans: Spans


class Filled:
    """The outcomes of several steps, one for each series."""

    def __init__(self) -> None:
        self._outcomes: dict[Series, SeriesOutcome] = {}

    @property
    def candles_stored(self) -> int:
        """The number of new or changed candles in all series."""
        return sum(outcome.candles_stored for outcome in self._outcomes.values())

    def add(self, outcomes: Iterable[SeriesOutcome]) -> None:
        """Add the outcomes of a step to those of earlier steps."""
        for outcome in outcomes:
            known = self._outcomes.get(outcome.series, SeriesOutcome(outcome.series, 0, ()))
            self._outcomes[outcome.series] = SeriesOutcome(
                outcome.series,
                known.candles_stored + outcome.candles_stored,
                normalise((*known.spans, *outcome.spans)),
            )

    def outcomes(self) -> tuple[SeriesOutcome, ...]:
        """Return the outcome of each series, sorted."""
        return tuple(self._outcomes[series] for series in sorted(self._outcomes))


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
        changed: The pairs whose evidence, attempts or gap records it may have changed.
    """

    filled: tuple[SeriesOutcome, ...] = ()
    gaps: tuple[Gap, ...] = ()
    requests: int = 0
    failed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    refuted: int = 0
    conflicts: int = 0
    healed: int = 0
    changed: frozenset[str] = frozenset()


def together(parts: Sequence[BackfillOutcome], gaps: tuple[Gap, ...] = ()) -> BackfillOutcome:
    """Return the outcomes of several parts of one backfill as one outcome.

    Args:
        parts: The outcomes, in their order.
        gaps: The gaps that are left after all of them.
    """
    filled = Filled()
    for part in parts:
        filled.add(part.filled)
    return BackfillOutcome(
        filled.outcomes(),
        gaps,
        sum(part.requests for part in parts),
        tuple(failure for part in parts for failure in part.failed),
        tuple(note for part in parts for note in part.notes),
        refuted=sum(part.refuted for part in parts),
        conflicts=sum(part.conflicts for part in parts),
        healed=sum(part.healed for part in parts),
        changed=frozenset(pair for part in parts for pair in part.changed),
    )
