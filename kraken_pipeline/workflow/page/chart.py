"""A chart of candles in the page, with what is known of the time drawn under them."""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import polars as pl

from kraken_pipeline.coverage.ranges import Span, Spans, lies_in, normalise
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.bars import Bars
from kraken_pipeline.market.candle import seconds_in
from kraken_pipeline.market.moment import short
from kraken_pipeline.market.quantity import quantity
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.reading.assembly import known_window
from kraken_pipeline.workflow.reading.candles import named, read_pairs
from kraken_pipeline.workflow.reading.evidence import evidence_of
from kraken_pipeline.workflow.reading.request import ReadRequest

NEWEST = 250
"""The number of bars that a chart shows where its start is not given: each is still four pixels wide."""
MOST = 2_000
"""The most bars of a chart: on a wide screen each then has half a pixel."""
_NUMBERS = ("open", "high", "low", "close", "volume", "trade_count")


class TimeKind(IntEnum):
    """The state of the time of a bar and, where there were trades, its proof."""

    GAP = 0
    QUIET = 1
    SUSPICIOUS = 2
    TRADED = 3
    RECONCILED = 4
    VERIFIED = 5


_TRADED = {
    "untested": TimeKind.TRADED,
    "reconciled": TimeKind.RECONCILED,
    "verified": TimeKind.VERIFIED,
}


@dataclass(frozen=True, slots=True)
class ChartRequest:
    """A chart that was asked for: a name of its pair, and its bars."""

    pair: str
    bars: Bars

    @classmethod
    def parse(cls, text: str) -> ChartRequest:
        """Return the chart that some text names.

        Args:
            text: A pair and an interval, with a colon between: `XBTUSD:1h`, `XBT/USD:1440`.

        Raises:
            InvalidRequest: The text has another form, or the interval is wrong.
        """
        pair, colon, interval = text.rpartition(":")
        if not (pair and colon and interval):
            raise InvalidRequest(f"{text!r} names no chart: write a pair and an interval, such as XBTUSD:1h")
        return cls(pair, Bars.parse(interval))


@dataclass(frozen=True, slots=True)
class Chart:
    """The candles of a chart, and the kind of each bar's time.

    Attributes:
        pair: The pair.
        bars: The bars.
        rows: One row for each bar, as `read_candles(with_state=True)` returns them.
        kinds: The kind of the time of each bar: a number of `TimeKind`.
    """

    pair: str
    bars: Bars
    rows: pl.DataFrame
    kinds: npt.NDArray[np.uint8]

    @property
    def counts(self) -> list[int]:
        """The number of bars of each `TimeKind`."""
        return [int(count) for count in np.bincount(self.kinds, minlength=len(TimeKind))]

    def sentence(self) -> str:
        """Say in words what the chart shows."""
        counts = self.counts
        times = seconds_in(self.rows)
        span = f"{short(int(times[0]))} to {short(int(times[-1]) + self.bars.seconds)} UTC"
        quiet, traded = counts[TimeKind.QUIET] + counts[TimeKind.SUSPICIOUS], sum(counts[TimeKind.TRADED :])
        counted = (
            f"{quantity(self.rows.height, 'bar')} from {span}: {traded:,} traded, {quiet:,} quiet, "
            f"{counts[TimeKind.GAP]:,} in gaps"
        )
        candles = self.rows.filter(pl.col("close").is_not_null())
        if candles.is_empty():
            return f"{counted}."
        first, last = float(candles["open"][0]), float(candles["close"][-1])
        lowest, highest = float(candles["low"].to_numpy().min()), float(candles["high"].to_numpy().max())
        return (
            f"{counted}. The price went from {first:,.10g} to {last:,.10g}, between {lowest:,.10g} and {highest:,.10g}."
        )

    def packed(self) -> str:
        """Return the numbers of the bars, gzipped, in base64.

        They are planes of Float64 (little endian): the start in seconds since the epoch, open, high, low, close, volume
        and trade count, with NaN where nothing is known; then a plane of Uint8, the kinds.
        """
        planes = [
            seconds_in(self.rows).to_numpy(),
            *(self.rows[name].cast(pl.Float64()).to_numpy() for name in _NUMBERS),
        ]
        data = np.array(planes, dtype="<f8").tobytes() + self.kinds.tobytes()
        return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def read_chart(stores: Stores, wanted: ChartRequest, start: int | None, end: int | None) -> Chart:
    """Read the bars of a chart.

    Args:
        stores: The stores to read from.
        wanted: The pair and its bars.
        start: The start of the time shown, in seconds since the epoch; if None, the newest bars are shown.
        end: The end of the time shown; if None, the end of the last stored candle.

    Raises:
        InvalidRequest: The pair is unknown, has no candle in that time, or has more bars than a chart can show.
    """
    (pair,) = named(wanted.pair, stores)
    evidence = evidence_of(stores, [pair], with_proof=True)[pair]
    bars, known = wanted.bars, known_window(wanted.bars, evidence)
    if known is None:
        raise InvalidRequest(f"no chart can be drawn of {pair} at {bars}: no candle of it is stored")
    end = known.end if end is None else end
    start = bars.floor(end - 1) - (NEWEST - 1) * bars.seconds if start is None else start
    if (count := -(-(end - start) // bars.seconds)) > MOST:
        raise InvalidRequest(
            f"the chart of {pair} at {bars} would have {count:,} bars, and {MOST:,} can be shown: take a longer "
            "interval, or narrow the time"
        )
    rows = read_pairs(stores, [pair], ReadRequest(bars, start, end, with_state=True))[pair]
    if rows.is_empty():
        raise InvalidRequest(f"no chart can be drawn of {pair} at {bars}: nothing of it is known in that time")
    # A bar is suspicious if any part of it is.
    suspicious = normalise(Span(bars.floor(span.start), span.end) for span in evidence.suspicious)
    return Chart(pair, bars, rows, _kinds(rows, suspicious))


def _kinds(rows: pl.DataFrame, suspicious: Spans) -> npt.NDArray[np.uint8]:
    kind = (
        pl.when(pl.col("state") == "gap")
        .then(pl.lit(int(TimeKind.GAP)))
        .when(pl.col("state") == "traded")
        .then(pl.col("proof").cast(pl.String()).replace_strict(_TRADED, return_dtype=pl.Int32()))
        .when(lies_in(suspicious, seconds_in(rows)))
        .then(pl.lit(int(TimeKind.SUSPICIOUS)))
        .otherwise(pl.lit(int(TimeKind.QUIET)))
    )
    return rows.select(kind.cast(pl.UInt8()).alias("kind"))["kind"].to_numpy()
