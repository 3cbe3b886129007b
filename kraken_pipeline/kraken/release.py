"""Kraken's releases: the time that each archive covers, according to its name.

::

    Kraken_OHLCVT.zip                    complete, up to its last candle
    Kraken_OHLCVT_Q2_2023.zip            a quarter, up to 2026Q1
    Kraken_OHLCVT_2026Q2.zip             a quarter, since 2026Q2
    Kraken_OHLCVT_Full_2026Q2.zip.part00 complete up to the end of a quarter, in parts
    Kraken_Trading_History….zip, TimeAndSales_Combined….zip   the same for trades

A name promises something only if all of it matches one of `FORMS`. Any other ZIP (one more word, a range, a part of
the year) is a loose collection: each of its files answers only for the time between its own first and last row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from kraken_pipeline.market.candle import EARLIEST_TIME
from kraken_pipeline.market.quarter import Quarter


class Kind(StrEnum):
    """The kind of an archive's rows: candles or trades."""

    OHLCVT = "OHLCVT"
    TRADES = "TRADES"


DOWNLOADS = (
    "https://support.kraken.com/articles/"
    "360047124832-downloadable-historical-ohlcvt-open-high-low-close-volume-trades-data"
)
"""The address of Kraken's page with all archives."""
FULL = Quarter(2026, 2)
"""The last quarter of the complete archive that names its end; it comes in parts."""
FULL_NAME = f"Kraken_OHLCVT_Full_{FULL}.zip"
FULL_PARTS = 5
FIRST_QUARTERLY = Quarter(2023, 1)
"""The first quarter with an archive of its own; earlier ones are only in complete archives."""
FIRST_NEW_NAME = Quarter(2026, 2)
"""The first quarter whose archive is named by the new scheme: 2026Q2 instead of Q2_2026."""


@dataclass(frozen=True, slots=True)
class Release:
    """The promise of an archive's name: a kind of rows and a span `[start, end)` in seconds since the epoch.

    Attributes:
        kind: Candles or trades.
        start: The start of the span; 2011 for a complete one.
        end: The nominal end; None for a complete one whose name does not state it.
        quarter: The one quarter that it holds; None for a complete one.
    """

    kind: Kind
    start: int
    end: int | None
    quarter: Quarter | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """A form of the names that Kraken gives to releases.

    Attributes:
        whole: The pattern of a whole name of this form, without `.zip` and the mark of a copy.
        kind: The kind of its rows.
        is_complete: Whether it begins with the first trade, and not with the quarter that it names.
        example: A name of this form.
        promise: A description of the time that such a release answers for.
    """

    whole: re.Pattern[str]
    kind: Kind
    is_complete: bool
    example: str
    promise: str


def _form(whole: str, kind: Kind, example: str, promise: str, *, is_complete: bool) -> Form:
    return Form(re.compile(whole, re.IGNORECASE | re.ASCII), kind, is_complete, example, promise)


_CANDLES = "Kraken_OHLCVT"
_TRADES = "(?:Kraken_Trading_History|TimeAndSales_Combined)"
_QUARTER = r"(?:Q(?P<n1>[1-4])_(?P<y1>20\d\d)|(?P<y2>20\d\d)_?Q(?P<n2>[1-4]))"
_COMPLETE = "all time up to its latest row"
_UP_TO = "all time up to the quarter's end, or its latest row"
_ONE = "the quarter, up to its latest row"

FORMS: tuple[Form, ...] = (
    _form(f"{_CANDLES}(?:_Full)?", Kind.OHLCVT, "Kraken_OHLCVT.zip", _COMPLETE, is_complete=True),
    _form(f"{_CANDLES}_Full_{_QUARTER}", Kind.OHLCVT, "Kraken_OHLCVT_Full_2026Q2.zip", _UP_TO, is_complete=True),
    _form(f"{_CANDLES}_{_QUARTER}", Kind.OHLCVT, "Kraken_OHLCVT_Q2_2023.zip", _ONE, is_complete=False),
    _form(f"{_TRADES}(?:_Full)?", Kind.TRADES, "Kraken_Trading_History.zip", _COMPLETE, is_complete=True),
    _form(f"{_TRADES}_Full_{_QUARTER}", Kind.TRADES, "TimeAndSales_Combined_Full_2026Q2.zip", _UP_TO, is_complete=True),
    _form(f"{_TRADES}_{_QUARTER}", Kind.TRADES, "Kraken_Trading_History_Q1_2026.zip", _ONE, is_complete=False),
)
"""Every form of a name that promises something; docs/archives.md shows the same table."""

