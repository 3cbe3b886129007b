"""Writing: candles are merged with those of the lake into files beside it, which a commit moves into place."""

from __future__ import annotations

import io
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256

import polars as pl

from kraken_pipeline.coverage.ranges import Spans
from kraken_pipeline.errors import DamagedFile
from kraken_pipeline.market.candle import IS_ACCOUNT, Source, contradicting, merge, outvoted, seconds_in
from kraken_pipeline.market.flow import filled, overturned, unheeded
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.lake.files import Put, Version
from kraken_pipeline.storage.lake.inspection import DIGEST, ROWS, WRITE_ID
from kraken_pipeline.storage.lake.lake import Lake, ledger_folder, year_meets
from kraken_pipeline.storage.lake.row_digest import row_digest
from kraken_pipeline.storage.lake.staged import (
    LEDGER_SCHEMA,
    Lost,
    Move,
    Staged,
    changed_rows,
    count_alike,
    count_changed,
    count_outdone,
    count_refused,
    find_disputes,
    note_added,
    note_enriched,
    split_enriched,
    without_resampled,
)
from kraken_pipeline.storage.lake.stored_series import NO_CANDLES, StoredSeries, by_year, layout_for
from kraken_pipeline.storage.paths import Layout
from kraken_pipeline.storage.records.manifest import LakeFile, SeriesFiles

ROW_GROUP_ROWS = 20_000
"""Measured: a two-week slice of 100 pairs costs half as much as with one row group, for 2 % more size."""

ZSTD_LEVEL = 1
"""Measured on 5 million one-minute candles: 0.44 s and 101 MB, against 0.55 s and 105 MB with Polars' default."""


class CandleWriter:
    """A writer that stages one series: `add` frames in order of time, then `finish`.

    Up to `stored_series.WHOLE_ROWS` candles are collected and merged at once. Of more than that, a complete year is
    written and synced while the next one is read: with 5 million rows in ten years, that saves a quarter of the total
    time. The last file, which for most series is the only one, is synced by the commit, with those of other series.

    If the merged candles are to be in another layout than the stored ones, all of them are staged in that layout.

    Args:
        lake: The lake.
        series: The series.
        origin: The origin of the candles, for display and for the ledger.
        now: The time of the run, in seconds since the epoch.
        remade: The spans in which the offered candles were resampled and replace all earlier resampled ones. A
            resampled candle is no evidence of its own, and would keep what its finer candles no longer hold.
        known: The records of the series, read since its lock was acquired; None to read them now, which takes a query.
    """

    def __init__(
        self,
        lake: Lake,
        series: Series,
        *,
        origin: str,
        now: int,
        remade: Spans = (),
        known: SeriesFiles | None = None,
    ) -> None:
        self._lake = lake
        self._staged = Staged(series, origin, now)
        self._stored = StoredSeries(lake, series, lake.manifest.reread(series) if known is None else known)
        self._remade = remade
        self._open: list[pl.DataFrame] = []
        self._rows = 0
        self._is_split = self._stored.is_split
        self._year: int | None = None
        self._beside = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def add(self, candles: pl.DataFrame) -> None:
        """Add candles with the columns of `CANDLE_SCHEMA`, sorted and unique by time, later than all added before."""
        if candles.is_empty():
            return
        self._rows += candles.height
        if self._is_split:
            self._add_by_year(candles)
            return
        self._open.append(candles)
        if self._stored.fixed is None and layout_for(self._rows) is Layout.YEARS:
            self._split()

    def _split(self) -> None:
        """Stage the candles that were collected by years, and all that follow."""
        self._is_split = True
        collected, self._open = self._open, []
        for candles in collected:
            self._add_by_year(candles)

    def _add_by_year(self, candles: pl.DataFrame) -> None:
        for year, part in by_year(candles):
            if self._open and year != self._year:
                self._wait()
                self._writing = self._beside.submit(self._write_durably, self._year, self._open)
                self._open = []
            self._year = year
            self._open.append(part)

    def _write(self, year: int | None, candles: list[pl.DataFrame]) -> None:
        _stage_partition(self._lake, self._stored, year, candles, self._staged, self._remade)

    def _write_durably(self, year: int | None, candles: list[pl.DataFrame]) -> None:
        self._write(year, candles)
        self._staged.sync(self._lake.files)

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def finish(self) -> Staged:
        """Write the rest and return the staged write, ready to be committed or discarded."""
        if not self._is_split and self._is_too_large_for_one_file():
            self._split()
        self._wait()
        self._beside.shutdown()
        opened, self._open = self._open, []
        if opened:
            self._write(self._year, opened)
        if self._is_split:
            self._stage_other_years()
        elif not opened and self._stored.files and (self._remade or self._stored.is_misplaced):
            self._write(None, [NO_CANDLES])
        self._stored.retire(self._staged)
        return self._staged

    def _is_too_large_for_one_file(self) -> bool:
        """Return whether the collected candles and the stored ones together are more than fit one file."""
        if self._stored.fixed is not None or not (self._open or self._stored.is_misplaced):
            return False
        stored = without_resampled(self._stored.all(), self._remade)
        most = stored.height + self._rows
        return layout_for(most) is Layout.YEARS and layout_for(_unique_times(stored, *self._open)) is Layout.YEARS

    def _stage_other_years(self) -> None:
        """Stage the years without an offered candle that the remade spans meet, or that are to be in another file."""
        for year in self._stored.years:
            is_met = any(year_meets(year, span.start, span.end) for span in self._remade)
            if year not in self._staged.years and (is_met or not self._stored.is_at(year)):
                self._write(year, [NO_CANDLES])
        self._staged.times = self._staged.times.sort()

    def discard(self) -> None:
        """Discard all that was added: nothing of it reaches the lake."""
        self._beside.shutdown()
        self._open = []
        self._staged.discard()


