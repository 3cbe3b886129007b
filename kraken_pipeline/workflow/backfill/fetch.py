"""Fetching: stores the replies of the exchange in the lake with the coverage that they grant, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl
import sqlalchemy as sa

from kraken_pipeline.coverage.density import AbsentIds
from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.ranges import Span, Spans, normalise, subtract, touched_candles
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.errors import ExchangeUnavailable
from kraken_pipeline.kraken.exchange import Exchange
from kraken_pipeline.kraken.ohlc import Ohlc
from kraken_pipeline.kraken.rows import Reject
from kraken_pipeline.kraken.trades import Folded, TradesPage, page_trades
from kraken_pipeline.market.candle import Source, finished
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.market.resample import NO_CANDLES
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.exchange_state import listings
from kraken_pipeline.storage.lake.writer import CandleWriter
from kraken_pipeline.storage.records import dead_letters, density_records, evidence_records, gap_records
from kraken_pipeline.storage.records.gap_records import Attempt
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.storage.trades.kept import THE_EXCHANGE
from kraken_pipeline.storage.trades.writer import StagedTrades, TradeWriter
from kraken_pipeline.workflow.lake_write import LakeWrite, commit
from kraken_pipeline.workflow.progress import RunContext


@dataclass(frozen=True, slots=True)
class Fetched:
    """The outcome of storing a reply.

    Attributes:
        candles_stored: The number of new or changed candles.
        answered: The spans that it answered for.
        notes: Notes for people.
        withheld: The minutes of trades that the exchange has left out twice; asking again at once is useless.
    """

    candles_stored: int
    answered: Spans
    notes: tuple[str, ...] = ()
    withheld: Spans = ()


class Budget:
    """A limit of requests; they are counted where they are made, so that retries count as well.

    Args:
        exchange: The exchange that counts its requests.
        allowed: The number of requests from now on; None for no limit.
    """

    def __init__(self, exchange: Exchange, allowed: int | None) -> None:
        self._exchange = exchange
        self._until = None if allowed is None else exchange.requests + allowed

    @property
    def is_spent(self) -> bool:
        """Whether no request is left."""
        return self._until is not None and self._exchange.requests >= self._until

    def within(self, requests: int) -> int:
        """Return how many of some requests the budget still allows."""
        return requests if self._until is None else min(requests, max(0, self._until - self._exchange.requests))


class _Spent(Exception):
    """A budget that is spent in the middle of paging."""


def fetch_ohlc(stores: Stores, exchange: Exchange, series: Series, wanted: Spans, run: RunContext) -> Fetched:
    """Fetch the committed candles of a series from the start of the wanted spans on.

    Args:
        stores: The stores to write to.
        exchange: The exchange to ask.
        series: The series; its interval is not 720 minutes.
        wanted: The missing spans, in order of time.
        run: The run that asks.

    Raises:
        ExchangeUnavailable: There is no answer; nothing was granted.
        ExchangeRefused: The pair is not listed.
        UnusableReply: The reply cannot be used.
        Busy: Another process has been writing the series for too long.
    """
    reply = exchange.ohlc(series, wanted[0].start, until=wanted[-1].end)
    if reply.committed < wanted[0].start:
        raise ExchangeUnavailable(
            f"OHLC of {series} from {iso(wanted[0].start)}: the reply reports no closed candle since "
            f"{iso(reply.committed)}"
        )
    # A cached reply was made before this run began.
    answered_at = min(run.now, int(reply.made_at))
    grants = tuple(Grant(span, Source.OHLC, answered_at, _trades_in(reply, span)) for span in reply.listed)
    answered = [Span(span.start, min(span.end, reply.committed)) for span in wanted if span.start < reply.committed]
    stored = _store(
        stores,
        series,
        finished(reply.candles, Source.OHLC),
        grants,
        run,
        origin=f"OHLC of {series}",
        rejects=reply.rejects,
        # Spans that were answered but not filled, such as a row that is no candle, are not asked for again.
        attempts=[Attempt(span, Route.OHLC, None, None, run.now) for span in subtract(tuple(answered), reply.listed)],
    )
    rejected = quantity(len(reply.rejects), "row is not a candle", "rows are not candles")
    notes = (f"OHLC of {series}: {rejected}",) if reply.rejects else ()
    return Fetched(stored, reply.listed, notes=notes)


def _trades_in(reply: Ohlc, span: Span) -> int:
    seconds = reply.candles["time"].dt.epoch("s")
    return int(reply.candles.filter(seconds.is_between(span.start, span.end - 1))["trade_count"].sum())


def fetch_trades(
    stores: Stores,
    exchange: Exchange,
    pair: str,
    wanted: Spans,
    run: RunContext,
    *,
    budgets: Sequence[Budget] = (),
    keep: Callable[[Fetched], None] = lambda _: None,
) -> bool:
    """Page through the trades of a pair, and store one-minute candles page by page.

    Covered time is not asked for, so an interrupted paging resumes at the start of the minute that was open. The newest
    span goes first.

    Args:
        stores: The stores to write to.
        exchange: The exchange to ask.
        pair: The pair.
        wanted: The spans to page through, in order of time.
        run: The run that asks.
        budgets: Budgets; paging stops between two pages once one of them is spent.
        keep: Called for each page, as soon as it is stored.

    Returns:
        Whether paging reached its end; False if a budget was spent.

    Raises:
        ExchangeUnavailable: There was no answer; what was answered before is stored.
        ExchangeRefused: The pair is not listed.
        UnusableReply: A reply cannot be used.
        Busy: Another run is fetching the trades of the pair.
    """
    series = Series(pair, Interval.M1)

    def fetch(since: int) -> TradesPage:
        if any(budget.is_spent for budget in budgets):
            raise _Spent
        return exchange.trades(pair, since)

    def left_out(absent: Sequence[AbsentIds]) -> Sequence[AbsentIds]:
        with stores.catalog.write() as connection:
            return density_records.record_absent(connection, pair, absent, run.run_id, run.now)

    with stores.locks.fetch(f"trades.{pair}"):
        missing, known_trade = _still_missing(stores, series, wanted)
        try:
            for span in reversed(missing):
                with stores.catalog.read() as connection:
                    density = density_records.density_of(connection, pair)
                for folded in page_trades(
                    fetch,
                    span,
                    known_trade=known_trade,
                    density=density,
                    left_out=left_out,
                    keeps_trades=stores.settings.kraken_keep_trades,
                ):
                    stored = _store_page(stores, series, folded, run)
                    withheld = touched_candles(normalise(hole.span for hole in folded.absent), Interval.M1)
                    keep(Fetched(stored, folded.answered, _notes(pair, folded), withheld))
        except _Spent:
            return False
    return True


def _notes(pair: str, folded: Folded) -> tuple[str, ...]:
    lost = [f"{pair} at {iso(span.start)}: {_TOO_MANY}" for span in folded.lost]
    bad = [f"{pair}: {reject.reason} ({reject.text})" for reject in folded.rejects]
    return (*lost, *bad, *_left_out(pair, folded.absent))


def _left_out(pair: str, absent: Sequence[AbsentIds]) -> Iterator[str]:
    if absent:
        ids = f"{absent[0]}" if len(absent) == 1 else f"{len(absent):,} times, from {absent[0]} to {absent[-1]}"
        start, end = min(hole.start for hole in absent), max(hole.end for hole in absent)
        yield (
            f"{pair}: the exchange has left out {quantity(sum(hole.count for hole in absent), 'trade')} twice ({ids}), "
            f"between {iso(start)} and {iso(end)}; the minutes there stay without coverage, and the next run "
            "requests them again"
        )


_TOO_MANY = "more trades in one nanosecond than a page holds; that minute stays without coverage"


def _still_missing(stores: Stores, series: Series, wanted: Spans) -> tuple[Spans, int | None]:
    """Return the spans that are not covered by now, and the latest time from which on a trade is known."""
    with stores.catalog.read() as connection:
        records = evidence_records.coverage_of(connection, [series.interval], [series.pair]).get(series, [])
        extents = evidence_records.extents(connection, [series.pair])
        listing = listings.listings_of(connection, [series.pair]).get(series.pair)
    known = [extent.last_time for extent in extents.values()]
    if listing is not None and listing.first_trade is not None:
        known.append(listing.first_trade)
    return subtract(wanted, tuple(record.span for record in records)), max(known, default=None)


def _store_page(stores: Stores, series: Series, folded: Folded, run: RunContext) -> int:
    if not (folded.answered or folded.lost or folded.rejects):
        return 0
    # Spread evenly, because the count of a grant is only used for the cost of paging.
    length = sum(span.seconds for span in folded.answered) or 1
    grants = tuple(
        Grant(span, Source.TRADES, run.now, folded.trades * span.seconds // length) for span in folded.answered
    )
    return _store(
        stores,
        series,
        finished(folded.candles, Source.TRADES),
        grants,
        run,
        origin=f"Trades of {series.pair}",
        rejects=(*folded.rejects, *(Reject(0, iso(span.start), _TOO_MANY, span.start) for span in folded.lost)),
        # Not asked for again either: this endpoint cannot return the lost trades.
        attempts=[Attempt(span, Route.TRADES, None, None, run.now) for span in folded.lost],
        also=lambda connection: density_records.forget_answered(connection, series.pair, folded.answered),
        trades=(folded.kept, folded.answered) if folded.kept is not None else None,
    )


def grant_quiet(stores: Stores, series: Series, span: Span, run: RunContext) -> None:
    """Grant coverage of a span that had no trade according to the exchange."""
    grants = (Grant(span, Source.TRADES, run.now),)
    nothing = finished(NO_CANDLES, Source.TRADES)
    _store(stores, series, nothing, grants, run, origin=f"Trades of {series.pair}", rejects=(), attempts=())


def _store(
    stores: Stores,
    series: Series,
    candles: pl.DataFrame,
    grants: tuple[Grant, ...],
    run: RunContext,
    *,
    origin: str,
    rejects: Sequence[Reject],
    attempts: Sequence[Attempt],
    also: Callable[[sa.Connection], None] = lambda _: None,
    trades: tuple[pl.DataFrame, Spans] | None = None,
) -> int:
    def record(connection: sa.Connection) -> None:
        also(connection)
        dead_letters.add_of_reply(connection, series, origin, rejects, run_id=run.run_id, now=run.now)
        gap_records.add_attempts(connection, {series: attempts}, run.run_id)

    with stores.locks.series([series]):
        writer = CandleWriter(stores.lake, series, origin=origin, now=run.now)
        try:
            writer.add(candles)
            staged = writer.finish()
            kept = _staged_trades(stores, series.pair, *trades, run) if trades is not None else None
        except BaseException:
            writer.discard()
            raise
        commit(stores, [LakeWrite(staged, grants, trades=kept)], run.now, record)
    return staged.changed


def _staged_trades(stores: Stores, pair: str, trades: pl.DataFrame, answered: Spans, run: RunContext) -> StagedTrades:
    """Stage paged trades, which claim the spans for which their page answers; the pair's series is locked."""
    writer = TradeWriter(stores.lake, pair, run.now)
    writer.add(trades)
    return writer.finish(THE_EXCHANGE, answered)
