"""Tiers, which rank pairs by priority."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from kraken_pipeline.errors import InvalidSettings
from kraken_pipeline.market.pair import ALIASES, Pair


class Tier(StrEnum):
    """A tier of pairs; ALL means every tier in requests and is never the tier of a pair."""

    TIER1 = "TIER1"
    TIER2 = "TIER2"
    TIER3 = "TIER3"
    TIER4 = "TIER4"
    ALL = "ALL"

    def covers(self, tier: Tier) -> bool:
        """Return whether a request for this tier includes pairs of the given one."""
        return self is Tier.ALL or self is tier


TIERS: tuple[Tier, ...] = (Tier.TIER1, Tier.TIER2, Tier.TIER3, Tier.TIER4)


@dataclass(frozen=True, slots=True)
class TierTable:
    """The tier of each base asset, and the quote assets that it applies to; every other pair is TIER4."""

    tiers: Mapping[str, Tier]
    quotes: frozenset[str]

    def tier_of(self, pair: Pair) -> Tier:
        """Return the tier of a pair, never ALL."""
        return self.tiers.get(pair.base, Tier.TIER4) if pair.quote in self.quotes else Tier.TIER4


def load_tiers(path: Path | None = None) -> TierTable:
    """Load the tier table from a TOML file, or the one that comes with the project.

    Raises:
        InvalidSettings: The file is missing or not a valid table; the message names the error.
    """
    path = path or Path(__file__).with_name("tiers.toml")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        quotes = frozenset(_assets(content["quotes"]))
        tiers: dict[str, Tier] = {}
        for name, bases in content["tiers"].items():
            tier = _own_tier(name)
            for base in _assets(bases):
                if tiers.setdefault(base, tier) is not tier:
                    raise InvalidSettings(f"KRAKEN_TIERS_FILE: {path} has {base} in two tiers; keep one of them")
    except (OSError, tomllib.TOMLDecodeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise InvalidSettings(
            f"KRAKEN_TIERS_FILE: {path} is not a table of tiers ({error}); it needs quotes = [...] and [tiers] with "
            "TIER1 to TIER3, as the built-in tiers.toml of kraken_pipeline"
        ) from error
    return TierTable(tiers, quotes)


def _own_tier(name: str) -> Tier:
    if (tier := Tier(name)) is Tier.ALL:
        raise ValueError("ALL is not the tier of a pair")
    return tier


def _assets(codes: object) -> list[str]:
    if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes):
        raise TypeError(f"{codes!r} is not a list of assets")
    return [ALIASES.get(code, code) for code in codes]
