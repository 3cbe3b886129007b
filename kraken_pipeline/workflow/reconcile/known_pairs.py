"""The catalog's records of pairs that are reconciled, read together under the locks of all their series."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from kraken_pipeline.coverage.contradictions import IntervalEvidence, one_candle
from kraken_pipeline.coverage.equality import month_of
from kraken_pipeline.coverage.evidence import Grant, coverage
from kraken_pipeline.coverage.proof import Proven
from kraken_pipeline.coverage.ranges import Span, Spans, clip, intersect, normalise, subtract, touched_candles, union
from kraken_pipeline.market.candle import Source
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import ContradictionState
from kraken_pipeline.storage.records import evidence_records, proof_records, publications, refutations
from kraken_pipeline.storage.records.proof_records import ContradictionRecord
from kraken_pipeline.storage.records.publications import Publication
from kraken_pipeline.storage.records.refutations import Refutation
from kraken_pipeline.storage.stores import Stores

Value = TypeVar("Value")


@dataclass(slots=True)
class KnownPair:
    """The catalog's records of a pair.

    Attributes:
        name: The pair.
        marks: The ranges that have changed since the last reconciliation.
        grants: Series → its grants. A series without any is left out.
        conflicting: Where a source disagrees with the one-minute candles.
        active: Series → the refutations that have not ended.
        records: The contradictions on record.
        proven: Series → its proofs.
        confirmed: Series → the spans that a person or a source has confirmed.
        answered: The active refutations that have been answered again.
    """

    name: str
    marks: Sequence[Publication]
    grants: Mapping[Series, Sequence[Grant]]
    conflicting: Spans
    active: Mapping[Series, Sequence[Refutation]]
    records: Sequence[ContradictionRecord]
    proven: Mapping[Series, Proven]
    confirmed: Mapping[Series, Spans]
    answered: list[Refutation] = field(default_factory=list)

    @property
    def series(self) -> list[Series]:
        """The series with at least one grant, sorted."""
        return sorted(self.grants)

    def refuted(self, series: Series) -> Spans:
        """Return the refuted spans of a series that have not been answered again."""
        answered = {refutation.id for refutation in self.answered}
        grants = self.grants.get(series, ())
        found = (refutation for refutation in self.active.get(series, ()) if refutation.id not in answered)
        return normalise(span for refutation in found for span in refutation.standing(grants))

    def evidence(self, series: Series) -> IntervalEvidence:
        """Return the evidence for a series."""
        grants = self.grants[series]
        covered = tuple(covered.span for covered in coverage(grants, self.refuted(series)))
        own = normalise(grant.span for grant in grants if grant.source != Source.RESAMPLED)
        trades = normalise(grant.span for grant in grants if grant.source == Source.TRADES)
        is_minutes = series.interval is Interval.M1
        return IntervalEvidence(
            covered,
            intersect(own, covered),
            subtract(trades, self.conflicting) if is_minutes else (),
            self.confirmed.get(series, ()),
        )

    def to_compare(self) -> Spans:
        """Return the spans to compare: whole days, whole files with shifted times, and price conflicts.

        A price conflict is compared again if anything in its month has changed, which may now show the rounding of a
        side.
        """
        spans = touched_candles(normalise(mark.span for mark in self.marks), Interval.D1)
        long = [record.span for record in self.records if record.span.seconds > record.coarse.seconds]
        of_prices = [
            record.span
            for record in self.records
            if record.state is ContradictionState.CONFLICT
            and record.short_side is None
            and clip(spans, month_of(record.span.start))
        ]
        shifted = (span for span in long if any(span.overlaps(part) for part in spans))
        return union(spans, normalise(shifted), touched_candles(normalise(of_prices), Interval.D1))


def series_of(pairs: Iterable[str]) -> list[Series]:
    """Return the series of some pairs, stored or not: their locks keep the pairs as they are."""
    return [Series(pair, interval) for pair in pairs for interval in Interval]


def known_pairs(stores: Stores, names: Sequence[str]) -> list[KnownPair]:
    """Return what is on record of some pairs, in one transaction."""
    with stores.catalog.read() as connection:
        marks = publications.marked(connection, set(names))
        grants = evidence_records.grants_of(connection, series_of(names))
        conflicting = evidence_records.conflicting(connection, names, Interval.M1)
        active = refutations.active(connection, set(names))
        records = proof_records.contradictions_of(connection, names)
        proven = proof_records.added_up(connection, names)
        confirmed = proof_records.confirmed(connection, names)
        since = {
            refutation.id: refutations.answered_since(connection, refutation)
            for found in active.values()
            for refutation in found
        }
    pairs = [
        KnownPair(
            name,
            marks.get(name, ()),
            _of(name, grants),
            conflicting.get(name, ()),
            _of(name, active),
            [record for record in records if record.pair == name],
            _of(name, proven),
            _of(name, confirmed),
        )
        for name in names
    ]
    for pair in pairs:
        pair.answered += _answered(stores, pair, since)
    return pairs


def _of(name: str, found: Mapping[Series, Value]) -> dict[Series, Value]:
    return {series: value for series, value in found.items() if series.pair == name}


def _answered(stores: Stores, pair: KnownPair, since: Mapping[int, Sequence[tuple[Span, str]]]) -> Iterator[Refutation]:
    """Yield the active refutations of a pair that have been answered again."""
    for refutation in (refutation for found in pair.active.values() for refutation in found):
        if not subtract((refutation.span,), normalise(span for span, _ in since[refutation.id])):
            sources = {source for _, source in since[refutation.id]}
            # An archive or a reply that repeats the same values proves nothing: the next route is tried.
            is_proof = sources <= {Source.RESAMPLED, Source.TRADES}
            if refutation.damage_id is not None or is_proof or _has_changed(stores, refutation):
                yield refutation


def _has_changed(stores: Stores, refutation: Refutation) -> bool:
    return (
        one_candle(stores.lake.read(refutation.series, refutation.span.start, refutation.span.end))
        != refutation.refuted
    )
