"""Making a dataset release: the files of the selected series, and the certificate of what is known about them.

A pair is taken as a whole under the locks of its series: its files are linked and its evidence is read while nothing
of it can change. Files of the lake are replaced and never written to in place, so a link keeps the candles of that
moment. Only a file that has candles outside the named start and end is written anew. If no end is named, candles
after the end of coverage stay, for which no source answers: the last row of an archive that was cut in the middle.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import file_digest
from pathlib import Path
from typing import Any

import polars as pl

from kraken_pipeline.coverage.claims import SeriesClaims, SeriesTally
from kraken_pipeline.coverage.proof import NOTHING_PROVEN, Proven
from kraken_pipeline.coverage.ranges import (
    EVER,
    Span,
    Spans,
    clip,
    intersect,
    normalise,
    subtract,
    touched_candles,
    whole_candles,
)
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.candle import time_from_seconds
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import ContradictionState, DamageKind
from kraken_pipeline.storage.lake.writer import ROW_GROUP_ROWS, ZSTD_LEVEL
from kraken_pipeline.storage.paths import candles_path, sync_file, sync_folder
from kraken_pipeline.storage.records import (
    candle_records,
    damage,
    dispute_records,
    evidence_records,
    file_records,
    proof_records,
    publications,
)
from kraken_pipeline.storage.records.damage import Damage
from kraken_pipeline.storage.records.file_records import FileRecord
from kraken_pipeline.storage.records.manifest import LakeFile
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.gaps.gaps import expected
from kraken_pipeline.workflow.gaps.snapshot import CatalogSnapshot, load_snapshot
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.releases.certificate import (
    CERTIFICATE,
    FORMAT,
    SIGNATURE,
    Certificate,
    DatasetFile,
    DatasetSelection,
    claims_json,
    conflict_json,
    content_of,
    digest_of,
)
from kraken_pipeline.workflow.releases.folder import publish, require_new
from kraken_pipeline.workflow.releases.signature import signature_of
from kraken_pipeline.workflow.run_spec import RunSpec

CANDLES_FOLDER = "candles"
"""The folder of a release with its candles, in the Hive layout of the lake."""


@dataclass(frozen=True, slots=True)
class _PairEvidence:
    """What the catalog knows of the series of one pair.

    Attributes:
        coverage: Series → its covered time.
        proven: Series → its proven time, without what has changed since intervals were compared.
        conflicts: The differences that no source settles, as RELEASE.json has them.
        archives: Series → the archive files that were ingested.
    """

    coverage: Mapping[Series, Spans]
    proven: Mapping[Series, Proven]
    conflicts: Sequence[Mapping[str, Any]]
    archives: Mapping[Series, Sequence[FileRecord]]


def create_release(
    stores: Stores, name: str, spec: RunSpec, run: RunContext, *, links: bool = True, sign_with: Path | None = None
) -> Certificate:
    """Make a release of the selected series, and return its certificate.

    Args:
        stores: The stores to read from.
        name: The name of the release.
        spec: The selection: tier, pairs, intervals, start and end.
        run: The context of the run, which receives the progress.
        links: Whether files become hard links where possible.
        sign_with: The PEM file of an Ed25519 private key; None for a release without a signature.

    Raises:
        InvalidRequest: The name is wrong or taken, nothing is selected, a selected series is damaged, or the key is
            unusable. Nothing is left behind.
        Busy: Another process has been writing a selected series for a long time.
    """
    folder = require_new(stores.settings.home, name)
    if sign_with is not None:
        signature_of(b"", sign_with)  # an unusable key is an error before the work, not after it
    snapshot = load_snapshot(stores, spec, run.now)
    selection = _selection(snapshot, spec)
    scratch = stores.lake.scratch / f"release-{uuid.uuid4().hex}"
    scratch.mkdir()
    try:
        making = _Making(stores, snapshot, selection, spec, scratch, links=links)
        for pair in selection.pairs:
            making.add(pair)
            os.utime(scratch)  # so that a sweep of leftovers sees that it is at work
            run.report(phase="releasing", candles=making.rows)
        certificate = making.certificate(name, run.now)
        content = content_of(certificate)
        _write(scratch / CERTIFICATE, content)
        if sign_with is not None:
            _write(scratch / SIGNATURE, signature_of(content, sign_with))
        for at, _, _ in os.walk(scratch, topdown=False):
            sync_folder(Path(at))
        publish(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    run.report(phase="done")
    return certificate


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    sync_file(path)


# --- the selection


def _selection(snapshot: CatalogSnapshot, spec: RunSpec) -> DatasetSelection:
    """Return what a spec selects of what there is: the pairs, the intervals and the end that it leaves open.

    Raises:
        InvalidRequest: Nothing is selected, a named pair has nothing in the selected time, or the time is not over.
    """
    if spec.end is not None and spec.end > snapshot.now:
        raise InvalidRequest(f"the end {iso(spec.end)} is in the future; leave --end out for the end of coverage")
    held = {
        Series(pair, interval): spans
        for pair in snapshot.pairs
        for interval in spec.intervals
        if (spans := _held(snapshot, Series(pair, interval)))
    }
    covered = [spans[-1].end for series in held if (spans := snapshot.covered(series))]
    end = max(covered, default=None) if spec.end is None else spec.end
    start = 0 if spec.start is None else spec.start
    if end is None or start >= end:
        raise InvalidRequest(
            f"nothing is selected of {_nothing(spec)}: no time is covered; kraken-pipeline report shows what there is"
        )
    window = (Span(start, end),)
    selected = {series for series, spans in held.items() if intersect(spans, whole_candles(window, series.interval))}
    pairs = tuple(sorted({series.pair for series in selected}))
    if (without := sorted(set(spec.pairs) - set(pairs))) or not pairs:
        raise InvalidRequest(
            f"nothing is selected of {', '.join(without) or _nothing(spec)}: there is neither a candle nor coverage in "
            "that time; kraken-pipeline report shows what there is"
        )
    intervals = spec.intervals if spec.names_intervals else sorted({series.interval for series in selected})
    return DatasetSelection(str(spec.tier), pairs, tuple(intervals), spec.start, end)


def _held(snapshot: CatalogSnapshot, series: Series) -> Spans:
    """Return the time in which a series may have a candle or coverage."""
    extent = snapshot.extents.get(series)
    candles = [] if extent is None else [Span(extent.first_time, extent.last_time + series.interval.seconds)]
    return normalise((*snapshot.covered(series), *candles))


def _nothing(spec: RunSpec) -> str:
    named = ", ".join(spec.pairs) if spec.pairs else f"the pairs of {spec.tier}" if spec.tier != "ALL" else "any pair"
    return f"{named} at {', '.join(str(interval.value) for interval in spec.intervals)} minutes"


# --- the files and the claims


class _Making:
    """A release that is being made, pair by pair."""

    def __init__(
        self,
        stores: Stores,
        snapshot: CatalogSnapshot,
        selection: DatasetSelection,
        spec: RunSpec,
        scratch: Path,
        *,
        links: bool,
    ) -> None:
        self.rows = 0
        self._stores = stores
        self._selection = selection
        # Gaps are those of the end of the selection, whenever the release is made.
        self._snapshot = replace(snapshot, now=selection.end)
        self._expected = spec.selecting(start=None, end=selection.end)
        self._spec = spec
        self._scratch = scratch
        self._links = links
        self._containers = {record.sha256: record.name for record in snapshot.containers}
        self._series: list[SeriesClaims] = []
        self._files: list[DatasetFile] = []
        self._conflicts: list[Mapping[str, Any]] = []
        self._sources: list[Mapping[str, Any]] = []

    def add(self, pair: str) -> None:
        """Add the series of a pair."""
        every = [Series(pair, interval) for interval in self._selection.intervals]
        with self._stores.locks.series(every):
            self._stores.lake.manifest.reread_all(every)
            placed = {series: list(self._placed(series)) for series in every}
            evidence = self._evidence(pair, every)
        self._conflicts += evidence.conflicts
        for series in every:
            self._describe(series, placed[series], evidence)

    def _bounds(self, series: Series) -> tuple[int, int | None]:
        """Return where the selection cuts the candles of a series: the first start, and the end, None for no end."""
        interval = series.interval
        end = self._spec.end
        return interval.ceil(self._selection.window.start), None if end is None else interval.floor(end)

    def certificate(self, name: str, now: int) -> Certificate:
        """Return the certificate of what was added."""
        digest = digest_of(claims_json(self._selection, self._series))
        versions = {
            "format": str(FORMAT),
            "kraken_pipeline": importlib.metadata.version("kraken_pipeline"),
            "polars": pl.__version__,
            "catalog": self._stores.catalog.revision() or "",
        }
        return Certificate(
            digest=digest,
            name=name,
            selection=self._selection,
            series=tuple(self._series),
            files=tuple(sorted(self._files, key=lambda file: file.path)),
            conflicts=tuple(self._conflicts),
            sources=tuple(self._sources),
            versions=versions,
            made_at=now,
        )

    def _placed(self, series: Series) -> Iterator[tuple[Path, str]]:
        """Yield the files of a series, linked or copied into the release, each with its SHA-256.

        Raises:
            InvalidRequest: One of them is damaged.
        """
        lake = self._stores.lake
        known = lake.manifest.of(series)
        start, end = self._bounds(series)
        for year, path in lake.partitions(series):
            records = known.files.get(path, ())
            if records and not any(record.overlaps(start, EVER.end if end is None else end) for record in records):
                continue
            stream, wrong = lake.inspector.open(series, path)
            if wrong is not None:
                raise self._refusal(series, wrong)
            if stream is None:  # announced by a write that was killed
                continue
            target = self._scratch / CANDLES_FOLDER / candles_path(series, year).removeprefix("lake/")
            target.parent.mkdir(parents=True, exist_ok=True)
            with stream:
                if not (self._links and lake.files.link(path, target)):
                    with target.open("xb") as written:
                        shutil.copyfileobj(stream, written)
                    sync_file(target)
            sha256 = _sha256(target)
            if not _is_one_of(sha256, records):
                raise self._refusal(series, lake.inspector.damage(series, path, DamageKind.CHANGED, "has other bytes"))
            yield target, sha256

    def _refusal(self, series: Series, wrong: Damage) -> InvalidRequest:
        """Record damage, and return the error for a release of the series."""
        damage.notice(self._stores.catalog, self._stores.lake, [wrong])
        return InvalidRequest(f"{series} cannot be released: {wrong}; {wrong.action}")

    def _evidence(self, pair: str, every: Sequence[Series]) -> _PairEvidence:
        window = self._selection.window
        with self._stores.catalog.read() as connection:
            records = evidence_records.coverage_of(connection, [series.interval for series in every], [pair])
            proven = proof_records.proofs_of(connection, [pair])
            changed = publications.ranges_of(publications.marked(connection, [pair]).get(pair, ()))
            disputes = dispute_records.disputed(connection, [pair])
            contradictions = proof_records.contradictions_of(connection, [pair], (ContradictionState.CONFLICT,))
            recorded = candle_records.conflicts_of_pair(connection, pair, window)
            archives = file_records.completed(connection, [pair])
        unproven = normalise(span for spans in changed.values() for span in spans)
        conflicts = [
            conflict_json(series, conflict.span, conflict.reason, candles=conflict.candles)
            for series in every
            for conflict in recorded.get(series, ())
        ]
        conflicts += [
            conflict_json(series, contradiction.span, contradiction.reason, candles=1)
            for contradiction in contradictions
            for series in every
            if series.interval in (contradiction.fine, contradiction.coarse) and contradiction.span.overlaps(window)
        ]
        conflicts += [
            conflict_json(
                series,
                span,
                "two files of one release differ at the same trade count",
                candles=span.seconds // series.interval.seconds,
            )
            for series in every
            for span in clip(disputes.get(series, ()), window)
        ]
        by_series: dict[Series, list[FileRecord]] = {}
        for record in archives:
            by_series.setdefault(record.series, []).append(record)
        return _PairEvidence(
            coverage={series: tuple(record.span for record in found) for series, found in records.items()},
            proven={
                series: found.without(touched_candles(unproven, series.interval)) for series, found in proven.items()
            },
            conflicts=conflicts,
            archives=by_series,
        )

    def _describe(self, series: Series, placed: Sequence[tuple[Path, str]], evidence: _PairEvidence) -> None:
        """Add the claims, the files and the sources of a series; one without anything is left out."""
        window = self._claimed(series)
        covered = intersect(evidence.coverage.get(series, ()), window)
        tally = SeriesTally(series, covered)
        counts: dict[str, int] = {}
        start, end = self._bounds(series)
        for path, sha256 in placed:
            candles = pl.read_parquet(path, hive_partitioning=False)
            inside = _cut(candles, start, end)
            if inside.is_empty():
                path.unlink()
                continue
            its_sha256 = sha256 if inside.height == candles.height else _rewrite(path, inside)
            tally.add(inside)
            for source, count in inside["source"].value_counts().sort("source").iter_rows():
                counts[source] = counts.get(source, 0) + count
            self._files.append(self._file(series, path, inside, its_sha256))
        wanted = intersect(expected(self._snapshot, self._expected, series), window)
        gaps = subtract(wanted, covered)
        claims = tally.claims(gaps, evidence.proven.get(series, NOTHING_PROVEN).within(covered))
        if claims.rows or covered or gaps:
            self.rows += claims.rows
            self._series.append(claims)
            self._sources.append(self._source_json(series, counts, evidence.archives.get(series, ())))

    def _claimed(self, series: Series) -> Spans:
        """Return the time that claims about a series are made of: the selection, from the pair's first known trade on.

        An archive also answers for the years before a pair was listed. How much of that time is covered in resampled
        intervals depends on the order in which sources were ingested, and says nothing about any candle.
        """
        window = whole_candles((self._selection.window,), series.interval)
        first = self._snapshot.first_known.get(series.pair)
        return window if first is None else intersect(window, (Span(series.interval.floor(first), EVER.end),))

    def _file(self, series: Series, path: Path, candles: pl.DataFrame, sha256: str) -> DatasetFile:
        first, last = (int(time.timestamp()) for time in (candles["time"][0], candles["time"][-1]))
        return DatasetFile(
            path=path.relative_to(self._scratch).as_posix(),
            series=series,
            rows=candles.height,
            start=first,
            end=last + series.interval.seconds,
            bytes=path.stat().st_size,
            sha256=sha256,
        )

    def _source_json(self, series: Series, counts: Mapping[str, int], archives: Sequence[FileRecord]) -> dict[str, Any]:
        return {
            "pair": series.pair,
            "interval": series.interval.value,
            "candles": dict(counts),
            "archives": [
                {
                    "name": record.name,
                    "sha256": record.sha256,
                    "container": None if record.container is None else self._containers.get(record.container),
                }
                for record in archives
                if record.span is not None and record.span.overlaps(self._selection.window)
            ],
        }


def _is_one_of(sha256: str, records: Sequence[LakeFile]) -> bool:
    """Return whether a file is one on record; one from before there was a manifest has no record to differ from."""
    return not records or sha256 in {record.sha256 for record in records}


def _cut(candles: pl.DataFrame, start: int, end: int | None) -> pl.DataFrame:
    """Return the candles that start in `[start, end)`, in seconds since the epoch; unbounded where `end` is None."""
    if start == 0 and end is None:
        return candles
    within = [pl.col("time") >= time_from_seconds(pl.lit(start))]
    within += [] if end is None else [pl.col("time") < time_from_seconds(pl.lit(end))]
    return candles.filter(*within)


def _rewrite(path: Path, candles: pl.DataFrame) -> str:
    """Replace a link to a file, or its copy, by a file of some of its candles, and return its SHA-256."""
    path.unlink()
    candles.write_parquet(path, row_group_size=ROW_GROUP_ROWS, compression_level=ZSTD_LEVEL)
    sync_file(path)
    return _sha256(path)


def _sha256(path: Path) -> str:
    with path.open("rb", buffering=0) as stream:
        return file_digest(stream, "sha256").hexdigest()
