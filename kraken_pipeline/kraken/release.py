"""Kraken's releases: which archive holds which time, by its name.

::

    Kraken_OHLCVT.zip                    complete, up to an unnamed quarter
    Kraken_OHLCVT_Q2_2023.zip            a quarter, up to 2026Q1
    Kraken_OHLCVT_2026Q2.zip             a quarter, since 2026Q2
    Kraken_OHLCVT_Full_2026Q2.zip.part00 complete, in parts
    Kraken_Trading_History….zip, TimeAndSales_Combined….zip   the same of trades
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from kraken_pipeline.market.candle import EARLIEST_TIME
from kraken_pipeline.market.quarter import Quarter


class Kind(StrEnum):
    """What an archive's rows are."""

    OHLCVT = "OHLCVT"
    TRADES = "TRADES"


DOWNLOADS = (
    "https://support.kraken.com/articles/"
    "360047124832-downloadable-historical-ohlcvt-open-high-low-close-volume-trades-data"
)
"""Kraken's page with all of them."""
FULL = Quarter(2026, 2)
"""The last quarter of the complete archive whose name says where it ends; it comes in parts."""
FULL_NAME = f"Kraken_OHLCVT_Full_{FULL}.zip"
FULL_PARTS = 5
FIRST_QUARTERLY = Quarter(2023, 1)
"""Before it there are only complete archives."""
FIRST_NEW_NAME = Quarter(2026, 2)
"""From it on a quarter is named 2026Q2 instead of Q2_2026."""


@dataclass(frozen=True, slots=True)
class Release:
    """What an archive's name promises: `[start, end)` in seconds since the epoch.

    Attributes:
        kind: Candles or trades.
        start: Where it begins; 2011 for a complete one.
        end: Where it nominally ends; None for a complete one whose name does not say.
        quarter: The one quarter that it holds; None for a complete one.
    """

    kind: Kind
    start: int
    end: int | None
    quarter: Quarter | None = None


_QUARTER = re.compile(r"(?:Q(?P<n1>[1-4])_(?P<y1>20\d\d))|(?:(?P<y2>20\d\d)_?Q(?P<n2>[1-4]))", re.IGNORECASE)
_TRADES = re.compile(r"Trading_?History|Time_?And_?Sales|Trades", re.IGNORECASE)
_OHLCVT = re.compile(r"OHLCVT", re.IGNORECASE)
# What else a complete archive's name may hold. One that says more, in words not known here, may be of some time only.
_COMPLETE = re.compile(
    rf"(?:{_TRADES.pattern}|{_OHLCVT.pattern}|Kraken|Full|Complete|Combined|\(\d+\)|zip|[ _.-])+", re.IGNORECASE
)


def release_of(container: str) -> Release | None:
    """What the name of a ZIP says, without its folder; None for a ZIP that is no release of Kraken's, or unclear."""
    if _TRADES.search(container):
        kind = Kind.TRADES
    elif _OHLCVT.search(container):
        kind = Kind.OHLCVT
    else:
        return None
    found = _QUARTER.search(container)
    if found is None:
        return Release(kind, EARLIEST_TIME, None) if _COMPLETE.fullmatch(container) else None
    quarter = Quarter(int(found["y1"] or found["y2"]), int(found["n1"] or found["n2"]))
    if re.search(r"Full|Complete", container, re.IGNORECASE):
        return Release(kind, EARLIEST_TIME, quarter.end)
    return Release(kind, quarter.start, quarter.end, quarter)


def archive_name(quarter: Quarter) -> str:
    """The file that Kraken publishes the candles of a quarter in; before 2023, the complete archive."""
    if quarter < FIRST_QUARTERLY:
        return "Kraken_OHLCVT.zip"
    if quarter < FIRST_NEW_NAME:
        return f"Kraken_OHLCVT_Q{quarter.number}_{quarter.year}.zip"
    return f"Kraken_OHLCVT_{quarter}.zip"


def published(start: int, end: int, now: int) -> list[tuple[str, Quarter]]:
    """The archives that hold some of `[start, end)`, each with its quarter, in order.

    A quarter that has not ended has none. Before 2023 the complete archive stands once, with the first quarter.
    """
    names: list[tuple[str, Quarter]] = []
    quarter = Quarter.of(start)
    while quarter.start < end and quarter.end <= now:
        if not names or names[-1][0] != archive_name(quarter):
            names.append((archive_name(quarter), quarter))
        quarter = quarter.next
    return names


def fewest(names: Iterable[str], now: int) -> Mapping[str, tuple[str, ...]]:
    """Return the fewest files to download that hold what some archives hold, in order of time.

    That is each archive by itself, or the complete one in its parts instead of all that it holds, where these are more
    than its parts.

    Args:
        names: Archives, as `published` names them.
        now: Up to when archives of quarters that have ended count as published, in seconds since the epoch.

    Returns:
        Each archive to fetch, with those that it stands for.
    """
    quarters = {name: release.quarter or Quarter.of(0) for name in names if (release := release_of(name)) is not None}
    ordered = sorted(quarters, key=lambda name: quarters[name])
    held = tuple(name for name in ordered if quarters[name] <= FULL)
    if FULL.end <= now and len(held) > FULL_PARTS:
        return {FULL_NAME: held, **{name: (name,) for name in ordered if name not in held}}
    return {name: (name,) for name in ordered}
