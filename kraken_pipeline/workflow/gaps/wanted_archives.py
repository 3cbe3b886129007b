"""The archives that would fill gaps and are not at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.kraken.release import fewest
from kraken_pipeline.market.series import Series
from kraken_pipeline.workflow.gaps.gaps import Gap


def missing_archives(gaps: Iterable[Gap], published_until: int) -> Mapping[str, int]:
    """Return the archives to fetch, in order of time, each with the number of series whose gaps it would fill.

    They are the fewest files that fill all gaps which cost many requests or have no route; see `release.fewest`.
    """
    series: dict[tuple[str, ...], set[Series]] = {}
    wanted: set[str] = set()
    for gap in gaps:
        series.setdefault(gap.wanted, set()).add(gap.series)
        if any(leg.route in (Route.TRADES, Route.NONE) for leg in gap.legs):
            wanted.update(gap.wanted)
    return {
        name: len(set().union(*(lacking for archives, lacking in series.items() if not set(held).isdisjoint(archives))))
        for name, held in fewest(wanted, published_until).items()
    }


def awaited_archives(gaps: Iterable[Gap]) -> Mapping[str, int]:
    """Return the archives that are not published yet, each with the number of series whose gaps it would fill."""
    series: dict[str, set[Series]] = {}
    for gap in gaps:
        for archive in gap.awaited:
            series.setdefault(archive, set()).add(gap.series)
    return {name: len(series[name]) for name in sorted(series)}
