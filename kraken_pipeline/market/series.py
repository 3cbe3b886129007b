"""The series: the candles of one pair at one interval, the unit of work, of locking and of reporting."""

from __future__ import annotations

from typing import NamedTuple

from kraken_pipeline.market.interval import Interval


class Series(NamedTuple):
    """The candles of one pair (by name) at one interval.

    It is a tuple, because a report looks up each of thousands of series in a dozen mappings, and a tuple is hashed and
    compared without Python's code.
    """

    pair: str
    interval: Interval

    def __str__(self) -> str:
        return f"{self.pair} {self.interval.value}"
