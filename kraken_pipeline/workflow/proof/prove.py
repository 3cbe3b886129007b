"""Proving: compares the trade counts of candles with the ids by which the exchange numbers trades.

Two requests prove a span of any length. Where counts and ids differ, a binary search leads to the candle that is short,
which is refuted and filled by paging through its trades. Candles that count more trades than there are ids are only
reported. Every anchor is recorded before the next is requested, so that a killed run repeats none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from kraken_pipeline.coverage.anchors import (
    Anchor,
    CountVerdict,
    Depth,
    Discrepancy,
    Spacing,
    Stretch,
    search,
)
from kraken_pipeline.coverage.contradictions import one_candle
from kraken_pipeline.coverage.density import AbsentIds
from kraken_pipeline.coverage.ranges import (
    Span,
    Spans,
    intersect,
    normalise,
    subtract,
)
from kraken_pipeline.errors import (
    Busy,
    CircuitOpen,
    ExchangeUnavailable,
    Maintenance,
    PipelineError,
    Throttled,
    UnusableReply,
)
from kraken_pipeline.kraken.exchange import Exchange
from kraken_pipeline.kraken.trades import TradesPage
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.records import anchors as anchor_records
from kraken_pipeline.storage.records import density_records, evidence_records, publications, refutations, trade_counts
from kraken_pipeline.storage.records.trade_counts import TradeCount
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.backfill import backfill
from kraken_pipeline.workflow.backfill.exchange import connected
from kraken_pipeline.workflow.backfill.fetch import Budget, Fetched, fetch_trades
from kraken_pipeline.workflow.backfill.outcome import Filled, SeriesOutcome
from kraken_pipeline.workflow.heed import heeding
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.proof.count_verdicts import record_verdicts, resolving, verdicts
from kraken_pipeline.workflow.proof.counting import (
    SETTLING_SECONDS,
    CandleCounts,
    PairTrades,
    agrees,
    in_order,
    look_up,
)
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec

_NS = 1_000_000_000
_ROUNDS = 8
"""The maximum number of rounds: a healed interval can show what a coarser one lacks. More rounds would be an error."""
_REFUTED = "ids of trades count"
"""The prefix of the reason of each refutation made by a proof."""
_CLEARLY = 1e-6
"""The tolerance of time comparisons in seconds. A row's time is a float, precise to a quarter of it at today's date."""


@dataclass(frozen=True, slots=True)
class ProveOutcome:
    """The result of a proof.

    Attributes:
        counts: The verdicts on all selected spans, and on each candle that this run found to differ.
        requests: The number of requests made.
        failed: The failed requests, with their errors.
        notes: Other remarks for people.
        filled: The series in which candles were filled.
        refuted: The number of candles refuted because ids count more trades.
        now: The present of the proof in seconds since the epoch: the run's, or the exchange's if its clock is behind.
    """

    counts: tuple[TradeCount, ...] = ()
    requests: int = 0
    failed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    filled: tuple[SeriesOutcome, ...] = ()
    refuted: int = 0
    now: int = 0


def prove(
    stores: Stores,
    spec: RunSpec,
    run: RunContext,
    *,
    spacing: Spacing = Spacing.QUARTER,
    depth: Depth = Depth.MINUTE,
    allowed: int | None = None,
) -> ProveOutcome:
    """Count the trades of candles by their ids, heal what is short, and return the verdicts with the rest.

    The arguments and the errors are those of `prove_pairs`.
    """
    return judged(stores, spec, spacing, run, prove_pairs(stores, spec, run, spacing, depth, allowed))


def judged(stores: Stores, spec: RunSpec, spacing: Spacing, run: RunContext, done: ProveOutcome) -> ProveOutcome:
    """Return the result of a proof with the verdicts on all selected spans."""
    return replace(done, counts=verdicts(stores, spec, spacing, replace(run, now=done.now)))


def prove_pairs(
    stores: Stores, spec: RunSpec, run: RunContext, spacing: Spacing, depth: Depth, allowed: int | None
) -> ProveOutcome:
    """Count the trades of candles by their ids, and heal what is short.

    Args:
        stores: The stores.
        spec: The selected pairs and time.
        run: The context of the run.
        spacing: The distance between the first anchors.
        depth: The length at which the search for a difference ends.
        allowed: The maximum number of requests; None for no limit.

    Raises:
        InvalidRequest: The catalog knows nothing of the selection.
    """
    work = _Proving(stores, spec, run, spacing, depth, run.now)
    names = in_order(stores, spec)
    run.report(phase="counting trades")
    for name in names:
        if work.is_unsettled(name):  # left over from a killed run
            work.settle(name)
    if any(work.has_to_ask(name) for name in names):
        work.ask(names, allowed)
    for name in names:
        run.report(phase="counting trades")
        work.judge(name)
    return work.outcome()


class _Stop(Exception):
    """Signal that this run makes no more requests."""


class _Absent(Exception):
    """Signal that ids are absent, so that the stretches of the pair have changed."""


@dataclass(slots=True)
class _Proving:
    """The state of a proof in progress."""

    stores: Stores
    spec: RunSpec
    run: RunContext
    spacing: Spacing
    depth: Depth
    now: int
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    filled: Filled = field(default_factory=Filled)
    tried: set[tuple[Series, Span]] = field(default_factory=set)
    requests: int = 0
    refuted: int = 0

    def outcome(self) -> ProveOutcome:
        """Return the result of the proof, without verdicts."""
        filled = self.filled.outcomes()
        return ProveOutcome((), self.requests, tuple(self.failed), tuple(self.notes), filled, self.refuted, self.now)

    def look_up(self, name: str) -> PairTrades:
        """Return the current knowledge of a pair's trades."""
        return look_up(self.stores, name, self.spec, self.spacing, self.run.now, self.now)

    def has_to_ask(self, name: str) -> bool:
        """Return whether a pair needs requests or has spans to fill."""
        known = self.look_up(name)
        if known.due or self.waiting(name):
            return True
        return any(known.needs(stretch) or not agrees(self.stores, known, stretch) for stretch in known.open)

    def waiting(self, name: str) -> Spans:
        """Return the spans of a pair that ids have refuted and nothing has answered yet, as left by a killed run."""
        with self.stores.catalog.read() as connection:
            active = refutations.active(connection, {name})
        found = (
            refutation for some in active.values() for refutation in some if refutation.reason.startswith(_REFUTED)
        )
        return intersect(normalise(refutation.span for refutation in found), (self.spec.window,))

    def is_unsettled(self, name: str) -> bool:
        """Return whether any range of a pair is still to be reconciled, or to be searched for quiet time."""
        with self.stores.catalog.read() as connection:
            return bool(publications.marked(connection, {name}) or publications.to_search(connection, {name}))

    def settle(self, name: str) -> None:
        """Resample and reconcile the changed ranges of a pair."""
        done = backfill(self.stores, run_spec(pairs=[name], api_backfill=False), self.run)
        self.filled.add(done.filled)
        self.notes += done.notes

    def ask(self, names: Sequence[str], allowed: int | None) -> None:
        """Make all requests that are needed: first for the edges of all spans, then where counts differ."""
        stores = self.stores
        with stores.locks.slot("api", stores.settings.kraken_parallel_runs), connected(stores) as exchange:
            asking = _Asking(self, exchange, Budget(exchange, allowed))
            try:
                asking.require_budget()
                exchange.require_online()
                # The exchange cannot be asked about a moment that has not passed by its own clock.
                self.now = min(self.now, int(exchange.now()))
                for step in (asking.first, asking.differences):
                    for name in names:
                        self._of_pair(step, name)
            except _Stop as stop:
                self.notes.append(str(stop))
            except PipelineError as error:
                self.notes.append(f"No requests were made: {error}")
            self.requests = exchange.requests
        for name in names:
            if self.is_unsettled(name):  # because the requests were stopped
                self.settle(name)

    def _of_pair(self, step: Callable[[str], None], name: str) -> None:
        try:
            step(name)
        except (CircuitOpen, Maintenance, Throttled) as error:
            raise _Stop(f"The rest is left to the next run: {error}") from error
        except Busy as error:
            self.notes.append(str(error))
        except PipelineError as error:
            self.failed.append(f"anchors of {name}: {error}")

    # --- verdicts

    def judge(self, name: str) -> None:
        """Record the verdict on each span, under the locks of the pair's series so that nothing changes meanwhile."""
        with self.stores.locks.series(Series(name, interval) for interval in Interval):
            heeding(lambda: record_verdicts(self.stores, self.look_up(name), self.run))


