"""Completeness: the share of the expected time that is covered, and the action that the rest needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.market.tier import Tier


@dataclass(frozen=True, slots=True)
class SeriesCompleteness:
    """The completeness of one series.

    Attributes:
        series: The series.
        tier: The tier of its pair.
        expected: The length of the expected time in candles.
        covered: The number of expected candles that are covered.
        candles: The number of candles in the covered time.
        gaps: The number of gaps.
        unfillable: The number of gaps without a route.
        action: The action that the series needs from a person; empty if none.
        proven: The number of covered candles that are at least reconciled.
        verified: The number of these that are verified.
        conflicts: The number of conflicts that the series is a side of.
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
        """The number of covered candles without a trade."""
        return self.covered - self.candles

    @property
    def percent(self) -> float | None:
        """The percentage of the expected time that is covered; None if nothing is expected."""
        return percentage(self.covered, self.expected)

    @property
    def proven_percent(self) -> float | None:
        """The percentage of the expected time that is at least reconciled; None if nothing is expected."""
        return percentage(self.proven, self.expected)

    @property
    def verified_percent(self) -> float | None:
        """The percentage of the expected time that is verified; None if nothing is expected."""
        return percentage(self.verified, self.expected)


@dataclass(frozen=True, slots=True)
class Total:
    """The totals of several series; the attributes are sums, and percentages refer to the expected time.

    A conflict has two sides, so a sum over several intervals counts it twice.
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
        """The number of covered candles without a trade."""
        return self.covered - self.candles

    @property
    def percent(self) -> float | None:
        """The percentage of the expected time that is covered; None if nothing is expected."""
        return percentage(self.covered, self.expected)

    @property
    def proven_percent(self) -> float | None:
        """The percentage of the expected time that is at least reconciled; None if nothing is expected."""
        return percentage(self.proven, self.expected)

    @property
    def verified_percent(self) -> float | None:
        """The percentage of the expected time that is verified; None if nothing is expected."""
        return percentage(self.verified, self.expected)


def percentage(part: int, whole: int) -> float | None:
    """Return a percentage, rounded down to two digits so that only a whole shows as 100; None if `whole` is 0."""
    return part * 10_000 // whole / 100 if whole else None


def shown(percent: float | None) -> str:
    """Return a percentage formatted for display; a dash for None."""
    return "–" if percent is None else f"{percent:.2f} %"  # noqa: RUF001 - a dash, as tables have them


def total(series: Sequence[SeriesCompleteness]) -> Total:
    """Return the totals of some series."""
    return Total(
        series=len(series),
        pairs=len({completeness.series.pair for completeness in series}),
        expected=sum(completeness.expected for completeness in series),
        covered=sum(completeness.covered for completeness in series),
        proven=sum(completeness.proven for completeness in series),
        verified=sum(completeness.verified for completeness in series),
        candles=sum(completeness.candles for completeness in series),
        gaps=sum(completeness.gaps for completeness in series),
        unfillable=sum(completeness.unfillable for completeness in series),
        conflicts=sum(completeness.conflicts for completeness in series),
    )


def by_interval(series: Iterable[SeriesCompleteness]) -> Mapping[Interval, Total]:
    """Return the totals of each interval, the finest first."""
    groups: dict[Interval, list[SeriesCompleteness]] = {}
    for completeness in series:
        groups.setdefault(completeness.series.interval, []).append(completeness)
    return {interval: total(groups[interval]) for interval in sorted(groups)}


def by_tier(series: Iterable[SeriesCompleteness]) -> Mapping[Tier, Mapping[Interval, Total]]:
    """Return the totals of each tier and interval."""
    groups: dict[Tier, list[SeriesCompleteness]] = {}
    for completeness in series:
        groups.setdefault(completeness.tier, []).append(completeness)
    return {tier: by_interval(groups[tier]) for tier in sorted(groups)}
