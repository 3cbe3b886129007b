"""Replies of Kraken's public endpoints, computed from a world and a time. No HTTP here.

The rules come from recordings and measurements; other rules are marked as guesses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from kraken_pipeline.demo.defects import Defect, DefectKind, check_defects
from kraken_pipeline.demo.listing import LOT_DECIMALS, Listing
from kraken_pipeline.demo.world import DAY_NS, SECOND_NS, World
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import PairBook

PER_PAIR = ("OHLC", "Trades")
"""The endpoints that are about one pair and are throttled per pair."""

_COMMITTED = 720
_MOST_TRADES = 1_000
# Trades has prices with 5 decimals even if the pair has 1 (recording of XBTUSDT).
_FEWEST_PRICE_DECIMALS = 5


class RefusedError(Exception):
    """An error code of Kraken's instead of a result."""

    def __init__(self, code: str) -> None:
        """Create the error with a code such as `EQuery:Unknown asset pair`."""
        super().__init__(code)
        self.code = code


def _invalid() -> RefusedError:
    return RefusedError("EGeneral:Invalid arguments")


class Replies:
    """The results of the five public endpoints that the pipeline uses."""

    def __init__(self, world: World, defects: Sequence[Defect] = ()) -> None:
        """Prepare replies for a world.

        Args:
            world: The world with the trades.
            defects: Defects of the kind FALSE_QUIET: candles that OHLC wrongly reports to have no trade. Other kinds
                affect archives and are ignored.

        Raises:
            InvalidRequest: A defect cannot be planted, because its candle has no trade.
        """
        check_defects(world, defects)
        self._world = world
        self._book = PairBook({listing.key: listing.asset_pair() for listing in world.listings.values()})
        self._false_quiet = {
            (defect.pair, defect.interval, defect.time) for defect in defects if defect.kind is DefectKind.FALSE_QUIET
        }
        self._endpoints: Mapping[str, Callable[[Mapping[str, str], int], dict[str, Any]]] = {
            "Time": self._time,
            "SystemStatus": self._system_status,
            "AssetPairs": self._asset_pairs,
            "OHLC": self._ohlc,
            "Trades": self._trades,
        }

    def result(self, endpoint: str, params: Mapping[str, str], now_ns: int) -> dict[str, Any]:
        """Return the `result` of a reply.

        Args:
            endpoint: `OHLC`, `Trades`, …
            params: The query.
            now_ns: The time of the request, in nanoseconds since the epoch.

        Raises:
            RefusedError: Kraken answers this with an error code.
        """
        if endpoint not in self._endpoints:
            raise RefusedError("EGeneral:Unknown method")
        return self._endpoints[endpoint](params, now_ns)

    def pair_asked_for(self, params: Mapping[str, str]) -> str | None:
        """Return the altname of the pair that a query names in any spelling; None if it names no existing pair."""
        try:
            return self._listing(params.get("pair", "")).name
        except RefusedError:
            return None

    def _listing(self, name: str) -> Listing:
        try:
            pair = self._book.resolve(name)
        except InvalidRequest:
            pair = None
        if pair is None or pair not in self._book:
            raise RefusedError("EQuery:Unknown asset pair")
        return self._world.listings[pair.name]

    def _listed_pair(self, params: Mapping[str, str], now_ns: int) -> Listing:
        if "pair" not in params:
            raise _invalid()
        listing = self._listing(params["pair"])
        if not listing.is_listed(now_ns // SECOND_NS):
            raise RefusedError("EQuery:Unknown asset pair")
        return listing

    def _time(self, _: Mapping[str, str], now_ns: int) -> dict[str, Any]:
        now = now_ns // SECOND_NS
        return {
            "unixtime": now,
            "rfc1123": f"{datetime.fromtimestamp(now, UTC):%a, %d %b %y %H:%M:%S +0000}",
        }

    def _system_status(self, _: Mapping[str, str], now_ns: int) -> dict[str, Any]:
        return {
            "status": "online",
            "timestamp": f"{datetime.fromtimestamp(now_ns // SECOND_NS, UTC):%Y-%m-%dT%H:%M:%SZ}",
        }

    def _asset_pairs(self, params: Mapping[str, str], now_ns: int) -> dict[str, Any]:
        # Kraken's documentation names `currency` as the default, and the recordings of tokenized stocks were made with
        # the parameter. Two guesses: a pair requested by name is unknown if it is of another class than requested, and
        # a class that does not exist has no pairs.
        wanted = params.get("aclass_base", "currency")
        listings: Iterable[Listing] = (
            [self._listed_pair({"pair": name}, now_ns) for name in params["pair"].split(",")]
            if "pair" in params
            else [listing for listing in self._world.listings.values() if listing.is_listed(now_ns // SECOND_NS)]
        )
        entries = {listing.key: listing.asset_pair() for listing in listings}
        fitting = {key: entry for key, entry in entries.items() if entry["aclass_base"] == wanted}
        if "pair" in params and fitting != entries:
            raise RefusedError("EQuery:Unknown asset pair")
        return fitting

    def _ohlc(self, params: Mapping[str, str], now_ns: int) -> dict[str, Any]:
        listing = self._listed_pair(params, now_ns)
        try:
            interval = Interval.parse(_integer(params, "interval", 1))
        except InvalidRequest:
            raise _invalid() from None
        if not interval.in_rest:
            raise _invalid()
        now = now_ns // SECOND_NS
        if now <= listing.first_trade:
            return {listing.key: [], "last": 0}
        # The window is the newest 720 committed candles and the current one; a `since` before it changes nothing.
        current = interval.floor(now)
        start = max(current - _COMMITTED * interval.seconds, interval.floor(listing.first_trade))
        if "since" in params:
            start = max(start, interval.floor(_integer(params, "since", 0)) + interval.seconds)
        rows = self._candles(listing, interval, min(start, current), now)
        return {listing.key: rows, "last": current - interval.seconds}

    def _candles(self, listing: Listing, interval: Interval, start: int, now: int) -> list[list[int | str]]:
        traded = {
            row[0]: row
            for tallies in self._world.tallies(listing.name, interval, start, now)
            for row in tallies.select(
                "time", "open", "high", "low", "close", "value", "lots", "trade_count"
            ).iter_rows()
            if (listing.name, interval, row[0]) not in self._false_quiet
        }
        close = self._world.last_price(listing.name, start * SECOND_NS) or 0
        rows: list[list[int | str]] = []
        for time in range(start, now + 1, interval.seconds):
            # Without a trade the price stays the same, and the vwap is 0.
            _, *prices, value, lots, count = traded.get(time, (time, close, close, close, close, 0, 0, 0))
            close = prices[-1]
            vwap = value // lots if lots else 0  # truncated, not rounded
            texts = [decimal_text(price, listing.pair_decimals) for price in (*prices, vwap)]
            rows.append([time, *texts, decimal_text(lots, LOT_DECIMALS), count])
        return rows

    def _trades(self, params: Mapping[str, str], now_ns: int) -> dict[str, Any]:
        listing = self._listed_pair(params, now_ns)
        count = _integer(params, "count", _MOST_TRADES)
        if not 1 <= count <= _MOST_TRADES:
            raise _invalid()
        if "since" in params:
            since = _integer(params, "since", 0)
            rows = self._trades_from(listing, since, now_ns, count)
        else:
            since = 0
            rows = self._newest_trades(listing, now_ns, count)
        last = rows[-1]["time"] if rows else since
        return {listing.key: [_trade_row(listing, row) for row in rows], "last": str(last)}

    def _trades_from(self, listing: Listing, since: int, now_ns: int, count: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        at = max(since, listing.first_trade * SECOND_NS)
        while at < now_ns and len(rows) < count:
            until = min((at // DAY_NS + 1) * DAY_NS, now_ns)
            rows += self._world.trades(listing.name, at, until).head(count - len(rows)).to_dicts()
            at = until
        return rows

    def _newest_trades(self, listing: Listing, now_ns: int, count: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        until = now_ns
        while until > listing.first_trade * SECOND_NS and len(rows) < count:
            at = (until - 1) // DAY_NS * DAY_NS
            rows = self._world.trades(listing.name, at, until).tail(count - len(rows)).to_dicts() + rows
            until = at
        return rows


def _integer(params: Mapping[str, str], name: str, default: int) -> int:
    text = params.get(name, str(default))
    if not (text.isascii() and text.isdigit()):
        raise _invalid()
    return int(text)


def _trade_row(listing: Listing, trade: Mapping[str, Any]) -> list[Any]:
    decimals = max(listing.pair_decimals, _FEWEST_PRICE_DECIMALS)
    price = decimal_text(trade["ticks"] * 10 ** (decimals - listing.pair_decimals), decimals)
    volume = decimal_text(trade["lots"], LOT_DECIMALS)
    # A float holds the seconds to about 2e-7, as in Kraken's own replies; only `last` is exact.
    seconds = trade["time"] / SECOND_NS
    return [price, volume, seconds, trade["side"], trade["order_type"], "", trade["id"]]


def decimal_text(units: int, decimals: int) -> str:
    """Return whole units of 10^-decimals as text with all decimals: 105433.60000."""
    whole, part = divmod(units, 10**decimals)
    return f"{whole}.{part:0{decimals}d}"
