"""Filling gaps through the exchange: first OHLC, then trades, within lookback and budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from kraken_pipeline.coverage.gaps import ATTEMPTS, GapStatus
from kraken_pipeline.coverage.ranges import Span, Spans, intersect, normalise, union
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.errors import (
    Busy,
    CircuitOpen,
    ExchangeUnavailable,
    InvalidRequest,
    LastingError,
    Maintenance,
    PipelineError,
    Throttled,
    UnusableReply,
)
from kraken_pipeline.kraken.exchange import Exchange, ListedPairs
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.pair import did_you_mean
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.exchange_state import listings
from kraken_pipeline.storage.exchange_state.listings import ListingRecord
from kraken_pipeline.storage.records import dead_letters, gap_records
from kraken_pipeline.storage.records.gap_records import Attempt
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import costs
from kraken_pipeline.workflow.backfill.exchange import connected
from kraken_pipeline.workflow.backfill.fetch import Budget, Fetched, fetch_ohlc, fetch_trades, grant_quiet
from kraken_pipeline.workflow.backfill.outcome import SeriesOutcome
from kraken_pipeline.workflow.backfill.work import BackfillWork
from kraken_pipeline.workflow.gaps.gaps import failures_at, lookback_start, retry_at
from kraken_pipeline.workflow.gaps.selection import Fetch, estimated, unprobed
from kraken_pipeline.workflow.gaps.snapshot import CatalogSnapshot
from kraken_pipeline.workflow.reconcile.outages import refute_coverage
from kraken_pipeline.workflow.reconcile.suspicion import unproven
from kraken_pipeline.workflow.run_spec import RunSpec

BUDGET_SPENT = "The budget of requests is spent"


def fill_through_api(work: BackfillWork) -> None:
    """Resample, ask the exchange for what is left within the limits of the run, and resample what it answered.

    Raises:
        InvalidRequest: Nothing is known of the selection, neither here nor by the exchange.
    """
    refuted = work.refuted
    if not has_to_ask(work) or any(asked.is_stopped for asked in work.earlier):
        return
    is_known = not work.spec.complete and work.refuted == refuted  # a run that is not complete makes each fetch once
    has_fetched = is_known and any(asked.has_fetched for asked in work.earlier)
    is_fetched = has_fetched and not any(asked.is_cut_short for asked in work.earlier)
    with asking(work) as (exchange, budget):
        if any(asked.is_prepared for asked in work.earlier) or prepare(work, exchange, budget):
            # Checking quiet time can reveal gaps of other pairs.
            while (is_fetched or fetch_all(work, exchange, budget)) and _check_suspects(work, exchange, budget):
                is_fetched = False


def has_to_ask(work: BackfillWork) -> bool:
    """Resample, and return whether anything is left to ask the exchange for.

    Raises:
        InvalidRequest: Nothing is known of the selection.
    """
    if _has_unknown_pairs(work.stores, work.spec):
        return True
    work.resample()
    snapshot = work.open.snapshot
    may_be_back = any(not snapshot.may_be_asked(name) for name in work.spec.pairs)
    return bool(any(work.selected()) or unprobed(snapshot, work.spec) or may_be_back or _suspects(work))


@contextmanager
def asking(work: BackfillWork) -> Iterator[tuple[Exchange, Budget]]:
    """Yield the exchange and the budget that is left once fewer than KRAKEN_PARALLEL_RUNS other runs make requests."""
    stores, allowed = work.stores, allowed_requests(work.stores, work.spec)
    work.run.report(phase="requesting from the exchange")
    with stores.locks.slot("api", stores.settings.kraken_parallel_runs), connected(stores) as exchange:
        yield exchange, Budget(exchange, None if allowed is None else max(0, allowed - work.requests))
        work.requests += exchange.requests
        work.notes += exchange.warnings


def allowed_requests(stores: Stores, spec: RunSpec) -> int | None:
    """Return the number of requests that a run may make; None for no limit."""
    if spec.budget is not None or spec.complete:
        return spec.budget
    return stores.settings.kraken_max_requests_per_run


def _has_unknown_pairs(stores: Stores, spec: RunSpec) -> bool:
    known = {pair.name for pair in stores.lake.asset_ids.pairs()}
    return any(name not in known for name in spec.pairs)


def prepare(work: BackfillWork, exchange: Exchange, budget: Budget) -> bool:
    """Ask for the exchange's status, its list of pairs and first trades; return whether to continue."""
    if budget.is_spent:
        work.notes.append("The budget allows no request: no requests were made.")
        return False
    try:
        exchange.require_online()
        _record_listed(work, exchange, exchange.listed_pairs())
    except PipelineError as error:
        if _has_unknown_pairs(work.stores, work.spec):
            raise  # without an answer, nothing can be done for unknown pairs
        work.notes.append(f"No requests were made, and the gaps stay as they are: {error}")
        return False
    snapshot = work.open.snapshot
    for pair in unprobed(snapshot, work.spec):
        if budget.is_spent:
            break
        try:
            _ask_for_first_trade(work, exchange, snapshot, pair)
        except (CircuitOpen, Maintenance, Throttled) as error:
            work.notes.append(f"The rest is left to the next run: {error}")
            return False
        except PipelineError as error:
            work.failed.append(f"the first trade of {pair}: {error}")
    return True


