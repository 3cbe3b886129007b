"""The contents of a page. Only its charts are read from the lake, and each has a bounded number of bars.

All else comes from the catalog, so that a page costs seconds however large the lake is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kraken_pipeline.coverage.months import Breakdown, Months, breakdown, months_of
from kraken_pipeline.coverage.proof import NOTHING_PROVEN
from kraken_pipeline.coverage.ranges import Span, Spans, intersect, normalise
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.market.tier import Tier
from kraken_pipeline.storage.records import proof_records, source_records
from kraken_pipeline.storage.records.damage import Damage, open_damages
from kraken_pipeline.storage.records.proof_records import SuspicionRecord
from kraken_pipeline.storage.records.report_records import ReportRecord
from kraken_pipeline.storage.records.source_records import Answered, ArchiveSource, Disagreement
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.gaps.gaps import expected
from kraken_pipeline.workflow.gaps.kept_intervals import of_kept_intervals
from kraken_pipeline.workflow.gaps.snapshot import CatalogSnapshot, load_snapshot
from kraken_pipeline.workflow.page.chart import Chart, ChartRequest, read_chart
from kraken_pipeline.workflow.report.report import Report, ReportProof, find_proof, report_of
from kraken_pipeline.workflow.run_spec import RunSpec

MOST_ROWS = 500
"""The most rows of a table that could have any number of them; commands list all."""


@dataclass(frozen=True, slots=True)
class HeatMap:
    """The pairs of one interval by month.

    Attributes:
        interval: The interval.
        pairs: The pairs with their tiers, by tier and name.
        breakdowns: The breakdown of each pair, month by month.
    """

    interval: Interval
    pairs: tuple[tuple[str, Tier], ...]
    breakdowns: tuple[Breakdown, ...]

    @property
    def states(self) -> npt.NDArray[np.uint8]:
        """The `State` of each cell: one row for each pair, one column for each month."""
        return np.array([breakdown.states for breakdown in self.breakdowns], dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a page.

    Attributes:
        spec: The spec of the report.
        report: The report.
        months: The months of all maps.
        maps: One map for each interval, the finest first; none if there are no pairs.
        trend: The numbers of past reports on the same selection, the oldest first, this one last.
        disagreements: The sources whose trade counts differ from the stored ones, the worst first.
        disagreement_count: The number of all disagreements.
        suspicions: The suspicions, in order of time.
        damages: The damaged files, by path.
        archives: The archives that files came from.
        answered: The time that each kind of source answered for.
        api_rate: The number of requests allowed a second.
        charts: The charts that were asked for.
    """

    spec: RunSpec
    report: Report
    months: Months
    maps: tuple[HeatMap, ...]
    trend: tuple[ReportRecord, ...]
    disagreements: tuple[Disagreement, ...]
    disagreement_count: int
    suspicions: tuple[SuspicionRecord, ...]
    damages: tuple[Damage, ...]
    archives: tuple[ArchiveSource, ...]
    answered: tuple[Answered, ...]
    api_rate: float
    charts: tuple[Chart, ...] = ()


def gather(stores: Stores, spec: RunSpec, now: int, charts: Sequence[ChartRequest] = ()) -> Contents:
    """Read the contents of a page; its trend is still empty.

    Args:
        stores: The stores to read from.
        spec: The spec of the report.
        now: The current time, in seconds since the epoch.
        charts: The charts to draw.

    Raises:
        InvalidRequest: Nothing is known of the selection, or a chart cannot be drawn.
    """
    spec = of_kept_intervals(stores, spec)
    snapshot = load_snapshot(stores, spec, now)
    proof = find_proof(stores, spec, snapshot)
    report = report_of(stores, spec, snapshot, proof)
    names, wanted = sorted(snapshot.pairs), spec.window
    with stores.catalog.read() as connection:
        counts = proof_records.counts_of(connection, names)
        suspicions = proof_records.suspicions_of(connection, names)
        suspicious = proof_records.suspicious(
            connection, (completeness.series for completeness in report.series), names
        )
        disagreements, disagreement_count = source_records.disagreements(connection, names, MOST_ROWS)
        archives = source_records.archive_sources(connection, names)
        answered = source_records.answered(connection, names)
        damages = open_damages(connection, names)
    months = months_of(expected(snapshot, spec, completeness.series) for completeness in report.series)
    return Contents(
        spec=spec,
        report=report,
        months=months,
        maps=_maps(spec, snapshot, proof, report, counts, suspicious, months),
        trend=(),
        disagreements=tuple(disagreements),
        disagreement_count=disagreement_count,
        suspicions=tuple(
            suspicion
            for suspicion in suspicions
            if (suspicion.pair is None or suspicion.interval in spec.intervals) and suspicion.span.overlaps(wanted)
        ),
        damages=tuple(damages),
        archives=tuple(archives),
        answered=tuple(account for account in answered if account.interval in spec.intervals),
        api_rate=stores.settings.kraken_api_rate,
        charts=tuple(read_chart(stores, wanted, spec.start, spec.end) for wanted in charts),
    )


def _maps(
    spec: RunSpec,
    snapshot: CatalogSnapshot,
    proof: ReportProof,
    report: Report,
    counts: Mapping[Series, Mapping[int, Sequence[int]]],
    suspicious: Mapping[Series, Spans],
    months: Months,
) -> tuple[HeatMap, ...]:
    legs: dict[Series, dict[Route, list[Span]]] = {}
    for gap in report.gaps:
        for leg in gap.legs:
            # A leg may reach beyond its gap, because touching legs that are alike are merged.
            legs.setdefault(gap.series, {}).setdefault(leg.route, []).extend(intersect((leg.span,), (gap.span,)))
    conflicts: dict[Series, list[Span]] = {series: list(spans) for series, spans in report.disputed.items()}
    for conflict in report.conflicts:
        for side in (conflict.fine, conflict.coarse):
            conflicts.setdefault(Series(conflict.pair, side), []).append(conflict.span)

    def broken_down(series: Series) -> Breakdown:
        wanted = expected(snapshot, spec, series)
        covered = intersect(snapshot.covered(series), wanted)
        return breakdown(
            series.interval,
            months,
            expected=wanted,
            covered=covered,
            proven=proof.proven.get(series, NOTHING_PROVEN).within(covered),
            legs={route: normalise(spans) for route, spans in legs.get(series, {}).items()},
            conflicts=conflicts.get(series, ()),
            candles=_counted(snapshot, series, counts),
            suspicious=intersect(suspicious.get(series, ()), covered),
        )

    pairs = tuple(sorted({(completeness.tier, completeness.series.pair) for completeness in report.series}))
    return tuple(
        HeatMap(
            interval,
            tuple((pair, tier) for tier, pair in pairs),
            tuple(broken_down(Series(pair, interval)) for _, pair in pairs),
        )
        for interval in (spec.intervals if pairs and months.count else ())
    )


def _counted(
    snapshot: CatalogSnapshot, series: Series, counts: Mapping[Series, Mapping[int, Sequence[int]]]
) -> Mapping[int, Sequence[int]] | None:
    """Return the candles of a series by year and month; None if some of the stored ones are not counted yet.

    Reconciliation counts them, and leaves a pair that is being written to the next run.
    """
    years = counts.get(series, {})
    extent = snapshot.extents.get(series)
    stored = extent.candles if extent is not None else 0
    return years if sum(map(sum, years.values())) == stored else None
