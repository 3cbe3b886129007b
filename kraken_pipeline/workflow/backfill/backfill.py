"""Backfilling: fills gaps along their routes, the cheapest source first.

Resampling costs nothing and runs before, between and after the other routes. OHLC comes next, because its routes
expire, and then trades. `ingest` fills the ARCHIVE route. What cannot be asked for now (maintenance, no answer, no
budget left) is left unchanged to the next run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from kraken_pipeline.coverage.gaps import ATTEMPTS, GapStatus
from kraken_pipeline.coverage.ranges import Span, Spans, intersect, normalise, subtract, union
from kraken_pipeline.coverage.routing import Route, asked_of
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
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.exchange_state import listings
from kraken_pipeline.storage.exchange_state.listings import ListingRecord
from kraken_pipeline.storage.records import dead_letters, evidence_records, gap_records
from kraken_pipeline.storage.records.dead_letters import Operation
from kraken_pipeline.storage.records.gap_records import Attempt
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.exchange import connected
from kraken_pipeline.workflow.backfill.fetch import Budget, Fetched, fetch_ohlc, fetch_trades, grant_quiet
from kraken_pipeline.workflow.backfill.outcome import BackfillOutcome
from kraken_pipeline.workflow.backfill.resampling import SeriesOutcome, resample_gaps
from kraken_pipeline.workflow.gaps.gaps import Gap, failures_at, find_gaps, lookback_start, recorded_gaps, retry_at
from kraken_pipeline.workflow.gaps.selection import Fetch, estimated, selected, unprobed
from kraken_pipeline.workflow.gaps.snapshot import CatalogSnapshot, load_snapshot, selected_pairs
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile.reconcile import give_up, reconcile_changes
from kraken_pipeline.workflow.reconcile.suspicion import take_back, unproven
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec

_ROUNDS = 3 * len(Interval)
"""The most rounds. Healing one interval can reveal gaps of the next coarser one; more rounds would be a bug."""


def backfill(stores: Stores, spec: RunSpec, run: RunContext) -> BackfillOutcome:
    """Fill the gaps that can be filled, and record those that are left.

    Raises:
        InvalidRequest: Nothing is known of the selection.
    """
    run.report(phase="resampling")
    work = _Backfill(stores, spec, run)
    if spec.api_backfill:
        _fill_through_api(work)
    else:
        work.resample()
    run.report(phase="looking for gaps", candles=run.progress.candles + work.stored)
    left = work.settled_gaps()
    settle_operations(stores, run.now)
    return work.outcome(left)


def planned(stores: Stores, spec: RunSpec, now: int) -> list[Fetch]:
    """Return the fetches of a backfill in its order, as things stand; request nothing and write nothing.

    Raises:
        InvalidRequest: Nothing is known of the selection.
    """
    if not spec.api_backfill:
        return []
    work = _Backfill(stores, spec, RunContext("plan", now))
    replies, trades = work.selected(*work.gaps())
    return [*replies, *trades]


def beyond(stores: Stores, spec: RunSpec, now: int) -> list[str]:
    """Return the pairs whose first trade a backfill asks for first; no plan includes the time before their candles yet.

    Raises:
        InvalidRequest: Nothing is known of the selection.
    """
    return unprobed(load_snapshot(stores, spec, now), spec) if spec.api_backfill else []


@dataclass(slots=True)
class _Backfill:
    """The state of a backfill: what it has done so far."""

    stores: Stores
    spec: RunSpec
    run: RunContext
    filled: dict[Series, SeriesOutcome] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    requests: int = 0
    refuted: int = 0
    conflicts: int = 0
    healed: int = 0
    tried: set[tuple[str, Spans]] = field(default_factory=set)  # fetches that were made
    withheld: dict[Series, Spans] = field(default_factory=dict)  # trades that the exchange left out twice

    @property
    def stored(self) -> int:
        """The number of new or changed candles."""
        return sum(each.candles_stored for each in self.filled.values())

    def outcome(self, left: Sequence[Gap]) -> BackfillOutcome:
        """Return the outcome, with the gaps that are left."""
        filled = tuple(self.filled[series] for series in sorted(self.filled))
        return BackfillOutcome(
            filled,
            tuple(left),
            self.requests,
            tuple(self.failed),
            tuple(self.notes),
            refuted=self.refuted,
            conflicts=self.conflicts,
            healed=self.healed,
        )

    def add(self, filled: Iterable[SeriesOutcome]) -> None:
        """Add what was filled to the outcome of its series; a series may take several replies."""
        for each in filled:
            known = self.filled.get(each.series, SeriesOutcome(each.series, 0, ()))
            spans = normalise((*known.spans, *each.spans))
            self.filled[each.series] = SeriesOutcome(each.series, known.candles_stored + each.candles_stored, spans)

    def resample(self) -> None:
        """Resample what follows from finer candles, reconcile the changes, and repeat for what that refutes."""
        for _ in range(_ROUNDS):
            self.add(resample_gaps(self.stores, self.spec, self.run))
            done = reconcile_changes(self.stores, selected_pairs(self.stores, self.spec), self.run)
            self.refuted += done.refuted
            self.conflicts += done.conflicts
            self.healed += done.healed
            self.notes += done.notes
            if not (done.refuted or done.given_back):
                return
        self.notes.append("Reconciliation took back more than this run could fill; the next one goes on with it.")

    def settled_gaps(self) -> list[Gap]:
        """Record and return the gaps that are left in the end.

        Refutations without a route left become conflicts, and their coverage comes back.
        """
        for _ in range(_ROUNDS):
            snapshot, left = recorded_gaps(self.stores, self.spec, self.run.now)
            if not give_up(self.stores, self.spec, snapshot, self.run):
                break
            self.resample()
        return left

    def gaps(self) -> tuple[CatalogSnapshot, list[Gap]]:
        """Return the current snapshot and its gaps."""
        snapshot = load_snapshot(self.stores, self.spec, self.run.now)
        return snapshot, find_gaps(self.stores, self.spec, snapshot)

    def is_withheld(self, fetch: Fetch) -> bool:
        """Return whether a fetch asks only for trades that the exchange has left out twice in this run."""
        return fetch.route is Route.TRADES and not subtract(fetch.spans, self.withheld.get(fetch.series, ()))

    def selected(self, snapshot: CatalogSnapshot, gaps: Sequence[Gap]) -> tuple[list[Fetch], list[Fetch]]:
        """Return the fetches to make, as things stand."""
        return selected(self.stores, self.spec, snapshot, gaps)


# --- through the API


def _fill_through_api(work: _Backfill) -> None:
    stores, spec = work.stores, work.spec
    if not _has_unknown_pairs(stores, spec):
        work.resample()
        snapshot, gaps = work.gaps()
        is_in_doubt = any(not snapshot.may_be_asked(name) for name in spec.pairs)  # a pair that is named may be back
        is_suspicious = bool(_suspects(work, snapshot))
        if not (any(work.selected(snapshot, gaps)) or unprobed(snapshot, spec) or is_in_doubt or is_suspicious):
            return
    work.run.report(phase="asking the exchange")
    with stores.locks.slot("api", stores.settings.kraken_parallel_runs), connected(stores) as exchange:
        budget = Budget(exchange, _allowed(stores, spec))
        if _prepare(work, exchange, budget):
            # Checking quiet time can reveal gaps of other pairs.
            while _fetch_all(work, exchange, budget) and _check_suspects(work, exchange, budget):
                pass
        work.requests = exchange.requests
        work.notes += exchange.warnings


def _allowed(stores: Stores, spec: RunSpec) -> int | None:
    if spec.budget is not None or spec.complete:
        return spec.budget
    return stores.settings.kraken_max_requests_per_run


def _has_unknown_pairs(stores: Stores, spec: RunSpec) -> bool:
    known = {pair.name for pair in stores.lake.asset_ids.pairs()}
    return any(name not in known for name in spec.pairs)


def _prepare(work: _Backfill, exchange: Exchange, budget: Budget) -> bool:
    """Ask for the exchange's status, its list of pairs and first trades; return whether to continue."""
    if budget.is_spent:
        work.notes.append("The budget allows no request: nothing was asked of the exchange.")
        return False
    try:
        exchange.require_online()
        _record_listed(work, exchange, exchange.listed_pairs())
    except PipelineError as error:
        if _has_unknown_pairs(work.stores, work.spec):
            raise  # without an answer, nothing can be done for unknown pairs
        work.notes.append(f"Nothing was asked of the exchange, and the gaps stay as they are: {error}")
        return False
    snapshot = load_snapshot(work.stores, work.spec, work.run.now)
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


