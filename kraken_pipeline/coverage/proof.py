"""Proof: how far the candles of a series are confirmed, in two words that mean the same everywhere.

**Verified**: each value of the candle was compared with an independent account, and is the same: a coarser candle with
the finer ones that add up to it, a minute with the trades that it is made of, a candle with that of a second source.
**Reconciled**: trades and volume of its neighbourhood add up, so that none is missing, while its own prices were
compared with nothing: a finer candle within a coarser one that agrees with all of them together.
"""

from __future__ import annotations

from dataclasses import dataclass

from kraken_pipeline.coverage.ranges import Spans, intersect, subtract, union


@dataclass(frozen=True, slots=True)
class Proven:
    """What is proven of a series; both sets on its grid.

    Attributes:
        reconciled: What is reconciled at least: it holds all that is verified.
        verified: What is verified as well.
    """

    reconciled: Spans = ()
    verified: Spans = ()

    def within(self, spans: Spans) -> Proven:
        """The part of it within a set."""
        return Proven(intersect(self.reconciled, spans), intersect(self.verified, spans))

    def without(self, spans: Spans) -> Proven:
        """What is left of it outside a set."""
        return Proven(subtract(self.reconciled, spans), subtract(self.verified, spans))

    def and_reconciled(self, spans: Spans) -> Proven:
        """The same, with a set that is reconciled beside it."""
        return Proven(union(self.reconciled, spans), self.verified)

    def and_verified(self, spans: Spans) -> Proven:
        """The same, with a set that is verified beside it, and so reconciled."""
        return Proven(union(self.reconciled, spans), union(self.verified, spans))


NOTHING_PROVEN = Proven()
