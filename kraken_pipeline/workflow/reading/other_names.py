"""The names that other programs have for pairs and widths."""

from __future__ import annotations

from kraken_pipeline.market.bars import Bars
from kraken_pipeline.market.pair import ALIASES, Pair

_USUAL = {kraken: usual for usual, kraken in ALIASES.items()}
_UNITS = ((10_080, "w"), (1_440, "d"), (60, "h"), (1, "m"))


def usual_assets(pair: Pair) -> tuple[str, str]:
    """Return the base and the quote asset of a pair by their usual codes: BTC for XBT, DOGE for XDG."""
    return _USUAL.get(pair.base, pair.base), _USUAL.get(pair.quote, pair.quote)


def timeframe(bars: Bars) -> str:
    """Return the width of bars with the largest unit that divides it: 15m, 4h, 1d, 1w, 15d."""
    size, unit = next((size, unit) for size, unit in _UNITS if bars.minutes % size == 0)
    return f"{bars.minutes // size}{unit}"