def _record_listed(work: BackfillWork, exchange: Exchange, listed: ListedPairs) -> None:
    """Record which pairs are listed, and register named pairs that the lake has never held."""
    stores, now = work.stores, work.run.now
    if listed.is_stale:
        work.notes.append("An older list of pairs is used, because the exchange did not answer with a new one.")
    known = {pair.name: pair for pair in stores.lake.asset_ids.pairs()}
    named = [listed.book.resolve(name) for name in work.spec.pairs if name not in known]
    with stores.catalog.read() as connection:
        records = listings.listings_of(connection)
        missed = listings.absences_of(connection)
    # A cached list may be a day old. A fresh one must confirm a first absence, and a second one a day later.
    decides = [name for name, pair in known.items() if listed.lacks(pair) and not _is_gone(records.get(name))]
    decides = [name for name in decides if name not in missed or now - missed[name] >= listings.DAY]
    if decides or any(pair not in listed.book for pair in named):
        listed = exchange.listed_pairs(is_fresh=True)
    for pair in named:
        if pair not in listed.book:
            hint = (
                did_you_mean(pair.name, (*known, *listed.book)) or "; check that its name is written as on the exchange"
            )
            raise InvalidRequest(f"{pair} is unknown: neither the lake nor the exchange has it{hint}")
    stores.lake.asset_ids.register(named)
    here = {name for name, pair in known.items() if pair in listed.book}
    absent = [name for name, pair in known.items() if listed.lacks(pair)]
    with stores.catalog.write() as connection:
        # A cached list was made before this run began.
        new, gone = listings.record_listed(connection, here, absent, min(now, int(listed.made_at)))
        listed_now, missed_now = listings.listings_of(connection), listings.absences_of(connection)
    names = (*known, *(pair.name for pair in named))
    work.open.change(
        name for name in names if listed_now.get(name) != records.get(name) or (name in missed_now) != (name in missed)
    )
    work.notes += [f"{pair} is no longer listed: nothing is expected after its last evidence" for pair in gone]
    work.notes += [
        f"{pair} is not in the exchange's list of pairs: no requests for it are made until it is back; if a list a "
        "day later lacks it too, it counts as delisted"
        for pair in new
    ]


def _is_gone(record: ListingRecord | None) -> bool:
    return record is not None and record.delisted_at is not None


def _ask_for_first_trade(work: BackfillWork, exchange: Exchange, snapshot: CatalogSnapshot, pair: str) -> None:
    first = exchange.first_trade(pair)
    ends = [
        extent.first_time + series.interval.seconds
        for series, extent in snapshot.extents.items()
        if series.pair == pair
    ]
    if ends and (first is None or first >= min(ends)):
        said = "that there has been none" if first is None else f"that it was at {iso(first)}"
        raise UnusableReply(f"Kraken says {said}, but the lake has a candle that ends at {iso(min(ends))}")
    if first is None:
        work.notes.append(f"{pair} has not been traded yet")
        return
    # There was no trade before. Without this grant, the first candle of a coarser interval would never be whole.
    start = min(interval.floor(first) for interval in Interval)
    if start < first:
        grant_quiet(work.stores, Series(pair, Interval.M1), Span(start, first), work.run)
    with work.stores.catalog.write() as connection:
        listings.record_first_trade(connection, pair, first, work.run.now)
    work.open.change([pair])


def _suspects(work: BackfillWork) -> list[tuple[str, Span, str]]:
    """Return the suspicions that can be checked now, within the lookback."""
    now, snapshot = work.run.now, work.open.snapshot
    if not (work.spec.complete or work.stores.settings.kraken_max_requests_per_gap):
        return []
    pairs = [pair for pair in snapshot.pairs if snapshot.may_be_asked(pair)]
    return [
        (pair, span, reason)
        for pair, span, reason in unproven(
            work.stores, pairs, snapshot.rates, lookback_start(work.spec, Interval.M1, now)
        )
        if work.spec.complete or retry_at(snapshot.attempts.get(Series(pair, Interval.M1), ()), span) <= now
    ]