def _unique_times(*frames: pl.DataFrame) -> int:
    return pl.concat(frame["time"] for frame in frames).n_unique()


def _stage_partition(
    lake: Lake,
    before: StoredSeries,
    year: int | None,
    offered: list[pl.DataFrame],
    staged: Staged,
    remade: Spans = (),
) -> None:
    """Merge frames, in order of time, into the stored candles of a year, or all for None, and write the result."""
    candles = pl.concat(offered, rechunk=False) if len(offered) > 1 else offered[0]
    stored = before.of(year)
    staying = without_resampled(stored, remade)
    gone = stored.height - staying.height
    # Candles after all stored ones, as in most updates and every page of trades, contradict none of them.
    # Comparing a year of minutes row by row would take most of the time and memory of such a write.
    is_appended = not (gone or candles.is_empty()) and (stored.is_empty() or stored["time"][-1] < candles["time"][0])
    merged = merge(staying, candles)
    changed, enriched = candles, candles.clear()
    if not is_appended:
        changed = changed_rows(stored, merged)
        if (turned := overturned(stored, changed)).len():
            merged = _recalled(lake, staged.series, merged, turned)
            changed = changed_rows(stored, merged)
        changed, enriched = split_enriched(stored, changed)
        replaced = stored.join(changed.select("time"), on="time", how="semi", maintain_order="left")
        if gone:
            vanished = stored.join(merged.select("time"), on="time", how="anti", maintain_order="left")
            replaced, changed = (pl.concat([frame, vanished]).sort("time") for frame in (replaced, changed))
        refused = contradicting(merged, candles)
        if (apart := unheeded(merged, candles, is_account=IS_ACCOUNT)).height:  # the ledger keeps their flow
            others = apart.join(refused.select("time"), on="time", how="anti")
            refused = pl.concat([refused, others]).sort("time")
        _stage_losers(lake, staged, {Lost.REPLACED: replaced, Lost.REFUSED: refused})
        count_refused(staged, outvoted(merged, refused))
        if candles.height and candles["source"][0] == Source.CSV.value:
            count_outdone(staged, outvoted(merged, replaced.filter(pl.col("source") == Source.CSV.value)))
        count_alike(staged, stored, candles, year)
        find_disputes(staged, stored, candles, replaced, merged)
    times = seconds_in(merged)
    if changed.height or enriched.height or not before.is_at(year):
        path = before.path(year)
        stage_file(lake, staged, merged, path, year, times, replaces=before.version(path))
    if changed.height:
        count_changed(staged, changed.height, times if changed is merged else seconds_in(changed))
        note_added(staged, stored, merged)
    note_enriched(staged, enriched)
    staged.times = staged.times.append(times)
    staged.years = (*staged.years, year)


