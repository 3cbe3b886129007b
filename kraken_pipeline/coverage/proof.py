"""Proof: the two degrees to which candles of a series are confirmed.

**Verified**: each value of the candle was compared with an independent account and is the same: a coarser candle with
the finer ones that add up to it, a minute with the trades that it is made of, a candle with that of a second source.
**Reconciled**: trades and volume of its neighbourhood add up, so that no trade is missing, but its own prices were not
compared: a finer candle within a coarser one that agrees with the sum of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from kraken_pipeline.coverage.ranges import Spans, intersect, subtract, union


@dataclass(frozen=True, slots=True)
class Proven:
    """The proven time of a series; both sets lie on its grid.

    Attributes:
        reconciled: The time that is at least reconciled, including all that is verified.
        verified: The time that is verified.
    """

    reconciled: Spans = ()
    verified: Spans = ()

    def within(self, spans: Spans) -> Proven:
        """Return the part within a set."""
        reconciled = intersect(self.reconciled, spans)
        # Of most series all that is proven is verified.
        verified = reconciled if self.verified is self.reconciled else intersect(self.verified, spans)
        return Proven(reconciled, verified)

    def without(self, spans: Spans) -> Proven:
        """Return the part outside a set."""
        return Proven(subtract(self.reconciled, spans), subtract(self.verified, spans))

    def and_reconciled(self, spans: Spans) -> Proven:
        """Return the proven time with a set added that is reconciled."""
        return Proven(union(self.reconciled, spans), self.verified)

    def and_verified(self, spans: Spans) -> Proven:
        """Return the proven time with a set added that is verified, and so reconciled."""
        return Proven(union(self.reconciled, spans), union(self.verified, spans))


NOTHING_PROVEN = Proven()