def _check_suspects(work: BackfillWork, exchange: Exchange, budget: Budget) -> bool:
    """Fetch the trades of suspicious quiet time, which costs one request each if the time is quiet.

    Returns:
        Whether the trades have refuted anything, which then has to be fetched in turn.
    """
    wanted = _suspects(work)
    before = work.refuted
    for number, (pair, span, reason) in enumerate(wanted, 1):
        minutes = Series(pair, Interval.M1)
        fetch = Fetch(Route.TRADES, minutes, (span,), ((minutes, span),), 1)
        if (str(fetch), fetch.spans) in work.tried:
            continue
        work.tried.add((str(fetch), fetch.spans))
        work.run.report(phase="checking quiet time")
        if not budget.is_spent:  # otherwise it would become a gap without a request
            try:
                refute_coverage(work.stores, minutes, (span,), reason, work.run)
                work.open.change([pair])
            except Busy as error:
                work.notes.append(str(error))
                continue
        if not fetch_each(work, exchange, [fetch], budget, later=len(wanted) - number):
            break
    work.run.finish("checking quiet time")
    if wanted:
        work.resample()
    return work.refuted > before


def fetch_all(work: BackfillWork, exchange: Exchange, budget: Budget) -> bool:
    """Make all selected fetches; with `complete`, repeat until no new ones follow.

    Returns:
        Whether to continue with requests.
    """
    tried = work.tried
    while True:
        before = len(tried)
        for turn in (0, 1):  # OHLC comes first, so that trades only fill the rest
            work.open.record()
            selection = work.selected()
            chosen = [
                fetch
                for fetch in selection[turn]
                if (str(fetch), fetch.spans) not in tried and not work.is_withheld(fetch)
            ]
            tried |= {(str(fetch), fetch.spans) for fetch in chosen}
            if not chosen:
                continue
            later = () if turn else selection[1]
            pairs = {fetch.series.pair for fetch in (*chosen, *later)}
            phase = "paging through trades" if turn else "requesting candles"
            _expect_requests(work, "paging through trades", budget.within(estimated(later)))
            _expect_requests(work, phase, budget.within(estimated(chosen)))
            work.run.expect("reconciling", costs.reconciling([costs.Change()] * len(pairs), 1))
            work.run.report(
                phase=phase,
                requests_done=work.requests + exchange.requests,
                requests_total=work.requests + exchange.requests + estimated((*chosen, *later)),
            )
            may_go_on = fetch_each(work, exchange, chosen, budget)
            work.run.finish(phase)
            work.resample()
            if not may_go_on:
                return False
        if not work.spec.complete or len(tried) == before:
            return True


def _expect_requests(work: BackfillWork, phase: str, requests: int) -> None:
    work.run.expect(phase, costs.requesting(requests, work.stores.settings.kraken_api_rate), is_remote=True)


def fetch_each(
    work: BackfillWork, exchange: Exchange, chosen: Sequence[Fetch], budget: Budget, *, later: int = 0
) -> bool:
    """Make fetches one after another, as the phase that the run is in.

    Args:
        work: The backfill.
        exchange: The exchange to ask.
        chosen: The fetches.
        budget: The budget of the run.
        later: The number of requests that the same phase makes afterwards.

    Returns:
        Whether to continue with requests.
    """
    phase = work.run.progress.phase
    for number, fetch in enumerate(chosen):
        _expect_requests(work, phase, budget.within(estimated(chosen[number:]) + later))
        if budget.is_spent:
            left = quantity(len(chosen) - number, "fetch is", "fetches are")
            work.notes.append(f"{BUDGET_SPENT}; {left} left to the next run.")
            return False
        answered: list[Span] = []
        try:
            _mark(work, fetch)
            is_whole = _persistently(work, exchange, partial(_fetch_one, work, exchange, fetch, budget, answered))
        except Busy as error:
            work.notes.append(str(error))
        except (CircuitOpen, Maintenance, Throttled) as error:
            work.notes.append(f"The rest is left to the next run: {error}")
            return False
        except ExchangeUnavailable as error:
            if _is_in_maintenance(exchange):
                work.notes.append("The exchange is in maintenance; the rest is left to the next run.")
                return False
            _record_success(work, fetch, normalise(answered))
            _record_failure(work, fetch, error, has_progressed=bool(answered))
        except LastingError as error:
            _record_failure(work, fetch, error)
        else:
            _record_success(work, fetch, normalise(answered))
            if not is_whole and not _may_go_on(work, fetch, budget):
                return False
        _report(work, exchange)
    return True