def _recalled(lake: Lake, series: Series, merged: pl.DataFrame, turned: pl.Series) -> pl.DataFrame:
    """Return merged candles with the flow that the ledger has of some of them.

    A candle that replaces another of the same trade count may have been told before by an account that lost to the
    replaced one. Its flow then lies in the ledger, and without it the order of arrival would decide.
    """
    try:
        told = lake.replaced(series, int(turned[0]), int(turned[-1]) + 1)
    except DamagedFile:
        return merged
    is_about_them = seconds_in(told).is_in(turned.implode())
    return filled(merged, told.filter(is_about_them, pl.col("lost") != Lost.WITHDRAWN.value), is_account=IS_ACCOUNT)


def stage_removal(lake: Lake, series: Series, gone: pl.DataFrame, *, origin: str, now: int) -> Staged:
    """Stage a series without some of its candles, which go into the ledger as withdrawn.

    Args:
        lake: The lake.
        series: The series.
        gone: The candles, as the lake has them.
        origin: The reason, for the ledger.
        now: The current time, in seconds since the epoch.
    """
    stored = StoredSeries(lake, series, lake.manifest.reread(series))
    staged = Staged(series, origin, now)
    try:
        for year, path in stored.files.items():
            leaving = gone if year is None else gone.filter(pl.col("time").dt.year() == year)
            if leaving.is_empty():
                continue
            rest = stored.read(path).join(leaving.select("time"), on="time", how="anti", maintain_order="left")
            _stage_losers(lake, staged, {Lost.WITHDRAWN: leaving})
            stage_file(lake, staged, rest, path, year, replaces=stored.version(path))
            count_changed(staged, leaving.height, seconds_in(leaving))
            staged.times = staged.times.append(seconds_in(rest))
            staged.years = (*staged.years, year)
    except BaseException:
        staged.discard()
        raise
    staged.retired = stored.left_over
    return staged


def _stage_losers(lake: Lake, staged: Staged, losers: Mapping[Lost, pl.DataFrame]) -> None:
    """Write the losing candles to a file of the ledger, which is moved before the candles that replace them."""
    frames = [
        lost.with_columns(pl.lit(how.value, LEDGER_SCHEMA["lost"]).alias("lost"))
        for how, lost in losers.items()
        if lost.height
    ]
    if frames:
        origin_columns = (pl.lit(staged.origin).alias("by"), pl.lit(staged.now, pl.Int64).alias("at"))
        # The clock, not the time of the run, because the writes of a run have to stay in order.
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:12]}.parquet"
        stage_file(
            lake,
            staged,
            pl.concat(frames).sort("time", maintain_order=True).with_columns(origin_columns),
            f"{ledger_folder(staged.series)}/{name}",
        )


def stage_file(
    lake: Lake,
    staged: Staged,
    rows: pl.DataFrame,
    path: str,
    year: int | None = None,
    times: pl.Series | None = None,
    *,
    replaces: Version | None = None,
) -> None:
    """Write a file beside the lake and add it to a staged write, with its record for the manifest.

    Args:
        lake: The lake.
        staged: The staged write.
        rows: The rows of the file, in order of time.
        path: The destination of the file.
        year: The year of the candles; None for a file of all years, and for the ledger.
        times: The start of each row, in seconds since the epoch, if the caller has them already.
        replaces: The version of the object at that path; None where there is none, and in a folder.
    """
    name = uuid.uuid4().hex
    written = lake.scratch / f"{name}.parquet"
    write_id, digest = f"{time.time_ns():020d}-{name[:12]}", row_digest(rows)
    packed = io.BytesIO()  # a year of minutes takes 14 MB; Polars writes and hashes a small file faster from memory
    rows.write_parquet(
        packed,
        row_group_size=ROW_GROUP_ROWS,
        compression_level=ZSTD_LEVEL,
        metadata={WRITE_ID: write_id, ROWS: str(rows.height), DIGEST: digest},
    )
    try:
        with written.open("xb") as stream:
            stream.write(packed.getbuffer())
    except BaseException:
        written.unlink(missing_ok=True)
        raise
    times = seconds_in(rows) if times is None else times
    file = LakeFile(
        path=path,
        series=staged.series,
        year=year,
        rows=rows.height,
        first_time=int(times[0]) if rows.height else None,
        last_time=int(times[-1]) if rows.height else None,
        bytes=packed.tell(),
        sha256=sha256(packed.getbuffer()).hexdigest(),
        digest=digest,
        write_id=write_id,
        written_at=staged.now,
    )
    staged.moves.append(Move(Put(written, path, file.sha256, replaces), file))
