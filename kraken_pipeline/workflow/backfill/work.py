"""The work of a backfill: its state, resampling with reconciliation, and the gaps that are left."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from kraken_pipeline.coverage.ranges import Spans, subtract
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.outcome import BackfillOutcome, Filled, SeriesOutcome
from kraken_pipeline.workflow.backfill.resampling import resample_gaps
from kraken_pipeline.workflow.gaps.gaps import Gap
from kraken_pipeline.workflow.gaps.open_gaps import OpenGaps
from kraken_pipeline.workflow.gaps.selection import Fetch, selected
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile.reconcile import Reconciled, compare_changes, give_up, reconcile_changes
from kraken_pipeline.workflow.run_spec import RunSpec

_ROUNDS = 3 * len(Interval)
"""The most rounds. Healing one interval can reveal gaps of the next coarser one; more rounds would be a bug."""


_Reconcile = Callable[[Stores, Iterable[str], RunContext], Reconciled]
"""Reconciles what has changed of some pairs."""


def settle_pairs(stores: Stores, spec: RunSpec, pairs: Collection[str], run: RunContext) -> BackfillOutcome:
    """Resample some pairs and compare their intervals: the work that needs neither the exchange nor other pairs.

    Args:
        stores: The stores.
        spec: The spec of the run, whose other selected pairs are left out.
        pairs: The pairs, of which something is known.
        run: The context of the run.

    Returns:
        The outcome, without the gaps that are left.
    """
    work = BackfillWork(stores, spec.model_copy(update={"pairs": tuple(sorted(pairs))}), run)
    work.resample(compare_changes)
    return work.outcome(())


@dataclass(slots=True)
class BackfillWork:
    """The work of a backfill: its state so far, and the steps that cost no request.

    Attributes:
        stores: The stores.
        spec: The spec of the run.
        run: The context of the run.
        open: The open gaps of the selection.
        filled: The series in which something was filled so far.
        failed: The fetches that failed, with the error.
        notes: Notes for people.
        requests: The number of requests made.
        refuted: The number of spans that were refuted because another interval contradicts them.
        conflicts: The number of contradictions that were left to a person.
        healed: The number of contradictions that no longer exist.
        tried: The fetches that were made.
        withheld: The spans of trades that the exchange left out twice, by series.
    """

    stores: Stores
    spec: RunSpec
    run: RunContext
    open: OpenGaps = field(init=False)
    filled: Filled = field(default_factory=Filled)
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    requests: int = 0
    refuted: int = 0
    conflicts: int = 0
    healed: int = 0
    tried: set[tuple[str, Spans]] = field(default_factory=set)
    withheld: dict[Series, Spans] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.open = OpenGaps(self.stores, self.spec, self.run.now)

    def outcome(self, left: Sequence[Gap]) -> BackfillOutcome:
        """Return the outcome, with the gaps that are left."""
        return BackfillOutcome(
            self.filled.outcomes(),
            tuple(left),
            self.requests,
            tuple(self.failed),
            tuple(self.notes),
            refuted=self.refuted,
            conflicts=self.conflicts,
            healed=self.healed,
        )

    def add(self, filled: Sequence[SeriesOutcome]) -> None:
        """Add what was filled to the outcome of its series; a series may take several replies."""
        self.filled.add(filled)
        self.open.change(outcome.series.pair for outcome in filled)

    def resample(self, reconcile: _Reconcile = reconcile_changes) -> None:
        """Resample what follows from finer candles, reconcile the changes, and repeat for what that refutes."""
        for _ in range(_ROUNDS):
            self.add(resample_gaps(self.stores, self.open.gaps, self.run))
            done = reconcile(self.stores, self.open.snapshot.pairs, self.run)
            self.open.change(done.changed)
            self.refuted += done.refuted
            self.conflicts += done.conflicts
            self.healed += done.healed
            self.notes += done.notes
            if not (done.refuted or done.given_back):
                return
        self.notes.append("Reconciliation refuted more than this run could fill; the next run continues.")

    def settled_gaps(self) -> list[Gap]:
        """Record and return the gaps that are left in the end.

        Refutations without a route left become conflicts, and their coverage comes back.
        """
        for _ in range(_ROUNDS):
            left = self.open.record(anew=True)
            ended = give_up(self.stores, self.spec, self.open.snapshot, self.run)
            if not ended:
                break
            self.open.change(ended)
            self.resample()
        return left

    def is_withheld(self, fetch: Fetch) -> bool:
        """Return whether a fetch asks only for trades that the exchange has left out twice in this run."""
        return fetch.route is Route.TRADES and not subtract(fetch.spans, self.withheld.get(fetch.series, ()))

    def selected(self) -> tuple[list[Fetch], list[Fetch]]:
        """Return the fetches to make, as things stand."""
        return selected(self.stores, self.spec, self.open.snapshot, self.open.gaps)
