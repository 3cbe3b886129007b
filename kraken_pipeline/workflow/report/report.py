"""The completeness report: the share of the expected time that is covered, and advice on the rest."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from kraken_pipeline.coverage.completeness import SeriesCompleteness, Total, by_interval, by_tier, percentage, total
from kraken_pipeline.coverage.gaps import GapStatus
from kraken_pipeline.coverage.proof import NOTHING_PROVEN, Proven
from kraken_pipeline.coverage.ranges import Spans, intersect, subtract, touched_candles
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.kraken.release import DOWNLOADS, FULL_NAME, FULL_PARTS
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.market.series import Series
from kraken_pipeline.market.tier import Tier
from kraken_pipeline.storage.catalog.states import ContradictionState
from kraken_pipeline.storage.records import dispute_records, proof_records, trade_counts
from kraken_pipeline.storage.records.proof_records import ContradictionRecord
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.gaps.gaps import Gap, find_gaps, is_awaited, measure
from kraken_pipeline.workflow.gaps.kept_intervals import of_kept_intervals
from kraken_pipeline.workflow.gaps.selection import Outlook, outlook
from kraken_pipeline.workflow.gaps.snapshot import CatalogSnapshot, load_snapshot
from kraken_pipeline.workflow.gaps.unknown import unknown
from kraken_pipeline.workflow.gaps.wanted_archives import awaited_archives, missing_archives
from kraken_pipeline.workflow.heed import heeding
from kraken_pipeline.workflow.run_spec import RunSpec


@dataclass(frozen=True, slots=True)
class Advice:
    """A recommended action.

    Attributes:
        what: The action as a sentence.
        command: The command to run for it; empty if there is none.
        page: The URL of the web page for it; empty if there is none.
    """

    what: str
    command: str = ""
    page: str = ""

    def __str__(self) -> str:
        end = f". Kraken's archives: {self.page}" if self.page else "."
        return f"{self.what}: {self.command}" if self.command else f"{self.what}{end}"


@dataclass(frozen=True, slots=True)
class Report:
    """The completeness of the selected series at one moment.

    Attributes:
        made_at: The time of the report, in seconds since the epoch.
        tier: The selected tier.
        series: The completeness of each series.
        gaps: Every gap.
        contradictions: The contradictions in the selected time and intervals: refuted, or a conflict.
        disputed: Series → candles in which two files of one release differ, and no source settles which is right.
        advice: The recommended actions, the most useful first.
        requests: The approximate number of requests that fill what the exchange can fill.
        unknown: Why there are no percentages, as a sentence; empty if there are.
        counted: The number of trades that ids and candles count alike; for each pair those of one interval.
    """

    made_at: int
    tier: Tier
    series: tuple[SeriesCompleteness, ...]
    gaps: tuple[Gap, ...]
    contradictions: tuple[ContradictionRecord, ...]
    disputed: Mapping[Series, Spans]
    advice: tuple[Advice, ...]
    requests: int
    unknown: str = ""
    counted: int = 0

    @property
    def recommendations(self) -> tuple[str, ...]:
        """The recommended actions as sentences, the most useful first."""
        return tuple(map(str, self.advice))

    @property
    def conflicts(self) -> tuple[ContradictionRecord, ...]:
        """The contradictions that no source is left to settle."""
        return tuple(
            contradiction for contradiction in self.contradictions if contradiction.state is ContradictionState.CONFLICT
        )

    @property
    def conflict_count(self) -> int:
        """The number of conflicts: each such contradiction, and each series with disputed candles."""
        return len(self.conflicts) + len(self.disputed)

    @property
    def overall(self) -> Total:
        """The total of all series."""
        return total(self.series)

    @property
    def percent(self) -> float | None:
        """The percentage of the expected time that is covered; each series counts alike, whatever its interval.

        In a sum over slots, the one-minute series would outweigh everything else by their number. None if nothing is
        expected.
        """
        return self._mean("covered")

    @property
    def proven_percent(self) -> float | None:
        """The percentage of the expected time that is at least reconciled; each series counts alike."""
        return self._mean("proven")

    @property
    def verified_percent(self) -> float | None:
        """The percentage of the expected time that is verified; each series counts alike."""
        return self._mean("verified")

    def _mean(self, part: str) -> float | None:
        of_series = attrgetter(part)
        expecting = [completeness for completeness in self.series if completeness.expected]
        parts = sum(of_series(completeness) * 1_000_000 // completeness.expected for completeness in expecting)
        return percentage(parts, 1_000_000 * len(expecting))

    @property
    def attention(self) -> tuple[SeriesCompleteness, ...]:
        """The series that need action from a person, the least complete first."""
        needy = (completeness for completeness in self.series if completeness.action)
        return tuple(
            sorted(needy, key=lambda completeness: (completeness.percent is None, completeness.percent or 0.0))
        )

    def as_json(self) -> dict[str, object]:
        """Return the JSON of `report --json`."""
        return {
            "tier": str(self.tier),
            "made_at": iso(self.made_at),
            "overall_completeness_pct": self.percent,
            "proven_pct": self.proven_percent,
            "verified_pct": self.verified_percent,
            "total_assets": self.overall.pairs,
            "total_gaps": self.overall.gaps,
            "conflicts": self.conflict_count,
            **({"trades_counted_by_ids": self.counted} if self.counted else {}),
            "intervals": {
                str(interval.value): _interval_json(total) for interval, total in by_interval(self.series).items()
            },
            "tiers": {
                str(tier): {str(interval.value): _interval_json(total) for interval, total in intervals.items()}
                for tier, intervals in by_tier(self.series).items()
            },
            "attention": [
                {
                    "pair": completeness.series.pair,
                    "interval": completeness.series.interval.value,
                    "completeness_pct": completeness.percent,
                    "gaps": completeness.gaps,
                    "action": completeness.action,
                }
                for completeness in self.attention
            ],
            "recommendations": list(self.recommendations),
        }


def _interval_json(total: Total) -> dict[str, object]:
    return {
        "completeness_pct": total.percent,
        "proven_pct": total.proven_percent,
        "verified_pct": total.verified_percent,
        "series": total.series,
        "expected": total.expected,
        "covered": total.covered,
        "candles": total.candles,
        "quiet": total.quiet,
        "gaps": total.gaps,
        "unfillable_gaps": total.unfillable,
        "conflicts": total.conflicts,
    }


@dataclass(frozen=True, slots=True)
class ReportProof:
    """The results of reconciliation for some series.

    Attributes:
        proven: Series → what is proven of it.
        contradictions: The contradictions in the selected time and intervals: refuted, or a conflict.
        disputed: Series → candles there in which two files of one release differ, without those that are verified.
        counted: The number of trades there that ids and candles count alike; for each pair those of one interval.
    """

    proven: Mapping[Series, Proven]
    contradictions: tuple[ContradictionRecord, ...]
    disputed: Mapping[Series, Spans]
    counted: int = 0


def find_proof(stores: Stores, spec: RunSpec, snapshot: CatalogSnapshot) -> ReportProof:
    """Return the results of reconciliation for the selected series."""
    names, wanted = sorted(snapshot.pairs), spec.window
    states = (ContradictionState.CONFLICT, ContradictionState.REFUTED)
    with stores.catalog.read() as connection:
        proven = proof_records.proofs_of(connection, names)
        known = proof_records.contradictions_of(connection, names, states)
        disputes = dispute_records.disputed(connection, names)
        counts = trade_counts.proven(connection, names)
    contradictions = tuple(
        contradiction
        for contradiction in known
        if contradiction.pair in snapshot.pairs
        and {contradiction.fine, contradiction.coarse} & set(spec.intervals)
        and contradiction.span.overlaps(wanted)
    )
    most: Counter[str] = Counter()
    for series, found in counts.items():
        if series.interval in spec.intervals:
            there = sum(count.counted or 0 for count in found if count.span.overlaps(wanted))
            most[series.pair] = max(most[series.pair], there)
    return ReportProof(proven, contradictions, unsettled(spec, disputes, proven), most.total())


def unsettled(spec: RunSpec, disputes: Mapping[Series, Spans], proven: Mapping[Series, Proven]) -> dict[Series, Spans]:
    """Return the disputed candles of a selection whose stored values are not verified."""
    found = {
        series: subtract(
            touched_candles(intersect(spans, (spec.window,)), series.interval),
            proven.get(series, NOTHING_PROVEN).verified,
        )
        for series, spans in disputes.items()
        if series.interval in spec.intervals
    }
    return {series: spans for series, spans in found.items() if spans}


def make_report(stores: Stores, spec: RunSpec, now: int) -> Report:
    """Return the report on the selected series; on those of the kept intervals if none are named.

    Raises:
        InvalidRequest: Nothing is known of the selection.
    """
    spec = of_kept_intervals(stores, spec)
    return heeding(lambda: _made(stores, spec, now))


def _made(stores: Stores, spec: RunSpec, now: int) -> Report:
    snapshot = load_snapshot(stores, spec, now)
    return report_of(stores, spec, snapshot, find_proof(stores, spec, snapshot))


def report_of(stores: Stores, spec: RunSpec, snapshot: CatalogSnapshot, proof: ReportProof) -> Report:
    """Return the report on the selected series from a snapshot and its proof."""
    gaps = find_gaps(stores, spec, snapshot)
    conflicts = [
        contradiction for contradiction in proof.contradictions if contradiction.state is ContradictionState.CONFLICT
    ]
    sides = Counter(Series(conflict.pair, side) for conflict in conflicts for side in (conflict.fine, conflict.coarse))
    sides.update(list(proof.disputed))
    series = tuple(measure(stores, spec, snapshot, gaps, proof.proven, sides))
    filling = outlook(stores, spec, snapshot, gaps)
    return Report(
        made_at=snapshot.now,
        tier=spec.tier,
        series=series,
        gaps=tuple(gaps),
        contradictions=proof.contradictions,
        disputed=proof.disputed,
        advice=_advice(spec, snapshot, series, gaps, filling, proof),
        requests=filling.requests,
        unknown=unknown(snapshot, spec),
        counted=proof.counted,
    )


def _advice(
    spec: RunSpec,
    snapshot: CatalogSnapshot,
    series: Sequence[SeriesCompleteness],
    gaps: Sequence[Gap],
    filling: Outlook,
    proof: ReportProof,
) -> tuple[Advice, ...]:
    """Return the recommended actions, the most useful first; each command has the selection of the report."""
    if not series:
        return (Advice("Put Kraken's archives into the drop folder, or name their folder with ingest --archive-dir"),)
    advice = [*_archives_to_fetch(gaps, snapshot)]
    free = sum(all(leg.route is Route.RESAMPLE and leg.is_ready for leg in gap.legs) for gap in gaps)
    if free:
        advice.append(
            Advice(
                f"{quantity(free, 'gap')} can be filled from finer candles, without requests",
                spec.selecting(api_backfill=False).as_command("ingest"),
            )
        )
    if filling.requests:
        more = f", and more for what lies before the first known candles of {quantity(filling.unprobed, 'pair')}"
        advice.append(
            Advice(
                f"{quantity(filling.gaps, 'gap')} can be filled through Kraken's API, with about "
                f"{quantity(filling.requests, 'request')}"
                f"{more if filling.unprobed else ''}",
                filling.command,
            )
        )
    advice += _conflicts(spec, proof)
    done = (
        "everything that is expected is covered"
        if any(completeness.expected for completeness in series)
        else "nothing is expected"
    )
    return tuple(advice) or (Advice(f"Nothing: {done}"),)


def _conflicts(spec: RunSpec, proof: ReportProof) -> Iterator[Advice]:
    """Yield advice on what no source settles."""
    conflicts = [
        contradiction for contradiction in proof.contradictions if contradiction.state is ContradictionState.CONFLICT
    ]
    if conflicts:
        left = quantity(len(conflicts), "contradiction between intervals is", "contradictions between intervals are")
        yield Advice(
            f"{left} left that no source settles. Show their causes, and the commands that withdraw a side",
            reconciling(spec, conflicts),
        )
    if proof.disputed:
        intervals = sorted({series.interval for series in proof.disputed})
        yield Advice(
            f"Of {len(proof.disputed):,} series two files of one release differ. Show the files, and the commands "
            "that withdraw one",
            spec.selecting(intervals=intervals).as_command("reconcile"),
        )


def _archives_to_fetch(gaps: Sequence[Gap], snapshot: CatalogSnapshot) -> Iterator[Advice]:
    """Yield advice on the archives that fill gaps, in order of time, then on those that are not published yet.

    The first advice has the page to download them from.
    """
    page = DOWNLOADS
    for archive, count in missing_archives(gaps, snapshot.published_until).items():
        parts = f", in its {FULL_PARTS} parts," if archive == FULL_NAME else ""
        yield Advice(
            f"Fetch {archive}{parts} and put it into the drop folder: it would fill gaps of {count:,} series", page=page
        )
        page = ""
    for archive, count in awaited_archives(gaps).items():
        yield Advice(f"{is_awaited([archive])}, and would fill gaps of {count:,} series")


def reconciling(spec: RunSpec, contradictions: Iterable[ContradictionRecord]) -> str:
    """Return the command that lists some contradictions; it selects by the coarser of their two intervals."""
    coarser = sorted({contradiction.coarse for contradiction in contradictions})
    return spec.selecting(intervals=coarser or spec.intervals).as_command("reconcile")


UNFILLABLE_COLUMNS = (
    "pair",
    "interval",
    "start",
    "end",
    "missing_candles",
    "overflow_candles",
    "required_csv_file",
    "attempts",
)


def export_unfillable(report: Report, path: Path) -> int:
    """Write the gaps that have no route to a CSV file with a header; return their number."""
    rows = [gap.as_json() for gap in report.gaps if gap.status is GapStatus.UNFILLABLE]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, UNFILLABLE_COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)
