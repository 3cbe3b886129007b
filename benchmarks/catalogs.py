"""A catalog without a lake: what is on record of many pairs over ten years, for what only reads the catalog."""

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
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import Pair
from kraken_pipeline.settings import load_settings
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.seals import sealed
from kraken_pipeline.storage.catalog.states import ProofLevel
from kraken_pipeline.storage.stores import opened

INTERVALS = (Interval.M1, Interval.M5, Interval.M15, Interval.H1, Interval.H4, Interval.D1)
MONTHS = Months(2016 * 12 + 9, 120)
"""October 2016 to September 2026, the month of the present."""
_QUARTERS = 40
_ROWS = 20_000


def make_catalog(pairs: int, folder: Path) -> Path:
    """A home whose catalog has so many pairs of six intervals: 40 releases, gaps, contradictions, counts by month."""
    home = folder / "home"
    listed = [Pair(f"Q{number:03}USD", f"Q{number:03}", "USD") for number in range(pairs)]
    with opened(load_settings(_env_file=None, kraken_pipeline_home=home)) as stores:
        stores.lake.asset_ids.register(listed)
        with stores.catalog.write() as connection:
            _insert(connection, schema.containers, _releases(listed))
            for number, pair in enumerate(listed):
                _keep(connection, _series(np.random.default_rng(number), pair.name))
    return home


def _releases(pairs: Sequence[Pair]) -> Iterator[dict[str, Any]]:
    edges = MONTHS.edges.tolist()
    members = [f"{pair.name}_{interval.value}" for pair in pairs for interval in INTERVALS]
    for number in range(_QUARTERS):
        quarter = f"{2016 + (number + 3) // 4}Q{(number + 3) % 4 + 1}"
        yield {
            "sha256": f"{number:064}",
            "name": f"Kraken_OHLCVT_{quarter}.zip",
            "kind": "OHLCVT",
            "start": edges[3 * number],
            "end": edges[3 * number + 3],
            "quarter": quarter,
            "series": members,
            "stamp": str(number),
            "seen_at": NOW,
        }


@dataclass(slots=True)
class _Rows:
    """What is to be put into each table."""

    tables: dict[sa.Table, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, table: sa.Table, **values: Any) -> None:
        self.tables.setdefault(table, []).append(values)


def _series(rng: np.random.Generator, pair: str) -> _Rows:
    rows = _Rows()
    edges = MONTHS.edges
    first = int(edges[int(rng.integers(0, 60))]) if rng.random() < 0.7 else int(edges[0])
    shared = _gaps(rng, first, NOW)
    for interval in INTERVALS:
        key = {"pair": pair, "interval": interval.value}
        start, end = interval.ceil(first), interval.floor(NOW - 86_400)
        covered = _on_grid(subtract((Span(start, end),), shared), interval)
        proven = _on_grid(subtract(covered, _gaps(rng, start, end, most=12, longest=5)), interval)
        counts = _counts(rng, interval, covered)
        total = sum(map(sum, counts.values()))
        for span in covered:
            rows.add(schema.coverage, **key, start=span.start, end=span.end, source="CSV", candles=0, verified_at=NOW)
        rows.tables[schema.coverage][-1]["candles"] = total
        for span in proven:
            level = ProofLevel.VERIFIED if interval > INTERVALS[0] else ProofLevel.RECONCILED
            rows.add(schema.proofs, **key, start=span.start, end=span.end, level=level)
        rows.add(schema.extents, **key, candles=total, first_time=start, last_time=end - interval.seconds)
        for year, months in counts.items():
            rows.add(schema.candle_counts, **key, year=year, months=months)
        for number in range(_QUARTERS):
            here, there = int(edges[3 * number]), int(edges[3 * number + 3])
            if there > first:
                _add_file(rows, key, number, max(here, start), min(there, end))
    day = Interval.D1.floor(int(rng.integers(first, NOW - 90 * 86_400)))
    for number in range(int(rng.integers(0, 6))):
        _add_contradiction(rows, pair, day + number * 86_400)
    return rows


def _on_grid(spans: Spans, interval: Interval) -> Spans:
    return normalise(Span(interval.floor(each.start), interval.ceil(each.end)) for each in spans)


def _gaps(rng: np.random.Generator, start: int, end: int, most: int = 5, longest: int = 200) -> Spans:
    days = Interval.D1
    starts = [days.floor(int(rng.integers(start, end))) for _ in range(int(rng.integers(0, most)))]
    return normalise(Span(each, each + days.seconds * int(rng.integers(1, longest))) for each in starts)


def _counts(rng: np.random.Generator, interval: Interval, covered: Spans) -> dict[int, list[int]]:
    busy = rng.random() * 0.9 + 0.1
    counts: dict[int, list[int]] = {}
    for year, place, length in MONTHS.years:
        months = [0] * 12
        for month in range(length):
            start, end = MONTHS.edges[place + month : place + month + 2].tolist()
            slots = sum(max(0, min(each.end, end) - max(each.start, start)) for each in covered) // interval.seconds
            months[(MONTHS.first + place + month) % 12] = int(rng.binomial(slots, busy))
        counts[year] = months
    return counts


def _add_file(rows: _Rows, key: Mapping[str, Any], number: int, start: int, end: int) -> None:
    if start >= end:
        return
    times = {"start": start, "end": end, "first_time": start, "last_time": end}
    name = f"Kraken_OHLCVT_{number}.zip:{key['pair']}_{key['interval']}.csv"
    sizes = {"size": 1_000, "rows": 1_000, "candles_stored": 1_000, "rows_rejected": 0}
    known = {"name": name, "location": f"/archives/{name}", "container": f"{number:064}", "kind": "OHLCVT"}
    rows.add(
        schema.files,
        **{**key, **known, **times, **sizes, "status": "COMPLETED", "run_id": "benchmark", "updated_at": NOW},
    )
    rows.add(schema.grants, **key, start=start, end=end, source="CSV", trades=1_000, verified_at=NOW)


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
