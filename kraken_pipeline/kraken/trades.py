"""Paging through a pair's trades, which are folded to one-minute candles page by page, in constant memory.

Each page is requested from the nanosecond of the last known trade. That trade must be in the page again, and is dropped
by its id. So an empty or a wrong page is never mistaken for the end. The result of a page is whole up to the start of
the minute that is still open, so that a stopped paging can continue from there.

Rows are read in the order of their ids, whatever order they come in. Where ids are consecutive, an absent id is a trade
that the page lacks. It is requested once more, from the trade before it. If it stays absent, the minutes in which it
may have been made are not answered for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf, nextafter
from typing import Any

import polars as pl

from kraken_pipeline.coverage.density import AbsentIds, Density
from kraken_pipeline.coverage.ranges import (
    Span,
    Spans,
    intersect,
    lies_in,
    normalise,
    span,
    subtract,
    touched_candles,
    union,
)
from kraken_pipeline.errors import ExchangeUnavailable, UnusableReply
from kraken_pipeline.kraken.replies import TradeRow
from kraken_pipeline.kraken.rows import Reject
from kraken_pipeline.market.candle import TIME
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.resample import TradeFold
from kraken_pipeline.market.trade import TOLD_SCHEMA, told

FULL_PAGE = 1_000
SETTLING_SECONDS = 5
"""The time that a trade may take to be listed."""
_NS = 1_000_000_000
_IMPRECISION_NS = 500
"""An upper bound for the error of a row's time: a float holds today's seconds to 240 ns."""
_BACKWARDS_SECONDS = 1e-6
"""The tolerance for a trade that is earlier than the one before it by id: in correct rows, up to 134 ns occur."""
_AHEAD_SECONDS = 2.0
"""The tolerance for a trade that is later than the exchange's own clock, which gives whole seconds."""
_MINUTE = Interval.M1


@dataclass(frozen=True, slots=True)
class TradesPage:
    """A page of trades as received.

    Attributes:
        rows: Its trades, in their order.
        last: The time of the last one in nanoseconds; None if the reply does not state it.
        asked_at: The time of the request by the exchange's clock, in seconds since the epoch.
        asked: The request, for messages.
        answered_at: The time of the answer by the exchange's clock, in seconds since the epoch; infinite if unknown.
    """

    rows: Sequence[TradeRow]
    last: int | None
    asked_at: float
    asked: str
    answered_at: float = inf

    def by_id(self) -> TradesPage:
        """Return the page with its trades in the order of their ids, which a reply does not guarantee."""
        if all(before[6] < after[6] for before, after in pairwise(self.rows)):
            return self
        return replace(self, rows=sorted(self.rows, key=lambda row: row[6]))

    @property
    def numbered(self) -> int:
        """The number of ids from the first to the last trade, both included; the trades must be in order of id."""
        return self.rows[-1][6] - self.rows[0][6] + 1 if self.rows else 0

    def absent(self) -> list[AbsentIds]:
        """Return the ids that are absent between those of its trades; these must be in order of id."""
        gaps = [(before, after) for before, after in pairwise(self.rows) if after[6] - before[6] > 1]
        return [
            AbsentIds(before[6] + 1, after[6] - 1, int(before[2]), int(after[2]), len(gaps)) for before, after in gaps
        ]


@dataclass(frozen=True, slots=True)
class Folded:
    """The result of a page: the minutes that it closed.

    Attributes:
        candles: The one-minute candles that it closed, with the columns of `resample`.
        answered: The spans that it answers for, on the grid of minutes.
        until: The time before which everything is settled (answered, or in `lost`); a stopped paging continues there.
        trades: The number of trades that the candles count.
        lost: Minutes whose trades are not all available: one nanosecond has as many as a page holds, or more.
        rejects: Trades that cannot be true; their minutes are not answered for.
        absent: Ids of trades that the exchange has left out twice; the minutes around them are not answered for.
        kept: The trades of the answered spans, with the columns of `TOLD_SCHEMA`; None where they are not wanted.
    """

    candles: pl.DataFrame
    answered: Spans
    until: int
    trades: int
    lost: Spans = ()
    rejects: tuple[Reject, ...] = ()
    absent: tuple[AbsentIds, ...] = ()
    kept: pl.DataFrame | None = None


@dataclass(frozen=True, slots=True)
class _Paging:
    """The parameters of a paging; see `page_trades`."""

    fetch: Callable[[int], TradesPage]
    wanted: Span
    full_page: int
    density: Density
    left_out: Callable[[Sequence[AbsentIds]], Sequence[AbsentIds]]