def _may_go_on(work: BackfillWork, stopped: Fetch, budget: Budget) -> bool:
    """Return whether to continue after a fetch that a budget stopped: not if it was the run's budget."""
    if budget.is_spent:
        work.notes.append(f"{BUDGET_SPENT}; the rest is left to the next run.")
        return False
    work.notes.append(f"{stopped} needs more requests than the limit of a gap; the next run continues.")
    return True


def _mark(work: BackfillWork, fetch: Fetch) -> None:
    work.open.change([fetch.series.pair])
    with work.stores.catalog.write() as connection:
        for series, span in fetch.serves:
            gap_records.mark(connection, series, [span], GapStatus.BACKFILLING)


def _fetch_one(work: BackfillWork, exchange: Exchange, fetch: Fetch, budget: Budget, answered: list[Span]) -> bool:
    """Make one fetch; return whether it was completed."""

    def keep(fetched: Fetched) -> None:
        work.add([SeriesOutcome(fetch.series, fetched.candles_stored, fetched.answered)])
        work.notes += fetched.notes
        work.withheld[fetch.series] = union(work.withheld.get(fetch.series, ()), fetched.withheld)
        answered[:] = normalise((*answered, *fetched.answered))
        _report(work, exchange)

    if fetch.route is Route.OHLC:
        keep(fetch_ohlc(work.stores, exchange, fetch.series, fetch.spans, work.run))
        return True
    # The cost of a gap is only estimated beforehand; here it is a limit.
    most = None if work.spec.complete else work.stores.settings.kraken_max_requests_per_gap * len(fetch.spans)
    budgets = (budget, Budget(exchange, most))
    return fetch_trades(work.stores, exchange, fetch.series.pair, fetch.spans, work.run, budgets=budgets, keep=keep)


def _report(work: BackfillWork, exchange: Exchange) -> None:
    done, progress = work.requests + exchange.requests, work.run.progress
    made = max(0, done - progress.requests_done)
    work.run.did(progress.phase, costs.requesting(made, work.stores.settings.kraken_api_rate))
    work.run.report(requests_done=done, requests_total=max(done, progress.requests_total))


def _persistently(work: BackfillWork, exchange: Exchange, action: Callable[[], bool]) -> bool:
    """Run an action; in a run that is to be complete, retry it while the patience with the exchange lasts."""
    answers, until = exchange.answers, None
    while True:
        try:
            return action()
        except Maintenance:
            raise
        except ExchangeUnavailable as error:
            if not work.spec.complete:
                raise
            if exchange.answers > answers:  # it has answered since the last failure
                answers, until = exchange.answers, None
            wait = _wait_after(error)
            until = until or time.monotonic() + work.stores.settings.kraken_api_patience_seconds
            if time.monotonic() + wait >= until:
                raise
            phase = work.run.progress.phase
            work.run.report(phase="waiting for the exchange")
            time.sleep(wait)
            work.run.report(phase=phase)


def _wait_after(error: ExchangeUnavailable) -> float:
    at = None
    if isinstance(error, CircuitOpen):
        at = error.retry_at
    elif isinstance(error, Throttled):
        at = error.wait_until
    return 0.5 if at is None else max(0.5, at - time.time())


def _is_in_maintenance(exchange: Exchange) -> bool:
    try:
        exchange.require_online()
    except Maintenance:
        return True
    except PipelineError:
        return False
    return False


def _record_failure(work: BackfillWork, fetch: Fetch, error: PipelineError, *, has_progressed: bool = False) -> None:
    """Record a failed attempt for everything that a fetch serves, and a dead letter if retrying makes no sense.

    A paging that made progress before it failed counts as no failure. Three outages in eighteen hours of paging are not
    the gap's fault, and the next run continues from there.
    """
    stores, run = work.stores, work.run
    work.failed.append(f"{fetch}: {error}")
    if has_progressed:
        return
    with stores.catalog.write() as connection:
        before = gap_records.attempts_of(connection, [fetch.series.pair])
        for series, span in fetch.serves:
            attempt = Attempt(span, fetch.route, None, str(error), run.now)
            gap_records.add_attempts(connection, {series: [attempt]}, run.run_id)
            failures = 1 + failures_at(before.get(series, ()), span)
            if isinstance(error, LastingError) or failures >= ATTEMPTS:
                dead_letters.give_up(connection, series, span, fetch.route, str(error), run_id=run.run_id, now=run.now)


def _record_success(work: BackfillWork, fetch: Fetch, answered: Spans) -> None:
    stores, run = work.stores, work.run
    with stores.catalog.write() as connection:
        for series, span in fetch.serves:
            made = [
                Attempt(part, fetch.route, str(fetch.series.interval.value), None, run.now)
                for part in intersect((span,), answered)
            ]
            gap_records.add_attempts(connection, {series: made}, run.run_id)
