"""Kraken's public market data: status, pairs, OHLC and Trades, with a reply cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from kraken_pipeline.errors import InvalidRequest, LastingError, Maintenance
from kraken_pipeline.kraken.client import Client
from kraken_pipeline.kraken.ohlc import Ohlc, read_ohlc
from kraken_pipeline.kraken.replies import (
    KNOWN_STATUSES,
    PairsReply,
    SystemStatus,
    TradeRow,
    parse_ohlc,
    parse_pairs,
    parse_status,
    parse_trades,
    unknown_words,
)
from kraken_pipeline.kraken.trades import FULL_PAGE, TradesPage, require_possible
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.listed_state import ListedState
from kraken_pipeline.market.pair import Pair, PairBook
from kraken_pipeline.market.series import Series

CURRENCY, TOKENIZED = "currency", "tokenized_asset"
_CLASSES: Mapping[str, Mapping[str, str]] = {CURRENCY: {}, TOKENIZED: {"aclass_base": TOKENIZED}}
"""Class of pairs → query of AssetPairs. Without a parameter it lists currencies, not tokenized stocks."""


class Kept(Protocol):
    """A value from a reply cache."""

    @property
    def value(self) -> Any:
        """The JSON value."""

    @property
    def made_at(self) -> float:
        """The time at which the source gave it, in seconds since the epoch."""

    @property
    def is_stale(self) -> bool:
        """Whether it has expired and is returned because the source failed."""


class ReplyCache(Protocol):
    """A cache of replies, each with a lifetime."""

    def get_or_make(
        self,
        parts: Sequence[str],
        seconds: float,
        make: Callable[[], Any],
        is_enough: Callable[[Any], bool],
        *,
        in_memory: bool = True,
    ) -> Kept:
        """Return the value under a key, made by the source if there is no usable one."""

    def peek(self, parts: Sequence[str]) -> Kept | None:
        """Return the value under a key, however old; None if there is none."""

    def put(self, parts: Sequence[str], value: Any) -> Kept:
        """Store a value that the source has just given."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """The lifetimes of cached replies, in seconds.

    Attributes:
        prices: Of OHLC replies with one-minute candles.
        replies: Of OHLC replies with coarser candles.
        history: Of full pages of trades, which no longer change.
        assets: Of the list of pairs.
    """

    prices: float = 60.0
    replies: float = 300.0
    history: float = 3_600.0
    assets: float = 86_400.0


@dataclass(frozen=True, slots=True)
class ListedPairs:
    """The pairs that AssetPairs lists.

    Attributes:
        book: The pairs by any of their names.
        tokenized: The names of the pairs that are tokenized stocks.
        is_stale: Whether this is an older list, used because there was no answer.
        made_at: The time at which the exchange gave it, in seconds since the epoch.
        unreadable: The names of entries that cannot be read: these pairs are listed, but nothing else is known of them.
        is_whole: Whether there is a list, new or older, of every class of pairs, so that an absent pair is not listed.
        newest_at: The time at which the exchange gave the newest of these lists, in seconds since the epoch.
        states: Pair → what the list says of it.
    """

    book: PairBook
    tokenized: frozenset[str]
    is_stale: bool
    made_at: float = 0.0
    unreadable: frozenset[str] = frozenset()
    is_whole: bool = True
    newest_at: float = 0.0
    states: Mapping[str, ListedState] = field(default_factory=dict)

    def lacks(self, pair: Pair) -> bool:
        """Return whether the list shows that a pair is not listed."""
        return self.is_whole and pair not in self.book and pair.name not in self.unreadable


class Exchange:
    """An exchange, with typed results and a reply cache.

    Args:
        client: Makes the requests.
        cache: Stores the replies.
        lifetimes: The lifetimes of the replies.
        on_status: Is called with each status of the exchange.
        on_list: Is called with each list of pairs that differs in its time from the one before.
    """

    def __init__(
        self,
        client: Client,
        cache: ReplyCache,
        lifetimes: Lifetimes,
        on_status: Callable[[SystemStatus], None] = lambda _: None,
        on_list: Callable[[ListedPairs], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._cache = cache
        self._lifetimes = lifetimes
        self._on_status = on_status
        self._on_list = on_list
        self._ahead: float | None = None  # the exchange's time minus the monotonic clock
        self._listed: tuple[tuple[float, ...], ListedPairs] | None = None
        self._refused: dict[str, Kept | None] = {}
        self._warnings: dict[str, None] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings about unexpected but harmless content of answers, each listed once."""
        return tuple(self._warnings)

    @property
    def requests(self) -> int:
        """The number of requests made."""
        return self._client.requests

    @property
    def answers(self) -> int:
        """The number of requests answered with a result."""
        return self._client.answers

    @property
    def clock_ahead(self) -> float | None:
        """The seconds by which the local clock is ahead of the exchange's; None if the last answer had no time."""
        return self._client.ahead

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def require_online(self) -> SystemStatus:
        """Return the exchange's status, and set the exchange's clock from it.

        With `cancel_only` and `post_only` nobody trades, but market data is served.

        Raises:
            Maintenance: The exchange is in maintenance.
            ExchangeUnavailable: The exchange does not answer.
        """
        status = parse_status(self._client.ask("SystemStatus"))
        self._ahead = status.time - time.monotonic()
        self._on_status(status)
        if status.status == "maintenance":
            raise Maintenance("Kraken is in maintenance; no requests are made until it ends")
        if status.status not in KNOWN_STATUSES:
            self._warn(f"Kraken's status is {status.status!r:.40}, which is unknown; it is asked all the same.")
        return status

    def now(self) -> float:
        """Return the exchange's time in seconds since the epoch, derived from its status.

        Raises:
            ExchangeUnavailable: No status is known yet, and the exchange does not answer.
        """
        if self._ahead is None:
            self.require_online()
        return time.monotonic() + (self._ahead or 0.0)

    def listed_pairs(self, *, is_fresh: bool = False) -> ListedPairs:
        """Return the pairs that the exchange lists.

        Args:
            is_fresh: Whether to bypass the cache, because a pair may have been listed or delisted since then.

        Raises:
            ExchangeUnavailable: There is no answer, and no older list.
            UnusableReply: The answer is not a list of pairs.
        """
        lists = [self._class(name, is_fresh=is_fresh) for name in _CLASSES]
        kept = [listing for listing in lists if listing is not None]
        made_at = tuple(listing.made_at for listing in kept)
        is_stale = any(listing.is_stale for listing in kept)
        if self._listed is None or self._listed[0] != made_at:
            found = parse_pairs({key: entry for listing in reversed(kept) for key, entry in listing.value.items()})
            if found.unreadable:
                some = "; ".join(list(found.unreadable.values())[:3])
                self._warn(f"{len(found.unreadable)} entries of AssetPairs cannot be read and are skipped: {some}")
            self._listed = made_at, _listed(found, made_at)
            self._on_list(replace(self._listed[1], is_stale=is_stale, is_whole=None not in lists))
        return replace(self._listed[1], is_stale=is_stale, is_whole=None not in lists)

    def _class(self, name: str, *, is_fresh: bool) -> Kept | None:
        """Return the list of one class of pairs; None if it was refused and no older list is known."""
        if name in self._refused and not is_fresh:
            return self._refused[name]
        parts = ("assets", "AssetPairs", name)

        def ask() -> dict[str, Any]:
            result = self._client.ask("AssetPairs", **_CLASSES[name])
            known = None if name == CURRENCY else self._cache.peek(parts)
            if result or name == CURRENCY or (known is not None and known.value):  # there may be no tokenized stocks
                parse_pairs(result)
            return {key: _metadata(entry) for key, entry in result.items()}

        try:
            if is_fresh:
                return self._cache.put(parts, ask())
            return self._cache.get_or_make(parts, self._lifetimes.assets, ask, lambda _: True)
        except LastingError as error:
            if name == CURRENCY:
                raise
            self._warn(f"The pairs of the class {name} keep their last known state: {error}")
            self._refused[name] = self._cache.peek(parts)
            return self._refused[name]

    def _warn(self, text: str) -> None:
        self._warnings[text] = None

    def ohlc(self, series: Series, start: int, *, until: int, is_fresh: bool = False) -> Ohlc:
        """Return the committed candles of a series from a time on, as far as OHLC reaches back (720 candles).

        Args:
            series: The series; not of 720 minutes, which OHLC does not support.
            start: The time to begin at, in seconds since the epoch.
            until: The time that the reply must reach, in seconds since the epoch; a cached reply that ends before is
                not used.
            is_fresh: Whether to bypass the cache.

        Raises:
            ExchangeUnavailable: There is no answer.
            ExchangeRefused: The pair is not listed.
            UnusableReply: The answer is not a valid reply.
        """
        pair, interval = series.pair, series.interval
        key, others, more = self._spelling(pair)
        # `since` excludes the candle that starts at it, so a second earlier is sent.
        since = max(0, interval.ceil(start) - 1)
        asked = f"OHLC of {series}"

        def read(result: Any) -> Ohlc:
            self._warn_of_key(result, key, pair)
            return read_ohlc(*parse_ohlc(result, asked, key, others), interval, asked)

        def ask() -> Any:
            result = self._client.ask("OHLC", pair=pair, interval=interval.value, since=since, **more)
            read(result)  # raises, so that an invalid answer is not cached
            return result

        def is_enough(result: Any) -> bool:
            return read(result).committed >= interval.floor(until)

        is_minutes = interval is Interval.M1
        lifetime = self._lifetimes.prices if is_minutes else self._lifetimes.replies
        parts = ("prices" if is_minutes else "replies", "OHLC", pair, str(interval.value), str(since))
        kept = self._cache.put(parts, ask()) if is_fresh else self._cache.get_or_make(parts, lifetime, ask, is_enough)
        return replace(read(kept.value), made_at=kept.made_at)

    def trades(self, pair: str, since: int) -> TradesPage:
        """Return a page of trades, from a time in nanoseconds on, that time included.

        Raises:
            ExchangeUnavailable: There is no answer.
            ExchangeRefused: The pair is not listed.
            UnusableReply: The answer is not a valid page.
        """
        key, others, more = self._spelling(pair)
        asked = f"Trades of {pair} since {since}"
        asked_at = self.now()

        def read(result: Any) -> TradesPage:
            self._warn_of_key(result, key, pair)
            rows, last = parse_trades(result, asked, key, others)
            if unknown := unknown_words(rows):
                self._warn(f"Trades of {pair} have {', '.join(unknown)}, which is unknown; no candle depends on it.")
            now = max(self.now(), self._client.server_time or 0.0)
            return TradesPage(rows, last, asked_at, asked, now).by_id()

        def ask() -> Any:
            result = self._client.ask("Trades", pair=pair, since=since, count=FULL_PAGE, **more)
            require_possible(read(result), since)  # raises, so that an invalid answer is not cached
            return result

        def is_enough(result: Any) -> bool:
            # Any other page may be longer by now, or contain ids that this one lacks.
            page = read(result)
            return len(page.rows) >= FULL_PAGE and not page.absent()

        parts = ("history", "Trades", pair, str(since))
        # A page is requested again only after a stopped run, so it is not kept in memory.
        kept = self._cache.get_or_make(parts, self._lifetimes.history, ask, is_enough, in_memory=False)
        return read(kept.value)

    def first_trade(self, pair: str) -> int | None:
        """Return the start of the minute of a pair's first trade, in seconds since the epoch; None if there is none.

        Raises:
            ExchangeUnavailable: There is no answer.
            ExchangeRefused: The pair is not listed.
            UnusableReply: The answer is not a valid page.
        """
        key, others, more = self._spelling(pair)
        result = self._client.ask("Trades", pair=pair, since=0, count=1, **more)
        rows, _ = parse_trades(result, f"the first trade of {pair}", key, others)
        return Interval.M1.floor(int(rows[0][2])) if rows else None

    def trade_from(self, pair: str, moment: int) -> TradeRow | None:
        """Return the first trade at or after a time in seconds since the epoch; None if there is none.

        Raises:
            ExchangeUnavailable: There is no answer.
            ExchangeRefused: The pair is not listed.
            UnusableReply: The answer is not a valid page.
        """
        return self._one_trade(pair, f"the first trade of {pair} since {moment}", since=moment * 10**9)

    def newest_trade(self, pair: str) -> TradeRow | None:
        """Return the newest trade of a pair; None if there is none.

        Raises:
            ExchangeUnavailable: There is no answer.
            ExchangeRefused: The pair is not listed.
            UnusableReply: The answer is not a valid page.
        """
        return self._one_trade(pair, f"the newest trade of {pair}")

    def _one_trade(self, pair: str, asked: str, **params: int) -> TradeRow | None:
        key, others, more = self._spelling(pair)
        result = self._client.ask("Trades", pair=pair, count=1, **params, **more)
        rows, _ = parse_trades(result, asked, key, others)
        return rows[-1] if rows else None

    def _spelling(self, pair: str) -> tuple[tuple[str, ...], Callable[[str], bool], dict[str, str]]:
        """Return a listed pair's key in replies, a test for keys of other pairs, and further query parameters."""
        listed = self.listed_pairs()
        book = listed.book
        found = book.resolve(pair)
        keys = (book.key(found),) if found in book else ()

        def is_of_another(key: str) -> bool:
            try:
                other = book.resolve(key)
            except InvalidRequest:
                return False
            return other in book and other != found

        more = {"asset_class": TOKENIZED} if found.name in listed.tokenized else {}
        return keys, is_of_another, more

    def _warn_of_key(self, result: Any, keys: Sequence[str], pair: str) -> None:
        if keys and isinstance(result, Mapping) and not any(key in result for key in keys):
            names = ", ".join(str(key) for key in result if key != "last")
            self._warn(f"The replies about {pair} have changed their key from {keys[0]} to {names:.40}.")


def _listed(found: PairsReply, made_at: Sequence[float]) -> ListedPairs:
    book = PairBook({key: pair.model_dump() for key, pair in found.pairs.items()})
    tokenized = {book.resolve(key).name for key, pair in found.pairs.items() if pair.aclass_base == TOKENIZED}
    states: dict[str, ListedState] = {}
    for key, entry in found.pairs.items():
        pair = book.resolve(entry.altname)
        is_tokenized = entry.aclass_base == TOKENIZED
        names = (key, entry.altname, entry.wsname, pair.base, pair.quote, entry.status)
        states.setdefault(pair.name, ListedState(*names, is_tokenized))
    return ListedPairs(
        book,
        frozenset(tokenized),
        is_stale=False,
        made_at=min(made_at),
        unreadable=found.unreadable_names,
        newest_at=max(made_at),
        states=states,
    )


def _metadata(entry: Any) -> Any:
    """Return the part of a pair's entry that is cached: without fees and limits, which are most of it and not used."""
    wanted = ("altname", "wsname", "aclass_base", "base", "quote", "status", "execution_venue")
    return {name: entry[name] for name in wanted if name in entry} if isinstance(entry, Mapping) else None
