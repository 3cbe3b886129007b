"""The state of a pair in a list of pairs that the exchange sent, and what changed from one list to the next."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ListedState:
    """The entry of a pair in a list.

    Attributes:
        key: The exchange's internal key: XXBTZUSD.
        altname: The alternative name: XBTUSD.
        wsname: The name with a slash: XBT/USD; empty if the entry has none.
        base: The base asset, in the spelling of this project.
        quote: The quote asset, likewise.
        status: The exchange's word for the state of trading: online, cancel_only, post_only, limit_only, reduce_only.
        is_tokenized: Whether it is a tokenized stock.
    """

    key: str
    altname: str
    wsname: str
    base: str
    quote: str
    status: str
    is_tokenized: bool

    def as_json(self) -> dict[str, Any]:
        """Return the state as a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PairChange:
    """The difference of one pair between two lists.

    Attributes:
        pair: The name of the pair.
        listed_at: The time of the later list, in seconds since the epoch.
        before: The state in the earlier list; None if that list, or any list before the first one, lacks the pair.
        after: The state in the later list; None if it lacks the pair.
    """

    pair: str
    listed_at: int
    before: ListedState | None
    after: ListedState | None


@dataclass(frozen=True, slots=True)
class PairList:
    """A list of pairs that differed from the one before it.

    Attributes:
        listed_at: The time at which the exchange sent the first such list, in seconds since the epoch.
        seen_at: The time at which it sent the last list that is equal to it.
        pairs: The number of pairs in the list.
    """

    listed_at: int
    seen_at: int
    pairs: int


def changes(
    before: Mapping[str, ListedState], after: Mapping[str, ListedState], unreadable: Collection[str], listed_at: int
) -> list[PairChange]:
    """Return what changed between two lists, by pair.

    Args:
        before: Pair → its state in the earlier list.
        after: Pair → its state in the later list.
        unreadable: Names and keys of entries of the later list that cannot be read; such a pair keeps its state.
        listed_at: The time of the later list, in seconds since the epoch.
    """

    def is_unreadable(pair: str) -> bool:
        state = before[pair]
        return pair not in after and not {pair, state.key, state.altname}.isdisjoint(unreadable)

    return [
        PairChange(pair, listed_at, before.get(pair), after.get(pair))
        for pair in sorted({*before, *after})
        if before.get(pair) != after.get(pair) and not (pair in before and is_unreadable(pair))
    ]
