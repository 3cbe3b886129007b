"""Recovery of a catalog from the lake, the available archives, or an earlier catalog.

::

    record sound files → read archives again → resample → grant the remaining candles by their own rows

Archives restore the original coverage, including quiet time. Each remaining candle is evidence of its own slot only
(`coverage.recovered`); anything else becomes a gap. Candles that exist already are not written again. A recovery can be
stopped and run again; until it is complete, all other access to the home is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import sqlalchemy as sa

from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.ranges import EVER, Span, intersect, union
from kraken_pipeline.coverage.recovered import Spoken, own_grants
from kraken_pipeline.errors import DamagedFile, InvalidRequest, LastingError, StoreError
from kraken_pipeline.kraken.discovery import INGESTED_FOLDER
from kraken_pipeline.kraken.release import Kind
from kraken_pipeline.market.candle import Source
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import Pair, parse_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.copies import copy_catalog
from kraken_pipeline.storage.catalog.database import open_catalog
from kraken_pipeline.storage.catalog.states import DamageKind
from kraken_pipeline.storage.lake import loss
from kraken_pipeline.storage.lake.asset_ids import ASSET_IDS_FILE
from kraken_pipeline.storage.lake.staged import Lost
from kraken_pipeline.storage.records import evidence_records, file_records, manifest, publications
from kraken_pipeline.storage.records.damage import Damage
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.backfill.backfill import backfill
from kraken_pipeline.workflow.backfill.outcome import BackfillOutcome
from kraken_pipeline.workflow.ingest.ingest import fail_broken, ingest
from kraken_pipeline.workflow.ingest.outcome import FileOutcome
from kraken_pipeline.workflow.ingest.scan import scan
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import RunSpec
from kraken_pipeline.workflow.verify.adoption import complete_layout, sound_files
from kraken_pipeline.workflow.verify.verification import Verification, verify


@dataclass(frozen=True, slots=True)
class Recovery:
    """The result of a recovery.

    Attributes:
        adopted: The number of files of the lake that were recorded.
        candles: The number of candles in them.
        granted: The number of candles that are covered only by their own rows.
        files: The files of archives that were read again.
        backfilled: The results of resampling, with the remaining gaps: one for each set of intervals that pairs have.
        verification: The verification of the lake; None if a catalog was copied.
        copied: Table → number of rows; None unless a catalog was copied.
        notes: Other remarks for people.
    """

    adopted: int = 0
    candles: int = 0
    granted: int = 0
    files: tuple[FileOutcome, ...] = ()
    backfilled: tuple[BackfillOutcome, ...] = ()
    verification: Verification | None = None
    copied: Mapping[str, int] | None = None
    notes: tuple[str, ...] = ()


def copy_from(stores: Stores, url: str) -> Recovery:
    """Copy an earlier catalog, SQLite or PostgreSQL, into the catalog of these stores, which must be empty.

    Raises:
        InvalidRequest: The earlier catalog does not exist or is the same one, or the stores' catalog is not empty.
        StoreError: The earlier catalog is damaged.
    """
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise InvalidRequest(f"--from {url}: there is no file {parsed.database}")
    if parsed == sa.make_url(stores.settings.catalog_url):
        raise InvalidRequest("--from and KRAKEN_CATALOG_URL name the same catalog; name another one to copy")
    with closing(open_catalog(url)) as source:
        source.require_sound()
        with loss.unfinished(stores.settings.home, loss.RECOVER):
            return Recovery(copied=copy_catalog(source, stores.catalog))


def recover(stores: Stores, spec: RunSpec, run: RunContext) -> Recovery:
    """Build the catalog from the lake and the available archives; existing records are kept.

    Args:
        stores: The stores.
        spec: The folders of archives, in addition to the drop folder and those of the settings.
        run: The context of the run.

    Raises:
        InvalidRequest: A folder of archives does not exist.
    """
    spec = _with_ingested(stores, spec)
    with loss.unfinished(stores.settings.home, loss.RECOVER):
        notes = _ids(stores)
        series, pairs, strange = _named(stores)
        notes += strange
        stores.lake.asset_ids.register(pairs)
        stores.lake.asset_ids.copy()
        files, candles = _adopt(stores, series, run, notes)
        found = verify(stores, RunSpec(), run)
        read = _read_again(stores, spec, series, run)
        _mark_everything(stores, series, run)
        _fill(stores, series, run)
        granted = sum(_grant_own(stores, one_series, run, notes) for one_series in series)
        filled = _fill(stores, series, run)
        notes += _withdrawn(stores, series)
    return Recovery(files + found.adopted, candles, granted, tuple(read), filled, found, notes=tuple(notes))


def _with_ingested(stores: Stores, spec: RunSpec) -> RunSpec:
    """Return the spec with the folder of archives that were ingested from the drop folder.

    Raises:
        InvalidRequest: A folder of archives does not exist.
    """
    for folder in (*stores.settings.archive_dirs, *spec.archive_dirs):
        if not folder.exists():
            raise InvalidRequest(f"there is no file or folder {folder}; name one that holds Kraken's archives")
    ingested = stores.settings.drop / INGESTED_FOLDER
    return spec.model_copy(update={"archive_dirs": (*spec.archive_dirs, *([ingested] if ingested.is_dir() else []))})


# --- the lake


def _ids(stores: Stores) -> list[str]:
    """Adopt the ids of pairs from the lake, or set their file aside if it is unreadable; return notes."""
    if not stores.lake.asset_ids.exists():
        return []
    try:
        stores.lake.asset_ids.adopt()
    except StoreError as error:
        path = ASSET_IDS_FILE
        moved = stores.lake.set_aside(Damage(path, None, None, DamageKind.UNREADABLE, str(error)))
        return [
            f"{path} cannot be read and was moved to {moved}: pairs have new ids; with a QuestDB, kraken-pipeline "
            "publish --rebuild fills it again"
        ]
    return []


def _named(stores: Stores) -> tuple[list[Series], list[Pair], list[str]]:
    """Return the series with files in the lake, their pairs, and notes on folders that name no pair."""
    pairs: dict[str, Pair] = {}
    strange: dict[str, str] = {}
    found: list[Series] = []
    with_files = stores.lake.files.series()
    for series in sorted({*stores.lake.series(), *with_files}):
        if not (stores.lake.partitions(series) or series in with_files):
            continue
        try:
            pairs[series.pair] = parse_pair(series.pair)
        except LastingError as error:
            strange[series.pair] = f"a folder of the lake names no pair: {error}"
        else:
            found.append(series)
    return found, list(pairs.values()), list(strange.values())


def _adopt(stores: Stores, wanted: Iterable[Series], run: RunContext, notes: list[str]) -> tuple[int, int]:
    """Record the sound files of series without any record; return the number of files and of their candles."""
    count = candles = 0
    for series in wanted:
        run.report(phase="checking the lake")
        with stores.locks.series([series]):
            known = stores.lake.manifest.reread(series)
            if known.files or known.is_unadopted:
                continue  # recorded by the catalog or by a stopped recovery; `verify` adopts the rest
            files = _whole_files(stores, series, notes)
            with stores.catalog.write() as connection:
                manifest.adopt(connection, files)
            stores.lake.manifest.forget([series])
            times = stores.lake.times(series)
            with stores.catalog.write() as connection:
                evidence_records.renew(connection, {series: times})
        count += len(files)
        candles += sum(file.rows for file in files if file.is_candles)
    return count, candles


def _whole_files(stores: Stores, series: Series, notes: list[str]) -> list[manifest.LakeFile]:
    """Return the sound files of a series; those of a layout that a killed write left incomplete are set aside."""
    lake = stores.lake
    found = sound_files(stores, [*lake.files.candle_paths(series), *lake.ledger_files(series)], is_legacy=True)
    candles = [file for file in found if file.is_candles]
    layout = complete_layout(lake.files, candles)
    left = [file for file in candles if file.layout is not layout]
    for file in left:
        damage = Damage(file.path, series, file.year, DamageKind.UNKNOWN, "is of another layout")
        notes.append(
            f"{file.path} was left by a write that was killed; all its candles are in other files, and it was moved to "
            f"{lake.set_aside(damage)}"
        )
    return [file for file in found if file not in left]


# --- archives


def _read_again(stores: Stores, spec: RunSpec, series: Iterable[Series], run: RunContext) -> list[FileOutcome]:
    """Read the available archives of the series in the lake, which restores coverage and quiet time."""
    wanted = set(series)
    scanned = scan(stores, spec, run.now)
    fail_broken(stores, scanned.broken, run)
    tasks = [task for task in scanned.tasks if task.file.series in wanted]
    run.report(files_total=len(tasks), bytes_total=sum(task.file.size for task in tasks), bytes_done=0)
    with stores.locks.slot("ingest", stores.settings.kraken_parallel_runs):
        return ingest(stores, spec, tasks, run)


def _mark_everything(stores: Stores, series: Iterable[Series], run: RunContext) -> None:
    """Mark everything for reconciliation and for publication, because the records of both are lost."""
    with stores.catalog.write() as connection:
        extents = evidence_records.extents(connection)
        hulls = [
            (
                one_series,
                Span(extents[one_series].first_time, extents[one_series].last_time + one_series.interval.seconds),
            )
            for one_series in series
            if one_series in extents
        ]
        publications.enqueue(connection, hulls, run.now)
        publications.mark_for_reconciliation(connection, [(hull, EVER) for hull, _ in hulls], run.now)


def _fill(stores: Stores, series: Iterable[Series], run: RunContext) -> tuple[BackfillOutcome, ...]:
    """Resample, reconcile and record gaps, only for the intervals that the lake has of each pair."""
    intervals: dict[str, set[Interval]] = {}
    for one_series in series:
        intervals.setdefault(one_series.pair, set()).add(one_series.interval)
    groups: dict[tuple[Interval, ...], list[str]] = {}
    for pair, its in intervals.items():
        groups.setdefault(tuple(sorted(its)), []).append(pair)
    return tuple(
        backfill(stores, RunSpec(pairs=tuple(pairs), intervals=its, api_backfill=False), run)
        for its, pairs in sorted(groups.items())
    )


# --- the rows themselves


def _grant_own(stores: Stores, series: Series, run: RunContext, notes: list[str]) -> int:
    """Grant the slots of a series' candles by their own rows, and return the number of candles."""
    with stores.locks.series([series]):
        with stores.catalog.read() as connection:
            covered = evidence_records.coverage_of(connection, [series.interval], [series.pair]).get(series, [])
            grants = evidence_records.grants_of(connection, [series])
            refuted = evidence_records.refuted(connection, [series], grants).get(series, ())
            spoken = tuple(_spoken(connection, series))
        known = union(tuple(record.span for record in covered), refuted)
        granted: list[Grant] = []
        for file in _files(stores, series):
            run.report(phase="checking candles")
            try:
                rows = stores.lake.read(series, *_bounds(file))
            except DamagedFile as error:
                notes.append(str(error))
                continue
            granted += own_grants(rows, series.interval, known, spoken, file.written_at)
        if granted:
            times = {series: stores.lake.times(series)}
            with stores.catalog.write() as connection:
                evidence_records.grant_found(connection, series, granted)
                evidence_records.renew(connection, times)
                publications.mark_for_reconciliation(connection, [(series, EVER)], run.now)
    return sum(grant.span.seconds for grant in granted) // series.interval.seconds


