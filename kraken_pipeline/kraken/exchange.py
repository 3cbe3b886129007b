"""Kraken's public market data: status, pairs, OHLC and Trades, cached where a reply may serve again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from kraken_pipeline.errors import InvalidRequest, Maintenance
from kraken_pipeline.kraken.client import Client
from kraken_pipeline.kraken.ohlc import Ohlc, read_ohlc
from kraken_pipeline.kraken.replies import (
    AssetPair,
    SystemStatus,
    TradeRow,
    parse_ohlc,
    parse_pairs,
    parse_status,
    parse_trades,
)
from kraken_pipeline.kraken.trades import FULL_PAGE, TradesPage
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import PairBook, parse_pair
from kraken_pipeline.market.series import Series

TOKENIZED = "tokenized_asset"
_CLASSES: tuple[Mapping[str, str], ...] = ({}, {"aclass_base": TOKENIZED})
"""AssetPairs lists currencies unless it is asked for tokenized stocks."""


class Kept(Protocol):
    """What a cache gives back."""

    @property
    def value(self) -> Any:
        """The value, of JSON."""

    @property
    def made_at(self) -> float:
        """When the source gave it, in seconds since the epoch."""

    @property
    def is_stale(self) -> bool:
        """Whether it has expired and is given because the source failed."""


class ReplyCache(Protocol):
    """Values that serve again for a while."""

    def get_or_make(
        self,
        parts: Sequence[str],
        seconds: float,
        make: Callable[[], Any],
        is_enough: Callable[[Any], bool],
        *,
        in_memory: bool = True,
    ) -> Kept:
        """The value under a key, made by the source where none serves."""

    def put(self, parts: Sequence[str], value: Any) -> Kept:
        """Keeps a value that the source has just given."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """For how many seconds replies serve again.

    Attributes:
        prices: Those with one-minute candles.
        replies: Those with coarser ones.
        history: Full pages of trades, which change no more.
        assets: The list of pairs.
    """

    prices: float = 60.0
    replies: float = 300.0
    history: float = 3_600.0
    assets: float = 86_400.0


@dataclass(frozen=True, slots=True)
class ListedPairs:
    """What AssetPairs says.

    Attributes:
        book: The pairs by any of their names.
        tokenized: The names of those that are tokenized stocks.
        is_stale: Whether this is an older list, because there was no answer.
    """

    book: PairBook
    tokenized: frozenset[str]
    is_stale: bool


class Exchange:
    """One exchange, as everything else sees it.

    Args:
        client: Asks it.
        cache: Keeps replies.
        lifetimes: For how long.
    """

    def __init__(self, client: Client, cache: ReplyCache, lifetimes: Lifetimes) -> None:
        self._client = client
        self._cache = cache
        self._lifetimes = lifetimes
        self._ahead: float | None = None  # of the monotonic clock
        self._listed: tuple[float, ListedPairs] | None = None

    @property
    def requests(self) -> int:
        """How many requests were made."""
        return self._client.requests

    @property
    def answers(self) -> int:
        """How many of them were answered with a result."""
        return self._client.answers

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def require_online(self) -> SystemStatus:
        """Asks for the status, and takes the exchange's clock from it.

        With `cancel_only` and `post_only` nobody trades, but market data is served.

        Raises:
            Maintenance: It is being worked on.
            ExchangeUnavailable: It does not answer.
        """
        status = parse_status(self._client.ask("SystemStatus"))
        self._ahead = status.time - time.monotonic()
        if status.status == "maintenance":
            raise Maintenance("Kraken is in maintenance: nothing is asked for until it is over")
        return status

    def now(self) -> float:
        """The exchange's time in seconds since the epoch, which its status tells.

        Raises:
            ExchangeUnavailable: It was not asked yet, and does not answer.
        """
        if self._ahead is None:
            self.require_online()
        return time.monotonic() + (self._ahead or 0.0)

    def listed_pairs(self, *, is_fresh: bool = False) -> ListedPairs:
        """The pairs that it lists.

        Args:
            is_fresh: Whether no kept list is used: a pair may have been listed, or not be any more, since then.

        Raises:
            ExchangeUnavailable: There is no answer, and no older list.
            UnusableReply: The list is none.
        """
        parts = ("assets", "AssetPairs")
        if is_fresh:
            kept = self._cache.put(parts, self._ask_for_pairs())
        else:
            kept = self._cache.get_or_make(parts, self._lifetimes.assets, self._ask_for_pairs, lambda _: True)
        if self._listed is None or self._listed[0] != kept.made_at:
            pairs = {key: pair for key, pair in parse_pairs(kept.value).items() if _has_a_name(pair)}
            book = PairBook({key: pair.model_dump() for key, pair in pairs.items()})
            tokenized = {book.resolve(key).name for key, pair in pairs.items() if pair.aclass_base == TOKENIZED}
            self._listed = kept.made_at, ListedPairs(book, frozenset(tokenized), kept.is_stale)
        return replace(self._listed[1], is_stale=kept.is_stale)

    def _ask_for_pairs(self) -> dict[str, Any]:
        listed: dict[str, Any] = {}
        for params in _CLASSES:
            result = self._client.ask("AssetPairs", **params)
            if result or not params:  # there may be no tokenized stocks; a list without any currency is an error
                parse_pairs(result)
                listed |= {key: _metadata(each) for key, each in result.items()}
        return listed

    def ohlc(self, series: Series, start: int, *, until: int, is_fresh: bool = False) -> Ohlc:
        """The committed candles of a series from a moment on, as far as OHLC reaches back (720 candles).

        Args:
            series: Which; not of 720 minutes, which OHLC does not know.
            start: Where to begin, in seconds since the epoch.
            until: What the reply must reach; a kept one that ends before is not used.
            is_fresh: Whether no kept reply is used at all.

        Raises:
            ExchangeUnavailable: There is no answer.
            ExchangeRefused: The pair is not listed.
            UnusableReply: The answer is not one.
        """
        pair, interval = series.pair, series.interval
        key, more = self._spelling(pair)
        # `since` is exclusive on the candle's start: a moment within the candle before begins with this one.
        since = max(0, interval.ceil(start) - 1)
        asked = f"OHLC of {series}"

        def read(result: Any) -> Ohlc:
            return read_ohlc(*parse_ohlc(result, asked, key), interval, asked)

        def ask() -> Any:
            result = self._client.ask("OHLC", pair=pair, interval=interval.value, since=since, **more)
            read(result)  # an answer that is none is not kept
            return result

        def is_enough(result: Any) -> bool:
            return read(result).committed >= interval.floor(until)

        is_minutes = interval is Interval.M1
        lifetime = self._lifetimes.prices if is_minutes else self._lifetimes.replies
        parts = ("prices" if is_minutes else "replies", "OHLC", pair, str(interval.value), str(since))
        kept = self._cache.put(parts, ask()) if is_fresh else self._cache.get_or_make(parts, lifetime, ask, is_enough)
        return replace(read(kept.value), made_at=kept.made_at)

    def trades(self, pair: str, since: int) -> TradesPage:
        """A page of trades, from a time in nanoseconds on, that time included.

        Raises:
            ExchangeUnavailable: There is no answer.
            ExchangeRefused: The pair is not listed.
            UnusableReply: The answer is not one.
        """
        key, more = self._spelling(pair)
        asked = f"Trades of {pair} since {since}"
        asked_at = self.now()

        def ask() -> Any:
            result = self._client.ask("Trades", pair=pair, since=since, count=FULL_PAGE, **more)
            parse_trades(result, asked, key)  # an answer that is none is not kept
            return result

        def is_enough(result: Any) -> bool:
            # Any other may be longer by now. What is kept was a page once; it is read, and judged, below.
            return any(len(rows) >= FULL_PAGE for name, rows in result.items() if name != "last")

        parts = ("history", "Trades", pair, str(since))
        # Only a run that was stopped asks for a page again.
        kept = self._cache.get_or_make(parts, self._lifetimes.history, ask, is_enough, in_memory=False)
        rows, last = parse_trades(kept.value, asked, key)
        return TradesPage(rows, last, asked_at, asked)

    def first_trade(self, pair: str) -> int | None:
        """The start of the minute of a pair's first trade, in seconds; None where there has been none.

        Raises:
            ExchangeUnavailable: There is no answer.
            ExchangeRefused: The pair is not listed.
            UnusableReply: The answer is not one.
        """
        key, more = self._spelling(pair)
        result = self._client.ask("Trades", pair=pair, since=0, count=1, **more)
        rows, _ = parse_trades(result, f"the first trade of {pair}", key)
        return Interval.M1.floor(int(rows[0][2])) if rows else None

    def trade_from(self, pair: str, moment: int) -> TradeRow | None:
        """The first trade at or after a moment, in seconds since the epoch; None where none has followed.

        Raises:
            ExchangeUnavailable: There is no answer.
            ExchangeRefused: The pair is not listed.
            UnusableReply: The answer is not one.
        """
        return self._one_trade(pair, f"the first trade of {pair} since {moment}", since=moment * 10**9)

    def newest_trade(self, pair: str) -> TradeRow | None:
        """The newest trade; None where there has been none.

        Raises:
            ExchangeUnavailable: There is no answer.
            ExchangeRefused: The pair is not listed.
            UnusableReply: The answer is not one.
        """
        return self._one_trade(pair, f"the newest trade of {pair}")

    def _one_trade(self, pair: str, asked: str, **params: int) -> TradeRow | None:
        key, more = self._spelling(pair)
        result = self._client.ask("Trades", pair=pair, count=1, **params, **more)
        rows, _ = parse_trades(result, asked, key)
        return rows[-1] if rows else None

    def _spelling(self, pair: str) -> tuple[tuple[str, ...], dict[str, str]]:
        """The key that replies about a pair have, where it is listed, and what else must be said of it."""
        listed = self.listed_pairs()
        found = listed.book.resolve(pair)
        keys = (listed.book.key(found),) if found in listed.book else ()
        return keys, {"asset_class": TOKENIZED} if found.name in listed.tokenized else {}


def _has_a_name(pair: AssetPair) -> bool:
    """Whether a listed pair's name is one here: a strange one must not take all others along."""
    try:
        parse_pair(pair.altname)
    except InvalidRequest:
        return False
    return True


def _metadata(entry: Any) -> dict[str, Any]:
    """What is kept of a pair's entry: fees and limits are most of it, and nobody here asks for them."""
    wanted = ("altname", "wsname", "aclass_base", "base", "quote", "status")
    return {name: entry[name] for name in wanted if name in entry}