def _record_listed(work: _Backfill, exchange: Exchange, listed: ListedPairs) -> None:
    """Record which pairs are listed, and register named pairs that the lake has never held."""
    stores, now = work.stores, work.run.now
    if listed.is_stale:
        work.notes.append("The list of pairs is an older one, because the exchange did not give it anew.")
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
            raise InvalidRequest(
                f"nothing is known of {pair}: neither the lake nor the exchange has it"
                f"{did_you_mean(pair.name, (*known, *listed.book)) or '; is its name written as there?'}"
            )
    stores.lake.asset_ids.register(named)
    here = {name for name, pair in known.items() if pair in listed.book}
    absent = [name for name, pair in known.items() if listed.lacks(pair)]
    with stores.catalog.write() as connection:
        # A cached list was made before this run began.
        new, gone = listings.record_listed(connection, here, absent, min(now, int(listed.made_at)))
    work.notes += [f"{pair} is no longer listed: nothing is expected after its last evidence" for pair in gone]
    work.notes += [
        f"{pair} is not in the exchange's list of pairs: nothing is asked of it until it is back; if a list lacks it "
        "a day later too, it counts as listed no more"
        for pair in new
    ]


def _is_gone(record: ListingRecord | None) -> bool:
    return record is not None and record.delisted_at is not None