def _files(stores: Stores, series: Series) -> list[manifest.LakeFile]:
    known = stores.lake.manifest.reread(series).candles().values()
    return [files[-1] for files in known if files[-1].rows]


def _bounds(file: manifest.LakeFile) -> tuple[int, int]:
    return int(file.first_time or 0), int(file.last_time or 0) + 1


def _spoken(connection: sa.Connection, series: Series) -> Iterable[Spoken]:
    """Yield the spans of the archives that were read, with source and release."""
    releases = {record.sha256: (record.end or 0) // 86_400 for record in file_records.all_containers(connection)}
    for record in file_records.completed(connection, [series.pair]):
        if record.series != series or record.span is None:
            continue
        source = Source.TRADES if record.kind == Kind.TRADES else Source.CSV
        for span in intersect((record.span,), (record.window,)):
            yield Spoken(source, releases.get(record.container or "", 0), span)


def _withdrawn(stores: Stores, series: Iterable[Series]) -> list[str]:
    """Return notes on withdrawn candles in the ledger, which archives may have added to the lake again."""
    with stores.catalog.read() as connection:
        is_known = connection.execute(sa.select(schema.withdrawals).limit(1)).first() is not None
    if is_known:
        return []
    notes: list[str] = []
    for one_series in series:
        lost = stores.lake.replaced(one_series).filter(pl.col("lost") == Lost.WITHDRAWN.value)
        for (reason,), rows in lost.group_by("by", maintain_order=True):
            notes.append(
                f"{rows.height:,} candles of {one_series} were withdrawn once ({reason}); if an archive brought them "
                "back: kraken-pipeline resolve"
            )
    return notes
