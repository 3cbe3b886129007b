"""Proving in groups of pairs: steps of their own count the trades of their pairs and heal what is short.

All processes share the limiter, so that groups bring no more requests a second than one process. A group that makes any
asks for the exchange's status first.
"""

from __future__ import annotations

from collections.abc import Sequence

from kraken_pipeline.coverage.anchors import Spacing
from kraken_pipeline.storage.records import evidence_records
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import costs
from kraken_pipeline.workflow.backfill.outcome import Filled
from kraken_pipeline.workflow.costs import Change
from kraken_pipeline.workflow.pair_groups import step_groups
from kraken_pipeline.workflow.proof.counting import in_order, look_up
from kraken_pipeline.workflow.proof.prove import ProveOutcome
from kraken_pipeline.workflow.run_spec import RunSpec


def groups_to_prove(stores: Stores, spec: RunSpec, spacing: Spacing, now: int) -> list[list[str]]:
    """Return the selected pairs in groups, by their first requests and their candles.

    There are none for a run with a budget: it makes its requests in order, first those at the edges of all spans.

    Raises:
        InvalidRequest: The catalog knows nothing of the selection.
    """
    if spec.budget is not None:
        return []
    names = in_order(stores, spec)
    candles = dict.fromkeys(names, 0)
    with stores.catalog.read() as connection:
        for series, extent in evidence_records.extents(connection, names).items():
            candles[series.pair] += extent.candles
    seconds: dict[str, float] = {}
    for name in names:
        known = look_up(stores, name, spec, spacing, now)
        requests = sum(len(known.needs(stretch)) for stretch in known.open)
        seconds[name] = costs.requesting(requests, stores.settings.kraken_api_rate)
        seconds[name] += costs.comparing([Change(candles[name])], 1)
    return step_groups(seconds, stores.settings.kraken_workers)


def together(parts: Sequence[ProveOutcome]) -> ProveOutcome:
    """Return the results of several groups as one result, without verdicts."""
    filled = Filled()
    for part in parts:
        filled.add(part.filled)
    return ProveOutcome(
        (),
        sum(part.requests for part in parts),
        tuple(failure for part in parts for failure in part.failed),
        tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        filled.outcomes(),
        sum(part.refuted for part in parts),
        min(part.now for part in parts),
    )
