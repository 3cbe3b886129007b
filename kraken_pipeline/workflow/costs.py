"""The expected cost of each phase of a run, which its time left is computed from until its own pace is measured.

The costs are seconds of CPU of one process, measured on the archives of `python -m benchmarks.whole` at full size:
12,024 files of 87 million rows, and then 11,192 of 5 million. A run scales them by its own pace, so that their
proportions matter most. Work that several processes do side by side is divided by their number.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

BYTES_OF_ROW = 55
"""The size of a row of an archive."""
YEAR = 366 * 86_400


@dataclass(frozen=True, slots=True)
class Change:
    """The size of a change of one pair.

    Attributes:
        candles: The number of candles of all intervals that have changed.
        years: The length of the time in which they have.
    """

    candles: float = 0.0
    years: float = 0.0


def ingesting(files: int, size: int, workers: int) -> float:
    """Return the cost of reading and storing so many files, whose size is in bytes."""
    return (0.004 * files + 7.0e-9 * size) / workers


def planning(series: int) -> float:
    """Return the cost of reading what is known of so many series, and of finding their gaps."""
    return 0.0001 * series


def resampling(series: int, workers: int) -> float:
    """Return the cost of making the missing candles of so many series from finer ones."""
    return 0.008 * series / workers


def comparing(changes: Collection[Change], workers: int) -> float:
    """Return the cost of comparing the intervals of some pairs where they have changed."""
    return (0.03 * len(changes) + 4.5e-7 * _candles(changes)) / workers


def comparing_markets(changes: Collection[Change]) -> float:
    """Return the cost of searching all pairs at once for outages where some have changed."""
    return 3.0e-8 * _candles(changes)


def searching(changes: Collection[Change], workers: int) -> float:
    """Return the cost of searching some pairs for quiet time where they have changed."""
    years = sum(change.years for change in changes)
    return (0.01 * len(changes) + 0.0005 * years + 5.0e-8 * _candles(changes)) / workers


def reconciling(changes: Collection[Change], workers: int) -> float:
    """Return the cost of reconciling some pairs: of comparing their intervals, and of both searches."""
    return comparing(changes, workers) + comparing_markets(changes) + searching(changes, workers)


def _candles(changes: Collection[Change]) -> float:
    return sum(change.candles for change in changes)


def requesting(requests: int, rate: float) -> float:
    """Return the time of so many requests, of which `rate` are sent in a second."""
    return requests / rate


def recording(series: int) -> float:
    """Return the cost of recording the gaps of so many series."""
    return 0.00007 * series


def publishing(candles: float) -> float:
    """Return the cost of publishing so many candles; the benchmark `publish-6` publishes 460,000 a second."""
    return 2.2e-6 * candles


def verifying(files: int, size: int) -> float:
    """Return the cost of comparing so many files, of which `size` bytes are read."""
    return 1.0e-4 * files + 8.0e-10 * size


def logging(events: int) -> float:
    """Return the cost of storing so many materialisations and evaluations of checks, in batches."""
    return 0.0007 * events


def checking(candles: float, workers: int) -> float:
    """Return the cost of checking that so many candles keep the rules."""
    return 2.2e-7 * candles / workers


def reporting(series: int) -> float:
    """Return the cost of reporting on so many series."""
    return 0.2 + 0.00008 * series
