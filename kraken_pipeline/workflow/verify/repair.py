"""Repair of the lake: sets damaged files aside and restores their content from the sources that are left.

Archives that still exist come first, so that candles have their true sources again. QuestDB follows, where its copy is
identical to the lost content, then resampling, then the exchange within the budget. What no source has becomes a gap.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import polars as pl

from kraken_pipeline.archive_path import ArchivePath
from kraken_pipeline.coverage.ranges import Spans
from kraken_pipeline.errors import PipelineError
from kraken_pipeline.market.candle import CANDLE_SCHEMA
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.lake.asset_ids import ASSET_IDS_FILE
from kraken_pipeline.storage.lake.row_digest import row_digest, without_release
from kraken_pipeline.storage.lake.writer import CandleWriter
from kraken_pipeline.storage.questdb.client import open_questdb
from kraken_pipeline.storage.records import damage as damages
from kraken_pipeline.storage.records import deliveries, file_records
from kraken_pipeline.storage.records.damage import Damage
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.storage.trades.months import named_in_trades
from kraken_pipeline.workflow.backfill.backfill import backfill
from kraken_pipeline.workflow.backfill.outcome import BackfillOutcome
from kraken_pipeline.workflow.ingest.ingest import fail_broken, ingest
from kraken_pipeline.workflow.ingest.outcome import FileOutcome
from kraken_pipeline.workflow.ingest.scan import scan
from kraken_pipeline.workflow.ingest.whereabouts import find_again
from kraken_pipeline.workflow.lake_write import LakeWrite, commit
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import RunSpec
from kraken_pipeline.workflow.verify.catalog_repair import broken_rows, mend_catalog
from kraken_pipeline.workflow.verify.trades import not_paged_again, set_trades_aside
from kraken_pipeline.workflow.verify.verification import Compared, Verification, selector, verify


@dataclass(frozen=True, slots=True)
class Repair:
    """The result of a repair.

    Attributes:
        verification: The damage that was found, split into repaired and remaining.
        moved: Damaged file → its new path, relative to the home.
        files: The files of archives that were read again.
        restored: The series with candles restored from QuestDB.
        backfilled: The result of resampling and fetching, with the remaining gaps; None if nothing was lost.
        notes: The steps that failed, with the reason.
        trades_lost: A sentence for each span whose trades were paged and are lost, with the command that has them paged
            again.
    """

    verification: Verification
    moved: dict[str, str]
    files: tuple[FileOutcome, ...] = ()
    restored: tuple[Series, ...] = ()
    backfilled: BackfillOutcome | None = None
    notes: tuple[str, ...] = ()
    trades_lost: tuple[str, ...] = ()


def repair(
    stores: Stores, spec: RunSpec, run: RunContext, *, quick: bool = False, compared: Sequence[Compared] = ()
) -> Repair:
    """Verify the selected series, set damaged files aside, and restore what was lost.

    Args:
        stores: The stores.
        spec: The selected pairs and intervals, the folders of archives, and the limits of requests to the exchange.
        run: The context of the run.
        quick: Whether to compare only sizes and footers instead of all bytes.
        compared: The files that groups have compared before.
    """
    mended = broken_rows(stores)
    touched = mend_catalog(stores, run.now)
    found = verify(stores, spec, run, quick=quick, compared=compared)
    is_wanted = selector(stores, spec)
    moved, left, untold = _set_aside(stores, found.damaged, run)
    verification = replace(
        found,
        damaged=tuple(left),
        repaired=(*mended, *(damage for damage in found.damaged if damage not in left)),
    )
    with stores.catalog.read() as connection:
        lost = {series for series in {*damages.waiting(connection), *touched, *untold} if is_wanted(series)}
    if not lost:
        return Repair(verification, moved, trades_lost=tuple(not_paged_again(stores, untold)))
    files = _read_again(stores, spec, lost, run)
    restored, notes = _restore(stores, lost, run)
    wanted = spec.model_copy(
        update={
            "pairs": tuple(sorted({series.pair for series in lost})),
            "intervals": tuple(sorted({series.interval for series in lost})),
            "complete": True,
            "budget": stores.settings.kraken_max_requests_per_run if spec.budget is None else spec.budget,
        }
    )
    filled = backfill(stores, wanted, run)
    gone = tuple(not_paged_again(stores, untold))
    return Repair(verification, moved, tuple(files), restored, filled, tuple(notes), gone)


def _set_aside(
    stores: Stores, damaged: Iterable[Damage], run: RunContext
) -> tuple[dict[str, str], list[Damage], dict[Series, Spans]]:
    """Move damaged files out of the lake.

    Returns:
        Their new paths, the damage that is left, and the series whose kept trades were damaged, with the time for which
        pages had answered.
    """
    moved: dict[str, str] = {}
    left: list[Damage] = []
    untold: dict[Series, Spans] = {}
    for damage in damaged:
        run.report(phase="setting aside")
        try:
            if damage.path == ASSET_IDS_FILE:
                target = _assets(stores, damage, run)
            elif named_in_trades(damage.path) is not None:
                target, series, paged = set_trades_aside(stores, damage, run)
                untold[series] = (*untold.get(series, ()), *paged)
            elif damage.series is None:
                target = stores.lake.set_aside(damage)
            else:
                target = _out_of_series(stores, damage, damage.series, run)
        except (PipelineError, OSError):
            left.append(damage)
            continue
        if target is not None:
            moved[damage.path] = target
    return moved, left, untold


def _assets(stores: Stores, damage: Damage, run: RunContext) -> str | None:
    """Synchronise the pairs' ids in the catalog with their copy in the lake, from the one that is not damaged."""
    if stores.lake.asset_ids.restore():
        damages.lift(stores.catalog, stores.lake, damage, run.now)
        return None
    target = stores.lake.set_aside(damage)
    stores.lake.asset_ids.copy()
    return target


