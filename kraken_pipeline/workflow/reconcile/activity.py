"""The activity of markets, as the search for quiet time needs it: again and again, of the same series."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from cachetools import LRUCache
from numpy.typing import NDArray

from kraken_pipeline.coverage.batches import batches
from kraken_pipeline.coverage.ranges import Span, Spans
from kraken_pipeline.market.candle import Source
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.lake.lake import ACTIVITY, Lake
from kraken_pipeline.storage.records.evidence_records import Extent

_WHOLE_CANDLES = 120_000
"""The greatest series that is read whole, 13 years of hours: it takes as long as reading a part of it."""
_KEPT_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Trading:
    """Candles of a series, as arrays of equal length.

    Attributes:
        times: The start of every candle, in seconds since the epoch, sorted.
        trades: The trade count of every candle.
        is_own: Whether the candle comes from a source; False for a resampled candle.
    """

    times: NDArray[np.int64]
    trades: NDArray[np.int32]
    is_own: NDArray[np.bool_]

    def of(self, spans: Spans) -> Trading:
        """Return the candles that start in some spans."""
        firsts, pasts = (self.times.searchsorted([getattr(span, edge) for span in spans]) for edge in ("start", "end"))
        if len(spans) == 1:  # needs no copy
            chosen: slice | NDArray[np.int64] = slice(firsts[0], pasts[0])
        else:
            counts = pasts - firsts
            chosen = np.arange(counts.sum()) + np.repeat(firsts - np.cumsum(counts) + counts, counts)
        return Trading(self.times[chosen], self.trades[chosen], self.is_own[chosen])


def _size(trading: Trading) -> int:
    return int(trading.times.nbytes + trading.trades.nbytes + trading.is_own.nbytes) + 1_000


def _kept() -> LRUCache[Series, Trading]:
    return LRUCache(_KEPT_BYTES, _size)


@dataclass(slots=True)
class Activity:
    """The activity of markets in the lake; short series are read once.

    Attributes:
        lake: The lake.
        extents: The extent of every series in the lake.
    """

    lake: Lake
    extents: Mapping[Series, Extent]
    _read: LRUCache[Series, Trading] = field(default_factory=_kept)

    def of(self, series: Series, spans: Spans) -> Trading:
        """Return the candles that start in some spans; those in damaged files are left out."""
        extent = self.extents.get(series)
        if extent is not None and extent.candles <= _WHOLE_CANDLES:
            if (whole := self._read.get(series)) is None:
                whole = self._read[series] = _trading(self.lake.activity(series))
            return whole.of(spans)
        parts = [
            _trading(self.lake.activity(series, part[0].start, part[-1].end)).of(part)
            for part in batches(spans, series.interval, series.interval)
        ] or [_NOTHING]
        if len(parts) == 1:
            return parts[0]
        return Trading(
            np.concatenate([part.times for part in parts]),
            np.concatenate([part.trades for part in parts]),
            np.concatenate([part.is_own for part in parts]),
        )

    def times(self, series: Series, start: int, end: int) -> pl.Series:
        """Return the start of every candle in `[start, end)`, in seconds (Int64)."""
        return pl.Series(self.of(series, (Span(start, end),)).times)


def _trading(candles: pl.DataFrame) -> Trading:
    is_own = (candles["source"] != Source.RESAMPLED.value).to_numpy()
    return Trading(candles["time"].to_numpy(), candles["trade_count"].to_numpy(), is_own)


_NOTHING = _trading(pl.DataFrame(schema=ACTIVITY))
