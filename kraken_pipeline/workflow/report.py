"""The completeness report: how much of what is expected is there, and what to do about the rest."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kraken_pipeline.coverage.completeness import SeriesCompleteness, Total, by_interval, by_tier, percentage, total
from kraken_pipeline.coverage.gaps import GapStatus
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.tier import Tier
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.gaps import Gap, find_gaps, measure, survey
from kraken_pipeline.workflow.plan import missing_archives
from kraken_pipeline.workflow.run_spec import RunSpec


@dataclass(frozen=True, slots=True)
class Report:
    """How complete the selected series are at one moment.

    Attributes:
        made_at: The moment, in seconds since the epoch.
        tier: What was asked for.
        series: Each series.
        gaps: Every gap.
        recommendations: What to do, most useful first.
    """

    made_at: int
    tier: Tier
    series: tuple[SeriesCompleteness, ...]
    gaps: tuple[Gap, ...]
    recommendations: tuple[str, ...]

    @property
    def overall(self) -> Total:
        """All series together."""
        return total(self.series)

    @property
    def percent(self) -> float:
        """Percent of the expected time that is covered, each series counting alike whatever its interval.

        Summed over slots, the one-minute series would outweigh everything else by their number.
        """
        expecting = [each for each in self.series if each.expected]
        covered = sum(each.covered * 1_000_000 // each.expected for each in expecting)
        return percentage(covered, 1_000_000 * len(expecting))

    @property
    def attention(self) -> tuple[SeriesCompleteness, ...]:
        """The series that need something from a person, the least complete first."""
        return tuple(sorted((each for each in self.series if each.action), key=lambda each: each.percent))

    def as_json(self) -> dict[str, object]:
        """As `report --json` shows it."""
        return {
            "tier": str(self.tier),
            "made_at": iso(self.made_at),
            "overall_completeness_pct": self.percent,
            "total_assets": self.overall.pairs,
            "total_gaps": self.overall.gaps,
            "intervals": {
                str(interval.value): _interval_json(each) for interval, each in by_interval(self.series).items()
            },
            "tiers": {
                str(tier): {str(interval.value): _interval_json(each) for interval, each in intervals.items()}
                for tier, intervals in by_tier(self.series).items()
            },
            "attention": [
                {
                    "pair": each.series.pair,
                    "interval": each.series.interval.value,
                    "completeness_pct": each.percent,
                    "gaps": each.gaps,
                    "action": each.action,
                }
                for each in self.attention
            ],
            "recommendations": list(self.recommendations),
        }


def _interval_json(each: Total) -> dict[str, object]:
    return {
        "completeness_pct": each.percent,
        "series": each.series,
        "expected": each.expected,
        "covered": each.covered,
        "candles": each.candles,
        "quiet": each.quiet,
        "gaps": each.gaps,
        "unfillable_gaps": each.unfillable,
    }


def make_report(stores: Stores, spec: RunSpec, now: int) -> Report:
    """How complete the selected series are now.

    Raises:
        InvalidRequest: Nothing is known of what was asked for.
    """
    holdings = survey(stores, spec, now)
    gaps = find_gaps(stores, spec, holdings)
    series = tuple(measure(stores, spec, holdings, gaps))
    return Report(now, spec.tier, series, tuple(gaps), _recommendations(series, gaps))


def _recommendations(series: Sequence[SeriesCompleteness], gaps: Sequence[Gap]) -> tuple[str, ...]:
    """Sentences that say what to do, most useful first."""
    if not series:
        return ("Put Kraken's archives into the drop folder, or name their folder with ingest --archive-dir.",)
    advice = [
        f"Fetch {archive} and put it into the drop folder: it would fill gaps of {count:,} series."
        for archive in missing_archives(gaps)
        if (count := len({gap.series for gap in gaps if archive in (gap.required_csv_file or "")}))
    ]
    requests = sum(leg.requests for gap in gaps for leg in gap.legs)
    if requests:
        count = sum(any(leg.route.uses_api for leg in gap.legs) for gap in gaps)
        advice.append(
            f"{count:,} gaps can be filled through Kraken's API, with about {requests:,} requests: "
            "kraken-pipeline backfill --complete"
        )
    return tuple(advice) or ("Nothing: everything that is expected is covered.",)


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
    """Writes the gaps that have no route to a CSV file with a header; returns how many there are."""
    rows = [gap.as_json() for gap in report.gaps if gap.status is GapStatus.UNFILLABLE]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, UNFILLABLE_COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)
