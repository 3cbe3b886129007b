"""The markets of the demo exchange: five in two tiers, with Kraken's names for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DAY = 86_400
LOT_DECIMALS = 8


@dataclass(frozen=True, slots=True)
class Listing:
    """A market: its description in AssetPairs and the properties of its trading.

    Attributes:
        name: The altname, XBTUSD, used in the names of archives.
        key: Kraken's internal key, XXBTZUSD, used in REST results.
        wsname: The name for WebSockets, XBT/USD.
        base: The base asset's internal code, XXBT.
        quote: The quote asset's internal code, ZUSD.
        pair_decimals: The number of decimals of a price, at least 1; the smallest step is a *tick*.
        price: The price at the first trade.
        volume: The median volume of a trade, in units of the base asset.
        trades_per_day: The number of trades on a usual day.
        first_trade: The exact time of the first trade, in seconds since the epoch.
        delisted: The time from which on there is neither a trade nor a listing, in seconds since the epoch; None for
            never.
        night: The hours of the day (UTC), `[start, end)`, in which nobody trades; equal for none.
        tokenized: Whether it is a stock's token instead of a currency; such a market is slow at weekends.
        status: The status in AssetPairs: online, cancel_only, post_only, limit_only or reduce_only.
    """

    name: str
    key: str
    wsname: str
    base: str
    quote: str
    pair_decimals: int
    price: float
    volume: float
    trades_per_day: int
    first_trade: int
    delisted: int | None = None
    night: tuple[int, int] = (0, 0)
    tokenized: bool = False
    status: str = "online"

    def is_listed(self, time: int) -> bool:
        """Return whether AssetPairs lists it at a time (seconds since the epoch); also before its first trade."""
        return self.delisted is None or time < self.delisted

    def asset_pair(self) -> dict[str, Any]:
        """Return its entry in an AssetPairs reply."""
        leverage = [2, 3] if self.tokenized else [2, 3, 4, 5]
        limit = 400 if self.tokenized else 80
        venue = {"execution_venue": "international"} if self.tokenized else {}
        return {
            "altname": self.name,
            "wsname": self.wsname,
            "aclass_base": "tokenized_asset" if self.tokenized else "currency",
            "base": self.base,
            "aclass_quote": "currency",
            "quote": self.quote,
            "lot": "unit",
            "cost_decimals": 5,
            "pair_decimals": self.pair_decimals,
            "lot_decimals": LOT_DECIMALS,
            "lot_multiplier": 1,
            "leverage_buy": leverage,
            "leverage_sell": leverage,
            "fees": [[0, 0.1]] if self.tokenized else [[0, 0.4], [10000, 0.35], [50000, 0.24]],
            "fees_maker": [[0, -0.02]] if self.tokenized else [[0, 0.25], [10000, 0.2], [50000, 0.14]],
            "fee_volume_currency": "ZUSD",
            "margin_call": 80,
            "margin_stop": 40,
            "ordermin": "0.00000001" if self.tokenized else "0.00005",
            "costmin": "0.5",
            "tick_size": f"{10**-self.pair_decimals:.{self.pair_decimals}f}",
            "status": self.status,
            **venue,
            "long_position_limit": limit,
            "short_position_limit": limit,
        }


def demo_listings(start: int) -> tuple[Listing, ...]:
    """Return the five markets of the demo: four of TIER1, and an illiquid one of TIER4 that is added later.

    Args:
        start: The time of the first trade in any of them, in seconds since the epoch.
    """
    return (
        Listing("XBTUSD", "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 61_250.0, 0.006, 1_500, start),
        Listing("ETHUSD", "XETHZUSD", "ETH/USD", "XETH", "ZUSD", 2, 2_480.0, 0.12, 1_000, start),
        Listing("XDGUSD", "XDGUSD", "XDG/USD", "XXDG", "ZUSD", 7, 0.152, 180.0, 600, start),
        Listing("ADAEUR", "ADAEUR", "ADA/EUR", "ADA", "ZEUR", 6, 0.455, 55.0, 400, start, night=(2, 3)),
        Listing(
            "AAPLxUSD",
            "AAPLxUSD",
            "AAPLx/USD",
            "AAPLx",
            "ZUSD",
            2,
            214.5,
            0.35,
            60,
            (start // DAY + 20) * DAY + 48_977,  # 13:36:17, in the middle of an interval of any length
            night=(1, 8),
            tokenized=True,
        ),
    )
