"""Contradictions: candles of two intervals that do not add up, with both sides."""

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
    """One of two intervals."""

    FINE = "fine"
    COARSE = "coarse"


@dataclass(frozen=True, slots=True)
class IntervalEvidence:
    """What is known of one interval of a pair; all sets on its grid.

    Attributes:
        covered: What something answered for.
        independent: The part that something else than resampling answered for.
        by_trades: The part that was paged through trades or read from an archive of them.
        confirmed: The part of which a second source said the same, candle for candle.
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
        span: A candle of the coarser; many where times are shifted.
        fine_candle: What the finer ones add up to; None where they have none, or are many.
        coarse_candle: What the coarser says.
        fine_trades: How many trades the finer ones count.
        coarse_trades: How many the coarser does.
        shifted: By how many seconds the finer times are to be moved to agree, where that is what is wrong.
        outlier: The interval that is outvoted by the others; None where nobody can say.
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
        """The side that counts fewer trades; None where the counts do not tell."""
        if self.shifted is not None or self.fine_trades == self.coarse_trades:
            return None
        return Side.FINE if self.fine_trades < self.coarse_trades else Side.COARSE

    @property
    def is_hole(self) -> bool:
        """Whether one side has no candle at all where the other counts trades."""
        return self.shifted is None and (self.fine_candle is None or self.coarse_candle is None)

    @property
    def values(self) -> tuple[Span, Values | None, Values | None, int, int]:
        """What contradicts each other: the same values are the same contradiction."""
        return self.span, self.fine_candle, self.coarse_candle, self.fine_trades, self.coarse_trades


@dataclass(slots=True)
class Findings:
    """What a reconciliation found out about a pair.

    Attributes:
        tested: Coarser interval → the candles that were compared with finer ones.
        refuted: What is to be taken back and filled again: the contradiction, the interval and the span.
        conflicts: Contradictions that nothing is left to try for.
        stale: Interval → candles that were resampled from finer ones that have changed since.
        proven: Interval → all that is proven by now.
    """

    tested: dict[Interval, Spans] = field(default_factory=dict)
    refuted: list[tuple[Contradiction, tuple[tuple[Interval, Span], ...]]] = field(default_factory=list)
    conflicts: list[Contradiction] = field(default_factory=list)
    stale: dict[Interval, Spans] = field(default_factory=dict)
    proven: dict[Interval, Proven] = field(default_factory=dict)

    @property
    def contradictions(self) -> list[Contradiction]:
        """All of them."""
        return [*(each for each, _ in self.refuted), *self.conflicts]


def one_candle(candles: pl.DataFrame) -> Values | None:
    """Some candles as one, whatever their interval; None where there are none."""
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
