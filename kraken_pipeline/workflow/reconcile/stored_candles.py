"""The stored candles of a pair during its reconciliation."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from kraken_pipeline.coverage.batches import READ_PER_WANTED
from kraken_pipeline.coverage.ranges import Spans, seconds
from kraken_pipeline.market.candle import seconds_in
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.stores import Stores

_MARGIN = Interval.D15.seconds
_KEPT_CANDLES = 1_600_000  # of one interval, 15 years of five minutes: 100 MB


@dataclass(slots=True)
class StoredCandles:
    """The stored candles of a pair, of which those of the time to compare are read once.

    Every interval but the finest is needed twice, as the coarser and as the finer one. Minutes are not kept: they would
    use too much memory. Nor is anything where little of the time between the first and the last comparison is compared.
    """

    stores: Stores
    pair: str
    compared: Spans
    _kept: dict[Interval, pl.DataFrame] = field(default_factory=dict)

    def read(self, interval: Interval, start: int, end: int) -> pl.DataFrame:
        """Return the candles of an interval that start in `[start, end)`."""
        series = Series(self.pair, interval)
        # Further than the coarsest candle at either end.
        first, last = self.compared[0].start - _MARGIN, self.compared[-1].end + _MARGIN
        is_kept = (
            interval is not Interval.M1
            and (last - first) // interval.seconds <= _KEPT_CANDLES
            and last - first <= READ_PER_WANTED * (seconds(self.compared) + 2 * _MARGIN)
            and first <= start
            and end <= last
        )
        if not is_kept:
            return self.stores.lake.read(series, start, end)
        if interval not in self._kept:
            self._kept[interval] = self.stores.lake.read(series, first, last)
        candles = self._kept[interval]
        at, past = seconds_in(candles).search_sorted(pl.Series((start, end), dtype=pl.Int64())).to_list()
        return candles.slice(at, past - at)
