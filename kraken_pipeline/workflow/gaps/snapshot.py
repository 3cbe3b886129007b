"""The snapshot of the catalog and the lake that gaps are found from, read once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from kraken_pipeline.coverage.ranges import Spans
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.candle import Source
from kraken_pipeline.market.interval import INTERVALS, Interval
from kraken_pipeline.market.pair import Pair, did_you_mean
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.exchange_state.listings import ListingRecord, absences_of, listings_of
from kraken_pipeline.storage.records import damage, evidence_records, file_records, gap_records, refutations
from kraken_pipeline.storage.records.evidence_records import CoverageRecord, Extent
from kraken_pipeline.storage.records.file_records import ContainerRecord
from kraken_pipeline.storage.records.gap_records import Attempt
from kraken_pipeline.storage.records.refutations import Refutation
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.gaps.kept_intervals import stored_intervals
from kraken_pipeline.workflow.run_spec import RunSpec

Value = TypeVar("Value")

DEFAULT_TRADES_A_SECOND = 0.02
"""The rate assumed for pairs without a known one; XBTUSD has had 0.14 since 2013 (55 million in 12 years)."""

_DAY = 86_400


@dataclass(slots=True)
class CatalogSnapshot:
    """A snapshot of what is known of some pairs, read from the catalog at once.

    Attributes:
        now: The time of the snapshot, in seconds since the epoch.
        pairs: The pairs, by name.
        coverage: Series → coverage in order of time.
        extents: Series → extent of its candles in the lake.
        attempts: Series → attempts, the oldest first.
        rates: Pair → trades a second.
        containers: The containers that were examined.
        listings: Pair → its listing by the exchange.
        failed: The members of containers that could not be read, each as (SHA-256 of the container, pair, interval).
            They have answered for nothing.
        published_until: The time by which a quarter must have ended for its archive to count as published, in seconds
            since the epoch.
        refutations: Series → refutations that wait for another answer.
        absent: Pairs that the newest list of the exchange lacks; they count as listed until a later list lacks them
            too.
        first_known: Pair → the time of its earliest known candle or trade, in seconds since the epoch.
        stored_intervals: The intervals that a run stores if it names none.
    """

    now: int
    pairs: dict[str, Pair]
    coverage: Mapping[Series, Sequence[CoverageRecord]]
    extents: Mapping[Series, Extent]
    attempts: Mapping[Series, Sequence[Attempt]]
    rates: Mapping[str, float]
    containers: Sequence[ContainerRecord]
    listings: Mapping[str, ListingRecord]
    failed: Collection[tuple[str, str, int]]
    published_until: int
    refutations: Mapping[Series, Sequence[Refutation]] = field(default_factory=dict)
    absent: Collection[str] = ()
    first_known: dict[str, int] = field(default_factory=dict)
    stored_intervals: Collection[Interval] = INTERVALS
    _covered: dict[Series, Spans] = field(default_factory=dict, init=False, repr=False, compare=False)

    def covered(self, series: Series) -> Spans:
        """Return the coverage of a series."""
        if (known := self._covered.get(series)) is None:
            known = self._covered[series] = tuple([record.span for record in self.coverage.get(series, ())])
        return known

    def is_delisted(self, pair: str) -> bool:
        """Return whether the exchange has stopped listing a pair."""
        return pair in self.listings and self.listings[pair].delisted_at is not None

    def may_be_asked(self, pair: str) -> bool:
        """Return whether the exchange answers requests for a pair, according to its lists."""
        return not self.is_delisted(pair) and pair not in self.absent

    def is_wanted(self, spec: RunSpec, series: Series) -> bool:
        """Return whether a run with a spec looks for what a series of a selected pair lacks.

        If the spec names no interval, those that are made on reading are left out where nothing of them is stored.
        """
        if spec.names_intervals:
            return series.interval in spec.intervals
        return series.interval in self.stored_intervals or series in self.extents or series in self.coverage

    def only(self, pairs: Iterable[str]) -> CatalogSnapshot:
        """Return the snapshot with fewer pairs."""
        return replace(self, pairs={name: pair for name, pair in self.pairs.items() if name in set(pairs)})

    def updated(self, newer: CatalogSnapshot) -> CatalogSnapshot:
        """Return the snapshot with a newer reading of some of its pairs, or of further ones."""
        return replace(
            newer,
            pairs=dict(sorted({**self.pairs, **newer.pairs}.items())),
            coverage=_of_pairs(self.coverage, newer.coverage, newer.pairs),
            extents=_of_pairs(self.extents, newer.extents, newer.pairs),
            attempts=_of_pairs(self.attempts, newer.attempts, newer.pairs),
            refutations=_of_pairs(self.refutations, newer.refutations, newer.pairs),
            rates=_without(self.rates, newer.pairs)
            | {pair: newer.rates[pair] for pair in newer.pairs if pair in newer.rates},
            listings=_without(self.listings, newer.pairs) | dict(newer.listings),
            first_known=_without(self.first_known, newer.pairs) | newer.first_known,
        )

    def is_like(self, other: CatalogSnapshot, pair: str) -> bool:
        """Return whether another snapshot has the same evidence for a pair, archives aside; so it has the same gaps."""
        series = [Series(pair, interval) for interval in Interval]
        return (
            all(
                mine.get(one_series) == theirs.get(one_series)
                for mine, theirs in zip(self._by_series, other._by_series, strict=True)
                for one_series in series
            )
            and (pair in self.absent) == (pair in other.absent)
            and all(
                mine.get(pair) == theirs.get(pair)
                for mine, theirs in (
                    (self.rates, other.rates),
                    (self.listings, other.listings),
                    (self.first_known, other.first_known),
                )
            )
        )

    def has_archives_of(self, other: CatalogSnapshot) -> bool:
        """Return whether another snapshot knows the same containers and the same failed members."""
        return self.containers == other.containers and self.failed == other.failed

    @property
    def _by_series(self) -> tuple[Mapping[Series, Any], ...]:
        return self.coverage, self.extents, self.attempts, self.refutations

    def last_evidence(self, pair: str) -> int:
        """Return the end of a pair's coverage in any interval, in seconds since the epoch; 0 if there is none."""
        ends = [
            self.coverage[series][-1].span.end
            for interval in Interval
            if (series := Series(pair, interval)) in self.coverage
        ]
        return max(ends, default=0)


