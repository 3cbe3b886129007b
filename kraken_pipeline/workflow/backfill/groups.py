"""Requests in groups of pairs: the fetches of a backfill that steps of their own make, each for pairs of its own.

What concerns all pairs is asked for before, and the quiet time that only trades can prove afterwards. All processes
share the limiter, so that groups bring no more requests a second than one process. A group asks for the status at most
once, because a worker may need the exchange's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import costs
from kraken_pipeline.workflow.backfill.ask import BUDGET_SPENT, allowed_requests, asking, fetch_all, has_to_ask, prepare
from kraken_pipeline.workflow.backfill.work import Asked, BackfillWork, of_pairs
from kraken_pipeline.workflow.gaps.selection import Fetch, estimated
from kraken_pipeline.workflow.pair_groups import step_groups
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile.reconcile import compare_changes
from kraken_pipeline.workflow.run_spec import RunSpec

_OF_EACH = 1
"""The number of requests that each group may make beside its fetches: one for the status."""


@dataclass(frozen=True, slots=True)
class RequestGroup:
    """The pairs whose fetches one step makes.

    Attributes:
        pairs: The pairs, the one with the most requests first.
        allowed: The number of requests that it may make; None for no limit.
    """

    pairs: tuple[str, ...]
    allowed: int | None


def groups_to_request(stores: Stores, spec: RunSpec, run: RunContext) -> tuple[Asked, list[RequestGroup]]:
    """Resample, ask the exchange for what concerns all pairs, and return the pairs to fetch in groups.

    There are none if the budget of the run does not cover all fetches: they are then made in their order by one step.

    Raises:
        InvalidRequest: Nothing is known of the selection, neither here nor by the exchange.
    """
    work = BackfillWork(stores, spec, run)
    if not has_to_ask(work):
        return Asked(work.outcome(())), []
    with asking(work) as (exchange, budget):
        is_prepared = prepare(work, exchange, budget)
    asked = Asked(work.outcome(()), is_prepared=is_prepared, is_stopped=not is_prepared)
    if not is_prepared:
        return asked, []
    work.open.record()
    replies, trades = work.selected()
    allowed = allowed_requests(stores, spec)
    left = None if allowed is None else max(0, allowed - work.requests)
    return asked, _groups((*replies, *trades), left, stores)


def _groups(fetches: Sequence[Fetch], left: int | None, stores: Stores) -> list[RequestGroup]:
    requests: dict[str, int] = {}
    for fetch in fetches:
        requests[fetch.series.pair] = requests.get(fetch.series.pair, 0) + fetch.requests
    seconds = {pair: costs.requesting(count, stores.settings.kraken_api_rate) for pair, count in requests.items()}
    groups = step_groups(seconds, stores.settings.kraken_workers)
    if left is None:
        return [RequestGroup(tuple(pairs), None) for pairs in groups]
    total, spare = estimated(fetches), left - len(groups) * _OF_EACH
    if total > spare:
        return []
    shares = (_OF_EACH + spare * sum(requests[pair] for pair in pairs) // total for pairs in groups)
    return [RequestGroup(tuple(pairs), share) for pairs, share in zip(groups, shares, strict=True)]


def request_group(stores: Stores, spec: RunSpec, group: RequestGroup, run: RunContext) -> Asked:
    """Make the fetches of some pairs, and resample and compare what they brought.

    Args:
        stores: The stores.
        spec: The spec of the run.
        group: The pairs, and their share of the budget.
        run: The context of the run.
    """
    its = of_pairs(spec, group.pairs).model_copy(update={"budget": group.allowed})
    work = BackfillWork(stores, its, run, reconcile=compare_changes)
    work.resample()
    with asking(work) as (exchange, budget):
        may_go_on = fetch_all(work, exchange, budget)
        is_cut_short = not may_go_on and budget.is_spent
    if is_cut_short:  # the last step goes on with what other groups have left of the budget
        work.notes = [note for note in work.notes if not note.startswith(BUDGET_SPENT)]
    return Asked(
        work.outcome(()),
        frozenset() if is_cut_short else frozenset(work.tried),
        work.withheld,
        has_fetched=True,
        is_cut_short=is_cut_short,
        is_stopped=not may_go_on and not is_cut_short,
    )
