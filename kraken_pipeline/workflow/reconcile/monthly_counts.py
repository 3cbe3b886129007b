"""The number of candles of each month, counted again in the years in which a series has changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from itertools import pairwise

import polars as pl

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.moment import as_datetime
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.lake.lake import Lake


def monthly_counts(lake: Lake, changes: Iterable[tuple[Series, Span]]) -> dict[Series, dict[int, list[int]]]:
    """Return the number of candles in the lake: changed series → changed year → twelve numbers, one for each month."""
    years: dict[Series, set[int]] = {}
    for series, span in changes:
        first, last = as_datetime(span.start).year, as_datetime(span.end - 1).year
        years.setdefault(series, set()).update(range(first, last + 1))
    return {series: _counts(lake, series, changed) for series, changed in years.items()}


def _counts(lake: Lake, series: Series, years: Collection[int]) -> dict[int, list[int]]:
    months = [_month(year, month) for year in range(min(years), max(years) + 1) for month in range(12)]
    edges = [*months, _month(max(years) + 1, 0)]
    times = lake.times(series, start=edges[0], end=edges[-1])
    at = times.search_sorted(pl.Series(edges, dtype=pl.Int64())).to_list()
    counts = [after - before for before, after in pairwise(at)]
    return {
        year: counts[12 * number : 12 * number + 12] for number, year in enumerate(range(min(years), max(years) + 1))
    }


def _month(year: int, month: int) -> int:
    return int(datetime(year, month + 1, 1, tzinfo=UTC).timestamp())
