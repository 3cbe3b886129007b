"""Contradictions: candles of two intervals that do not add up, and the findings of a reconciliation."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import polars as pl

from kraken_pipeline.coverage.proof import Proven
from kraken_pipeline.coverage.ranges import (
    Span,
    Spans,
)
from kraken_pipeline.market.candle import Values
from kraken_pipeline.market.interval import Interval


class Side(StrEnum):
    """A side of a contradiction: the finer or the coarser interval."""

    FINE = "fine"
    COARSE = "coarse"


@dataclass(frozen=True, slots=True)
class IntervalEvidence:
    """The evidence for one interval of a pair; all sets lie on its grid.

    Attributes:
        covered: The coverage.
        independent: The part that a source other than resampling answered for.
        by_trades: The part that was paged through Trades or read from an archive of trades.
        confirmed: The part for which a second source has the same candles.
    """

    covered: Spans = ()
    independent: Spans = ()
    by_trades: Spans = ()
    confirmed: Spans = ()


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Candles of two intervals that do not agree.

    Attributes:
        fine: The finer interval.
        coarse: The coarser one.
        span: The span of one coarser candle; of many if times are shifted.
        fine_candle: The sum of the finer candles; None if there are none, or if times are shifted.
        coarse_candle: The coarser candle; None if there is none, or if times are shifted.
        fine_trades: The trade count of the finer candles.
        coarse_trades: The trade count of the coarser candles.
        shifted: The seconds by which the finer times must be moved to agree; None if times are not shifted.
        outlier: The interval that the others outvote; None if undecided.
    """

    fine: Interval
    coarse: Interval
    span: Span
    fine_candle: Values | None
    coarse_candle: Values | None
    fine_trades: int
    coarse_trades: int
    shifted: int | None = None
    outlier: Interval | None = None

    @property
    def short(self) -> Side | None:
        """The side with the lower trade count; None if the counts are equal or times are shifted."""
        if self.shifted is not None or self.fine_trades == self.coarse_trades:
            return None
        return Side.FINE if self.fine_trades < self.coarse_trades else Side.COARSE

    @property
    def is_hole(self) -> bool:
        """Whether one side has no candle where the other counts trades."""
        return self.shifted is None and (self.fine_candle is None or self.coarse_candle is None)

    @property
    def values(self) -> tuple[Span, Values | None, Values | None, int, int]:
        """The values that identify the contradiction: equal values mean the same contradiction."""
        return self.span, self.fine_candle, self.coarse_candle, self.fine_trades, self.coarse_trades


@dataclass(slots=True)
class Findings:
    """The findings of a reconciliation of a pair.

    Attributes:
        tested: Coarser interval → the candles that were compared with finer ones.
        refuted: Each contradiction with the intervals and spans to refute, which are then filled again.
        conflicts: Contradictions that no source settles.
        stale: Interval → candles that were resampled from finer ones that have changed since.
        proven: Interval → everything that is proven after the reconciliation.
    """

    tested: dict[Interval, Spans] = field(default_factory=dict)
    refuted: list[tuple[Contradiction, tuple[tuple[Interval, Span], ...]]] = field(default_factory=list)
    conflicts: list[Contradiction] = field(default_factory=list)
    stale: dict[Interval, Spans] = field(default_factory=dict)
    proven: dict[Interval, Proven] = field(default_factory=dict)

    @property
    def contradictions(self) -> list[Contradiction]:
        """All contradictions: the refuted ones and the conflicts."""
        return [*(contradiction for contradiction, _ in self.refuted), *self.conflicts]


def one_candle(candles: pl.DataFrame) -> Values | None:
    """Return some candles as one, whatever their interval; None if there are none."""
    if candles.is_empty():
        return None
    return (
        float(candles["open"][0]),
        float(candles["high"].max()),  # type: ignore[arg-type]
        float(candles["low"].min()),  # type: ignore[arg-type]
        float(candles["close"][-1]),
        round(float(candles["volume"].sum()), 8),
        int(candles["trade_count"].sum()),
    )
