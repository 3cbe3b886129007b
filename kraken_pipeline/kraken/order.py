"""The order of a file's rows, and the rows that stand outside it: their times cannot be believed.

Kraken writes files in order of time. One that is not was turned round, shuffled or put together by somebody, which
makes no time in it wrong; or a time in it was damaged. A damaged row stands alone, or with a few, among many that are
in order: where it stands a candle is missing that was there, and where it says that it belongs there may be none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

PIECE_ROWS = 24
"""So many rows that follow each other, and share their time with no others, were put where they are together."""
FOREVER = 1 << 40

Times = NDArray[np.int64]
Bounds = tuple[int, int]
"""The times of two rows; 0 and `FOREVER` where there is none."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the order of a file's rows says of their times.

    Attributes:
        descends: Whether the newest row comes first.
        is_shuffled: Whether there is no order: where a row stands then says nothing of its time.
        believed: For each row whether it stands in order; all do where there is no order.
        doubtful: Pairs of rows between which a row may belong that stands outside the order.
    """

    descends: bool
    is_shuffled: bool
    believed: NDArray[np.bool_]
    doubtful: tuple[Bounds, ...]


def order_of(times: Times) -> Order:
    """Return the order of some rows.

    Args:
        times: In the order of the file. Repeats that say the same are left out, so that equal times contradict.
    """
    steps = np.diff(times)
    if (steps < 0).sum() > (steps > 0).sum():
        order = _rising(times[::-1])
        return Order(True, order.is_shuffled, order.believed[::-1], order.doubtful)
    return _rising(times)


def _rising(times: Times) -> Order:
    is_kept = _longest_rise(times)
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


def _longest_rise(times: Times) -> NDArray[np.bool_]:
    """Mark the rows of a longest strictly rising subsequence: by leaving out the fewest, the rest is in order."""
    highest = np.maximum.accumulate(times)
    lowest = np.minimum.accumulate(times[::-1])[::-1]
    marked = np.ones(len(times), np.bool_)
    marked[1:] &= times[1:] > highest[:-1]
    marked[:-1] &= times[:-1] < lowest[1:]
    # These are in order with every other row, so only what lies between two of them has to be looked at.
    for start, end in _runs(~marked):
        marked[start:end] = _longest_rise_of(times[start:end].tolist())
    return marked


def _longest_rise_of(times: list[int]) -> NDArray[np.bool_]:
    ends: list[int] = []  # the lowest time that a rise of each length ends with
    rows: list[int] = []  # and its row
    before = np.full(len(times), -1, np.int64)
    for row, time in enumerate(times):
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
    """Find the rows outside the order: the places of the first and behind the last of each rising run."""
    for start, end in _runs(~is_kept):
        falls = np.flatnonzero(np.diff(times[start:end]) <= 0) + start + 1
        bounds = [start, *falls.tolist(), end]
        yield from pairwise(bounds)


def _runs(marked: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], marked, [False])).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _around(kept: Times, rank: int, first: int, last: int) -> list[Bounds]:
    """What some rows cast doubt on that stand before the row `rank` of those in order, and say that they are elsewhere.

    They may belong where they stand; and they may not be where they say. Where only few rows lie in between, it may
    as well be those that are wrong.
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
