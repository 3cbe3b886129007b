"""Completion: fills gaps and, for a run with `complete`, counts its trades by their ids at the end."""

from __future__ import annotations

from dataclasses import replace

from kraken_pipeline.coverage.anchors import Spacing
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.backfill import backfill
from kraken_pipeline.workflow.backfill.outcome import BackfillOutcome, Filled
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.proof.counting import ProofCost, cost
from kraken_pipeline.workflow.proof.prove import ProveOutcome, prove
from kraken_pipeline.workflow.run_spec import RunSpec


def fill(stores: Stores, spec: RunSpec, run: RunContext) -> BackfillOutcome:
    """Fill gaps as `backfill` does; with `complete`, also prove the candles by the ids of their trades.

    Raises:
        InvalidRequest: The catalog knows nothing of the selection.
    """
    done = backfill(stores, spec, run)
    if not (spec.complete and spec.api_backfill):
        return done
    allowed = None if spec.budget is None else max(0, spec.budget - done.requests)
    return _together(done, prove(stores, _of_all_intervals(spec), run, allowed=allowed))


def closing_cost(stores: Stores, spec: RunSpec, now: int) -> ProofCost:
    """Return the first requests of the proof at the end of a completion, as things stand.

    Raises:
        InvalidRequest: The catalog knows nothing of the selection.
    """
    return cost(stores, _of_all_intervals(spec), Spacing.QUARTER, now)


def _of_all_intervals(spec: RunSpec) -> RunSpec:
    """Return a spec of the same pairs and time with all intervals: an id counts for a trade in each of them."""
    return RunSpec(tier=spec.tier, pairs=spec.pairs, start=spec.start, end=spec.end)


def _together(done: BackfillOutcome, proof: ProveOutcome) -> BackfillOutcome:
    filled = Filled()
    filled.add(done.filled)
    filled.add(proof.filled)
    return replace(
        done,
        filled=filled.outcomes(),
        requests=done.requests + proof.requests,
        failed=(*done.failed, *proof.failed),
        notes=(*done.notes, *proof.notes),
        refuted=done.refuted + proof.refuted,
    )