# The marks that browsers, desktops and this project's drop folder (.1) add if a name is already in use.
_COPY = re.compile(r"(?:[ _-]*\([0-9]{1,3}\)|[ _-]+copy(?:[ _-]?[0-9]{1,3})?|\.[0-9]{1,3})+$", re.IGNORECASE)


def without_copy_mark(stem: str) -> str:
    """Return a file's stem without the mark of a copy: ` (1)`, `-copy`, ` - Copy`."""
    return _COPY.sub("", stem)


def release_of(container: str) -> Release | None:
    """Return the release that a ZIP's name (without its folder) promises; None if the name matches no form."""
    stem, _, ending = container.rpartition(".")
    if ending.lower() != "zip":
        return None
    name = without_copy_mark(stem)
    for form in FORMS:
        if (found := form.whole.fullmatch(name)) is not None:
            return _promised(form, found.groupdict())
    return None


def _promised(form: Form, said: Mapping[str, str | None]) -> Release:
    year, number = said.get("y1") or said.get("y2"), said.get("n1") or said.get("n2")
    if year is None or number is None:
        return Release(form.kind, EARLIEST_TIME, None)
    quarter = Quarter(int(year), int(number))
    if form.is_complete:
        return Release(form.kind, EARLIEST_TIME, quarter.end)
    return Release(form.kind, quarter.start, quarter.end, quarter)


def archive_name(quarter: Quarter) -> str:
    """Return the name of the archive with a quarter's candles; before 2023, the complete archive."""
    if quarter < FIRST_QUARTERLY:
        return "Kraken_OHLCVT.zip"
    if quarter < FIRST_NEW_NAME:
        return f"Kraken_OHLCVT_Q{quarter.number}_{quarter.year}.zip"
    return f"Kraken_OHLCVT_{quarter}.zip"


@lru_cache(maxsize=4096)  # the gaps of a pair begin and end together in all of its intervals
def published(start: int, end: int, now: int) -> tuple[tuple[str, Quarter], ...]:
    """Return the archives that hold some of `[start, end)`, each with its quarter, in order.

    A quarter that has not ended by `now` has no archive. For the time before 2023 the complete archive is listed once,
    with the first quarter. Times are seconds since the epoch.
    """
    return _held(Quarter.of(start), min(Quarter.of(end - 1).next, Quarter.of(now)))


@lru_cache(maxsize=4096)  # many series lack the same quarters
def _held(first: Quarter, after: Quarter) -> tuple[tuple[str, Quarter], ...]:
    """Return the archives of the quarters from the first one up to, and without, another one."""
    names: list[tuple[str, Quarter]] = []
    quarter = first
    while quarter < after:
        if not names or names[-1][0] != archive_name(quarter):
            names.append((archive_name(quarter), quarter))
        quarter = quarter.next
    return tuple(names)


def fewest(names: Iterable[str], now: int) -> Mapping[str, tuple[str, ...]]:
    """Return the fewest files to download for the contents of some archives, in order of time.

    This is each archive by itself, unless the complete archive contains more of them than it has parts; then it
    replaces those that it contains.

    Args:
        names: Archives, as `published` names them.
        now: The current time, in seconds since the epoch. Archives of quarters that have ended count as published.

    Returns:
        Each archive to download, with the archives that it replaces.
    """
    quarters = {name: release.quarter or Quarter.of(0) for name in names if (release := release_of(name)) is not None}
    ordered = sorted(quarters, key=lambda name: quarters[name])
    held = tuple(name for name in ordered if quarters[name] <= FULL)
    if FULL.end <= now and len(held) > FULL_PARTS:
        return {FULL_NAME: held, **{name: (name,) for name in ordered if name not in held}}
    return {name: (name,) for name in ordered}
