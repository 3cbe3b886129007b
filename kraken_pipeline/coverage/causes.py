"""Causes of contradictions: what many of them have in common, so that a person resolves one cause and not each of them.

Every contradiction has exactly one cause, the first of these that fits:

===========  =========================================================================================
shift        Times of a file are shifted by hours.
precision    Prices differ by at most one unit of the candle with fewer decimals, and too few prices of
             that time are known to show that a side is rounded.
spike        Trade counts are equal and prices are not, on a few isolated candles.
release      The suspected candles came from a release.
file         The suspected candles came from one loose file, or two files disagree.
era          None of these: all candles of a pair at an interval in a calendar year.
===========  =========================================================================================

A cause's id is derived from its key, so that it is the same in every run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

import polars as pl

from kraken_pipeline.coverage.equality import is_within_own_rounding
from kraken_pipeline.coverage.ranges import Span, normalise
from kraken_pipeline.market.candle import Values
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import as_datetime

FEW = 12
"""This many nearby candles with equal counts and other prices are no spikes: a file or an era is wrong."""
_APART = 50  # candles; contradictions further apart belong to different clusters


class CauseKind(StrEnum):
    """A kind of cause."""

    SHIFT = "shift"
    PRECISION = "precision"
    SPIKE = "spike"
    RELEASE = "release"
    FILE = "file"
    ERA = "era"


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of candles.

    Attributes:
        kind: RELEASE or FILE.
        key: Its unique key, the same in every run.
        name: The name to display.
    """

    kind: CauseKind
    key: str
    name: str


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause that many contradictions have in common.

    Attributes:
        kind: The kind of cause.
        key: The parts that identify it within its kind.
        name: The name to display.
    """

    kind: CauseKind
    key: tuple[str, ...]
    name: str

    @property
    def id(self) -> str:
        """The name of the cause on the command line."""
        return f"{self.kind}-{sha256(chr(31).join((self.kind, *self.key)).encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Contradicted:
    """A contradiction with the facts that determine its cause.

    Attributes:
        pair: The name of the pair.
        intervals: The two intervals that contradict each other; one if sources of one interval do.
        suspects: The intervals that may be wrong; one if it is known which.
        span: The span of the contradiction.
        is_shifted: Whether times of a file are shifted.
        candles: The candles of both sides; None where a side has no candle, or many.
        origin: The origin of the suspects' candles; None if there is no single one.
    """

    pair: str
    intervals: tuple[Interval, ...]
    suspects: tuple[Interval, ...]
    span: Span
    is_shifted: bool = False
    candles: tuple[Values | None, Values | None] = (None, None)
    origin: Origin | None = None

    @property
    def is_of_prices(self) -> bool:
        """Whether both sides have a candle and count the same trades."""
        one, other = self.candles
        return one is not None and other is not None and one[-1] == other[-1]


def causes_of(found: Sequence[Contradicted]) -> list[Cause]:
    """Return the cause of each contradiction; the argument holds all contradictions of their pairs."""
    rounded = set(_rounded(found))
    prices = [
        contradicted for index, contradicted in enumerate(found) if contradicted.is_of_prices and index not in rounded
    ]
    spikes = set(_alone(prices))
    moved = [contradicted for contradicted in found if contradicted.is_shifted]
    places = {**_places(spikes), **_places(moved)}
    return [_cause(contradicted, places, is_rounded=index in rounded) for index, contradicted in enumerate(found)]


def _cause(contradicted: Contradicted, places: dict[Contradicted, str], *, is_rounded: bool) -> Cause:
    who = _series(contradicted)
    if contradicted.is_shifted or (contradicted in places and not is_rounded):
        kind = CauseKind.SHIFT if contradicted.is_shifted else CauseKind.SPIKE
        return Cause(kind, (who, places[contradicted]), who)
    if is_rounded:
        return Cause(CauseKind.PRECISION, (who,), who)
    undecided = (who,) if len(contradicted.suspects) > 1 else ()
    if contradicted.origin is not None:
        return Cause(contradicted.origin.kind, (contradicted.origin.key, *undecided), contradicted.origin.name)
    year = str(as_datetime(contradicted.span.start).year)
    return Cause(CauseKind.ERA, (who, year), f"{who} in {year}")


def _series(contradicted: Contradicted) -> str:
    return f"{contradicted.pair} {' or '.join(str(interval.value) for interval in contradicted.suspects)}"


def _rounded(found: Sequence[Contradicted]) -> Iterator[int]:
    """Yield the indexes of contradictions that the decimals of their two candles explain as rounding."""
    rows = [
        (index, *one, *other)
        for index, contradicted in enumerate(found)
        if contradicted.is_of_prices
        for one, other in [contradicted.candles]
        if one and other
    ]
    if rows:
        names = ("open", "high", "low", "close", "volume", "trade_count")
        columns = ["index", *names, *(f"{name}_right" for name in names)]
        frame = pl.DataFrame(rows, schema=columns, orient="row")
        yield from frame["index"].filter(is_within_own_rounding(frame))


def _alone(prices: Iterable[Contradicted]) -> Iterator[Contradicted]:
    """Yield the contradictions that have few others nearby with the same suspects."""
    for group in _by_series(prices).values():
        length = group[0].suspects[-1].seconds
        cluster: list[Contradicted] = []
        for contradicted in sorted(group, key=lambda item: item.span.start):
            if cluster and contradicted.span.start - cluster[-1].span.start > _APART * length:
                yield from cluster if _are_few(cluster) else ()
                cluster = []
            cluster.append(contradicted)
        yield from cluster if _are_few(cluster) else ()


def _are_few(cluster: Sequence[Contradicted]) -> bool:
    """Return whether no two intervals contradict each other on `FEW` candles or more."""
    return max(Counter(contradicted.intervals for contradicted in cluster).values()) < FEW


def _by_series(found: Iterable[Contradicted]) -> dict[str, list[Contradicted]]:
    groups: dict[str, list[Contradicted]] = {}
    for contradicted in found:
        groups.setdefault(_series(contradicted), []).append(contradicted)
    return groups


def _places(found: Iterable[Contradicted]) -> dict[Contradicted, str]:
    """Return the place of each contradiction: the start of the shortest one that overlaps it with the same suspects.

    A wrong candle contradicts finer and coarser ones, and all of these share one cause.
    """
    places: dict[Contradicted, str] = {}
    for group in _by_series(found).values():
        hulls = normalise(contradiction.span for contradiction in group)
        for contradiction in group:
            hull = next(hull for hull in hulls if contradiction.span.overlaps(hull))
            shortest = min((other.span.seconds, other.span.start) for other in group if other.span.overlaps(hull))
            places[contradiction] = str(shortest[1])
    return places
