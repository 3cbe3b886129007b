"""Evidence for quiet time beyond the absence of candles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from kraken_pipeline.coverage.ranges import (
    Span,
    Spans,
    clip,
    intersect,
    normalise,
    of_candles,
    subtract,
    touched_candles,
)
from kraken_pipeline.market.candle import Source
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import SuspicionState
from kraken_pipeline.storage.records import evidence_records
from kraken_pipeline.storage.records.proof_records import SuspicionRecord
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.reconcile.activity import Activity


@dataclass(slots=True)
class QuietEvidence:
    """The evidence for quiet time beyond the absence of candles.

    Attributes:
        stores: The stores.
        activity: The candles in the lake.
        proofs: Series → the spans in which intervals agree.
        down: The spans without trading, according to the incidents of the exchange.
    """

    stores: Stores
    activity: Activity
    proofs: Mapping[Series, Spans]
    down: Spans = ()
    _trades: dict[str, Spans] = field(default_factory=dict)

    def trades(self, pair: str) -> Spans:
        """Return the spans in which the trades of a pair were paged through or read from an archive."""
        if pair not in self._trades:
            minutes = Series(pair, Interval.M1)
            with self.stores.catalog.read() as connection:
                grants = evidence_records.grants_of(connection, [minutes]).get(minutes, [])
            self._trades[pair] = normalise(grant.span for grant in grants if grant.source == Source.TRADES)
        return self._trades[pair]

    def unbacked(self, series: Series, spans: Spans) -> Spans:
        """Return the parts of some spans that have no evidence except the absence of candles.

        Trades are evidence. So is an existing coarser candle that was not resampled and whose trade count adds up. Two
        intervals that both lack a candle are no evidence, because files lack several at once.
        """
        rest = subtract(spans, self.trades(series.pair))
        for coarse in sorted(Interval, reverse=True):
            if series.interval not in coarse.finer or not rest:
                continue
            coarser = Series(series.pair, coarse)
            touched = touched_candles(rest, coarse)
            reach = Span(touched[0].start, touched[-1].end)
            own, coarser_proofs = (clip(self.proofs.get(one, ()), reach) for one in (series, coarser))
            agreed = intersect(intersect(coarser_proofs, own), touched)
            if agreed:
                trading = self.activity.of(coarser, touched_candles(agreed, coarse))
                rest = subtract(rest, intersect(agreed, of_candles(pl.Series(trading.times[trading.is_own]), coarse)))
        return rest

    def is_quiet(self, series: Series, span: Span) -> bool:
        """Return whether a span has no candle and independent evidence that nobody traded."""
        is_proven = clip(self.proofs.get(series, ()), span) == (span,)
        return is_proven and not self.unbacked(series, (span,)) and not self.has_candles(series, span)

    def has_candles(self, series: Series, span: Span) -> bool:
        """Return whether the lake has a candle that starts in a span."""
        return len(self.activity.of(series, (span,)).times) > 0

    def state(self, suspicion: SuspicionRecord) -> SuspicionState:
        """Return the current state of a suspicion; one that trades have disproved stays disproved."""
        if suspicion.pair is not None:
            series = Series(suspicion.pair, suspicion.interval)
            if self.has_candles(series, suspicion.span):
                return SuspicionState.TRADED
            return SuspicionState.PROVEN_QUIET if self.is_quiet(series, suspicion.span) else SuspicionState.UNPROVEN
        if not subtract((suspicion.span,), self.down):
            return SuspicionState.EXCHANGE_DOWN
        proven = [
            series
            for series, spans in self.proofs.items()
            if series.interval is suspicion.interval and clip(spans, suspicion.span) == (suspicion.span,)
        ]
        quiet = 0
        for series in proven:
            quiet += self.is_quiet(series, suspicion.span)
            if quiet == 2:
                return SuspicionState.EXCHANGE_DOWN
        return suspicion.state if suspicion.state is SuspicionState.TRADED else SuspicionState.UNPROVEN
