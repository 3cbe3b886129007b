"""The series: the candles of one pair at one interval, the unit of work, of locking and of reporting."""

from __future__ import annotations

from dataclasses import dataclass

from kraken_pipeline.market.interval import Interval


@dataclass(frozen=True, slots=True, order=True)
class Series:
    """The candles of one pair (by name) at one interval."""

    pair: str
    interval: Interval

    def __str__(self) -> str:
        return f"{self.pair} {self.interval.value}"
