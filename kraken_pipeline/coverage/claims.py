"""Claims: what a release of a dataset says of one series, in a form that depends only on its candles and its evidence.

Neither the division of the candles into files nor the order in which sources were ingested changes a claim. A series
with the same rows and the same spans has the same claims in any home.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from kraken_pipeline.coverage.proof import Proven
from kraken_pipeline.coverage.ranges import Spans, intersect, lies_in, normalise, subtract
from kraken_pipeline.market.candle import seconds_in
from kraken_pipeline.market.series import Series

Times = npt.NDArray[np.int64]
_VALUES = ("open", "high", "low", "close", "volume")
_FIELDS = 7
SPAN_SETS = ("covered", "gaps", "reconciled", "verified")
"""The names of the claims that are lists of spans."""


@dataclass(frozen=True, slots=True)
class QuietClaim:
    """The quiet time of a series: the covered time without a candle.

    It follows from the covered spans and the rows, and for minutes it can have as many spans as there are rows.
    So a claim has its size and a digest, not the list.

    Attributes:
        spans: The number of spans.
        candles: The number of candles that would fit in them.
        sha256: The SHA-256 of the spans in order: start and end of each, as signed 64-bit little-endian integers.
    """

    spans: int
    candles: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SeriesClaims:
    """The claims about one series.

    Attributes:
        series: The series.
        rows: The number of candles.
        rows_sha256: The SHA-256 of the candles in order of time, as `encoded` returns them.
        uncovered_rows: The number of candles outside the covered time, for which no source answers. They can lie after
            the end of the release, if its end was left open.
        covered: The time for which a source has answered.
        gaps: The time for which candles are expected and no source has answered.
        quiet: The quiet time.
        reconciled: The covered time in which no trade is missing, verified time included.
        verified: The covered time in which each value was compared with an independent source.
    """

    series: Series
    rows: int
    rows_sha256: str
    uncovered_rows: int
    covered: Spans
    gaps: Spans
    quiet: QuietClaim
    reconciled: Spans
    verified: Spans

    def as_json(self) -> dict[str, Any]:
        """Return the claims as RELEASE.json has them."""
        return {
            "pair": self.series.pair,
            "interval": self.series.interval.value,
            "rows": self.rows,
            "rows_sha256": self.rows_sha256,
            "uncovered_rows": self.uncovered_rows,
            **{name: [[part.start, part.end] for part in getattr(self, name)] for name in SPAN_SETS},
            "quiet": {"spans": self.quiet.spans, "candles": self.quiet.candles, "sha256": self.quiet.sha256},
        }

    def broken(self, window: Spans) -> Iterator[tuple[str, str]]:
        """Yield the claims that cannot be true together, whatever the candles: name and reason.

        Args:
            window: The time of the release, on the grid of the interval.
        """
        interval = self.series.interval
        sets: Mapping[str, Spans] = {name: getattr(self, name) for name in SPAN_SETS}
        for name, spans in sets.items():
            if spans != normalise(spans):
                yield name, "its spans are not sorted, overlap or touch"
            elif any(part.start % interval.seconds or part.end % interval.seconds for part in spans):
                yield name, f"a span does not lie on multiples of {interval.seconds} s"
            elif subtract(spans, window):
                yield name, "a span lies outside the time of the release"
        if intersect(normalise(self.gaps), normalise(self.covered)):
            yield "gaps", "a gap lies in covered time"
        if subtract(normalise(self.reconciled), normalise(self.covered)):
            yield "reconciled", "reconciled time lies outside the covered time"
        if subtract(normalise(self.verified), normalise(self.reconciled)):
            yield "verified", "verified time lies outside the reconciled time"


class SeriesTally:
    """A count of the candles of one series, from which its claims follow; candles are added in order of time.

    Args:
        series: The series.
        covered: Its covered time.
    """

    def __init__(self, series: Series, covered: Spans) -> None:
        self._series = series
        self._covered = covered
        self._rows = 0
        self._uncovered = 0
        self._encoded = sha256()
        self._quiet = sha256()
        self._quiet_spans = 0
        self._quiet_seconds = 0
        self._until = covered[0].start if covered else 0
        self._last: int | None = None
        self.is_ordered = True
        """Whether each candle was later than all before, and on the grid of the interval."""

    def add(self, candles: pl.DataFrame) -> None:
        """Add candles with the columns of `CANDLE_SCHEMA`."""
        if candles.is_empty():
            return
        times = seconds_in(candles)
        starts = times.to_numpy()
        follows = self._last is None or bool(starts[0] > self._last)
        is_on_grid = not bool((starts % self._series.interval.seconds).any())
        self.is_ordered &= follows and is_on_grid and bool((np.diff(starts) > 0).all())
        self._last = int(starts[-1])
        self._rows += candles.height
        self._encoded.update(encoded(candles))
        self._uncovered += candles.height - int(lies_in(self._covered, times).sum()) if self._covered else len(starts)
        ends = starts + self._series.interval.seconds
        self._add_quiet(np.concatenate(([self._until], ends[:-1])), starts)
        self._until = max(self._until, int(ends[-1]))

    def _add_quiet(self, starts: Times, ends: Times) -> None:
        """Add the covered part of the time between candles, given as sorted spans; empty ones are left out."""
        is_open = ends > starts
        starts, ends = starts[is_open], ends[is_open]
        for whole in self._covered:
            first, last = np.searchsorted(ends, whole.start, "right"), np.searchsorted(starts, whole.end, "left")
            if first < last:
                parts = np.empty((last - first, 2), "<i8")
                parts[:, 0] = np.maximum(starts[first:last], whole.start)
                parts[:, 1] = np.minimum(ends[first:last], whole.end)
                self._quiet.update(parts.tobytes())
                self._quiet_spans += len(parts)
                self._quiet_seconds += int((parts[:, 1] - parts[:, 0]).sum())

    def claims(self, gaps: Spans, proven: Proven) -> SeriesClaims:
        """Return the claims, when all candles are added.

        Args:
            gaps: The gaps of the series.
            proven: Its proven time.
        """
        if self._covered and self._until < self._covered[-1].end:
            self._add_quiet(np.array([self._until]), np.array([self._covered[-1].end]))
            self._until = self._covered[-1].end
        return SeriesClaims(
            series=self._series,
            rows=self._rows,
            rows_sha256=self._encoded.hexdigest(),
            uncovered_rows=self._uncovered,
            covered=self._covered,
            gaps=gaps,
            quiet=QuietClaim(
                self._quiet_spans, self._quiet_seconds // self._series.interval.seconds, self._quiet.hexdigest()
            ),
            reconciled=proven.reconciled,
            verified=proven.verified,
        )


def encoded(candles: pl.DataFrame) -> bytes:
    """Return candles in the encoding of their digest: 56 bytes each, seven little-endian fields of eight bytes.

    The fields are `time` (seconds since the epoch, signed integer), `open`, `high`, `low`, `close`, `volume` (IEEE 754
    double; a negative zero is written as zero) and `trade_count` (signed integer).
    """
    table = np.empty((candles.height, _FIELDS), "<i8")
    table[:, 0] = seconds_in(candles).to_numpy()
    for column, name in enumerate(_VALUES, 1):
        table[:, column] = (candles[name].to_numpy() + 0.0).astype("<f8").view("<i8")
    table[:, _FIELDS - 1] = candles["trade_count"].to_numpy()
    return table.tobytes()
