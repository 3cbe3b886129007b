"""What this project needs for the work, through the functions that runs call."""

from __future__ import annotations

import time

from benchmarks.side import NOW, RANGES, Given, Taken, run
from kraken_pipeline.coverage.gaps import missing
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.interval import INTERVALS, Interval
from kraken_pipeline.market.pair import Pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.evidence_records import CoverageRecord
from kraken_pipeline.storage.schema import FileStatus
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow import ingest as ingesting
from kraken_pipeline.workflow.gaps import Holdings, expected, find_gaps
from kraken_pipeline.workflow.progress import Run
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.scan import scan


def ingest(given: Given) -> Taken:
    """Archives into an empty home: found, hashed, parsed, validated, stored, on record, covered."""
    spec = run_spec(archive_dirs=[given.source], api_backfill=False)
    with opened(_settings(given)) as stores:
        began = time.perf_counter()
        tasks = scan(stores, spec, NOW).tasks
        outcomes = ingesting.ingest(stores, spec, tasks, Run("benchmark", NOW))
        seconds = time.perf_counter() - began
    assert outcomes
    assert all(each.status is FileStatus.COMPLETED and not each.rows_rejected for each in outcomes)
    return Taken(sum(each.rows for each in outcomes), seconds)


def detect_gaps(given: Given) -> Taken:
    """What each series should have and has not."""
    holdings, spec = _holdings(given.size), run_spec()
    began = time.perf_counter()
    gaps = {}
    for pair in holdings.pairs:
        for interval in spec.intervals:
            series = Series(pair, interval)
            gaps[series] = missing(expected(holdings, spec, series), holdings.covered(series))
    seconds = time.perf_counter() - began
    assert all(len(each) == RANGES for each in gaps.values())
    return Taken(len(gaps), seconds)


def route_gaps(given: Given) -> Taken:
    """The gaps of each series with their routes and the archives to fetch, as plans and reports have them."""
    holdings = _holdings(given.size)
    with opened(_settings(given)) as stores:
        began = time.perf_counter()
        gaps = find_gaps(stores, run_spec(), holdings)
        seconds = time.perf_counter() - began
    assert len(gaps) == RANGES * len(holdings.coverage)
    return Taken(len(holdings.coverage), seconds)


def _settings(given: Given) -> Settings:
    return load_settings(_env_file=None, kraken_pipeline_home=given.scratch, kraken_settle_seconds=0)


def _holdings(pairs: int) -> Holdings:
    """What a catalog of so many pairs knows: ten intervals of each, covered in ranges of 50 candles."""
    listed = [Pair(f"Q{number}USD", f"Q{number}", "USD") for number in range(pairs)]
    first_known = {pair.name: 1_380_000_000 + number % 40 * 1_000_000 for number, pair in enumerate(listed)}
    return Holdings(
        now=NOW,
        pairs={pair.name: pair for pair in listed},
        coverage={
            Series(pair.name, interval): _covered(first_known[pair.name], interval)
            for pair in listed
            for interval in INTERVALS
        },
        extents={},
        attempts={},
        records={},
        rates={},
        containers=[],
        listings={},
        failed=(),
        first_known=first_known,
    )


def _covered(first: int, interval: Interval) -> list[CoverageRecord]:
    length = 50 * interval.seconds
    starts = (interval.floor(first) + 2 * length * number for number in range(RANGES))
    return [CoverageRecord(Span(start, start + length), "CSV", 50, NOW) for start in starts]


if __name__ == "__main__":
    run((ingest, detect_gaps, route_gaps))
