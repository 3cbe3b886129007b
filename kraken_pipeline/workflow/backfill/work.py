"""The work of a backfill: its state, resampling with reconciliation, and the gaps that are left."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kraken_pipeline.coverage.ranges import Spans, subtract, union
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.outcome import BackfillOutcome, Filled, SeriesOutcome, together
from kraken_pipeline.workflow.backfill.resampling import resample_gaps
from kraken_pipeline.workflow.gaps.gaps import Gap
from kraken_pipeline.workflow.gaps.open_gaps import OpenGaps
from kraken_pipeline.workflow.gaps.selection import Fetch, selected
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile.reconcile import Reconciled, compare_changes, give_up, reconcile_changes
from kraken_pipeline.workflow.run_spec import RunSpec

_ROUNDS = 3 * len(Interval)
"""The most rounds. Healing one interval can reveal gaps of the next coarser one; more rounds would be a bug."""


Reconcile = Callable[[Stores, Iterable[str], RunContext], Reconciled]
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
    work = BackfillWork(stores, of_pairs(spec, pairs), run, reconcile=compare_changes)
    work.resample()
    return work.outcome(())


def of_pairs(spec: RunSpec, pairs: Collection[str]) -> RunSpec:
    """Return the spec of a run for some of its pairs alone."""
    return spec.model_copy(update={"pairs": tuple(sorted(pairs))})


@dataclass(frozen=True, slots=True)
class Asked:
    """The part of a backfill that one of several steps has done.

    Attributes:
        outcome: Its outcome, without the gaps that are left.
        tried: The fetches that it made.
        withheld: The spans of trades that the exchange left out twice, by series.
        is_prepared: Whether it asked for what concerns all pairs: the status, the list of pairs, first trades.
        has_fetched: Whether it made all fetches of its pairs, unless `is_cut_short`.
        is_cut_short: Whether its share of the budget did not suffice for its fetches.
        is_stopped: Whether the rest of the run is to make no requests, because the exchange does not answer.
    """

    outcome: BackfillOutcome
    tried: frozenset[tuple[str, Spans]] = frozenset()
    withheld: Mapping[Series, Spans] = field(default_factory=dict)
    is_prepared: bool = False
    has_fetched: bool = False
    is_cut_short: bool = False
    is_stopped: bool = False


@dataclass(slots=True)
class BackfillWork:
    """The work of a backfill: its state so far, and the steps that cost no request.

    Attributes:
        stores: The stores.
        spec: The spec of the run.
        run: The context of the run.
        earlier: The parts that earlier steps of the run have done.
        reconcile: Reconciles what has changed of the pairs.
        open: The open gaps of the selection.
        filled: The series in which something was filled so far.
        failed: The fetches that failed, with the error.
        notes: Notes for people.
        requests: The number of requests made, without those of the present connection.
        refuted: The number of spans that were refuted because another interval contradicts them.
        conflicts: The number of contradictions that were left to a person.
        healed: The number of contradictions that no longer exist.
        tried: The fetches that were made.
        withheld: The spans of trades that the exchange left out twice, by series.
    """

    stores: Stores
    spec: RunSpec
    run: RunContext
    earlier: Sequence[Asked] = ()
    reconcile: Reconcile = reconcile_changes
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
        before = together([asked.outcome for asked in self.earlier])
        self.filled.add(before.filled)
        self.failed += before.failed
        self.notes += dict.fromkeys(before.notes)
        self.requests, self.refuted = before.requests, before.refuted
        self.conflicts, self.healed = before.conflicts, before.healed
        for asked in self.earlier:
            self.tried |= asked.tried
            for series, spans in asked.withheld.items():
                self.withheld[series] = union(self.withheld.get(series, ()), spans)

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
            changed=self.open.changed,
        )

    def add(self, filled: Sequence[SeriesOutcome]) -> None:
        """Add what was filled to the outcome of its series; a series may take several replies."""
        self.filled.add(filled)
        self.open.change(outcome.series.pair for outcome in filled)

    def resample(self) -> None:
        """Resample what follows from finer candles, reconcile the changes, and repeat for what that refutes."""
        for _ in range(_ROUNDS):
            self.add(resample_gaps(self.stores, self.open.gaps, self.run))
            done = self.reconcile(self.stores, self.open.snapshot.pairs, self.run)
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
