"""A catalog without a lake: what is on record of many pairs over ten years, for what only reads the catalog.

It has the shape of Kraken's archives: the complete one up to 2022 and the quarterly ones after it, a few busy pairs,
and many in which most minutes pass without a trade.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from benchmarks.side import NOW
from kraken_pipeline.coverage.months import Months
from kraken_pipeline.coverage.ranges import Span, Spans, normalise, subtract
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.kraken.release import FIRST_QUARTERLY, published
from kraken_pipeline.market.candle import EARLIEST_TIME, Source
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import Pair
from kraken_pipeline.settings import load_settings
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.seals import sealed
from kraken_pipeline.storage.catalog.states import ProofLevel, SuspicionState
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow.gaps.open_gaps import OpenGaps
from kraken_pipeline.workflow.run_spec import run_spec

INTERVALS = (Interval.M1, Interval.M5, Interval.M15, Interval.H1, Interval.H4, Interval.D1)
"""The intervals of the report's page."""
MONTHS = Months(2016 * 12 + 9, 120)
"""October 2016 to September 2026, the month of the present."""
REPORTED = ("extents", "coverage", "gaps", "attempts", "proofs")
"""The tables that gaps and reports read row by row."""
_DAY = 86_400
_ROWS = 20_000
_BUSY = 40
"""The number of pairs that trade in most minutes; the one of rank r trades in this many r-ths of them."""


def make_catalog(pairs: int, folder: Path, intervals: Sequence[Interval] = INTERVALS) -> Path:
    """A home whose catalog has so many pairs: releases, gaps, attempts, contradictions, outages, counts by month."""
    home = folder / "home"
    listed = [Pair(f"Q{number:03}USD", f"Q{number:03}", "USD") for number in range(pairs)]
    releases = _releases(listed, intervals)
    with opened(load_settings(_env_file=None, kraken_pipeline_home=home)) as stores:
        stores.lake.asset_ids.register(listed)
        with stores.catalog.write() as connection:
            _insert(connection, schema.containers, releases)
            for number, pair in enumerate(listed):
                _keep(connection, _series(number, pair.name, intervals, releases))
            _keep(connection, _outages())
        OpenGaps(stores, run_spec(intervals=list(intervals)), NOW).record()
    return home


def make_whole_catalog(pairs: int, folder: Path) -> Path:
    """A home whose catalog has so many pairs of all ten intervals; see `make_catalog`."""
    return make_catalog(pairs, folder, tuple(Interval))


def _releases(pairs: Sequence[Pair], intervals: Sequence[Interval]) -> list[dict[str, Any]]:
    """Return the containers: the complete archive, and one for each quarter that has been published since."""
    members = [f"{pair.name}_{interval.value}" for pair in pairs for interval in intervals if interval.in_archives]
    names = dict(published(int(MONTHS.edges[0]), NOW, NOW - 30 * _DAY))
    return [
        {
            "sha256": f"{number:064}",
            "name": name,
            "kind": "OHLCVT",
            "start": EARLIEST_TIME if is_complete else quarter.start,
            "end": FIRST_QUARTERLY.start if is_complete else quarter.end,
            "quarter": None if is_complete else str(quarter),
            "series": members,
            "stamp": str(number),
            "seen_at": NOW,
        }
        for number, (name, quarter) in enumerate(names.items())
        for is_complete in (quarter < FIRST_QUARTERLY,)
    ]


@dataclass(slots=True)
class _Rows:
    """What is to be put into each table."""

    tables: dict[sa.Table, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, table: sa.Table, **values: Any) -> None:
        self.tables.setdefault(table, []).append(values)


def _series(number: int, pair: str, intervals: Sequence[Interval], releases: Sequence[Mapping[str, Any]]) -> _Rows:
    rows = _Rows()
    rng = np.random.default_rng(number)
    share = min(0.97, _BUSY / (number + 1))
    first = int(MONTHS.edges[int(rng.integers(0, 60))]) if rng.random() < 0.7 else int(MONTHS.edges[0])
    shared = _gaps(rng, first, NOW)
    for interval in intervals:
        key = {"pair": pair, "interval": interval.value}
        start, end = interval.ceil(first), interval.floor(NOW - _DAY)
        covered = _on_grid(subtract((Span(start, end),), shared), interval)
        proven = _on_grid(subtract(covered, _gaps(rng, start, end, most=12, longest=5)), interval)
        counts = _counts(rng, interval, covered, 1 - (1 - share) ** interval.value)
        total = sum(map(sum, counts.values()))
        source = Source.CSV if interval.in_archives else Source.RESAMPLED
        for span in covered:
            rows.add(schema.coverage, **key, start=span.start, end=span.end, source=source, candles=0, verified_at=NOW)
        rows.tables[schema.coverage][-1]["candles"] = total
        for span in proven:
            level = ProofLevel.VERIFIED if interval > intervals[0] else ProofLevel.RECONCILED
            rows.add(schema.proofs, **key, start=span.start, end=span.end, level=level)
        rows.add(schema.extents, **key, candles=total, first_time=start, last_time=end - interval.seconds)
        for year, months in counts.items():
            rows.add(schema.candle_counts, **key, year=year, months=months)
        if interval.in_archives:
            for release in releases:
                _add_file(rows, key, release, max(release["start"], start), min(release["end"], end))
        else:
            for span in covered:
                _add_grant(rows, key, span, source)
                _add_attempt(rows, key, span)
    day = Interval.D1.floor(int(rng.integers(first, NOW - 90 * _DAY)))
    for place in range(int(rng.integers(0, 6))):
        _add_contradiction(rows, pair, day + place * _DAY)
    if number % 20 == 0:
        _add_suspicion(rows, pair, day, SuspicionState.UNPROVEN)
    return rows


