"""The open gaps of a run: found once, and found again only for pairs that have changed; and their records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from kraken_pipeline.coverage.gaps import GapRecord, GapStatus, overflow, revise
from kraken_pipeline.coverage.overlaps import Overlaps
from kraken_pipeline.coverage.ranges import slots
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.records import gap_records
from kraken_pipeline.storage.records.gap_records import GapRow
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.gaps.gaps import Gap, expected, find_gaps
from kraken_pipeline.workflow.gaps.snapshot import CatalogSnapshot, load_snapshot, selected_pairs
from kraken_pipeline.workflow.run_spec import RunSpec


class OpenGaps:
    """The open gaps of a selection as one run sees them, with the snapshot that they were found from.

    The catalog is read once for the whole selection, and then only for pairs that the run has changed; at its end once
    more as a whole, because damage and other runs change pairs too. Gaps are found again only for pairs whose evidence
    differs from what they were found from. Gaps are recorded from a reading made under the lock of the gap records, so
    that what another run has just filled is never recorded as a gap.

    Args:
        stores: The stores to read from, and to record gaps in.
        spec: The selection, and whether limits apply.
        now: The time that the run uses as the present, in seconds since the epoch.
    """

    def __init__(self, stores: Stores, spec: RunSpec, now: int) -> None:
        self._stores = stores
        self._spec = spec
        self._now = now
        self._snapshot: CatalogSnapshot | None = None
        self._gaps: dict[str, list[Gap]] = {}
        self._changed: set[str] = set()
        self._ever_changed: set[str] = set()
        self._recorded: set[str] = set()

    def change(self, pairs: Iterable[str]) -> None:
        """Mark pairs whose evidence, attempts or gap records have changed.

        They are read again when next needed, and recorded again even if they have the same gaps.
        """
        changed = set(pairs)
        self._changed |= changed
        self._ever_changed |= changed
        self._recorded -= changed

    @property
    def changed(self) -> frozenset[str]:
        """The pairs that the run has marked as changed so far."""
        return frozenset(self._ever_changed)

    @property
    def snapshot(self) -> CatalogSnapshot:
        """The current snapshot.

        Raises:
            InvalidRequest: Nothing is known of the selection.
        """
        if self._snapshot is None:
            return self._read(load_snapshot(self._stores, self._spec, self._now))
        names = self._outdated()
        return self._read(self._load(names)) if names else self._snapshot

    @property
    def gaps(self) -> list[Gap]:
        """The current gaps with their routes, by pair, interval and time.

        Raises:
            InvalidRequest: Nothing is known of the selection.
        """
        return [gap for pair in self.snapshot.pairs for gap in self._gaps[pair]]

    def record(self, *, anew: bool = False) -> list[Gap]:
        """Record the gaps of the pairs that have changed since they were last recorded; return the gaps of all pairs.

        Args:
            anew: Whether to read and record all pairs.

        Raises:
            InvalidRequest: Nothing is known of the selection.
            Busy: Another process has been recording gaps for too long.
        """
        with self._stores.locks.gap_records():
            names = self._outdated() | (self._gaps.keys() - self._recorded)
            if anew or names or self._snapshot is None:
                read = load_snapshot(self._stores, self._spec, self._now) if anew else self._load(names)
                self._read(read)
                found = [gap for pair in read.pairs for gap in self._gaps[pair]]
                _record_gaps(self._stores, self._spec, read, found)
                self._recorded.update(read.pairs)
        return self.gaps

    def _outdated(self) -> set[str]:
        """Return the selected pairs that have changed since they were read, or that were never read."""
        selection = selected_pairs(self._stores, self._spec).keys()
        return (self._changed & selection) | (selection - self._gaps.keys())

    def _load(self, pairs: Iterable[str]) -> CatalogSnapshot:
        selection = self._spec.model_copy(update={"pairs": tuple(sorted(pairs))})
        return load_snapshot(self._stores, selection, self._now)

    def _read(self, read: CatalogSnapshot) -> CatalogSnapshot:
        """Take a new reading of some pairs or of all into the snapshot, and find the gaps that it changes."""
        known = self._snapshot
        differing = {
            pair: value
            for pair, value in read.pairs.items()
            if known is None or pair not in self._gaps or not read.is_like(known, pair)
        }
        self._snapshot = read if known is None else known.updated(read)
        if known is not None and not read.has_archives_of(known):
            differing = dict(self._snapshot.pairs)  # an archive that was examined since may have had any pair
        for pair in differing:
            self._gaps[pair] = []
        for gap in find_gaps(self._stores, self._spec, self._snapshot.only(differing)):
            self._gaps[gap.series.pair].append(gap)
        self._changed -= read.pairs.keys()
        self._recorded -= differing.keys()
        return self._snapshot


def _record_gaps(stores: Stores, spec: RunSpec, snapshot: CatalogSnapshot, gaps: Sequence[Gap]) -> None:
    """Update the gap records of the selected series; the lock of the gap records is held."""
    by_series: dict[Series, list[Gap]] = {}
    for gap in gaps:
        by_series.setdefault(gap.series, []).append(gap)
    with stores.catalog.read() as connection:
        recorded = gap_records.open_gaps(connection, sorted(snapshot.pairs))
    selected = [Series(pair, interval) for pair in snapshot.pairs for interval in spec.intervals]
    touched = [series for series in selected if series in by_series or series in recorded]
    rows: list[GapRow] = []
    for series in touched:
        if not snapshot.is_wanted(spec, series):
            continue  # nobody looked for its gaps, so its records from earlier runs are not kept
        older = {record.span: record for record in recorded.get(series, ())}
        found = {gap.span: gap.row() for gap in by_series.get(series, [])}
        records = [GapRecord(row.span, row.detected_at, row.status) for row in older.values()]
        revision = revise(records, tuple(found), expected(snapshot, spec, series), snapshot.now)
        before, present = (Overlaps(known.values(), lambda row: row.span) for known in (older, found))
        for record in revision.open:
            # A gap that was not examined keeps its earlier values.
            known = (present.over(record.span) or before.over(record.span))[0]
            rows.append(_revised(known, record, snapshot.now))
        for record in revision.filled:
            filled = _revised(before.over(record.span)[0], record, snapshot.now)
            rows.append(replace(filled, status=GapStatus.FILLED, error=None, closed_at=snapshot.now))
    with stores.catalog.write() as connection:
        gap_records.replace_open(connection, touched, rows)


def _revised(known: GapRow, record: GapRecord, now: int) -> GapRow:
    """Return the row of a gap with the span and the age of its revised record."""
    return replace(
        known,
        span=record.span,
        missing_candles=slots((record.span,), known.series.interval),
        overflow_candles=overflow(record.span, known.series.interval, now),
        detected_at=record.detected_at,
    )
