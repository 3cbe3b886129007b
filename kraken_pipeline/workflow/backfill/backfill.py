"""Backfilling: fills gaps along their routes, the cheapest source first.

Resampling costs nothing and runs before, between and after the other routes. OHLC comes next, because its routes
expire, and then trades. `ingest` fills the ARCHIVE route. What cannot be asked for now (maintenance, no answer, no
budget left) is left unchanged to the next run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from kraken_pipeline.coverage.ranges import subtract
from kraken_pipeline.coverage.routing import Route, asked_of
from kraken_pipeline.errors import PipelineError
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.records import dead_letters, evidence_records
from kraken_pipeline.storage.records.dead_letters import Operation
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.ask import fetch_each, fill_through_api
from kraken_pipeline.workflow.backfill.exchange import connected
from kraken_pipeline.workflow.backfill.fetch import Budget
from kraken_pipeline.workflow.backfill.outcome import BackfillOutcome
from kraken_pipeline.workflow.backfill.work import Asked, BackfillWork
from kraken_pipeline.workflow.gaps.selection import Fetch, estimated, unprobed
from kraken_pipeline.workflow.gaps.snapshot import load_snapshot
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile.quiet_search import QuietSearch
from kraken_pipeline.workflow.reconcile.reconcile import reconcile_changes
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec


def backfill(
    stores: Stores,
    spec: RunSpec,
    run: RunContext,
    earlier: Sequence[Asked] = (),
    searched: Sequence[QuietSearch] = (),
) -> BackfillOutcome:
    """Fill the gaps that can be filled, and record those that are left.

    Args:
        stores: The stores.
        spec: The selection, and the limits.
        run: The context of the run.
        earlier: The parts that earlier steps of the run have done.
        searched: The searches of pairs for quiet time that earlier steps have made.

    Raises:
        InvalidRequest: Nothing is known of the selection.
    """
    run.report(phase="resampling")
    work = BackfillWork(stores, spec, run, earlier, partial(reconcile_changes, searched=searched))
    if spec.api_backfill:
        fill_through_api(work)
    else:
        work.resample()
    run.report(phase="finding gaps", candles=run.progress.candles + work.filled.candles_stored)
    left = work.settled_gaps()
    run.finish("finding gaps")
    settle_operations(stores, run.now)
    return work.outcome(left)


def planned(stores: Stores, spec: RunSpec, now: int) -> list[Fetch]:
    """Return the fetches of a backfill in its order, as things stand; request nothing and write nothing.

    Raises:
        InvalidRequest: Nothing is known of the selection.
    """
    if not spec.api_backfill:
        return []
    replies, trades = BackfillWork(stores, spec, RunContext("plan", now)).selected()
    return [*replies, *trades]


def beyond(stores: Stores, spec: RunSpec, now: int) -> list[str]:
    """Return the pairs whose first trade a backfill asks for first; no plan includes the time before their candles yet.

    Raises:
        InvalidRequest: Nothing is known of the selection.
    """
    return unprobed(load_snapshot(stores, spec, now), spec) if spec.api_backfill else []


def settle_operations(stores: Stores, now: int) -> int:
    """Settle the operations that failed for good and are covered by now; return their number."""
    with stores.catalog.write() as connection:
        given_up = dead_letters.operations(connection, None)
        covered = evidence_records.coverage_of(
            connection, pairs=sorted({operation.series.pair for operation in given_up})
        )
        done = [
            operation.id
            for operation in given_up
            if not subtract((operation.span,), tuple(record.span for record in covered.get(operation.series, ())))
        ]
        if done:
            dead_letters.settle(connection, done, now)
    return len(done)


def retry(stores: Stores, given_up: Sequence[Operation], run: RunContext) -> BackfillOutcome:
    """Retry operations that failed for good, each unchanged; settle those that succeed.

    Args:
        stores: The stores to write to.
        given_up: The operations to retry.
        run: The run that retries them.
    """
    if not given_up:
        return BackfillOutcome()
    pairs, intervals = (
        {operation.series.pair for operation in given_up},
        {operation.series.interval for operation in given_up},
    )
    work = BackfillWork(stores, run_spec(pairs=sorted(pairs), intervals=sorted(intervals), complete=True), run)
    with stores.locks.slot("api", stores.settings.kraken_parallel_runs), connected(stores) as exchange:
        budget = Budget(exchange, None)
        try:
            exchange.require_online()
        except PipelineError as error:
            work.notes.append(f"Nothing was retried: {error}")
        else:
            fetches = [_fetch_again(operation) for operation in given_up]
            run.report(phase="retrying", requests_total=exchange.requests + estimated(fetches))
            fetch_each(work, exchange, fetches, budget)
            run.finish("retrying")
        work.requests = exchange.requests
        work.notes += exchange.warnings
    work.resample()
    run.report(phase="finding gaps", candles=work.filled.candles_stored)
    settle_operations(stores, run.now)
    return work.outcome(work.settled_gaps())


def _fetch_again(operation: Operation) -> Fetch:
    route = Route(operation.route)
    asked = Series(operation.series.pair, asked_of(operation.series.interval) if route is Route.OHLC else Interval.M1)
    return Fetch(route, asked, (operation.span,), ((operation.series, operation.span),), 1)
