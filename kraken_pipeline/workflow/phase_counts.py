"""Counts the phases of a run for all processes: their seconds, and the candles that they stored or published."""

from __future__ import annotations

from collections import Counter

from kraken_pipeline.storage.exchange_state import counters
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.progress import Progress, RunContext

_MANY = ("publishing", "withdrawing")
"""The phases of which each table or pair has its own, counted as one."""


def count_phases(stores: Stores, run: RunContext) -> None:
    """Add the phases of a step that has ended to the counters, in one write."""
    counts: Counter[str] = Counter()
    for phase, seconds in run.seconds.items():
        if phase == Progress().phase:  # no work: a dry run has no other phase, and writes nothing
            continue
        counts[f"phase_ms.{kind_of(phase)}"] += round(1_000 * seconds)
        counts[f"phase_candles.{kind_of(phase)}"] += run.candles.get(phase, 0)
    if not counts:
        return
    with stores.catalog.write() as connection:
        counters.add_to(connection, counts, run.now)


def kind_of(phase: str) -> str:
    """Return the name under which a phase is counted: `publishing` for `publishing candles_60`."""
    return next((kind for kind in _MANY if phase.startswith(f"{kind} ")), phase)