def selected_pairs(stores: Stores, spec: RunSpec, also: Iterable[Pair] = ()) -> dict[str, Pair]:
    """Return the selected pairs by name, from those of the lake and others that are given.

    Raises:
        InvalidRequest: Nothing is known of the selection.
    """
    listed = {pair.name: pair for pair in (*also, *stores.lake.asset_ids.pairs())}
    pairs = {name: pair for name, pair in sorted(listed.items()) if spec.selects(pair, stores.tiers)}
    _require_known(spec, stores, pairs)
    return pairs


def load_snapshot(stores: Stores, spec: RunSpec, now: int, also: Iterable[Pair] = ()) -> CatalogSnapshot:
    """Read the snapshot of the selected pairs.

    Args:
        stores: The stores to read from.
        spec: The selection.
        now: The current time, in seconds since the epoch.
        also: Further pairs, which the lake does not have yet.

    Raises:
        InvalidRequest: Nothing is known of the selection.
    """
    pairs = selected_pairs(stores, spec, also)
    names = sorted(pairs)
    with stores.catalog.read() as connection:
        extents = evidence_records.extents(connection, names)
        snapshot = CatalogSnapshot(
            now=now,
            pairs=pairs,
            coverage=evidence_records.coverage_of(connection, pairs=names),
            extents=extents,
            attempts=gap_records.attempts_of(connection, names),
            rates=evidence_records.trade_rates(connection),
            containers=file_records.all_containers(connection),
            listings=listings_of(connection, names),
            absent=absences_of(connection),
            failed=file_records.failed_members(connection),
            published_until=now - stores.settings.kraken_archive_published_days * _DAY,
            refutations=refutations.active(connection, set(names)),
            stored_intervals=stored_intervals(connection, stores.settings),
        )
        lost = damage.first_lost(connection, names)
    snapshot.first_known |= first_known(extents, snapshot.coverage, snapshot.listings, lost)
    return snapshot


def first_known(
    extents: Mapping[Series, Extent],
    coverage: Mapping[Series, Sequence[CoverageRecord]],
    listings: Mapping[str, ListingRecord],
    lost: Mapping[str, int],
) -> dict[str, int]:
    """Return the time of the earliest known candle or trade of each pair, in seconds since the epoch.

    Args:
        extents: Series → extent of its candles in the lake.
        coverage: Series → coverage in order of time.
        listings: Pair → its listing by the exchange.
        lost: Pair → the earliest candle that was lost to damage. It is still expected, so that it is a gap.
    """
    found: dict[str, int] = {}
    for series, extent in extents.items():
        known = found.get(series.pair)
        if known is not None and known <= extent.first_time:
            continue
        if not _is_resampled(coverage.get(series, ()), extent.first_time):
            found[series.pair] = extent.first_time
    first_trades = {pair: listing.first_trade for pair, listing in listings.items() if listing.first_trade is not None}
    for first in (first_trades, lost):
        for pair, time in first.items():
            found[pair] = min(found.get(pair, time), time)
    return found


def _of_pairs(
    older: Mapping[Series, Value], newer: Mapping[Series, Value], pairs: Collection[str]
) -> dict[Series, Value]:
    """Return values by series: the newer ones for some pairs, and the older ones for all others."""
    return {series: value for series, value in older.items() if series.pair not in pairs} | dict(newer)


def _without(values: Mapping[str, Value], pairs: Collection[str]) -> dict[str, Value]:
    return {pair: value for pair, value in values.items() if pair not in pairs}


def _is_resampled(records: Iterable[CoverageRecord], time: int) -> bool:
    """Return whether a candle was resampled; it may start long before its first finer candle and first trade."""
    return any(time in record.span and record.source == Source.RESAMPLED for record in records)


def _require_known(spec: RunSpec, stores: Stores, pairs: Mapping[str, Pair]) -> None:
    spec.require_tier(stores.tiers)
    for name in spec.pairs:
        if name not in pairs:
            near = did_you_mean(name, stores.lake.asset_ids.all()["pair"])
            raise InvalidRequest(
                f"{name} is unknown: neither the lake nor an archive in the folders has it{near}; put its archives "
                f"into {stores.settings.drop}, name their folder, or fetch it: "
                f"{spec.selecting(pairs=(name,)).as_command('backfill')}"
            )