@dataclass(slots=True)
class _Progress:
    """The progress of a paging.

    Attributes:
        settled: The time before which everything was yielded, in seconds since the epoch.
        open: The minute of the latest trade; before the first trade, the minute before the span.
        latest: The time of the latest trade, in seconds since the epoch.
        since: The time to request next, in nanoseconds.
        seen: The ids of the page before.
        last: The id of that page's last trade, which the next page must have; None if it need not have one.
        lost: Minutes with trades that are not available, as far as not yet yielded.
        bad: Minutes with trades that cannot be true, or that are absent, as far as not yet yielded.
        absent: Ids that were left out twice, as far as not yet yielded.
        kept: Trades that are wanted themselves, as far as not yet yielded; None where none are.
    """

    settled: int
    open: int
    since: int
    latest: float = 0.0
    seen: Collection[int] = ()
    last: int | None = None
    lost: Spans = ()
    bad: Spans = ()
    absent: list[AbsentIds] = field(default_factory=list)
    kept: list[pl.DataFrame] | None = None


def page_trades(
    fetch: Callable[[int], TradesPage],
    wanted: Span,
    *,
    known_trade: int | None = None,
    full_page: int = FULL_PAGE,
    density: Density | None = None,
    left_out: Callable[[Sequence[AbsentIds]], Sequence[AbsentIds]] = tuple,
    keeps_trades: bool = False,
) -> Iterator[Folded]:
    """Page through the trades of a span.

    Args:
        fetch: Returns the page from a time in nanoseconds on, that time included.
        wanted: The span, on the grid of minutes.
        known_trade: The start of the latest candle known to have had a trade, from any source. A page by which the
            trades end before that is an error, not an answer.
        full_page: The number of trades in a full page, after which there may be more.
        density: The ranges in which the ids of the pair are consecutive.
        left_out: Receives ids that the exchange has left out twice; returns those that still count as trades.
        keeps_trades: Whether the results have the trades themselves, too.

    Yields:
        The result of each page. The last one reaches the end of the span, or of the last minute that was closed at the
        time of the request.

    Raises:
        ExchangeUnavailable: There was no answer, or an incomplete one. Results yielded before remain valid.
        UnusableReply: A page cannot be what was requested.
    """
    paging = _Paging(fetch, wanted, full_page, density or Density(), left_out)
    fold = TradeFold()
    at = _Progress(wanted.start, wanted.start - _MINUTE.seconds, wanted.start * _NS)
    at.kept = [] if keeps_trades else None
    while True:
        page = _held_against_ids(paging, _next_page(fetch, at, known_trade), at)
        new = [row for row in page.rows if row[6] not in at.seen]
        if not new and len(page.rows) >= full_page:
            _step_over(at, page, wanted)
            continue
        trades, rejects = _within(new, at, wanted)
        candles = fold.add(trades)
        if at.open >= wanted.end:
            yield _settled(at, pl.concat([candles, fold.finish()]), wanted.end, rejects)
            return
        if not new:
            _require_known_trade(at, page, known_trade)
            # The current minute is not over yet, and the newest trades may not be listed yet.
            end = min(wanted.end, _MINUTE.floor(int(page.asked_at - SETTLING_SECONDS)))
            last = fold.finish().filter(pl.col("time").dt.epoch("s") < end)
            yield _settled(at, last, end, rejects)
            return
        yield _settled(at, candles, at.open, rejects)
        at.seen = {row[6] for row in page.rows}
        at.last = page.rows[-1][6]
        at.since = max(at.since, _last(page))


def _next_page(fetch: Callable[[int], TradesPage], at: _Progress, known_trade: int | None) -> TradesPage:
    page = _page_from(fetch, at.since)
    if not page.rows and known_trade is not None and known_trade * _NS < at.since:
        _require_end(page, _page_from(fetch, known_trade * _NS), at.since)
    if at.last is not None and all(row[6] != at.last for row in page.rows):
        raise ExchangeUnavailable(f"{page.asked}: the page lacks the trade {at.last}, with which it should begin")
    return replace(page, rows=_separated(page.rows, fetch, at.since))


def _held_against_ids(paging: _Paging, page: TradesPage, at: _Progress) -> TradesPage:
    """Return a page with its holes filled as far as the exchange can; mark the minutes of the others as bad."""
    holes = _holes(paging, page, at)
    if not holes:
        return page
    page = _asked_again(paging, page, holes[0], at.since)
    if holes := _holes(paging, page, at):
        at.absent += paging.left_out(holes)
        minutes = touched_candles(normalise(hole.span for hole in at.absent), _MINUTE)
        at.bad = union(at.bad, intersect(minutes, (paging.wanted,)))
    return page


def _holes(paging: _Paging, page: TradesPage, at: _Progress) -> Sequence[AbsentIds]:
    """Return the trades that a page lacks, after the last trade of the page before and before the end of the span."""
    absent = [
        hole for hole in page.absent() if hole.start < paging.wanted.end and (at.last is None or hole.first > at.last)
    ]
    return paging.density.holes(absent) if absent else ()


