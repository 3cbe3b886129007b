"""The stored candles of a pair during its reconciliation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kraken_pipeline.coverage.batches import BATCH_CANDLES, READ_PER_WANTED, ROW_GROUP
from kraken_pipeline.coverage.ranges import Span, Spans, seconds
from kraken_pipeline.market.candle import seconds_in
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import year_after, year_start
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.stores import Stores

_MARGIN = Interval.D15.seconds


@dataclass(frozen=True, slots=True)
class _Kept:
    """Candles that were read, all of those in `reach`, and the start of each in seconds, which is their order."""

    reach: Span
    candles: pl.DataFrame
    times: NDArray[np.int64]

    @classmethod
    def of(cls, reach: Span, candles: pl.DataFrame) -> _Kept:
        return cls(reach, candles, seconds_in(candles).to_numpy())

    def places(self, start: int, end: int) -> tuple[int, int]:
        """Return the places of the first candle from a start on, and of the first from an end on."""
        at, past = self.times.searchsorted((start, end))
        return int(at), int(past)


@dataclass(slots=True)
class StoredCandles:
    """The stored candles of a pair, of which those of the time to compare are read once.

    They are needed up to three times: as the coarser candles, as the finer ones, and to be counted by month. An
    interval with more than `BATCH_CANDLES` is not kept, because it would use too much memory. Nor is one of which
    little of the time between the first and the last comparison is compared.
    """

    stores: Stores
    pair: str
    compared: Spans
    _kept: dict[Interval, _Kept] = field(default_factory=dict)

    def read(self, interval: Interval, start: int, end: int) -> pl.DataFrame:
        """Return the candles of an interval that start in `[start, end)`."""
        series = Series(self.pair, interval)
        if interval not in self._kept:
            reach = self._reach(interval)
            if reach is None or not _holds(reach, start, end):
                return self.stores.lake.read(series, start, end)
            self._kept[interval] = _Kept.of(reach, self.stores.lake.read(series, reach.start, reach.end))
        kept = self._kept[interval]
        if not _holds(kept.reach, start, end):
            return self.stores.lake.read(series, start, end)
        at, past = kept.places(start, end)
        return kept.candles.slice(at, past - at)

    def times(self, series: Series, start: int, end: int) -> NDArray[np.int64]:
        """Return the start of every candle of a series of the pair in `[start, end)`, in seconds, sorted."""
        kept = self._kept.get(series.interval)
        if kept is not None and _holds(kept.reach, start, end):
            at, past = kept.places(start, end)
            return kept.times[at:past]
        return self.stores.lake.times(series, start=start, end=end).to_numpy()

    def most(self, interval: Interval, start: int, end: int) -> int:
        """Return an upper bound of the number of candles of an interval that start in `[start, end)`."""
        return self.stores.lake.most(Series(self.pair, interval), start, end)

    def _reach(self, interval: Interval) -> Span | None:
        """Return the time of which the candles are kept, with more than the coarsest candle at either end."""
        compared = Span(self.compared[0].start - _MARGIN, self.compared[-1].end + _MARGIN)
        wanted = seconds(self.compared) + 2 * _MARGIN
        for reach in (Span(year_start(compared.start), year_after(compared.end)), compared):
            most = self.most(interval, reach.start, reach.end)
            if most <= (BATCH_CANDLES if reach.seconds <= READ_PER_WANTED * wanted else ROW_GROUP):
                return reach
        return None


def _holds(reach: Span, start: int, end: int) -> bool:
    return reach.start <= start and end <= reach.end
