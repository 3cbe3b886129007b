"""Withdrawing kept trades together with the file or the span whose candles are withdrawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kraken_pipeline.coverage.ranges import Spans, intersect, normalise
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.market.candle import Source
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.storage.trades import manifest
from kraken_pipeline.storage.trades.kept import (
    KeptTrades,
    claimed_by,
    file_source_name,
    without_sources,
    without_spans,
)
from kraken_pipeline.storage.trades.writer import StagedTrades, stage_changes
from kraken_pipeline.workflow.withdraw.withdrawal import Claim


@dataclass(frozen=True, slots=True)
class WithdrawnTrades:
    """The trades that a withdrawal takes out of the trade lake.

    Attributes:
        staged: The staged write without them.
        again: The time for which a withdrawn file had answered. Other files may have lost their trades to it, so they
            have to be read again.
    """

    staged: StagedTrades
    again: Spans


def stage_withdrawn(stores: Stores, pair: str, claims: Sequence[Claim], now: int) -> WithdrawnTrades:
    """Stage the kept trades of a pair without those of withdrawn files and spans; the pair is locked."""
    names = {
        file_source_name(claim.file.sha256)
        for claim in claims
        if claim.file is not None and claim.file.kind == Kind.TRADES and claim.file.sha256 is not None
    }
    spans = normalise(
        claim.span
        for claim in claims
        if claim.file is None
        and claim.span is not None
        and claim.series.interval is Interval.M1
        and claim.source in (None, Source.TRADES)
    )
    if not names and not spans:
        return WithdrawnTrades(StagedTrades(pair), ())
    with stores.catalog.read() as connection:
        files = manifest.trade_files_of(connection, [pair])
    told = [claim for file in files for claim in file.claims if any(source.name in names for source in claim.sources)]
    again = claimed_by(told)
    months = {file.month for file in files if intersect(claimed_by(file.claims), (*spans, *again))}

    def left(kept: KeptTrades) -> KeptTrades:
        return without_spans(without_sources(kept, names), spans)

    return WithdrawnTrades(stage_changes(stores.lake, pair, sorted(months), left, now), again)
