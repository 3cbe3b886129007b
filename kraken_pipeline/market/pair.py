"""Pairs and the resolution of their names.

This project names a pair by Kraken's *altname* with Kraken's own asset codes (XBT, XDG), which archives and
AssetPairs use. Other spellings resolve to it; case matters (AAPLxUSD).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from kraken_pipeline.errors import InvalidRequest

# Assets that Kraken's internal keys write with a prefix. A closed list: an X or Z is never stripped by rule,
# because XTZ, ZRX and XCN are assets of their own.
LEGACY_ASSETS: Mapping[str, str] = {
    **{f"X{code}": code for code in ("XBT", "ETH", "LTC", "XRP", "XLM", "XMR", "ZEC", "ETC", "REP", "MLN", "XDG")},
    **{f"Z{code}": code for code in ("USD", "EUR", "GBP", "JPY", "CAD", "AUD")},
}
ALIASES: Mapping[str, str] = {"BTC": "XBT", "DOGE": "XDG"}
# Quote assets, for parsing names without AssetPairs. The longest that fits wins: EURUSDT is
# EUR/USDT, not EURUS/DT.
QUOTES: tuple[str, ...] = (
    "USDT", "USDC", "USDG", "USDQ", "USDR", "USDS", "RLUSD", "PYUSD", "EURC", "EURQ", "EURR", "EURT",
    "USD", "EUR", "GBP", "JPY", "CAD", "AUD", "CHF", "AED", "ARS", "BRL", "MXN", "PLN",
    "XBT", "BTC", "ETH", "SOL", "DOT", "DAI", "BNB",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.]{1,31}")


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """A market, such as XBTUSD.

    Attributes:
        name: Kraken's altname with Kraken's asset codes; unique, and case-sensitive.
        base: The asset that is bought and sold.
        quote: The asset that it is priced in; empty if the name does not reveal it and AssetPairs is not known.
    """

    name: str
    base: str = field(compare=False)
    quote: str = field(compare=False)

    def __str__(self) -> str:
        return self.name


def parse_pair(name: str) -> Pair:
    """Return the pair that a name stands for, by rules alone, without AssetPairs.

    Accepts altnames (XBTUSD), wsnames (XBT/USD), the internal keys of the legacy assets (XXBTZUSD) and the
    usual codes for bitcoin and dogecoin (BTCUSD, DOGE/EUR). DOGUSD is unchanged: DOG is another coin.

    Raises:
        InvalidRequest: The text cannot be the name of a pair.
    """
    base, slash, quote = name.partition("/")
    if slash:
        base, quote = _asset(base), _asset(quote)
    elif not _NAME.fullmatch(name):
        base = ""
    else:
        base, quote = _split_key(name) or _split_altname(name)
    if not _NAME.fullmatch(base + quote) or not base or (slash and not quote):
        raise InvalidRequest(f"{name!r} is not the name of a pair; write a name such as XBTUSD, ADAEUR or XBT/USD")
    return Pair(base + quote, base, quote)


def pair_of_file(name: str) -> Pair:
    """Return the pair that a file's name stands for; a name in lower case only is read as upper case.

    A name in mixed case is kept, because the exchange has such names (AAPLxUSD).

    Raises:
        InvalidRequest: The text cannot be the name of a pair.
    """
    pair = parse_pair(name)
    return parse_pair(name.upper()) if name.islower() else pair


def named_pair(name: str, known: Collection[str]) -> str:
    """Return the name of the pair that user input means, whatever its case.

    Args:
        name: The name as it was given.
        known: The existing pairs; a name that matches none of them is read by the rules for files.

    Raises:
        InvalidRequest: The text cannot be the name of a pair.
    """
    candidates = (parse_pair(name).name, pair_of_file(name).name, parse_pair(name.upper()).name)
    if (exact := next((candidate for candidate in candidates if candidate in known), None)) is not None:
        return exact
    alike = [name for name in known if name.casefold() == candidates[0].casefold()]
    return alike[0] if len(alike) == 1 else candidates[1]


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return the names of at most three similar pairs, the nearest first."""
    by_capitals: dict[str, str] = {}
    for listed in sorted(known):
        by_capitals.setdefault(listed.upper(), listed)
    return [by_capitals[match] for match in get_close_matches(name.upper(), by_capitals, n=3, cutoff=0.7)]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that names the nearest pairs; empty if none is near."""
    names = nearest(name, known)
    return f"; similar names are {', '.join(names)}" if names else ""


def _asset(code: str) -> str:
    return ALIASES.get(code) or LEGACY_ASSETS.get(code) or code


def _split_key(name: str) -> tuple[str, str] | None:
    """Split a key, XXBTZUSD → XBT, USD, if both halves are legacy codes, or if it is the one odd key, USDTZUSD."""
    base, quote = name[:4], name[4:]
    if quote in LEGACY_ASSETS and (base in LEGACY_ASSETS or name == "USDTZUSD"):
        return _asset(base), _asset(quote)
    return None


def _split_altname(name: str) -> tuple[str, str]:
    fitting = [quote for quote in QUOTES if name.endswith(quote) and len(name) > len(quote)]
    if not fitting:
        return name, ""
    quote = max(fitting, key=len)
    base = name.removesuffix(quote)
    return ALIASES.get(base, base), ALIASES.get(quote, quote)


class PairBook:
    """The pairs that Kraken lists, resolvable by any of their names.

    It is built from the `result` of an AssetPairs reply. Without one (offline) it is empty, and names are parsed by
    the rules of `parse_pair`.
    """

    def __init__(self, asset_pairs: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._by_name: dict[str, Pair] = {}
        self._keys: dict[str, str] = {}
        names: list[tuple[Pair, tuple[str, ...]]] = []
        for key, listed in (asset_pairs or {}).items():
            wsname = str(listed.get("wsname", ""))
            base, _, quote = wsname.partition("/")
            base, quote = _asset(base or str(listed["base"])), _asset(quote or str(listed["quote"]))
            pair = Pair(parse_pair(str(listed["altname"])).name, base, quote)
            self._keys.setdefault(pair.name, key)
            names.append((pair, (key, wsname, pair.name, f"{base}/{quote}")))
            self._by_name.setdefault(str(listed["altname"]), pair)
        # An altname has precedence over any other spelling of another pair.
        for pair, others in names:
            for name in others:
                self._by_name.setdefault(name, pair)

    def __contains__(self, pair: Pair) -> bool:
        return pair.name in self._keys

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the pairs."""
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def resolve(self, name: str) -> Pair:
        """Return the pair with the given name, listed or not.

        Raises:
            InvalidRequest: The text cannot be the name of a pair.
        """
        if (listed := self._by_name.get(name)) is not None:
            return listed
        parsed = parse_pair(name)
        return self._by_name.get(parsed.name, parsed)

    def key(self, pair: Pair) -> str:
        """Return Kraken's internal key, which holds the pair's rows in replies; the name if the pair is not listed."""
        return self._keys.get(pair.name, pair.name)
