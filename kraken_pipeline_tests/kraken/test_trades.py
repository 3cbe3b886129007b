"""Paging through trades, against every trade folded in plain Python, over HTTP and over Kraken's recordings."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_pipeline.coverage.density import AbsentIds, Density
from kraken_pipeline.coverage.ranges import Span, Spans, intersect, normalise, seconds, span, subtract, touched_candles
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.faults import Fault, LeftOut, Tampering
from kraken_pipeline.demo.listing import DAY, Listing
from kraken_pipeline.demo.world import Burst, World
from kraken_pipeline.errors import ExchangeUnavailable, UnusableReply
from kraken_pipeline.kraken.exchange import Exchange
from kraken_pipeline.kraken.ohlc import read_ohlc
from kraken_pipeline.kraken.replies import TradeRow, parse_ohlc, parse_trades
from kraken_pipeline.kraken.rows import Reject
from kraken_pipeline.kraken.trades import Folded, TradesPage, page_trades
from kraken_pipeline.market.flow import FLOW
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow.backfill.exchange import connected
from kraken_pipeline_tests.support.homes import oracle, settings_of, values
from kraken_pipeline_tests.support.samples import at, real_file

NS = 1_000_000_000
MINUTE_NS = 60 * NS
SECONDS = pl.col("time").dt.epoch("s")
T = at("2024-02-28T23:50")
WANTED = Span(T, T + 20 * 60)
"""Twenty minutes, over a midnight."""


@dataclass(frozen=True)
class Trade:
    """A trade as it was: the exact time in nanoseconds since the epoch, price, volume, id."""

    time: int
    price: float
    volume: float
    id: int

    @property
    def minute(self) -> int:
        return self.time // MINUTE_NS * 60

    @property
    def is_good(self) -> bool:
        return 0 < self.price < float("inf")

    def row(self) -> TradeRow:
        """As a reply has it: the time is the nearest float."""
        return (self.price, self.volume, self.time / NS, "b", "l", "", self.id)


EARLIER = "the trade is earlier than the one before it by id"


def trading(*trades: tuple[float, float], first_id: int = 1) -> list[Trade]:
    """Trades of one unit each, from their seconds since T and their prices."""
    return [
        Trade(T * NS + round(Decimal(str(time)) * NS), price, 1.0, first_id + index)
        for index, (time, price) in enumerate(trades)
    ]


def burst(time: int, count: int, first_id: int = 1) -> list[Trade]:
    """Many trades at one nanosecond."""
    return [Trade(time, 10.0 + index % 7, 0.25, first_id + index) for index in range(count)]


def numbered(trades: Iterable[Trade]) -> list[Trade]:
    """The same trades with ids in order."""
    return [replace(trade, id=index) for index, trade in enumerate(trades, 1)]


class Rows(list[TradeRow]):
    """Rows that can be watched while they live."""


@dataclass
class Market:
    """An exchange with these trades, as Kraken pages them."""

    trades: Sequence[Trade]
    size: int = 1_000
    asked_at: float = WANTED.end + 1_000
    tell: Callable[[int], int | None] = int  # what `last` says instead of this
    asked: list[int] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    pages: list[weakref.ref[Rows]] = field(default_factory=list)

    def fetch(self, since: int) -> TradesPage:
        self.asked.append(since)
        assert len(self.asked) < 40 + 4 * len(self.trades), "the paging stalls"
        page = [trade for trade in self.trades if since <= trade.time < self.asked_at * NS][: self.size]
        self.seen |= {trade.id for trade in page}
        rows = Rows(trade.row() for trade in page)
        self.pages.append(weakref.ref(rows))
        return TradesPage(rows, self.tell(page[-1].time if page else since), self.asked_at, f"Trades since {since}")

    def paged(self, wanted: Span = WANTED, known_trade: int | None = None) -> Iterator[Folded]:
        return page_trades(self.fetch, wanted, known_trade=known_trade, full_page=self.size)


# --- the same in plain Python


def fold(trades: Iterable[Trade]) -> dict[int, tuple[float, ...]]:
    """Minute → its candle, from all its trades."""
    found: dict[int, tuple[float, ...]] = {}
    for minute, group in itertools.groupby(trades, key=lambda trade: trade.minute):
        own = list(group)
        prices = [trade.price for trade in own]
        volume = round(sum(trade.volume for trade in own), 8)
        found[minute] = (minute, prices[0], max(prices), min(prices), prices[-1], volume, len(own))
    return found


@dataclass
class Truth:
    """What a paging has to come to."""

    answered: Spans
    lost: Spans
    candles: list[tuple[float, ...]]
    until: int


def truth(market: Market, wanted: Span = WANTED) -> Truth:
    """What a paging has to come to, decided trade by trade."""
    listed = [trade for trade in market.trades if wanted.start * NS <= trade.time < market.asked_at * NS]
    latest = max((trade.minute for trade in listed if trade.is_good), default=wanted.start)
    until = min(wanted.end, max(latest, wanted.start, int(market.asked_at - 5) // 60 * 60))
    settled = [trade for trade in listed if trade.minute < until]
    crowded = [
        time
        for time, group in itertools.groupby(settled, key=lambda trade: trade.time)
        if len(list(group)) >= market.size
    ]
    lost = minutes(time // MINUTE_NS * 60 for time in crowded)
    bad = minutes(trade.minute for trade in settled if not trade.is_good)
    answered = subtract(subtract(span(wanted.start, until), lost), bad)
    candles = [candle for minute, candle in fold(settled).items() if any(minute in each for each in answered)]
    return Truth(answered, lost, candles, until)


def minutes(starts: Iterable[int]) -> Spans:
    return normalise(Span(start, start + 60) for start in starts)


def candles_of(pages: Iterable[Folded]) -> list[tuple[float, ...]]:
    return [candle for page in pages for candle in values(page.candles)]


def answered_of(pages: Sequence[Folded]) -> Spans:
    spans = [each for page in pages for each in page.answered]
    assert seconds(normalise(spans)) == sum(each.seconds for each in spans), "answered twice"
    return normalise(spans)


def lost_of(pages: Iterable[Folded]) -> Spans:
    return normalise(each for page in pages for each in page.lost)


def rejects_of(pages: Iterable[Folded]) -> list[Reject]:
    return [reject for page in pages for reject in page.rejects]


def assert_true(pages: Sequence[Folded], wanted: Truth, start: int = WANTED.start) -> None:
    assert candles_of(pages) == wanted.candles
    assert answered_of(pages) == wanted.answered
    assert lost_of(pages) == wanted.lost
    assert pages[-1].until == wanted.until
    until = start
    for page in pages:
        assert page.until >= until
        settled = span(until, page.until)
        assert subtract(page.answered, settled) == subtract(page.lost, settled) == ()
        times = page.candles["time"].dt.epoch("s").to_list()
        assert all(any(time in each for each in page.answered) for time in times)
        assert page.trades == page.candles["trade_count"].sum()
        until = page.until


# --- any trades


PRICES = st.integers(1, 10**6).map(lambda ticks: ticks / 100)
VOLUMES = st.integers(0, 10**10).map(lambda lots: lots / 10**8)
LAST_OF_MINUTE, NEXT_MINUTE = -1, -2
COARSE = st.sampled_from([0, 0, 0, 10_000, NS, 17 * NS, MINUTE_NS, 3 * MINUTE_NS, NEXT_MINUTE])
"""Steps in nanoseconds from trade to trade, none so small that a float cannot tell the times apart."""
FINE = st.sampled_from([0, 0, 0, 0, 1, 90, 300, LAST_OF_MINUTE, NEXT_MINUTE, 17 * NS, MINUTE_NS])

PLAIN = st.sampled_from([0, 0, 10_000, 7_000_000, 17 * NS + 1_000, 61 * NS + 1_000])
"""None that puts a trade on the edge of a minute."""


@st.composite
def trades_of(draw: st.DrawFn, steps: st.SearchStrategy[int], prices: st.SearchStrategy[float]) -> list[Trade]:
    time = (T - 90) * NS
    trades: list[Trade] = []
    for step, price, volume in draw(st.lists(st.tuples(steps, prices, VOLUMES), max_size=60)):
        if step == NEXT_MINUTE:
            time = time // MINUTE_NS * MINUTE_NS + MINUTE_NS
        elif step == LAST_OF_MINUTE:
            time = (time + 1) // MINUTE_NS * MINUTE_NS + MINUTE_NS - 1
        else:
            time += step
        trades.append(Trade(time, price, volume, len(trades) + 1))
    return trades


MOMENTS = st.integers(WANTED.start - 70, WANTED.end + 200)
SIZES = st.integers(2, 9)
LIES: dict[str, Callable[[int], int | None]] = {
    "missing": lambda _: None,
    "too late": lambda last: last + 600 * NS,
}


@given(trades_of(FINE, PRICES), SIZES, MOMENTS)
def test_every_candle_is_exact_and_coverage_is_what_was_seen_whole(
    trades: list[Trade], size: int, asked_at: int
) -> None:
    market = Market(trades, size, asked_at)
    pages = list(market.paged())
    assert_true(pages, truth(market))
    assert rejects_of(pages) == []


@pytest.mark.parametrize("lie", LIES)
@given(trades=trades_of(COARSE, PRICES), size=SIZES, asked_at=MOMENTS)
def test_nothing_depends_on_a_last_that_is_not_the_time_of_the_last_trade(
    lie: str, trades: list[Trade], size: int, asked_at: int
) -> None:
    market = Market(trades, size, asked_at, tell=LIES[lie])
    assert_true(list(market.paged()), truth(market))


@given(trades_of(FINE, st.one_of(PRICES, PRICES, st.sampled_from([-1.0, 0.0, float("nan"), float("inf")]))), SIZES)
def test_a_trade_that_cannot_be_true_is_a_reject_and_its_minute_is_not_answered_for(
    trades: list[Trade], size: int
) -> None:
    market = Market(trades, size)
    pages = list(market.paged())
    assert_true(pages, truth(market))
    bad = [trade for trade in trades if not trade.is_good and T <= trade.minute < WANTED.end]
    is_over = any(trade.is_good and trade.minute >= WANTED.end for trade in trades)
    found = [int(reject.text.rsplit(",", 1)[1]) for reject in rejects_of(pages)]
    assert len(set(found)) == len(found)
    assert set(found) <= {trade.id for trade in bad}
    if lost_of(pages) == () and not is_over:
        assert found == [trade.id for trade in bad]


@given(trades_of(FINE, PRICES), SIZES, MOMENTS, st.lists(st.integers(1, 4), max_size=5))
def test_stopping_after_any_page_and_starting_again_gives_the_same(
    trades: list[Trade], size: int, asked_at: int, stops: list[int]
) -> None:
    market = Market(trades, size, asked_at)
    pages: list[Folded] = []
    start = WANTED.start
    for stop in [*stops, None]:
        seen = list(itertools.islice(market.paged(Span(start, WANTED.end)), stop))
        pages += seen
        start = seen[-1].until
        if start == WANTED.end:
            break
    assert_true(pages, truth(market))


@given(trades_of(PLAIN, PRICES), SIZES)
def test_a_stop_repeats_at_most_the_minute_that_is_open(trades: list[Trade], size: int) -> None:
    market = Market(trades, size)
    listed = {trade.id: trade.minute for trade in trades if trade.minute >= T}
    for page in itertools.takewhile(lambda page: page.until < WANTED.end, market.paged()):
        assert page.until == max(listed[number] for number in market.seen)


# --- more trades in one nanosecond than a page holds


CROWDS = {
    "in the middle of a minute": (7 * 60 + 31) * NS + 777,
    "at the start of the span": 0,
    "at the start of a minute": 7 * 60 * NS,
    "in the first nanosecond of a minute": 7 * 60 * NS + 1,
    "in the last nanosecond of a minute": 8 * 60 * NS - 1,
    "in the last nanosecond of the span": WANTED.seconds * NS - 1,
}


@pytest.mark.parametrize("tell", [int, LIES["missing"]], ids=["last", "no last"])
@pytest.mark.parametrize("count", [1_000, 1_500, 3_500])
@pytest.mark.parametrize("when", CROWDS)
def test_a_crowded_nanosecond_loses_its_minute_and_nothing_else(
    when: str, count: int, tell: Callable[[int], int | None]
) -> None:
    crowded = T * NS + CROWDS[when]
    calm = [Trade(T * NS + index * 13 * NS + 1_000_003, 20.0 + index % 9, 0.5, 0) for index in range(200)]
    trades = numbered(sorted([*calm, *burst(crowded, count)], key=lambda trade: trade.time))
    market = Market(trades, tell=tell)
    pages = list(market.paged())
    wanted = truth(market)
    assert wanted.lost == minutes([crowded // MINUTE_NS * 60])
    if tell is int:
        assert_true(pages, wanted)
    else:  # what is stepped over then may reach into the next minute
        assert subtract(answered_of(pages), wanted.answered) == ()
        assert seconds(wanted.answered) - seconds(answered_of(pages)) <= 60
        assert normalise((*answered_of(pages), *lost_of(pages))) == (WANTED,)
        assert lost_of(pages)[0].start == wanted.lost[0].start
    assert len(market.asked) <= 12


def test_a_nanosecond_with_one_trade_less_than_a_page_holds_is_had_whole() -> None:
    market = Market(burst(T * NS + 90 * NS, 999))
    pages = list(market.paged())
    assert_true(pages, truth(market))
    assert [candle[6] for candle in candles_of(pages)] == [999]
    assert lost_of(pages) == ()


def test_crowds_one_after_another_are_all_stepped_over() -> None:
    times = [T * NS + second * NS for second in (30, 31, 200, 201, 600)]
    market = Market(numbered(trade for time in times for trade in burst(time, 12)), size=10)
    pages = list(market.paged())
    assert_true(pages, truth(market))
    assert lost_of(pages) == minutes([T, T + 180, T + 600])
    assert candles_of(pages) == []


# --- the times of trades


def test_the_last_nanoseconds_of_a_minute_are_in_that_minute_though_a_float_says_the_next() -> None:
    times = [59.99999999, 60, 119.999999999, 179.99999995, 180, 300]
    trades = trading(*((time, 10.0 + index) for index, time in enumerate(times)))
    assert trades[0].row()[2] == T + 60
    for size in (2, 3, 100):
        pages = list(Market(trades, size).paged())
        assert [(candle[0] - T, candle[6]) for candle in candles_of(pages)] == [
            (0, 1),
            (60, 2),
            (120, 1),
            (180, 1),
            (300, 1),
        ]


def test_a_trade_at_the_start_of_the_next_span_is_not_in_this_one() -> None:
    before, after = trading((WANTED.seconds - 0.00000001, 1.0), (WANTED.seconds, 2.0))
    assert before.row()[2] == after.row()[2] == WANTED.end
    assert [candle[4] for candle in candles_of(Market([before, after]).paged())] == [1.0]
    beyond = Span(WANTED.end, WANTED.end + 60)
    assert [candle[4] for candle in candles_of(Market([before, after], asked_at=T + 9_999).paged(beyond))] == [2.0]


def test_a_trade_that_comes_out_of_order_takes_all_between_the_two_times_with_it() -> None:
    trades = trading((10, 1.0), (70, 2.0), (250, 3.0), (130, 4.0), (255, 5.0), (310, 6.0))
    rows = [trade.row() for trade in trades]

    def fetch(since: int) -> TradesPage:
        return TradesPage([row for row in rows if row[2] >= since / NS - 1e-6], None, WANTED.end + 100, "Trades")

    pages = list(page_trades(fetch, WANTED))
    assert [reject.reason for reject in rejects_of(pages)] == ["the trade is earlier than the one before it by id"]
    assert [reject.time for reject in rejects_of(pages)] == [T + 130]
    assert answered_of(pages) == (Span(T, T + 120), Span(T + 300, WANTED.end))
    assert [candle[0] - T for candle in candles_of(pages)] == [0, 60, 300]


def test_a_trade_beyond_the_span_does_not_end_it_where_earlier_ones_follow() -> None:
    trades = trading((10, 1.0), (WANTED.seconds + 10, 2.0), (70, 3.0), (WANTED.seconds + 20, 4.0))
    pages = list(page_trades(lambda _: TradesPage([each.row() for each in trades], None, T + 9_999, "Trades"), WANTED))
    assert answered_of(pages) == (Span(T, T + 60),)
    assert [reject.time for reject in rejects_of(pages)] == [T + 70]


def test_trades_within_a_minute_keep_the_order_in_which_they_came() -> None:
    market = Market(trading((10, 5.0), (10, 9.0), (10, 2.0), (10, 4.0)))
    assert candles_of(market.paged()) == [(T, 5.0, 9.0, 2.0, 4.0, 4.0, 4)]


# --- the end


def test_a_pair_without_trades_is_quiet_up_to_the_last_minute_that_is_over() -> None:
    for asked_at, end in ((WANTED.end + 99, WANTED.end), (T + 300, T + 240), (T + 305, T + 300), (T - 99, T)):
        (page,) = Market([], asked_at=asked_at, tell=lambda _: None).paged()
        assert page.candles.is_empty()
        assert (page.answered, page.until, page.trades, page.lost) == (span(T, end), end, 0, ())


def test_the_minute_that_is_not_over_yet_is_left_out() -> None:
    trades = trading((10, 1.0), (65, 2.0), (70, 3.0))
    for asked_at, until in ((71, 60), (119, 60), (124.9, 60), (125, 120), (200, 180)):
        pages = list(Market(trades, asked_at=T + asked_at).paged())
        assert pages[-1].until == T + until
        assert answered_of(pages) == (Span(T, T + until),)
        assert [candle[6] for candle in candles_of(pages)] == [1, 2][: 1 + (until > 60)]


def test_a_minute_that_is_over_is_answered_for_as_soon_as_a_later_trade_is_listed() -> None:
    (*_, last) = Market(trading((10, 1.0), (61, 2.0)), asked_at=T + 61.5).paged()
    assert last.until == T + 60


@pytest.mark.parametrize(("known", "is_believed"), [(None, True), (T - 60, True), (T, False), (T + 600, False)])
def test_a_page_without_a_trade_that_is_known_is_an_error(known: int | None, is_believed: bool) -> None:
    market = Market(trading((-50, 1.0)))
    if is_believed:
        assert answered_of(list(market.paged(known_trade=known))) == (WANTED,)
        return
    with pytest.raises(ExchangeUnavailable, match="there are no more trades, but the lake has one at 2024-02-"):
        list(market.paged(known_trade=known))


def test_a_page_without_trades_is_an_error_where_not_even_the_known_one_before_comes_again() -> None:
    with pytest.raises(ExchangeUnavailable, match=r"the page has no trade, which .* does not confirm"):
        list(Market([]).paged(known_trade=T - 60))


def test_the_latest_known_trade_is_no_error_once_it_was_seen() -> None:
    trades = trading((10, 1.0), (300, 2.0))
    for known in (T, T + 300):
        assert answered_of(list(Market(trades).paged(known_trade=known))) == (WANTED,)
    with pytest.raises(ExchangeUnavailable):
        list(Market(trades).paged(known_trade=T + 360))


@pytest.mark.parametrize("pages", [1, 2, 3])
def test_an_empty_page_in_the_middle_of_trades_is_an_error_and_not_the_end(pages: int) -> None:
    market = Market(trading(*((20.5 * index, 1.0) for index in range(10))), size=3)
    given_out: list[Folded] = []

    def fetch(since: int) -> TradesPage:
        page = market.fetch(since)
        return replace(page, rows=[], last=None) if len(market.asked) > pages else page

    with pytest.raises(ExchangeUnavailable, match="the page lacks the trade"):
        given_out.extend(page_trades(fetch, WANTED, full_page=3))
    assert len(given_out) == pages
    assert given_out[-1].until == T + 41 * pages // 60 * 60


def test_an_exchange_that_leaves_out_the_trade_it_was_asked_to_begin_with_is_not_believed() -> None:
    market = Market(burst(T * NS + 10 * NS, 5), size=3)

    def exclusive(since: int) -> TradesPage:
        return market.fetch(since + 1)

    with pytest.raises(ExchangeUnavailable, match="lacks the trade 3"):
        list(page_trades(exclusive, WANTED, full_page=3))


def test_an_exchange_that_gives_the_same_page_whatever_it_is_asked_is_not_believed() -> None:
    same = Market(trading((10, 1.0), (20, 2.0), (30, 3.0)), size=3).fetch(0)
    with pytest.raises(UnusableReply, match="from before the requested time"):
        list(page_trades(lambda _: same, WANTED, full_page=3))


def test_trades_without_ids_of_their_own_are_not_believed() -> None:
    trades = [replace(trade, id=0) for trade in trading((10, 1.0), (20, 2.0))]
    with pytest.raises(UnusableReply, match="two trades with one id"):
        list(Market(trades).paged())


def test_what_was_given_out_before_an_error_stands() -> None:
    market = Market(trading(*((25.0 * index, float(index + 1)) for index in range(12))), size=4)

    def fetch(since: int) -> TradesPage:
        if len(market.asked) == 2:
            raise ExchangeUnavailable("a reset")
        return market.fetch(since)

    paging = page_trades(fetch, WANTED, full_page=4)
    before = [next(paging), next(paging)]
    with pytest.raises(ExchangeUnavailable, match="a reset"):
        next(paging)
    after = list(market.paged(Span(before[-1].until, WANTED.end)))
    assert_true([*before, *after], truth(market))


def test_one_page_is_held_at_a_time() -> None:
    market = Market(trading(*((0.5 * index + 0.1, 1.0) for index in range(2_000))), size=50)
    count = 0
    for page in market.paged():
        assert sum(rows() is not None for rows in market.pages) == 1
        assert page.candles.height <= 2
        count += 1
    assert count > 40


# --- held against their ids


def left_out(market: Market, *ids: int, times: int | None = None) -> Callable[[int], TradesPage]:
    """Pages that lack some trades, the first so many times."""

    def fetch(since: int) -> TradesPage:
        page = market.fetch(since)
        if times is not None and len(market.asked) > times:
            return page
        return replace(page, rows=[row for row in page.rows if row[6] not in ids])

    return fetch


EVERY_HALF_MINUTE = trading(*((30.5 * index + 1, float(index + 1)) for index in range(38)))


@given(trades_of(COARSE, PRICES), st.sets(st.integers(1, 60), max_size=12), SIZES, st.randoms())
def test_whatever_is_left_out_and_in_whatever_order_no_candle_is_wrong(
    trades: list[Trade], absent: set[int], size: int, random: Any
) -> None:
    market = Market(trades, size)
    told: list[AbsentIds] = []

    def fetch(since: int) -> TradesPage:
        page = left_out(market, *absent)(since)
        return replace(page, rows=random.sample(list(page.rows), len(page.rows)))

    def note(holes: Sequence[AbsentIds]) -> Sequence[AbsentIds]:
        told.extend(holes)
        return holes

    pages: list[Folded] = []
    with contextlib.suppress(ExchangeUnavailable):
        pages += page_trades(fetch, WANTED, full_page=size, left_out=note)
    # Of what lies before the first trade that was given, and behind the last, no page says anything.
    given = [trade for trade in trades if trade.id not in absent and trade.time >= T * NS]
    known = (Span(given[0].minute, given[-1].minute + 60),) if given else ()
    inner = [trade for trade in trades if given and given[0].id < trade.id < given[-1].id]
    happened = fold(trade for trade in trades if trade.time >= T * NS)
    cut = {given[0].minute, given[-1].minute} if given else set()
    for candle in candles_of(pages):
        assert candle == happened[int(candle[0])] or int(candle[0]) in cut
    lacking = normalise(Span(trade.minute, trade.minute + 60) for trade in inner if trade.id in absent)
    assert intersect(answered_of(pages), intersect(lacking, known)) == ()
    assert all(ids.first <= ids.last and set(range(ids.first, ids.last + 1)) <= absent for ids in told)


def test_ids_that_come_when_asked_again_heal_at_once_and_cost_one_request() -> None:
    market = Market(EVERY_HALF_MINUTE)
    pages = list(page_trades(left_out(market, 7, 8, 9, 20, times=1), WANTED))
    assert_true(pages, truth(market))
    whole = Market(EVERY_HALF_MINUTE)
    list(whole.paged())
    assert len(market.asked) == len(whole.asked) + 1
    assert market.asked[1] == pytest.approx(EVERY_HALF_MINUTE[5].time, abs=2_000), "from the trade before the hole"


def test_ids_that_stay_away_take_their_minutes_along_and_nothing_else() -> None:
    market = Market(EVERY_HALF_MINUTE)
    told: list[AbsentIds] = []

    def note(absent: Sequence[AbsentIds]) -> Sequence[AbsentIds]:
        told.extend(absent)
        return absent

    pages = list(page_trades(left_out(market, 7, 8, 9), WANTED, left_out=note))
    before, after = EVERY_HALF_MINUTE[5], EVERY_HALF_MINUTE[9]
    hole = Span(before.minute, after.minute + 60)
    assert answered_of(pages) == subtract((WANTED,), (hole,))
    assert candles_of(pages) == [row for minute, row in fold(EVERY_HALF_MINUTE).items() if minute not in hole]
    expected = AbsentIds(7, 9, before.time // NS, after.time // NS)
    assert told == [expected]
    assert [each for page in pages for each in page.absent] == [expected]


@pytest.mark.parametrize("size", [4, 5, 1_000])
def test_ids_that_are_absent_between_two_pages_are_found(size: int) -> None:
    market = Market(EVERY_HALF_MINUTE, size)
    pages = list(page_trades(left_out(market, 5), WANTED, full_page=size))
    assert [each.ids for page in pages for each in page.absent] == [Span(5, 6)]


def test_ids_that_are_known_not_to_exist_are_not_asked_for_and_take_nothing_along() -> None:
    trades = [replace(trade, id=trade.id + 100 * (trade.id > 10)) for trade in EVERY_HALF_MINUTE]
    market, whole = Market(trades), Market(EVERY_HALF_MINUTE)
    known = Density(sparse=(AbsentIds(8, 50, 0, 0), AbsentIds(51, 110, 0, 0)))
    pages = list(page_trades(market.fetch, WANTED, density=known))
    assert_true(pages, truth(market))
    list(whole.paged())
    assert len(market.asked) == len(whole.asked)


def test_ids_that_turn_out_not_to_exist_take_nothing_along() -> None:
    market = Market([replace(trade, id=trade.id * 3) for trade in EVERY_HALF_MINUTE])
    pages = list(page_trades(market.fetch, WANTED, left_out=lambda _: ()))
    assert_true(pages, truth(market))


@pytest.mark.parametrize("is_tested", [False, True])
def test_before_2021_ids_count_only_where_they_were_tested(is_tested: bool) -> None:
    start = at("2014-06-01")
    trades = [Trade((start + 31 * index) * NS, 1.0, 1.0, index + 1) for index in range(38)]
    market, wanted = Market(trades), Span(start, start + 1_200)
    density = Density(tested=(Span(start, start + 86_400),)) if is_tested else None
    pages = list(page_trades(left_out(market, 7), wanted, density=density))
    assert (answered_of(pages) == (wanted,)) is not is_tested


def test_rows_are_taken_in_the_order_of_their_ids() -> None:
    market = Market(trading((10, 5.0), (10, 9.0), (10, 2.0), (10, 4.0), (70, 1.0)))

    def reversed_page(since: int) -> TradesPage:
        page = market.fetch(since)
        return replace(page, rows=page.rows[::-1])

    assert candles_of(page_trades(reversed_page, WANTED))[0] == (T, 5.0, 9.0, 2.0, 4.0, 4.0, 4)


def test_a_trade_whose_time_falls_though_its_id_rises_is_a_reject_within_a_minute_too() -> None:
    rows = [trade.row() for trade in trading((10, 1.0), (30, 2.0), (20, 3.0), (70, 4.0), (150, 5.0))]

    def fetch(since: int) -> TradesPage:
        return TradesPage([row for row in rows if row[2] >= since / NS - 1e-6], None, WANTED.end + 100, "Trades")

    pages = list(page_trades(fetch, WANTED))
    assert [reject.time for reject in rejects_of(pages)] == [T + 20]
    assert answered_of(pages) == (Span(T + 60, WANTED.end),)


@pytest.mark.parametrize(
    ("last", "now", "message"),
    [
        (lambda last: last - 1_100, WANTED.end, "later than its last one"),
        (lambda last: last - NS, WANTED.end, "later than its last one"),
        (lambda _: 7, WANTED.end, "later than its last one"),
        (int, T + 20 - 2.5, "later than the exchange's own clock"),
    ],
)
def test_a_page_with_a_trade_that_cannot_be_there_yet_ends_nothing(
    last: Callable[[int], int], now: float, message: str
) -> None:
    market = Market(trading((10, 1.0), (20, 2.0)), tell=last)

    def fetch(since: int) -> TradesPage:
        return replace(market.fetch(since), answered_at=now)

    pages: list[Folded] = []
    with pytest.raises(UnusableReply, match=message):
        pages += page_trades(fetch, WANTED)
    assert pages == []


def test_an_honest_last_row_may_lie_a_little_behind_what_the_page_and_the_clock_say() -> None:
    market = Market(trading((10, 1.0), (20, 2.0)), tell=lambda last: last - 900)
    pages = list(page_trades(lambda since: replace(market.fetch(since), answered_at=T + 20 - 1.9), WANTED))
    assert answered_of(pages) == (WANTED,)


# --- over HTTP


START = at("2025-03-01")
END = START + 3 * DAY
LISTINGS = (
    Listing("XBTUSD", "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 61_250.0, 0.006, 1_500, START - DAY),
    Listing("ADAEUR", "ADAEUR", "ADA/EUR", "ADA", "ZEUR", 6, 0.455, 55.0, 400, START - DAY, night=(2, 5)),
    Listing("NEWUSD", "NEWUSD", "NEW/USD", "NEW", "ZUSD", 2, 10.0, 1.0, 60, END + 30 * DAY),
)
CROWDED = (
    START * NS,
    (START + DAY + 48_977) * NS + 123_456_789,
    (START + 2 * DAY) * NS - 1,  # in the last nanosecond of a day
)
WORLD = World(11, LISTINGS, END + 3_600, bursts=[Burst("XBTUSD", time, 1_500) for time in CROWDED])
LOST = minutes(time // MINUTE_NS * 60 for time in CROWDED)


@contextmanager
def exchanging(home: Path, *faults: Fault) -> Iterator[tuple[DemoExchange, Exchange]]:
    """The demo exchange, and what the pipeline has of it."""
    with (
        DemoExchange(WORLD, faults=faults) as demo,
        opened(settings_of(home, kraken_api_url=demo.url, kraken_api_rate=50)) as stores,
        connected(stores) as exchange,
    ):
        yield demo, exchange


def paged(exchange: Exchange, pair: str, wanted: Span, known_trade: int | None = None) -> list[Folded]:
    return list(page_trades(partial(exchange.trades, pair), wanted, known_trade=known_trade))


@pytest.mark.slow
def test_over_http_the_candles_are_those_of_the_world_but_for_crowded_minutes(home: Path) -> None:
    wanted = Span(START, END)
    with exchanging(home) as (demo, exchange):
        pages = paged(exchange, "XBTUSD", wanted)
        requests = sum(request.endpoint == "Trades" for request in demo.requests)
    everything = oracle("XBTUSD", 1, START, END, WORLD)
    assert len(everything) > 1_000
    assert candles_of(pages) == [row for row in everything if not any(int(row[0]) in each for each in LOST)]
    assert lost_of(pages) == LOST
    assert answered_of(pages) == subtract((wanted,), LOST)
    assert pages[-1].until == END
    assert requests < 25


@pytest.mark.parametrize("tampering", [Tampering.LAST_MISSING, Tampering.LAST_ZERO])
def test_over_http_a_last_that_says_nothing_changes_nothing(home: Path, tampering: Tampering) -> None:
    wanted = Span(START + 60, START + DAY)
    with exchanging(home, Fault(tampering, endpoint="Trades", times=None)) as (_, exchange):
        pages = paged(exchange, "XBTUSD", wanted)
    assert candles_of(pages) == oracle("XBTUSD", 1, wanted.start, wanted.end, WORLD)
    assert answered_of(pages) == (wanted,)


@pytest.mark.parametrize("tampering", [Tampering.LATER_THAN_LAST, Tampering.FROM_THE_FUTURE])
def test_over_http_a_page_with_a_trade_from_the_future_ends_nothing_and_is_not_kept(
    home: Path, tampering: Tampering
) -> None:
    newest = Span(WORLD.now - 3_600, WORLD.now)
    with exchanging(home, Fault(tampering, endpoint="Trades")) as (_, exchange):
        with pytest.raises(UnusableReply, match="later than"):
            paged(exchange, "XBTUSD", newest)
        until = WORLD.now // 60 * 60 - 60
        found = [row for row in candles_of(paged(exchange, "XBTUSD", newest)) if row[0] < until]
    assert found == oracle("XBTUSD", 1, newest.start, until, WORLD)


@pytest.mark.parametrize("tampering", [Tampering.EXCHANGED, Tampering.GROWN])
def test_over_http_rows_in_another_order_or_with_more_fields_are_the_same_trades(
    home: Path, tampering: Tampering
) -> None:
    wanted = Span(START + DAY - 3_600, START + DAY + 36_000)
    with exchanging(home, Fault(tampering, endpoint="Trades", times=None)) as (_, exchange):
        pages = paged(exchange, "ADAEUR", wanted)
    assert candles_of(pages) == oracle("ADAEUR", 1, wanted.start, wanted.end, WORLD)
    assert answered_of(pages) == (wanted,)


def test_over_http_a_page_with_a_hole_is_not_kept(home: Path) -> None:
    wanted = Span(START + 60, START + DAY)
    number = int(WORLD.trades("XBTUSD", (START + 7_200) * NS, (START + DAY) * NS)["id"][0])
    with exchanging(home, Fault(LeftOut(number, number + 40), endpoint="Trades")) as (demo, exchange):
        pages = paged(exchange, "XBTUSD", wanted)
        first = [each.params["since"] for each in demo.requests if each.endpoint == "Trades"]
        before = len(demo.requests)
        assert candles_of(paged(exchange, "XBTUSD", wanted)) == candles_of(pages)
        again = [each.params["since"] for each in demo.requests[before:] if each.endpoint == "Trades"]
    assert candles_of(pages) == oracle("XBTUSD", 1, wanted.start, wanted.end, WORLD)
    assert first[0] in again


def test_over_http_a_page_without_rows_in_the_middle_is_an_error(home: Path) -> None:
    wanted = Span(START, END)
    with exchanging(home, Fault(Tampering.NO_ROWS, endpoint="Trades", after=1)) as (_, exchange):
        with pytest.raises(ExchangeUnavailable, match="Trades of ADAEUR since"):
            paged(exchange, "ADAEUR", wanted)
        pages = paged(exchange, "ADAEUR", wanted)
    assert candles_of(pages) == oracle("ADAEUR", 1, START, END, WORLD)
    assert answered_of(pages) == (wanted,)


def test_over_http_a_first_page_without_rows_is_an_error_where_a_later_trade_is_known(home: Path) -> None:
    with exchanging(home, Fault(Tampering.NO_ROWS, endpoint="Trades")) as (_, exchange):
        with pytest.raises(ExchangeUnavailable, match="there are no more trades"):
            paged(exchange, "ADAEUR", Span(START, END), known_trade=START + DAY)
        assert answered_of(paged(exchange, "NEWUSD", Span(START, END))) == (Span(START, END),)


def test_over_http_the_newest_trades_are_had_up_to_the_last_minute_that_is_over(home: Path) -> None:
    wanted = Span(END, END + DAY)
    with exchanging(home) as (_, exchange):
        pages = paged(exchange, "XBTUSD", wanted)
        until = pages[-1].until
        assert until in (WORLD.now - 60, WORLD.now)  # a few seconds pass meanwhile
        assert answered_of(pages) == (Span(END, until),)
        assert candles_of(pages) == oracle("XBTUSD", 1, END, until, WORLD)


# --- Kraken's recordings


def case(name: str) -> Any:
    return json.loads(real_file(f"../cases/{name}.json").read_text(encoding="utf-8"))["result"]


def paged_through(result: Any, first: int, until: int) -> list[Folded]:
    """A result of Trades, paged through as if the exchange gave it whenever it is asked."""
    rows, last = parse_trades(result, "the recording")

    def fetch(since: int) -> TradesPage:
        return TradesPage([row for row in rows if row[2] >= since / NS - 1e-6], last, until + 99, "the recording")

    return list(page_trades(fetch, Span(Interval.M1.ceil(first), Interval.M1.floor(until))))


@pytest.mark.real_files
def test_recorded_trades_in_another_order_are_the_recorded_ones() -> None:
    recorded = json.loads(real_file("rest_Trades_XBTUSDT.json").read_text(encoding="utf-8"))["result"]
    times = [row[2] for row in recorded["XBTUSDT"]]
    bounds = int(times[0]), int(times[-1])
    assert candles_of(paged_through(case("Trades_out_of_order"), *bounds)) == candles_of(
        paged_through(recorded, *bounds)
    )


@pytest.mark.real_files
def test_a_recording_that_lacks_forty_trades_answers_for_all_but_their_minutes() -> None:
    recorded = json.loads(real_file("rest_Trades_XBTUSDT.json").read_text(encoding="utf-8"))["result"]
    rows = recorded["XBTUSDT"]
    bounds = int(rows[0][2]), int(rows[-1][2])
    whole, holed = paged_through(recorded, *bounds), paged_through(case("Trades_hole_of_40_ids"), *bounds)
    (hole,) = [each for page in holed for each in page.absent]
    assert (hole.first, hole.last, hole.count) == (10_218_608, 10_218_647, 40)
    lost = touched_candles((hole.span,), Interval.M1)
    assert answered_of(holed) == subtract(answered_of(whole), lost)
    assert candles_of(holed) == [row for row in candles_of(whole) if not any(int(row[0]) in each for each in lost)]


@pytest.mark.real_files
def test_recorded_trades_fold_to_the_recorded_candles_in_all_412_minutes_that_overlap() -> None:
    def recorded(name: str) -> Any:
        return json.loads(real_file(f"rest_{name}.json").read_text(encoding="utf-8"))["result"]

    rows, last = parse_trades(recorded("Trades_XBTUSDT"), "the recording")
    candles, _ = parse_ohlc(recorded("OHLC_XBTUSDT_1"), "the recording")
    asked_at = float(recorded("Time")["unixtime"])

    def fetch(since: int) -> TradesPage:
        return TradesPage([row for row in rows if row[2] >= since / NS - 1e-6], last, asked_at, "the recording")

    wanted = Span(Interval.M1.ceil(int(rows[0][2])), candles[-1][0])  # the first minute is cut by the page
    pages = list(page_trades(fetch, wanted))
    (answered,) = answered_of(pages)
    found = {int(candle[0]): candle[1:] for candle in candles_of(pages)}
    compared = quiet = 0
    for time, *prices, _, volume, count in candles:
        if time in answered:
            compared += 1
            quiet += count == 0
            assert found.pop(time, None) == ((*prices, volume, count) if count else None)
    assert (compared, found) == (412, {})
    assert quiet > 50

    # The flow, in exact arithmetic; a reply of OHLC has the average price alone, cut to the pair's one decimal.
    flows = {time: flow for page in pages for time, *flow in page.candles.select(SECONDS, *FLOW).iter_rows()}
    assert len(flows) == compared - quiet
    cut = {row[0]: row[5] for row in candles if row[7]}
    ohlc = read_ohlc(candles, candles[-2][0], Interval.M1, "the recording").candles
    assert dict(ohlc.select(SECONDS, "vwap").iter_rows()).items() <= cut.items()
    assert ohlc["quote_volume"].null_count() == ohlc["buy_volume"].null_count() == ohlc.height
    texts = recorded("Trades_XBTUSDT")["XBTUSDT"]
    for time, (vwap, quote_volume, buy_volume) in flows.items():
        trades = [(Fraction(row[0]), Fraction(row[1]), row[3]) for row in texts if int(row[2]) // 60 * 60 == time]
        paid = sum((price * lots for price, lots, _ in trades), Fraction())
        traded = sum((lots for _, lots, _ in trades), Fraction())
        assert quote_volume == pytest.approx(float(paid), rel=1e-11)
        assert vwap == pytest.approx(float(paid / traded), rel=1e-11)
        assert math.floor(vwap * 10) == round(cut[time] * 10), "the OHLC recording's is cut, not rounded"
        assert buy_volume == float(sum((lots for _, lots, side in trades if side == "b"), Fraction()))