def _out_of_series(stores: Stores, damage: Damage, series: Series, run: RunContext) -> str | None:
    """Set a file of a series aside, unless a writer has replaced it with a sound one by now."""
    with stores.locks.series([series]):
        stream, still = stores.lake.inspector.open(series, damage.path, is_whole=True)
        if stream is not None:
            stream.close()
            damages.lift(stores.catalog, stores.lake, damage, run.now)
            return None
        return stores.lake.set_aside(still or damage)


def _read_again(stores: Stores, spec: RunSpec, lost: Collection[Series], run: RunContext) -> list[FileOutcome]:
    """Read the archives again that had answered for what was lost, as far as they still exist."""
    with stores.catalog.read() as connection:
        records = file_records.pending(connection, lost)
    places: list[ArchivePath] = []
    for record in records:
        if (file := find_again(stores.settings, record)) is not None:
            places += file.container.parts if file.container is not None else [file.path]
    again = spec.model_copy(update={"archive_dirs": tuple(dict.fromkeys((*spec.archive_dirs, *places)))})
    scanned = scan(stores, again, run.now)
    fail_broken(stores, scanned.broken, run)
    tasks = [task for task in scanned.tasks if task.file.series in lost]
    run.report(files_total=len(tasks), bytes_total=sum(task.file.size for task in tasks), bytes_done=0)
    return ingest(stores, again, tasks, run)


def _restore(stores: Stores, lost: Collection[Series], run: RunContext) -> tuple[tuple[Series, ...], list[str]]:
    """Restore lost files from QuestDB where its rows are exactly their content."""
    if not stores.settings.has_questdb:
        return (), []
    restored: list[Series] = []
    try:
        with open_questdb(stores.settings) as questdb:
            for series in sorted(lost):
                for damage in _lost_files(stores, series):
                    candles = questdb.candles(series, damage.span.start, damage.span.end)
                    if _bring_back(stores, damage, series, candles, run):
                        restored.append(series)
    except PipelineError as error:
        return tuple(dict.fromkeys(restored)), [f"QuestDB restored nothing more: {error}"]
    return tuple(dict.fromkeys(restored)), []


def _lost_files(stores: Stores, series: Series) -> list[Damage]:
    """Return the damaged files of a series whose time is not covered again yet."""
    with stores.catalog.read() as connection:
        ids = {refutation.damage_id for refutation in damages.waiting(connection).get(series, [])}
        return damages.numbered(connection, ids)


def _bring_back(stores: Stores, damage: Damage, series: Series, candles: pl.DataFrame, run: RunContext) -> bool:
    with stores.catalog.read() as connection:
        delivered = deliveries.of_path(connection, damage.path)
    if delivered is None or candles.height != delivered.rows:
        return False
    rows = candles.with_columns(pl.lit(0, pl.Int32).alias("release")).select(CANDLE_SCHEMA.names())
    if without_release(row_digest(rows)) != without_release(delivered.digest):
        return False
    with stores.locks.series([series]):
        writer = CandleWriter(stores.lake, series, origin="QuestDB", now=run.now)
        writer.add(rows)
        commit(stores, [LakeWrite(writer.finish(), ())], run.now)
        # The whole content of the file is restored, so all of its grants hold again.
        damages.lift(stores.catalog, stores.lake, damage, run.now)
    return True