def _asked_again(paging: _Paging, page: TradesPage, hole: AbsentIds, since: int) -> TradesPage:
    """Request a page once more, from the trade before a hole on, and return both pages merged."""
    before = next(row for row in page.rows if row[6] == hole.first - 1)
    # That trade's time is an imprecise float, so start a little before it, but not before the page.
    again = _page_from(paging.fetch, max(since, int(before[2] * 1e7) * 100 - _IMPRECISION_NS))
    if all(row[6] != before[6] for row in again.rows):
        raise ExchangeUnavailable(f"{again.asked}: the page lacks the trade {before[6]}, which was requested")
    later = _separated([row for row in again.rows if row[6] > before[6]], paging.fetch, since)
    rows = {row[6]: row for row in (*later, *page.rows)}
    last, until = page.last, page.rows[-1][6]
    if len(again.rows) >= paging.full_page or again.rows[-1][6] >= until:
        # Later rows were requested only once; they come again with the next page.
        last, until = again.last, again.rows[-1][6]
    kept = [rows[number] for number in sorted(rows) if number <= until]
    return replace(page, rows=kept, last=last, asked=f"{page.asked}, and again {again.asked}")


def _require_end(empty: TradesPage, earlier: TradesPage, since: int) -> None:
    """Refuse an empty page if an earlier page does not confirm that there are no more trades.

    An empty page has nothing to check. A page from the last known trade on must contain at least that trade.

    Raises:
        ExchangeUnavailable: The earlier page is empty too, or has a trade after `since`.
    """
    if not earlier.rows or earlier.rows[-1][2] > since / _NS:
        raise ExchangeUnavailable(f"{empty.asked}: the page has no trade, which {earlier.asked} does not confirm")


def _page_from(fetch: Callable[[int], TradesPage], since: int) -> TradesPage:
    page = fetch(since)
    require_possible(page, since)
    return page.by_id()


def require_possible(page: TradesPage, since: int) -> None:
    """Refuse a page that cannot be what was requested: it would close minutes, or end the paging, too early.

    Args:
        page: The page as received.
        since: The time from which it was requested, in nanoseconds.

    Raises:
        UnusableReply: The page has trades from before `since`, two trades with one id, or a trade later than its
            `last` or the exchange's clock allows.
    """
    if not page.rows:
        return
    times = [row[2] for row in page.rows]
    if min(times) < (since - 2 * _IMPRECISION_NS) / _NS:
        raise UnusableReply(f"{page.asked}: the page has trades from before the requested time")
    if len({row[6] for row in page.rows}) < len(page.rows):
        raise UnusableReply(f"{page.asked}: the page has two trades with one id")
    if page.last is not None and max(times) > page.last / _NS + _BACKWARDS_SECONDS:
        raise UnusableReply(f"{page.asked}: the page has a trade that is later than its last one")
    if max(times) > page.answered_at + _AHEAD_SECONDS:
        raise UnusableReply(f"{page.asked}: the page has a trade that is later than the exchange's own clock")


def _separated(rows: Sequence[TradeRow], fetch: Callable[[int], TradesPage], since: int) -> Sequence[TradeRow]:
    """Return the rows of a page, each with a time in the minute of its trade.

    A float is too coarse for the last 120 ns of a minute: such a trade reads as one at the start of the next minute.
    So the exchange is asked which of the trades at such a time are at or after it.
    """
    for start in sorted({int(row[2]) for row in rows if row[2] % _MINUTE.seconds == 0}):
        if start * _NS > since:
            first = min((row[6] for row in _page_from(fetch, start * _NS).rows), default=inf)
            rows = [
                (*row[:2], nextafter(start, 0), *row[3:]) if row[2] == start and row[6] < first else row for row in rows
            ]
    return rows


def _last(page: TradesPage) -> int:
    """Return the time of a page's last trade in nanoseconds, or a little less if the page does not give it exactly."""
    last_ns = int(page.rows[-1][2] * 1e7) * 100
    if page.last is None or abs(page.last - last_ns) > _IMPRECISION_NS:
        return last_ns - _IMPRECISION_NS
    return page.last


def _step_over(at: _Progress, page: TradesPage, wanted: Span) -> None:
    """Continue after an instant that has more trades than a page holds; those not seen are lost."""
    instant = _last(page)
    if instant != page.last:  # the exact instant is a little later
        instant += 2 * _IMPRECISION_NS
    at.since = max(at.since, instant) + 1
    at.seen, at.last = (), None
    first, last = int(page.rows[-1][2]), (at.since - 1) // _NS
    skipped = Span(_MINUTE.floor(first), _MINUTE.floor(max(first, last)) + _MINUTE.seconds)
    at.lost = union(at.lost, intersect((skipped,), (wanted,)))