def _outages() -> _Rows:
    """Return hours in which no pair traded, which are no gaps."""
    rows = _Rows()
    for month in range(0, MONTHS.count, 12):
        _add_suspicion(rows, None, int(MONTHS.edges[month]), SuspicionState.EXCHANGE_DOWN)
    return rows


def _on_grid(spans: Spans, interval: Interval) -> Spans:
    return normalise(Span(interval.floor(each.start), interval.ceil(each.end)) for each in spans)


def _gaps(rng: np.random.Generator, start: int, end: int, most: int = 5, longest: int = 200) -> Spans:
    days = Interval.D1
    starts = [days.floor(int(rng.integers(start, end))) for _ in range(int(rng.integers(0, most)))]
    return normalise(Span(each, each + days.seconds * int(rng.integers(1, longest))) for each in starts)


def _counts(rng: np.random.Generator, interval: Interval, covered: Spans, busy: float) -> dict[int, list[int]]:
    counts: dict[int, list[int]] = {}
    for year, place, length in MONTHS.years:
        months = [0] * 12
        for month in range(length):
            start, end = MONTHS.edges[place + month : place + month + 2].tolist()
            slots = sum(max(0, min(each.end, end) - max(each.start, start)) for each in covered) // interval.seconds
            months[(MONTHS.first + place + month) % 12] = int(rng.binomial(slots, busy))
        counts[year] = months
    return counts


def _add_file(rows: _Rows, key: Mapping[str, Any], release: Mapping[str, Any], start: int, end: int) -> None:
    if start >= end:
        return
    times = {"start": start, "end": end, "first_time": start, "last_time": end}
    name = f"{release['name']}:{key['pair']}_{key['interval']}.csv"
    sizes = {"size": 1_000, "rows": 1_000, "candles_stored": 1_000, "rows_rejected": 0}
    known = {"name": name, "location": f"/archives/{name}", "container": release["sha256"], "kind": "OHLCVT"}
    rows.add(
        schema.files,
        **{**key, **known, **times, **sizes, "status": "COMPLETED", "run_id": "benchmark", "updated_at": NOW},
    )
    _add_grant(rows, key, Span(start, end), Source.CSV)


def _add_grant(rows: _Rows, key: Mapping[str, Any], span: Span, source: Source) -> None:
    rows.add(schema.grants, **key, start=span.start, end=span.end, source=source, trades=1_000, verified_at=NOW)


def _add_attempt(rows: _Rows, key: Mapping[str, Any], span: Span) -> None:
    made = {"route": Route.RESAMPLE, "origin": "1440", "error": None, "run_id": "benchmark", "made_at": NOW}
    rows.add(schema.attempts, **key, start=span.start, end=span.end, **made)


def _add_suspicion(rows: _Rows, pair: str | None, start: int, state: SuspicionState) -> None:
    times = {"start": start, "end": start + 3_600, "made_at": NOW, "changed_at": NOW}
    rows.add(schema.suspicions, pair=pair, interval=60, reason="no trade, though many are usual", state=state, **times)


def _add_contradiction(rows: _Rows, pair: str, start: int) -> None:
    rows.add(
        schema.contradictions,
        pair=pair,
        fine=60,
        coarse=1440,
        start=start,
        end=start + 86_400,
        short_side="fine",
        fine_candle=[1.0, 2.0, 1.0, 2.0, 3.0, 4],
        coarse_candle=[1.0, 2.0, 1.0, 2.0, 3.5, 6],
        fine_trades=4,
        coarse_trades=6,
        state="CONFLICT",
        reason="60 lacks 2 trades that 1440 counts",
        made_at=NOW,
        changed_at=NOW,
    )


def _keep(connection: sa.Connection, rows: _Rows) -> None:
    for table, found in rows.tables.items():
        _insert(connection, table, found)


def _insert(connection: sa.Connection, table: sa.Table, rows: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> None:
    listed = list(rows)
    if "checksum" in table.columns:
        blank = dict.fromkeys(column.name for column in table.columns if column.name not in ("id", "checksum"))
        listed = [sealed(table, {**blank, **row}) for row in listed]
    for first in range(0, len(listed), _ROWS):
        connection.execute(sa.insert(table), listed[first : first + _ROWS])
