"""Paging through a pair's trades, folded to one-minute candles as they come: memory is flat for any length.

A page is asked for by the nanosecond of the last trade known; it comes again with it, and is dropped by its id. What a
page closes is whole up to the start of the minute that is still open, so that whoever stores it can go on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl

from kraken_pipeline.coverage.ranges import Span, Spans, intersect, lies_in, normalise, span, subtract
from kraken_pipeline.errors import ExchangeUnavailable
from kraken_pipeline.kraken.replies import TradeRow
from kraken_pipeline.kraken.rows import Reject
from kraken_pipeline.market.candle import TIME
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.resample import TradeFold

FULL_PAGE = 1_000
SETTLING_SECONDS = 5
"""How long a trade may take to be listed."""
_NS = 1_000_000_000
_IMPRECISION_NS = 500
"""A float holds the seconds of today to 240 ns, and Kraken rounds to 100."""
_MINUTE = Interval.M1


@dataclass(frozen=True, slots=True)
class TradesPage:
    """A page of trades as it came.

    Attributes:
        rows: Its trades, in their order.
        last: The time of the last one in nanoseconds; None where the reply does not say.
        asked_at: When it was asked for by the exchange's clock, in seconds since the epoch.
        asked: The request, for messages.
    """

    rows: Sequence[TradeRow]
    last: int | None
    asked_at: float
    asked: str


@dataclass(frozen=True, slots=True)
class Folded:
    """What a page brought to an end.

    Attributes:
        candles: The one-minute candles that it closed, with the columns of `resample`.
        answered: What it answers for, on the grid of minutes.
        until: Everything before it is settled (answered, or in `lost`): where to go on after a stop.
        trades: How many trades the candles count.
        lost: Minutes whose trades cannot all be had: a page holds fewer than one nanosecond had.
        rejects: Trades that cannot be true; their minutes are not answered for.
    """

    candles: pl.DataFrame
    answered: Spans
    until: int
    trades: int
    lost: Spans = ()
    rejects: tuple[Reject, ...] = ()


@dataclass(slots=True)
class _Progress:
    """How far a paging has got."""

    settled: int  # seconds; everything before it was given out
    since: int  # nanoseconds
    seen: set[int] = field(default_factory=set)
    open: int = 0  # seconds; the minute of the last trade that was folded
    latest: float = 0  # seconds; the latest trade seen
    lost: list[Span] = field(default_factory=list)
    bad: list[Span] = field(default_factory=list)


def page_trades(
    fetch: Callable[[int], TradesPage], wanted: Span, *, known_trade: int | None = None
) -> Iterator[Folded]:
    """Pages through the trades of a span.

    Args:
        fetch: Gives the page from a time in nanoseconds on, that time included.
        wanted: The span, on the grid of minutes.
        known_trade: The start of the latest minute known to have had a trade, from whatever source. A page that says
            there are no more trades before that is an error, not an answer.

    Yields:
        What each page closed; the last one reaches the end of the span, or the last minute that was closed when the
        exchange was asked.

    Raises:
        ExchangeUnavailable: There was no answer. What was yielded before stands.
        UnusableReply: A page is not one.
    """
    fold = TradeFold()
    at = _Progress(wanted.start, wanted.start * _NS)
    while True:
        page = fetch(at.since)
        new = [row for row in page.rows if row[6] not in at.seen]
        is_full = len(page.rows) >= FULL_PAGE
        if not new and is_full:
            _step_over(at, page, wanted)
            continue
        trades, rejects = _within(new, at, wanted)
        candles = fold.add(trades)
        at.latest = max((at.latest, *(row[2] for row in new)))
        if at.latest >= wanted.end:
            yield _settled(at, pl.concat([candles, fold.finish()]), wanted.end, rejects)
            return
        if not new:
            _require_later_trades(at, page, known_trade)
            # The minute that is not over yet is nobody's, and what was traded just now may not be listed yet.
            end = min(wanted.end, _MINUTE.floor(int(page.asked_at - SETTLING_SECONDS)))
            last = fold.finish().filter(pl.col("time").dt.epoch("s") < end)
            yield _settled(at, pl.concat([candles, last]), end, rejects)
            return
        yield _settled(at, candles, at.open, rejects)
        _go_on(at, page)


def _go_on(at: _Progress, page: TradesPage) -> None:
    at.seen = {row[6] for row in page.rows}
    at.since = max(at.since, _last(page))


def _last(page: TradesPage) -> int:
    """The time of a page's last trade in nanoseconds, or a little before it where the page does not tell it exactly."""
    seconds = page.rows[-1][2]
    told = int(seconds * 1e7) * 100
    if page.last is None or abs(page.last - told) > 1_000:
        return told - _IMPRECISION_NS
    return page.last


def _step_over(at: _Progress, page: TradesPage, wanted: Span) -> None:
    """Goes on behind an instant that has more trades than a page holds; what of them was not seen is lost."""
    instant = _last(page)
    minute = _MINUTE.floor(instant // _NS)
    # Where the page does not say its last trade's time exactly, that instant lies somewhere behind.
    at.since = max(at.since, instant if instant == page.last else instant + 3 * _IMPRECISION_NS) + 1
    at.lost += intersect((Span(minute, _MINUTE.floor(at.since // _NS) + 60),), (wanted,))


def _within(new: Sequence[TradeRow], at: _Progress, wanted: Span) -> tuple[pl.DataFrame, tuple[Reject, ...]]:
    """The trades of a page that lie in the span and can be true, ready to be folded."""
    good: list[tuple[int, float, float]] = []
    rejects: list[Reject] = []
    at.open = max(at.open, wanted.start)
    for row in new:
        price, volume, seconds = row[:3]
        if not wanted.start <= seconds < wanted.end:
            continue
        if not (0 < price < float("inf")) or not (0 <= volume < float("inf")):
            reason = "price or volume is not a positive number"
        elif seconds < at.open:
            reason = "the trade is earlier than the minute of the one before"
        else:
            at.open = _MINUTE.floor(int(seconds))
            # Cut, not rounded: a trade at the end of a minute must not slip into the next.
            good.append((int(seconds * 1e6), price, volume))
            continue
        start = _MINUTE.floor(int(seconds))
        at.bad.append(Span(start, start + 60))
        rejects.append(Reject(0, ",".join(str(value) for value in row), reason, int(seconds)))
    frame = pl.DataFrame(good, schema={"time": pl.Int64(), "price": pl.Float64(), "volume": pl.Float64()}, orient="row")
    return frame.with_columns(pl.col("time").cast(TIME)), tuple(rejects)


def _settled(at: _Progress, candles: pl.DataFrame, until: int, rejects: tuple[Reject, ...]) -> Folded:
    """What can be given out now: everything before `until` but for lost and bad minutes, and their candles."""
    whole = span(at.settled, until)
    lost = intersect(normalise(at.lost), whole)
    answered = subtract(whole, normalise((*lost, *intersect(normalise(at.bad), whole))))
    kept = candles
    if at.lost or at.bad:
        seconds = candles["time"].dt.epoch("s")
        kept = candles.filter(~lies_in(normalise((*at.lost, *at.bad)), seconds))
    at.settled = max(at.settled, until)
    return Folded(kept, answered, at.settled, int(kept["trade_count"].sum()), lost, rejects)


def _require_later_trades(at: _Progress, page: TradesPage, known_trade: int | None) -> None:
    if known_trade is not None and at.latest < known_trade and at.since < known_trade * _NS:
        raise ExchangeUnavailable(
            f"{page.asked}: the page says that there are no more trades, but there is one at {iso(known_trade)}"
        )
