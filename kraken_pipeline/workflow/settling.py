"""The work on ingested series that needs neither the exchange nor other pairs: their own process does it at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.outcome import BackfillOutcome
from kraken_pipeline.workflow.backfill.outcome import together as filled_together
from kraken_pipeline.workflow.backfill.work import settle_pairs
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile.quiet_search import QuietSearch, search_changes
from kraken_pipeline.workflow.run_spec import RunSpec
from kraken_pipeline.workflow.verify.verify import Broken, broken_candles


@dataclass(frozen=True, slots=True)
class Settled:
    """The result of the work on some ingested series and on their pairs.

    Attributes:
        filled: The outcome of resampling and reconciling, without the gaps that are left.
        searched: The searches of the pairs for quiet time, of which nothing is recorded yet.
        rules: Series → the rules that its candles break. Each series whose candles have changed is there.
    """

    filled: BackfillOutcome = field(default_factory=BackfillOutcome)
    searched: tuple[QuietSearch, ...] = ()
    rules: Mapping[Series, Sequence[Broken]] = field(default_factory=dict)

    @property
    def candles_stored(self) -> int:
        """The number of candles that resampling has stored."""
        return sum(outcome.candles_stored for outcome in self.filled.filled)


def settle(stores: Stores, spec: RunSpec, ingested: Collection[Series], run: RunContext) -> Settled:
    """Resample and compare the pairs of ingested series, search them for quiet time, and check what was stored.

    Args:
        stores: The stores.
        spec: The spec of the run, whose other selected pairs are left out.
        ingested: The series.
        run: The context of the run.
    """
    pairs = {series.pair for series in ingested}
    filled = settle_pairs(stores, spec, pairs, run)
    stored = {*ingested, *(outcome.series for outcome in filled.filled)}
    return Settled(filled, (search_changes(stores, pairs),), checked(stores, stored, run.now))


def checked(stores: Stores, series: Collection[Series], now: int) -> dict[Series, Sequence[Broken]]:
    """Return the rules that the candles of each of some series break."""
    rules: dict[Series, list[Broken]] = {one_series: [] for one_series in series}
    for broken in broken_candles(stores, series, now):
        rules[broken[0]].append(broken)
    return dict(rules)


def together(parts: Iterable[Settled]) -> Settled:
    """Return the results of several parts as one; where two have checked a series, the later one counts."""
    found = list(parts)
    return Settled(
        filled_together([part.filled for part in found]),
        tuple(search for part in found for search in part.searched),
        {series: rules for part in found for series, rules in part.rules.items()},
    )
