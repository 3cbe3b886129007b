"""The number of candles of each month, counted again in the years in which a series has changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.moment import as_datetime
from kraken_pipeline.market.series import Series

Times = Callable[[Series, int, int], NDArray[np.int64]]


def monthly_counts(times: Times, changes: Iterable[tuple[Series, Span]]) -> dict[Series, dict[int, list[int]]]:
    """Return the number of candles in the lake: changed series → changed year → twelve numbers, one for each month.

    Args:
        times: Returns the start of every candle of a series in `[start, end)`, in seconds, sorted.
        changes: The changed ranges.
    """
    years: dict[Series, set[int]] = {}
    for series, span in changes:
        first, last = as_datetime(span.start).year, as_datetime(span.end - 1).year
        years.setdefault(series, set()).update(range(first, last + 1))
    return {series: _counts(times, series, changed) for series, changed in years.items()}


def _counts(times: Times, series: Series, years: Collection[int]) -> dict[int, list[int]]:
    months = [_month(year, month) for year in range(min(years), max(years) + 1) for month in range(12)]
    edges = [*months, _month(max(years) + 1, 0)]
    at = times(series, edges[0], edges[-1]).searchsorted(edges).tolist()
    counts = [after - before for before, after in pairwise(at)]
    return {
        year: counts[12 * number : 12 * number + 12] for number, year in enumerate(range(min(years), max(years) + 1))
    }


def _month(year: int, month: int) -> int:
    return int(datetime(year, month + 1, 1, tzinfo=UTC).timestamp())