def _ask_for_first_trade(work: _Backfill, exchange: Exchange, snapshot: CatalogSnapshot, pair: str) -> None:
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


def _suspects(work: _Backfill, snapshot: CatalogSnapshot) -> list[tuple[str, Span, str]]:
    """Return the suspicions that can be checked now, within the lookback."""
    now = work.run.now
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


def _check_suspects(work: _Backfill, exchange: Exchange, budget: Budget) -> bool:
    """Fetch the trades of suspicious quiet time, which costs one request each if the time is quiet.

    Returns:
        Whether the trades have refuted anything, which then has to be fetched in turn.
    """
    wanted = _suspects(work, load_snapshot(work.stores, work.spec, work.run.now))
    before = work.refuted
    for pair, span, reason in wanted:
        minutes = Series(pair, Interval.M1)
        fetch = Fetch(Route.TRADES, minutes, (span,), ((minutes, span),), 1)
        if (str(fetch), fetch.spans) in work.tried:
            continue
        work.tried.add((str(fetch), fetch.spans))
        work.run.report(phase="checking quiet time")
        if not budget.is_spent:  # otherwise it would become a gap without a request
            try:
                take_back(work.stores, minutes, (span,), reason, work.run)
            except Busy as error:
                work.notes.append(str(error))
                continue
        if not _fetch_each(work, exchange, [fetch], budget):
            break
    if wanted:
        work.resample()
    return work.refuted > before


def _fetch_all(work: _Backfill, exchange: Exchange, budget: Budget) -> bool:
    """Make all selected fetches; with `complete`, repeat until no new ones follow.

    Returns:
        Whether to continue with requests.
    """
    tried = work.tried
    while True:
        before = len(tried)
        for turn in (0, 1):  # OHLC comes first, so that trades only fill the rest
            snapshot, gaps = recorded_gaps(work.stores, work.spec, work.run.now)
            selection = work.selected(snapshot, gaps)
            chosen = [
                each for each in selection[turn] if (str(each), each.spans) not in tried and not work.is_withheld(each)
            ]
            tried |= {(str(each), each.spans) for each in chosen}
            if not chosen:
                continue
            work.run.report(
                phase="paging through trades" if turn else "asking for candles",
                requests_done=exchange.requests,
                requests_total=exchange.requests + estimated((*chosen, *(() if turn else selection[1]))),
            )
            may_go_on = _fetch_each(work, exchange, chosen, budget)
            work.resample()
            if not may_go_on:
                return False
        if not work.spec.complete or len(tried) == before:
            return True


def _fetch_each(work: _Backfill, exchange: Exchange, chosen: Sequence[Fetch], budget: Budget) -> bool:
    """Make fetches one after another; return whether to continue."""
    for number, each in enumerate(chosen):
        if budget.is_spent:
            work.notes.append(
                f"The budget of requests is spent; {len(chosen) - number} fetches are left to the next run."
            )
            return False
        answered: list[Span] = []
        try:
            _mark(work, each)
            is_whole = _persistently(work, exchange, partial(_fetch_one, work, exchange, each, budget, answered))
        except Busy as error:
            work.notes.append(str(error))
        except (CircuitOpen, Maintenance, Throttled) as error:
            work.notes.append(f"The rest is left to the next run: {error}")
            return False
        except ExchangeUnavailable as error:
            if _is_in_maintenance(exchange):
                work.notes.append("The exchange is in maintenance; the rest is left to the next run.")
                return False
            _record_success(work, each, normalise(answered))
            _record_failure(work, each, error, has_progressed=bool(answered))
        except LastingError as error:
            _record_failure(work, each, error)
        else:
            _record_success(work, each, normalise(answered))
            if not is_whole and not _may_go_on(work, each, budget):
                return False
        _report(work, exchange)
    return True


def _may_go_on(work: _Backfill, stopped: Fetch, budget: Budget) -> bool:
    """Return whether to continue after a fetch that a budget stopped: not if it was the run's budget."""
    if budget.is_spent:
        work.notes.append("The budget of requests is spent; the rest is left to the next run.")
        return False
    work.notes.append(f"{stopped} took more requests than a gap may; the rest of it is left to the next run.")
    return True