@dataclass(slots=True)
class _Asking:
    """The requests of a proof, within the budget. Each answer is recorded before the next request."""

    work: _Proving
    exchange: Exchange
    budget: Budget

    def require_budget(self) -> None:
        """Stop if the budget is spent, and report the progress otherwise.

        Raises:
            _Stop: The budget is spent.
        """
        if self.budget.is_spent:
            raise _Stop("The budget of requests is spent; the rest is left to the next run.")
        done = self.exchange.requests
        self.work.run.report(requests_done=done, requests_total=max(done, self.work.run.progress.requests_total))

    def first(self, name: str) -> None:
        """Request the edges of every span of a pair, and repeat what an earlier run did not get."""
        if waiting := self.work.waiting(name):
            self._page(name, waiting)
            self.work.settle(name)
        known = self.work.look_up(name)
        for absent in known.due:
            self._look_again(name, absent)
        known = self.work.look_up(name)
        for stretch in known.open:
            for moment, is_page in known.needs(stretch).items():
                try:
                    self._ask(known, moment, is_page=is_page)
                except _Absent:
                    return self.first(name)
        return None

    def differences(self, name: str) -> None:
        """Search for candles of a pair that differ from the ids, and fill those that are short."""
        for _ in range(_ROUNDS):
            found = self._found(name)
            fresh = [
                discrepancy
                for discrepancy in found
                if (Series(name, discrepancy.interval), discrepancy.span) not in self.work.tried
            ]
            if not fresh:
                return
            for discrepancy in fresh:
                self.work.tried.add((Series(name, discrepancy.interval), discrepancy.span))
                self._heal(name, discrepancy)
            self.work.settle(name)

    def _found(self, name: str) -> list[Discrepancy]:
        """Return the differences of a pair. A stretch that overlaps a differing one waits until that is healed."""
        while True:
            known = self.work.look_up(name)
            found: list[Discrepancy] = []
            differing: list[Span] = []
            try:
                for stretch in known.open:
                    if any(stretch.span.overlaps(span) for span in differing):
                        continue
                    if here := self._search(known, stretch):
                        found += here
                        differing.append(stretch.span)
            except _Absent:
                continue
            return found

    def _search(self, known: PairTrades, stretch: Stretch) -> list[Discrepancy]:
        for moment, is_page in known.needs(stretch).items():
            self._ask(known, moment, is_page=is_page)
        counted = heeding(lambda: CandleCounts(self.work.stores, known, stretch.span))
        while True:
            done = search(stretch.span, counted.intervals, known.ids, counted, self.work.depth.seconds)
            # The first candle found is examined before any other request: where ids are not dense, all candles would
            # differ.
            unseen = next(
                (discrepancy for discrepancy in done.found if not known.is_probed(discrepancy.span.start)), None
            )
            if unseen is not None:
                self._look(known, unseen.span.start, unseen.span.end)
            elif done.needs:
                self._ask(known, done.needs[0], is_page=False)
            else:
                return done.found

    # --- requests

    def _ask(self, known: PairTrades, moment: int, *, is_page: bool) -> None:
        if is_page:
            return self._look(known, moment)
        self.require_budget()
        now = int(self.exchange.now())
        row = self.exchange.trade_from(known.pair, moment)
        if row is not None:
            if row[2] < moment - _CLEARLY:
                raise ExchangeUnavailable(
                    f"the first trade of {known.pair} since {iso(moment)} is from before that time"
                )
            return self._keep(known, Anchor(moment, row[6], int(row[2]), now))
        newest = self.exchange.newest_trade(known.pair)
        if newest is None or newest[2] >= moment + _CLEARLY or moment > now - SETTLING_SECONDS:
            raise UnusableReply(
                f"Trades of {known.pair} since {iso(moment)}: the reply has none, although there must be some"
            )
        return self._keep(known, Anchor(moment, newest[6] + 1, None, now))

    def _keep(self, known: PairTrades, anchor: Anchor) -> None:
        with self.work.stores.catalog.write() as connection:
            anchor_records.keep_anchors(connection, known.pair, [anchor])
        known.anchors[anchor.moment] = anchor

    def _page_from(self, pair: str, seconds: float) -> TradesPage:
        self.require_budget()
        return self.exchange.trades(pair, int(seconds * _NS))

    def _look(self, known: PairTrades, moment: int, end: int | None = None) -> None:
        """Examine a page of trades: whether its ids are dense and agree with the anchors.

        Raises:
            _Absent: Ids are absent, also when requested again from the trade before them.
        """
        now = int(self.exchange.now())
        page = self._page_from(known.pair, moment)
        absent = page.absent()
        is_sparse_here = bool(absent) and self._is_absent_again(known.pair, page, absent[0])
        if page.rows:
            numbered = page.numbered if is_sparse_here else len(page.rows)
            first = page.rows[0]
            self._keep(known, Anchor(moment, first[6], int(first[2]), now, len(page.rows), numbered))
            self._correct(known, page, end, now)
        else:
            if moment not in known.anchors:
                self._ask(known, moment, is_page=False)
            self._keep(known, replace(known.anchors[moment], listed=0, numbered=0))
        if is_sparse_here:
            raise _Absent

    def _correct(self, known: PairTrades, page: TradesPage, end: int | None, now: int) -> None:
        """Correct the anchor at `end` if a page disproves it, so that a wrong answer does not persist."""
        if end is None or end not in known.anchors:
            return
        later = next((row for row in page.rows if row[2] > end + _CLEARLY), None)
        is_clear = all(abs(row[2] - end) > _CLEARLY for row in page.rows)
        if later is not None and is_clear and known.anchors[end].trade_id != later[6]:
            self._keep(known, Anchor(end, later[6], int(later[2]), now))

    def _is_absent_again(self, pair: str, page: TradesPage, first: AbsentIds) -> bool:
        """Request again from the trade before the first absent ids, and record what is absent in that page, too."""
        before = next(row for row in page.rows if row[6] == first.first - 1)
        absent = self._page_from(pair, before[2] - _CLEARLY).absent()
        self._record_absent(pair, absent)
        return bool(absent)

    def _look_again(self, pair: str, absent: Sequence[AbsentIds]) -> None:
        """Request ids again that an earlier run found absent; what the page does not reach stays as it is."""
        page = self._page_from(pair, absent[0].start)
        gaps = tuple(gap.ids for gap in page.absent())
        self._record_absent(pair, [ids for ids in absent if not subtract((ids.ids,), gaps)])
        with self.work.stores.catalog.write() as connection:
            for ids in absent:
                if any(ids.first <= row[6] <= ids.last for row in page.rows):
                    density_records.forget_absent(connection, pair, ids)

    def _record_absent(self, pair: str, absent: Sequence[AbsentIds]) -> None:
        run = self.work.run
        with self.work.stores.catalog.write() as connection:
            density_records.record_absent(connection, pair, absent, run.run_id, run.now)

    # --- healing

    def _heal(self, name: str, found: Discrepancy) -> None:
        """Refute a candle that is short and page through its trades; only report one that counts too many."""
        series = Series(name, found.interval)
        if not found.is_short:
            action = f"ids count fewer trades; find out what is wrong, then run {resolving(series, found.span)}"
            self._record(series, found, CountVerdict.OVER, action)
            return
        self.require_budget()
        self._record(series, found, CountVerdict.SHORT, f"refuted: {_filling(series, found.span)} fills it")
        self._refute(series, found)
        if self._page(name, (found.span,)) or found.interval is not Interval.M1:
            self._record(series, found, CountVerdict.SHORT, "refuted, and filled by paging through its trades")

    def _page(self, name: str, spans: Spans) -> Spans:
        """Page through the trades of some spans, and return the answered spans."""
        work, answered = self.work, list[Span]()

        def keep(fetched: Fetched) -> None:
            work.filled.add([SeriesOutcome(Series(name, Interval.M1), fetched.candles_stored, fetched.answered)])
            work.notes.extend(fetched.notes)
            answered.extend(fetched.answered)

        work.run.report(phase="paging through trades")
        fetch_trades(work.stores, self.exchange, name, spans, work.run, budgets=[self.budget], keep=keep)
        return normalise(answered)

    def _record(self, series: Series, found: Discrepancy, verdict: CountVerdict, action: str) -> None:
        count = TradeCount(series, found.span, found.by_ids, found.counted, verdict, action, self.work.run.run_id)
        with self.work.stores.catalog.write() as connection:
            trade_counts.record(connection, [count], self.work.run.now)

    def _refute(self, series: Series, found: Discrepancy) -> None:
        stores = self.work.stores
        reason = f"{_REFUTED} {found.by_ids:,} trades there, and its candles {found.counted:,}"
        with stores.locks.series([series]):
            standing = one_candle(stores.lake.read(series, found.span.start, found.span.end))
            times = {series: stores.lake.times(series)}
            with stores.catalog.write() as connection:
                refutations.refute(connection, [(series, found.span, standing, reason)], self.work.run.now)
                evidence_records.renew(connection, times)
        self.work.refuted += 1


def _filling(series: Series, span: Span) -> str:
    return run_spec(
        pairs=[series.pair], intervals=[series.interval], start=span.start, end=span.end, complete=True
    ).as_command("backfill")
