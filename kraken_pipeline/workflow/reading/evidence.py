"""What is known of the time of a pair, in each of the stored intervals."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from kraken_pipeline.coverage.proof import Proven
from kraken_pipeline.coverage.ranges import Span, Spans, normalise
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import SuspicionState
from kraken_pipeline.storage.exchange_state.listings import listings_of
from kraken_pipeline.storage.records import damage, evidence_records, proof_records
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.gaps.snapshot import first_known


@dataclass(frozen=True, slots=True)
class TimeEvidence:
    """The evidence about one pair.

    Attributes:
        covered: Interval → the covered time.
        proven: Interval → the proven time; empty where it was not asked for.
        suspicious: The quiet time under suspicion; empty where it was not asked for.
        stored: Interval → the time from the start of its first stored candle to the end of its last one.
        first_known: The time of the earliest known candle or trade, in seconds since the epoch; None if there is none.
    """

    covered: Mapping[Interval, Spans] = field(default_factory=dict)
    proven: Mapping[Interval, Proven] = field(default_factory=dict)
    suspicious: Spans = ()
    stored: Mapping[Interval, Span] = field(default_factory=dict)
    first_known: int | None = None


def evidence_of(stores: Stores, pairs: Collection[str], *, with_proof: bool) -> dict[str, TimeEvidence]:
    """Return the evidence about some pairs, all of one moment.

    Args:
        stores: The stores to read.
        pairs: The names of the pairs.
        with_proof: Whether proofs and suspicions are wanted.
    """
    names = sorted(pairs)
    with stores.catalog.read() as connection:
        coverage = evidence_records.coverage_of(connection, pairs=names)
        extents = evidence_records.extents(connection, names)
        known = first_known(extents, coverage, listings_of(connection, names), damage.first_lost(connection, names))
        proofs = proof_records.proofs_of(connection, names) if with_proof else {}
        suspicions = proof_records.suspicions_of(connection, names) if with_proof else []
    unproven = [suspicion for suspicion in suspicions if suspicion.state is SuspicionState.UNPROVEN]
    return {
        pair: TimeEvidence(
            covered={
                interval: tuple(record.span for record in records)
                for interval in Interval
                if (records := coverage.get(Series(pair, interval)))
            },
            proven={interval: proofs[series] for interval in Interval if (series := Series(pair, interval)) in proofs},
            suspicious=normalise(suspicion.span for suspicion in unproven if suspicion.pair in (pair, None)),
            stored={
                interval: Span(extent.first_time, extent.last_time + interval.seconds)
                for interval in Interval
                if (extent := extents.get(Series(pair, interval)))
            },
            first_known=known.get(pair),
        )
        for pair in names
    }
