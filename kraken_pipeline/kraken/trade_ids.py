"""Ids of the trades of a page: whether they are consecutive, and which are absent if not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from kraken_pipeline.coverage.density import AbsentIds
from kraken_pipeline.kraken.replies import TradeRow


@dataclass(frozen=True, slots=True)
class PageIds:
    """The ids of a page.

    Attributes:
        rows: Its trades, sorted by id.
        breaks: Pairs of neighbouring trades whose ids are not consecutive.
    """

    rows: tuple[TradeRow, ...]
    breaks: tuple[tuple[TradeRow, TradeRow], ...]

    @property
    def listed(self) -> int:
        """The number of trades."""
        return len(self.rows)

    @property
    def numbered(self) -> int:
        """The number of ids from the first to the last, both included."""
        return self.rows[-1][6] - self.rows[0][6] + 1 if self.rows else 0

    @property
    def absent(self) -> AbsentIds | None:
        """The ids from the first to the last absent one, as one range; None if there is no break."""
        if not self.breaks:
            return None
        before, after = self.breaks[0][0], self.breaks[-1][1]
        first = before[6] + 1  # for a repeated id, `max` below makes this one the last, too
        return AbsentIds(first, max(first, after[6] - 1), int(before[2]), int(after[2]), len(self.breaks))

    def lacks(self, trade_id: int) -> bool:
        """Return whether an id lies between the page's first and last and is absent."""
        if not self.rows or not self.rows[0][6] < trade_id < self.rows[-1][6]:
            return False
        return all(row[6] != trade_id for row in self.rows)


def ids_of(rows: Sequence[TradeRow]) -> PageIds:
    """Return the ids of a page of trades."""
    by_id = tuple(sorted(rows, key=lambda row: row[6]))
    breaks = tuple((before, after) for before, after in pairwise(by_id) if after[6] != before[6] + 1)
    return PageIds(by_id, breaks)
