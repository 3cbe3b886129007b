"""Causes of contradictions, derived from the origin of their candles in the lake and the catalog."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import polars as pl

from kraken_pipeline.coverage.causes import Cause, CauseKind, Contradicted, Origin, causes_of
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.market.candle import Source
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import as_datetime
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import ContradictionState
from kraken_pipeline.storage.records.file_records import ContainerRecord, FileRecord
from kraken_pipeline.storage.records.proof_records import ContradictionRecord
from kraken_pipeline.storage.records.source_records import Disagreement
from kraken_pipeline.storage.stores import Stores

_DAY = 86_400


@dataclass(slots=True)
class Origins:
    """Lookup of the one archive that candles came from.

    Attributes:
        stores: The stores to read from.
        files: The ingested files of every series that is looked up.
        containers: All containers.
    """

    stores: Stores
    files: Sequence[FileRecord]
    containers: Sequence[ContainerRecord]
    _rows: dict[tuple[Series, int], pl.DataFrame] = field(default_factory=dict)

    def of(self, pair: str, suspects: Iterable[Interval], span: Span) -> Origin | None:
        """Return the common origin of all suspects in a span; None if they have none or several."""
        found = {self._of_series(Series(pair, interval), span) for interval in suspects}
        return found.pop() if len(found) == 1 else None

    def of_file(self, name: str) -> Origin | None:
        """Return the origin of a file by its name; None if no ingested file has that name."""
        file = next((file for file in self.files if file.name == name), None)
        return None if file is None else self._of_file(file)

    def _of_series(self, series: Series, span: Span) -> Origin | None:
        accounts = self._accounts(series, span)
        if len(accounts) > 1:
            return None
        files = [
            file for file in self.files if file.series == series and file.span is not None and file.span.overlaps(span)
        ]
        for source, release in accounts:
            kind = {Source.CSV: Kind.OHLCVT, Source.TRADES: Kind.TRADES}.get(Source(source))
            files = [file for file in files if file.kind == kind]
            if release:
                return self._of_release(release)
            files = [file for file in files if not self._release_of(file)]
        return self._of_file(files[0]) if len(files) == 1 else None

    def _accounts(self, series: Series, span: Span) -> set[tuple[str, int]]:
        """Return the (source, release) pairs of the candles that start in a span."""
        found: set[tuple[str, int]] = set()
        for year in range(as_datetime(span.start).year, as_datetime(span.end - 1).year + 1):
            if (series, year) not in self._rows:
                rows = self.stores.lake.read(series, *_bounds(year))
                self._rows[series, year] = rows.select(pl.col("time").dt.epoch("s"), "source", "release")
            rows = self._rows[series, year]
            first, last = (rows["time"].search_sorted(moment) for moment in (span.start, span.end))
            found |= set(rows.slice(first, last - first).select("source", "release").unique().iter_rows())
        return found

    def _release_of(self, file: FileRecord) -> int:
        ends = {container.sha256: container.end for container in self.containers}
        return (ends.get(file.container or "") or 0) // _DAY

    def _of_file(self, file: FileRecord) -> Origin:
        release = self._release_of(file)
        key = f"{file.series} {file.sha256}"
        return self._of_release(release) if release else Origin(CauseKind.FILE, key, file.name)

    def _of_release(self, release: int) -> Origin:
        names = sorted({container.name for container in self.containers if (container.end or 0) // _DAY == release})
        return Origin(CauseKind.RELEASE, str(release), " and ".join(names) or f"the release up to day {release}")


def _bounds(year: int) -> tuple[int, int]:
    first, after = (int(datetime(edge, 1, 1, tzinfo=UTC).timestamp()) for edge in (year, year + 1))
    return first, after


def suspects_of(contradiction: ContradictionRecord) -> tuple[Interval, ...]:
    """Return the intervals of a contradiction that may be wrong: one where it is known, otherwise both."""
    if contradiction.outlier is not None:
        return (contradiction.outlier,)
    if contradiction.state is ContradictionState.REFUTED and contradiction.short_side is not None:
        return (contradiction.coarse if contradiction.short_side == "coarse" else contradiction.fine,)
    return contradiction.fine, contradiction.coarse


def of_records(records: Sequence[ContradictionRecord], origins: Origins) -> list[Cause]:
    """Return the cause of each contradiction between intervals.

    The records must be all contradictions of their pairs: a cause depends on the others.
    """
    return causes_of(
        [
            Contradicted(
                record.pair,
                (record.fine, record.coarse),
                suspects_of(record),
                record.span,
                record.span.seconds > record.coarse.seconds,
                (record.fine_candle, record.coarse_candle),
                origins.of(record.pair, suspects_of(record), record.span),
            )
            for record in records
        ]
    )


def of_dispute(series: Series) -> Cause:
    """Return the cause of the disputes of a series: two of its files differ, and one is wrong."""
    return Cause(CauseKind.FILE, (str(series), "disputed"), f"files of {series}")


def of_disagreement(disagreement: Disagreement, origins: Origins) -> Cause:
    """Return the cause of a source's disagreement with the stored candles of the same interval."""
    origin = origins.of_file(disagreement.file) if disagreement.file is not None else None
    if origin is not None:
        return Cause(origin.kind, (origin.key, "counts"), origin.name)
    year = str(as_datetime(disagreement.span.start).year)
    return Cause(CauseKind.ERA, (str(disagreement.series), year, "counts"), f"{disagreement.series} in {year}")
