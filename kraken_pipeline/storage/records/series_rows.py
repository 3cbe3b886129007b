"""Rows of the catalog by series: most tables have a pair and an interval, and most readers want both as one key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from kraken_pipeline.market.interval import BY_MINUTES
from kraken_pipeline.market.series import Series


def by_series(
    rows: Iterable[sa.Row[Any]], pair_at: int = 0
) -> Iterator[tuple[Series, Iterator[sa.Row[*tuple[Any, ...]]]]]:
    """Yield each series with its rows, which are to be read before the next series.

    Args:
        rows: Rows in the order of their series.
        pair_at: The position of the pair in a row; the interval follows it.
    """
    for (pair, interval), of_series in groupby(rows, itemgetter(pair_at, pair_at + 1)):
        yield Series(pair, BY_MINUTES[interval]), of_series
