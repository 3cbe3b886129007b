"""The order of a file's rows, and the rows outside that order, whose times cannot be believed.

Kraken writes files in order of time. A file out of order was either reversed, shuffled or assembled by a person, which
makes no time in it wrong, or a time in it was damaged. Damaged rows are few among many that are in order. At such a
row's place in the file, a candle is missing that was there. At the time that the row states, there may be no candle.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

PIECE_ROWS = 24
"""The least length of a rising run that is believed if no other row lies within its time: it was moved as a whole."""
FOREVER = 1 << 40
_PYTHON_ROWS = 1 << 16
_BOUNDS_TOGETHER = 50_000

Times = NDArray[np.int64]
Bounds = tuple[int, int]
"""The times of two rows; 0 or `FOREVER` stands for a row that does not exist."""


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a file's rows, and which of their times can be believed.

    Attributes:
        descends: Whether the newest row comes first.
        is_shuffled: Whether there is no order, so that a row's place says nothing about its time.
        believed: For each row, whether it is in order; True for all rows if there is no order.
        doubtful: The bounds between which a row outside the order may belong.
    """

    descends: bool
    is_shuffled: bool
    believed: NDArray[np.bool_]
    doubtful: tuple[Bounds, ...]


def order_of(times: Times) -> Order:
    """Return the order of some rows.

    Args:
        times: The times in the order of the file, in seconds since the epoch. Identical repeats must be left out, so
            that equal times are a contradiction.
    """
    # Times are compared without the difference of each two: an array of a file's rows has 60 MiB.
    if np.count_nonzero(times[1:] < times[:-1]) > np.count_nonzero(times[1:] > times[:-1]):
        order = _rising(times[::-1])
        return Order(True, order.is_shuffled, order.believed[::-1], order.doubtful)
    return _rising(times)


def holes(times: Times, step: int) -> Iterator[list[Bounds]]:
    """Yield the bounds between which there is room for a candle, some at a time.

    Args:
        times: The starts of candles, in seconds since the epoch, sorted.
        step: The length of a candle, in seconds.
    """
    edges = np.concatenate(([0], times, [FOREVER]))
    before = np.flatnonzero(edges[1:] - edges[:-1] > step)
    for start in range(0, len(before), _BOUNDS_TOGETHER):
        some = before[start : start + _BOUNDS_TOGETHER]
        yield list(zip(edges[some].tolist(), edges[some + 1].tolist(), strict=True))


def _rising(times: Times) -> Order:
    is_kept = _longest_rise(times)
    if is_kept.all():
        return Order(False, False, is_kept, ())
    if _most_believed(times, is_kept) * 2 < len(times) >= 2 * PIECE_ROWS:
        return Order(False, True, np.ones(len(times), np.bool_), ())
    believed, kept, rows, ranks = is_kept.copy(), times[is_kept], np.sort(times), np.cumsum(is_kept)
    doubtful: list[Bounds] = []
    for start, end in _strays(times, is_kept):
        first, last = int(times[start]), int(times[end - 1])
        begin, until = (int(place) for place in np.searchsorted(rows, (first, last + 1)))
        if until - begin == end - start >= PIECE_ROWS:
            believed[start:end] = True
            doubtful += [(_at(rows, begin - 1), first), (last, _at(rows, until))]
        else:
            doubtful += _around(kept, int(ranks[start]), first, last)
    if len(times) >= 2 * PIECE_ROWS and believed.sum() * 2 < len(times):
        return Order(False, True, np.ones(len(times), np.bool_), ())
    return Order(False, False, believed, tuple(doubtful))


def _most_believed(times: Times, is_kept: NDArray[np.bool_]) -> int:
    """Return an upper bound for the number of believed rows: those in order, and those of long rising runs."""
    bounds = np.concatenate(([0], np.flatnonzero(times[1:] <= times[:-1]) + 1, [len(times)]))
    lengths = np.diff(bounds)
    return int(is_kept.sum() + lengths[lengths >= PIECE_ROWS].sum())


def _longest_rise(times: Times) -> NDArray[np.bool_]:
    """Mark the rows of a longest strictly rising subsequence, so that the fewest rows are outside the order."""
    marked = np.ones(len(times), np.bool_)
    marked[1:] &= times[1:] > np.maximum.accumulate(times)[:-1]
    marked[:-1] &= times[:-1] < np.minimum.accumulate(times[::-1])[::-1][1:]
    # The marked rows are in order with every other row, so only the runs between them need the search.
    for start, end in _runs(~marked):
        marked[start:end] = _longest_rise_of(times[start:end])
    return marked


def _longest_rise_of(times: Times) -> NDArray[np.bool_]:
    ends: list[int] = []  # for each length, the lowest time at which a rise of that length ends
    rows: list[int] = []  # the row of that time
    before = np.full(len(times), -1, np.int32)
    some = (times[start : start + _PYTHON_ROWS].tolist() for start in range(0, len(times), _PYTHON_ROWS))
    for row, time in enumerate(chain.from_iterable(some)):
        length = bisect_left(ends, time)
        before[row] = rows[length - 1] if length else -1
        ends[length : length + 1] = [time]
        rows[length : length + 1] = [row]
    marked = np.zeros(len(times), np.bool_)
    row = rows[-1]
    while row >= 0:
        marked[row] = True
        row = int(before[row])
    return marked


def _strays(times: Times, is_kept: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield the rising runs of rows outside the order, as half-open ranges of places."""
    for start, end in _runs(~is_kept):
        falls = np.flatnonzero(np.diff(times[start:end]) <= 0) + start + 1
        bounds = [start, *falls.tolist(), end]
        yield from pairwise(bounds)


def _runs(marked: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], marked, [False])).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _around(kept: Times, rank: int, first: int, last: int) -> list[Bounds]:
    """Return the bounds that become doubtful because of a run of rows outside the order.

    The rows may belong at their place in the file, and may not belong at the times that they state. If only few rows
    lie in between, those may be the wrong ones instead, so everything from one to the other is doubtful.

    Args:
        kept: The times of the rows in order.
        rank: The place among these before which the run is in the file.
        first: The first time of the run.
        last: The last time of the run.
    """
    stand = (_at(kept, rank - 1), _at(kept, rank))
    below, above = int(np.searchsorted(kept, first)), int(np.searchsorted(kept, last, side="right"))
    say = (_at(kept, below - 1), _at(kept, above))
    if max(rank, above) - min(rank, below) <= PIECE_ROWS:
        return [(min(stand[0], say[0]), max(stand[1], say[1]))]
    return [stand, say]


def _at(times: Times, place: int) -> int:
    if place < 0:
        return 0
    return int(times[place]) if place < len(times) else FOREVER
