"""Completeness: how much of what is expected is covered, and what to do about the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.market.tier import Tier


@dataclass(frozen=True, slots=True)
class SeriesCompleteness:
    """How complete one series is.

    Attributes:
        series: Which.
        tier: Its pair's tier.
        expected: How many candles long the expected time is.
        covered: How many of them something answered for.
        candles: How many candles there are in the covered time.
        gaps: How many gaps there are.
        unfillable: How many of these have no route.
        action: What the series needs from a person; empty where nothing.
        proven: How many of the covered candles are reconciled at least.
        verified: How many of these are verified.
        conflicts: How many contradictions it is a side of, with nothing left to try.
    """

    series: Series
    tier: Tier
    expected: int
    covered: int
    candles: int
    gaps: int
    unfillable: int = 0
    action: str = ""
    proven: int = 0
    verified: int = 0
    conflicts: int = 0

    @property
    def quiet(self) -> int:
        """Covered candles without a trade."""
        return self.covered - self.candles

    @property
    def percent(self) -> float | None:
        """How much of the expected time is covered; None where nothing is expected."""
        return percentage(self.covered, self.expected)

    @property
    def proven_percent(self) -> float | None:
        """How much of the expected time is reconciled at least; None where nothing is expected."""
        return percentage(self.proven, self.expected)

    @property
    def verified_percent(self) -> float | None:
        """How much of the expected time is verified; None where nothing is expected."""
        return percentage(self.verified, self.expected)


@dataclass(frozen=True, slots=True)
class Total:
    """Several series taken together; the attributes are sums, and percents are those of the expected time.

    A contradiction has two sides, so that a sum over several intervals counts it twice.
    """

    series: int
    pairs: int
    expected: int
    covered: int
    proven: int
    verified: int
    candles: int
    gaps: int
    unfillable: int
    conflicts: int

    @property
    def quiet(self) -> int:
        """Covered candles without a trade."""
        return self.covered - self.candles

    @property
    def percent(self) -> float | None:
        """How much of the expected time is covered; None where nothing is expected."""
        return percentage(self.covered, self.expected)

    @property
    def proven_percent(self) -> float | None:
        """How much of the expected time is reconciled at least; None where nothing is expected."""
        return percentage(self.proven, self.expected)

    @property
    def verified_percent(self) -> float | None:
        """How much of the expected time is verified; None where nothing is expected."""
        return percentage(self.verified, self.expected)


def percentage(part: int, whole: int) -> float | None:
    """Percent, rounded down to two digits, so that only what is whole shows as 100; of nothing there is none."""
    return part * 10_000 // whole / 100 if whole else None


def shown(percent: float | None) -> str:
    """A percentage as people read it; a dash where there is none."""
    return "–" if percent is None else f"{percent:.2f} %"  # noqa: RUF001 - a dash, as tables have them


def total(series: Sequence[SeriesCompleteness]) -> Total:
    """The sum over some series."""
    return Total(
        series=len(series),
        pairs=len({each.series.pair for each in series}),
        expected=sum(each.expected for each in series),
        covered=sum(each.covered for each in series),
        proven=sum(each.proven for each in series),
        verified=sum(each.verified for each in series),
        candles=sum(each.candles for each in series),
        gaps=sum(each.gaps for each in series),
        unfillable=sum(each.unfillable for each in series),
        conflicts=sum(each.conflicts for each in series),
    )


def by_interval(series: Iterable[SeriesCompleteness]) -> Mapping[Interval, Total]:
    """The sums of each interval, the finest first."""
    groups: dict[Interval, list[SeriesCompleteness]] = {}
    for each in series:
        groups.setdefault(each.series.interval, []).append(each)
    return {interval: total(groups[interval]) for interval in sorted(groups)}


def by_tier(series: Iterable[SeriesCompleteness]) -> Mapping[Tier, Mapping[Interval, Total]]:
    """The sums of each tier and interval."""
    groups: dict[Tier, list[SeriesCompleteness]] = {}
    for each in series:
        groups.setdefault(each.tier, []).append(each)
    return {tier: by_interval(groups[tier]) for tier in sorted(groups)}
