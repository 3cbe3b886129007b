"""The known past of pairs: listings, delistings and renames, from a table that comes with the project."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from kraken_pipeline.market.moment import iso, parse_moment
from kraken_pipeline.market.pair import Pair, parse_pair

UNKNOWN = "unknown"
"""The moment of an event whose date no source gives."""


class EventKind(StrEnum):
    """The kind of an event in the life of a pair; the head of `pair_history.toml` explains each."""

    RENAME = "rename"
    LISTING = "listing"
    DELISTING = "delisting"
    REVERSAL = "reversal"
    ALIAS = "alias"


@dataclass(frozen=True, slots=True)
class KnownEvent:
    """One event of the table.

    Attributes:
        kind: The kind of the event.
        before: The name until then: an asset for a rename or an alias, else a pair; empty for a listing.
        after: The name from then on, in the same way; empty for a delisting.
        moment: The time in seconds since the epoch; None if the date is unknown.
        ratio: Units of the new asset for one unit of the old one; 1 unless the event is a rename.
        source: Where the event is known from.
    """

    kind: EventKind
    before: str
    after: str
    moment: int | None
    ratio: float
    source: str

    @property
    def date(self) -> str:
        """The moment in words."""
        return "date unknown" if self.moment is None else iso(self.moment)


@dataclass(frozen=True, slots=True)
class Rename:
    """The renaming of a pair.

    Attributes:
        before: The name of the pair until then.
        after: The name of the pair from then on.
        moment: The time in seconds since the epoch; None if the date is unknown.
        ratio: Units of the new base asset for one unit of the old one: old prices are divided by it, and old volumes
            multiplied.
        source: Where the rename is known from.
    """

    before: str
    after: str
    moment: int | None
    ratio: float
    source: str


@cache
def known_events(path: Path | None = None) -> tuple[KnownEvent, ...]:
    """Load the table that comes with the project, or another one in the same format.

    Raises:
        ValueError: An event lacks a source, or one asset has two predecessors or two successors.
        KeyError: An event lacks another field that its kind needs.
    """
    content = tomllib.loads((path or Path(__file__).with_name("pair_history.toml")).read_text(encoding="utf-8"))
    events = tuple(event for row in content["event"] for event in _events(row))
    renames = [event for event in events if event.kind is EventKind.RENAME]
    for names in ([event.before for event in renames], [event.after for event in renames]):
        if len(set(names)) < len(names):
            raise ValueError(f"an asset is renamed twice: {', '.join(names)}")
    return events


def _events(row: dict[str, Any]) -> list[KnownEvent]:
    """Return the events of one row, which may name several pairs."""
    kind = EventKind(row["kind"])
    if not str(row["source"]).strip():
        raise ValueError(f"an event of the kind {kind} has no source")
    moment = None if row["moment"] == UNKNOWN else parse_moment(row["moment"])
    ratio = float(row["ratio"]) if kind is EventKind.RENAME else 1.0
    befores = [] if kind is EventKind.LISTING else _names(row["from"])
    afters = [] if kind is EventKind.DELISTING else _names(row["to"])
    return [
        KnownEvent(kind, before, after, moment, ratio, str(row["source"]))
        for before, after in zip_longest(befores, afters, fillvalue="")
    ]


def _names(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def predecessors(pair: str) -> tuple[Rename, ...]:
    """Return the renames that led to a pair's present name, the latest first; none for a pair that was never renamed.

    Raises:
        InvalidRequest: The text cannot be the name of a pair.
    """
    found: list[Rename] = []
    asset = parse_pair(pair)
    while (rename := _rename_of(asset.base, asset.quote, is_new=True)) is not None and rename not in found:
        found.append(rename)
        asset = parse_pair(rename.before)
    return tuple(found)


def successor(pair: str) -> Rename | None:
    """Return the rename that ended a pair's name; None if it was never renamed.

    Raises:
        InvalidRequest: The text cannot be the name of a pair.
    """
    parsed = parse_pair(pair)
    return _rename_of(parsed.base, parsed.quote, is_new=False)


def _rename_of(base: str, quote: str, *, is_new: bool) -> Rename | None:
    """Return the rename of an asset as that of its pair; `is_new` says whether the asset has the newer name."""
    for event in known_events():
        if event.kind is EventKind.RENAME and base == (event.after if is_new else event.before):
            return Rename(event.before + quote, event.after + quote, event.moment, event.ratio, event.source)
    return None


def events_of(pair: Pair) -> tuple[KnownEvent, ...]:
    """Return the events of a pair: its listing, delisting and reversal, and the renames and aliases of its base."""
    of_assets = (EventKind.RENAME, EventKind.ALIAS)
    return tuple(
        event
        for event in known_events()
        if (pair.base if event.kind in of_assets else pair.name) in (event.before, event.after)
        and not (event.kind is EventKind.ALIAS and event.after == pair.base)
    )