def _mark(work: _Backfill, each: Fetch) -> None:
    with work.stores.catalog.write() as connection:
        for series, span in each.serves:
            gap_records.mark(connection, series, [span], GapStatus.BACKFILLING)


def _fetch_one(work: _Backfill, exchange: Exchange, each: Fetch, budget: Budget, answered: list[Span]) -> bool:
    """Make one fetch; return whether it was completed."""

    def keep(fetched: Fetched) -> None:
        work.add([SeriesOutcome(each.series, fetched.candles_stored, fetched.answered)])
        work.notes += fetched.notes
        work.withheld[each.series] = union(work.withheld.get(each.series, ()), fetched.withheld)
        answered[:] = normalise((*answered, *fetched.answered))
        _report(work, exchange)

    if each.route is Route.OHLC:
        keep(fetch_ohlc(work.stores, exchange, each.series, each.spans, work.run))
        return True
    # The cost of a gap is only estimated beforehand; here it is a limit.
    most = None if work.spec.complete else work.stores.settings.kraken_max_requests_per_gap * len(each.spans)
    budgets = (budget, Budget(exchange, most))
    return fetch_trades(work.stores, exchange, each.series.pair, each.spans, work.run, budgets=budgets, keep=keep)


def _report(work: _Backfill, exchange: Exchange) -> None:
    done = exchange.requests
    work.run.report(requests_done=done, requests_total=max(done, work.run.progress.requests_total))


def _persistently(work: _Backfill, exchange: Exchange, action: Callable[[], bool]) -> bool:
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
            work.run.report(phase="waiting for the exchange")
            time.sleep(wait)


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


# --- recording the results


def _record_failure(work: _Backfill, each: Fetch, error: PipelineError, *, has_progressed: bool = False) -> None:
    """Record a failed attempt for everything that a fetch serves, and a dead letter if retrying makes no sense.

    A paging that made progress before it failed counts as no failure. Three outages in eighteen hours of paging are not
    the gap's fault, and the next run continues from there.
    """
    stores, run = work.stores, work.run
    work.failed.append(f"{each}: {error}")
    if has_progressed:
        return
    with stores.catalog.write() as connection:
        before = gap_records.attempts_of(connection, [each.series.pair])
        for series, span in each.serves:
            attempt = Attempt(span, each.route, None, str(error), run.now)
            gap_records.add_attempts(connection, series, [attempt], run.run_id)
            failures = 1 + failures_at(before.get(series, ()), span)
            if isinstance(error, LastingError) or failures >= ATTEMPTS:
                dead_letters.give_up(connection, series, span, each.route, str(error), run_id=run.run_id, now=run.now)


def _record_success(work: _Backfill, each: Fetch, answered: Spans) -> None:
    stores, run = work.stores, work.run
    with stores.catalog.write() as connection:
        for series, span in each.serves:
            made = [
                Attempt(part, each.route, str(each.series.interval.value), None, run.now)
                for part in intersect((span,), answered)
            ]
            gap_records.add_attempts(connection, series, made, run.run_id)


def settle_operations(stores: Stores, now: int) -> int:
    """Settle the operations that failed for good and are covered by now; return their number."""
    with stores.catalog.write() as connection:
        given_up = dead_letters.operations(connection, None)
        covered = evidence_records.coverage_of(connection, pairs=sorted({each.series.pair for each in given_up}))
        done = [
            each.id
            for each in given_up
            if not subtract((each.span,), tuple(record.span for record in covered.get(each.series, ())))
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
        return BackfillOutcome((), ())
    pairs, intervals = ({each.series.pair for each in given_up}, {each.series.interval for each in given_up})
    work = _Backfill(stores, run_spec(pairs=sorted(pairs), intervals=sorted(intervals), complete=True), run)
    with stores.locks.slot("api", stores.settings.kraken_parallel_runs), connected(stores) as exchange:
        budget = Budget(exchange, None)
        try:
            exchange.require_online()
        except PipelineError as error:
            work.notes.append(f"Nothing was tried: {error}")
        else:
            fetches = [_fetch_again(each) for each in given_up]
            run.report(phase="trying again", requests_total=exchange.requests + estimated(fetches))
            _fetch_each(work, exchange, fetches, budget)
        work.requests = exchange.requests
        work.notes += exchange.warnings
    work.resample()
    run.report(phase="looking for gaps", candles=work.stored)
    settle_operations(stores, run.now)
    return work.outcome(work.settled_gaps())


def _fetch_again(each: Operation) -> Fetch:
    route = Route(each.route)
    asked = Series(each.series.pair, asked_of(each.series.interval) if route is Route.OHLC else Interval.M1)
    return Fetch(route, asked, (each.span,), ((each.series, each.span),), 1)