def _within(new: Sequence[TradeRow], at: _Progress, wanted: Span) -> tuple[pl.DataFrame, tuple[Reject, ...]]:
    """Return the trades of a page that lie in the span and can be true, ready to be folded, and the rejected ones."""
    good: list[tuple[int, float, float, float | None]] = []
    taken: list[TradeRow] = []
    rejects: list[Reject] = []
    bad: list[Span] = []
    for row in new:
        price, volume, seconds = row[:3]
        minute = _MINUTE.floor(int(seconds))
        if not (0 < price < inf and 0 <= volume < inf):
            reason = "price or volume is not a positive number"
        elif minute < at.open or seconds < at.latest - _BACKWARDS_SECONDS:
            reason = "the trade is earlier than the one before it by id"
        else:
            at.open, at.latest = minute, max(at.latest, seconds)
            if minute in wanted:
                # Cut, not rounded: a trade at the end of a minute must not slip into the next.
                good.append((int(seconds * 1e6), price, volume, _bought(volume, row[3])))
                if at.kept is not None:
                    taken.append(row)
            continue
        if minute in wanted:
            rejects.append(Reject(0, ",".join(str(value) for value in row), reason, int(seconds)))
            # It is unknown which of the two times is wrong, so everything between them is doubtful.
            bad.append(Span(minute, max(minute, at.open) + _MINUTE.seconds))
    at.bad = union(at.bad, normalise(bad))
    values = dict.fromkeys(("price", "volume", "buy_volume"), pl.Float64())
    frame = pl.DataFrame(good, schema={"time": pl.Int64(), **values}, orient="row")
    frame = frame.with_columns(pl.col("time").cast(TIME))
    if at.kept is not None and taken:
        at.kept.append(_told(frame, taken, at.kept[-1]["time"].max() if at.kept else None))
    return frame, tuple(rejects)


def _told(frame: pl.DataFrame, rows: Sequence[TradeRow], latest: Any) -> pl.DataFrame:
    """Return trades with the columns of `TOLD_SCHEMA`, in the order of their ids, with times that rise with them.

    Of neighbours by id the later one may be told up to a microsecond earlier. In the order of time, both would trade
    places, and the last price of a minute would be another one than that of its candle.

    Args:
        frame: The trades with their times.
        rows: Their rows.
        latest: The time of the trade before them; None where none is held, and where it lies in an earlier minute.
    """
    more = {"side": (3, pl.String()), "order_type": (4, pl.String()), "trade_id": (6, pl.Int64())}
    columns = [pl.Series(name, [row[place] for row in rows], kind) for name, (place, kind) in more.items()]
    rising = pl.max_horizontal(pl.col("time").cum_max(), pl.lit(latest, TIME))
    return told(frame.with_columns(rising, *columns))


def _bought(volume: float, side: str) -> float | None:
    """Return the part of a trade's volume that the taker bought; None if the side is not known."""
    return {"b": volume, "s": 0.0}.get(side)


def _settled(at: _Progress, candles: pl.DataFrame, until: int, rejects: tuple[Reject, ...]) -> Folded:
    """Return the result up to `until`: everything that is neither lost nor bad, with its candles."""
    whole = span(at.settled, until)
    lost = intersect(at.lost, whole)
    unsure = union(at.lost, at.bad)
    kept = candles.filter(~lies_in(unsure, candles["time"].dt.epoch("s"))) if unsure else candles
    at.settled = max(at.settled, until)
    before = span(0, at.settled)
    at.lost, at.bad = subtract(at.lost, before), subtract(at.bad, before)
    absent, at.absent = tuple(at.absent), []
    count = int(kept["trade_count"].sum())
    answered = subtract(whole, unsure)
    return Folded(kept, answered, at.settled, count, lost, rejects, absent, _taken(at, answered))


def _taken(at: _Progress, answered: Spans) -> pl.DataFrame | None:
    """Return the trades in some spans, where trades are wanted, and go on to hold those that are not settled yet."""
    if not at.kept:
        return None if at.kept is None else pl.DataFrame(schema=TOLD_SCHEMA)
    trades = pl.concat(at.kept)
    seconds = trades["time"].dt.epoch("s")
    at.kept = [trades.filter(seconds >= at.settled)]
    return trades.filter(lies_in(answered, seconds))


def _require_known_trade(at: _Progress, page: TradesPage, known_trade: int | None) -> None:
    """Refuse a last page that lacks a known trade after the time from which the page was requested.

    Raises:
        ExchangeUnavailable: All trades of the page are before the known one.
    """
    if known_trade is None or at.since > known_trade * _NS:
        return
    if all(row[2] < known_trade for row in page.rows):
        raise ExchangeUnavailable(
            f"{page.asked}: the page says that there are no more trades, but the lake has one at {iso(known_trade)}"
        )
