"""The lake: validated candles in Parquet, a folder a series, readable by Polars, DuckDB and Spark as it is.

::

    <home>/lake/interval=60/pair=XBTUSD/candles.parquet
    <home>/lake/interval=1/pair=XBTUSD/year=2025/candles.parquet     1, 5, 15 and 30 minutes
    <home>/replaced/interval=60/pair=XBTUSD/….parquet                the ledger: what gave way, in order of their names

A file is written under `<home>/tmp`, synced and renamed, so that a reader sees the old or the new one, whole.
Whoever writes a series holds its lock from `writer` to `Staged.commit`.

The lake keeps the winner of each merge. Whoever lost stands in the ledger, beside the lake, because a stray file under
`lake/` breaks `scan_parquet(folder)`. Its file is moved before the candles that replace what it holds: a crash between
the two leaves an entry too many, which doing the write again repeats, and `replaced` gives once.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO
from urllib.parse import unquote

import polars as pl
from filelock import FileLock

from kraken_pipeline.coverage.ranges import Span, Spans, lies_in
from kraken_pipeline.market.candle import CANDLE_SCHEMA, Source, contradicting, merge, outvoted, seconds_of
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import as_datetime
from kraken_pipeline.market.pair import Pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.paths import make_folder, spelled, sync_file, sync_folder

ROW_GROUP_ROWS = 20_000
"""Measured: a two-week slice of 100 pairs costs half of what it does in one row group, for 2 % of size."""

ZSTD_LEVEL = 1
"""Measured on 5 million one-minute candles: 0.44 s and 101 MB, against 0.55 s and 105 MB at Polars' default."""

_FILE = "candles.parquet"
_ASSETS_SCHEMA = pl.Schema({"asset_id": pl.Int32(), "pair": pl.String(), "base": pl.String(), "quote": pl.String()})
ASSET_IDS_FILE = "assets.parquet"
_NOTHING = pl.DataFrame(schema=CANDLE_SCHEMA)
_BATCH_SECONDS = 366 * 86_400


class Lost(StrEnum):
    """How a candle in the ledger lost."""

    REPLACED = "REPLACED"  # it was stored, and gave way
    REFUSED = "REFUSED"  # it was offered with other prices or another trade count, and not taken
    WITHDRAWN = "WITHDRAWN"  # it was stored, and a person took it back


LEDGER_SCHEMA = pl.Schema(
    {
        **CANDLE_SCHEMA,
        "lost": pl.Enum([lost.value for lost in Lost]),
        "by": pl.String(),  # the origin of the write that caused it; of a withdrawal its reason
        "at": pl.Int64(),  # the moment of the run that did it, in seconds since the epoch
    }
)


@dataclass(slots=True)
class Staged:
    """What a write will bring into the lake, lying beside it.

    Attributes:
        series: Whose candles.
        origin: Where they come from, for people: a file's name, `OHLC of XBTUSD 60`, `resampling`.
        now: The moment of the run that writes, in seconds since the epoch.
        changed: Candles that are new or different, or gone.
        changed_span: From the first of them to the end of the last; None where nothing changes.
        times: Start of every candle that the touched partitions will hold, in seconds, sorted.
        years: The touched partitions; None for a series that is one file.
        refused: Candles offered that contradict what is kept (another trade count), and their hull.
        outdone: Candles of another archive that were kept and gave way to greater trade counts, and their hull.
        moves: Written files, each with where it goes, in the order of going.
    """

    series: Series
    origin: str
    now: int
    changed: int = 0
    changed_span: Span | None = None
    times: pl.Series = field(default_factory=lambda: pl.Series("time", [], pl.Int64()))
    years: tuple[int | None, ...] = ()
    refused: int = 0
    refused_span: Span | None = None
    outdone: int = 0
    outdone_span: Span | None = None
    moves: list[tuple[Path, Path]] = field(default_factory=list)

    def commit(self) -> None:
        """Renames the written files into the lake; each is then there whole, and durable."""
        commit_all([self])

    def discard(self) -> None:
        """Deletes what was written and not committed."""
        for written, _ in self.moves:
            written.unlink(missing_ok=True)
        self.moves.clear()


def commit_all(stages: Iterable[Staged]) -> None:
    """Commits several writes.

    First come all the renames: the first folder that is synced then takes the journal's entries of the others along,
    and each costs half of what it does alone (0.2 ms, not 0.5 ms).
    """
    changed: set[Path] = set()
    for staged in stages:
        for written, final in staged.moves:
            changed |= {final.parent, final.parent.parent}
            folder = final.parent
            while not folder.exists():
                folder = folder.parent
                changed.add(folder)
            final.parent.mkdir(parents=True, exist_ok=True)
            written.rename(final)
        staged.moves.clear()
    for folder in changed:
        sync_folder(folder)


class Lake:
    """The candles under one home."""

    def __init__(self, home: Path) -> None:
        self.root = home / "lake"
        self.ledger = home / "replaced"
        self.scratch = home / "tmp"
        self._assets_lock = home / "locks" / "assets.lock"
        for folder in (self.root, self.scratch, self._assets_lock.parent):
            make_folder(folder)

    # --- reading

    def read(self, series: Series, start: int | None = None, end: int | None = None) -> pl.DataFrame:
        """The candles that start in `[start, end)`, with the columns of `CANDLE_SCHEMA`, sorted and unique by time."""
        found = [(year, path) for year, path in self._partitions(series) if _year_meets(year, start, end)]
        if not found:
            return pl.DataFrame(schema=CANDLE_SCHEMA)
        with _scanned(path for _, path in found) as frame:
            # Of whole years there is nothing to leave out, and looking for it costs as much as reading them.
            is_cut = any(_year_is_cut(year, start, end) for year, _ in found)
            return (frame.filter(*_within(start, end)) if is_cut else frame).collect()

    def batches(self, series: Series, spans: Spans, grid: Interval) -> Iterator[pl.DataFrame]:
        """The candles in some ranges, in order, about a year at a time, never cut within a candle of `grid`."""
        for each in spans:
            at = each.start
            while at < each.end:
                until = min(each.end, grid.floor(at + _BATCH_SECONDS))
                if (frame := self.read(series, at, until)).height:
                    yield frame
                at = until

    def times(
        self,
        series: Series,
        without: Iterable[int | None] = (),
        start: int | None = None,
        end: int | None = None,
    ) -> pl.Series:
        """The start of every candle in `[start, end)`, in seconds (Int64), sorted; without those in some partitions."""
        left_out = set(without)
        paths = [
            path for year, path in self._partitions(series) if year not in left_out and _year_meets(year, start, end)
        ]
        if not paths:
            return pl.Series("time", [], pl.Int64())
        with _scanned(paths) as frame:
            return frame.filter(*_within(start, end)).select(seconds_of(pl.col("time"))).collect().to_series()

    def replaced(self, series: Series, start: int | None = None, end: int | None = None) -> pl.DataFrame:
        """What lost of the candles that start in `[start, end)`, and to what.

        Args:
            series: Whose.
            start: In seconds since the epoch; from the first on where it is None.
            end: The same, half-open.

        Returns:
            One row a loser, in the order in which they lost, with the columns of `LEDGER_SCHEMA`. What lost in the
            same way to the same origin more than once, as a file that is read again does, is one row: the first.
        """
        paths = sorted(self._ledger_folder(series).glob("*.parquet"))
        if not paths:
            return pl.DataFrame(schema=LEDGER_SCHEMA)
        with _scanned(paths) as frame:
            found = frame.filter(*_within(start, end)).collect()
        return found.unique([name for name in LEDGER_SCHEMA if name != "at"], keep="first", maintain_order=True)

    def series(self) -> list[Series]:
        """Every series that has candles, or once had, sorted."""
        found = {Series(pair, interval) for interval in Interval for pair in self._spelled_pairs(interval)}
        return sorted(found)

    def _spelled_pairs(self, interval: Interval) -> Iterator[str]:
        folder = self.root / f"interval={interval.value}"
        if folder.is_dir():
            for path in folder.iterdir():
                yield unquote(path.name.removeprefix("pair="))

    def _folder(self, series: Series) -> Path:
        return self.root / f"interval={series.interval.value}" / f"pair={spelled(series.pair)}"

    def _ledger_folder(self, series: Series) -> Path:
        return self.ledger / self._folder(series).relative_to(self.root)

    def _path(self, series: Series, year: int | None) -> Path:
        folder = self._folder(series)
        return folder / _FILE if year is None else folder / f"year={year}" / _FILE

    def _partitions(self, series: Series) -> list[tuple[int | None, Path]]:
        if not is_split_by_year(series.interval):
            path = self._path(series, None)
            return [(None, path)] if path.exists() else []
        years = sorted(int(path.parent.name.removeprefix("year=")) for path in self._folder(series).glob(f"*/{_FILE}"))
        return [(year, self._path(series, year)) for year in years]

    # --- writing

    def writer(self, series: Series, *, origin: str, now: int, remade: Spans = ()) -> CandleWriter:
        """Takes candles in order of time and stages them merged with those the lake has.

        Args:
            series: Whose.
            origin: Where they come from, for people and for the ledger.
            now: The moment of the run, in seconds since the epoch.
            remade: Where the offered ones were resampled, and take the place of what was resampled there before: such a
                candle has no say of its own, and would keep what its finer candles no longer hold.
        """
        return CandleWriter(self, Staged(series, origin, now), remade)

    def stage_partition(
        self, series: Series, year: int | None, offered: list[pl.DataFrame], staged: Staged, remade: Spans = ()
    ) -> None:
        """Merges frames, in order of time, into one partition and writes the result beside the lake."""
        path = self._path(series, year)
        candles = pl.concat(offered, rechunk=False) if len(offered) > 1 else offered[0]
        stored = pl.read_parquet(path, hive_partitioning=False) if path.exists() else _NOTHING
        staying = _without_resampled(stored, remade)
        gone = stored.height - staying.height
        # What comes after all that is there, as most updates and every page of trades do, contradicts nothing of it:
        # comparing a year of minutes row by row would cost most of the time and of the memory of such a write.
        is_appended = not (gone or candles.is_empty()) and (
            stored.is_empty() or stored["time"][-1] < candles["time"][0]
        )
        merged = merge(staying, candles)
        changed = candles if is_appended else _changed(stored, merged)
        if not is_appended:
            replaced = stored.join(changed.select("time"), on="time", how="semi", maintain_order="left")
            if gone:
                vanished = stored.join(merged.select("time"), on="time", how="anti", maintain_order="left")
                replaced, changed = (pl.concat([each, vanished]).sort("time") for each in (replaced, changed))
            refused = contradicting(merged, candles)
            self._stage_losers(staged, {Lost.REPLACED: replaced, Lost.REFUSED: refused})
            _count_refused(staged, outvoted(merged, refused))
            if candles.height and candles["source"][0] == Source.CSV.value:
                _count_outdone(staged, outvoted(merged, replaced.filter(pl.col("source") == Source.CSV.value)))
        times = _seconds(merged)
        if changed.height:
            self._stage_file(staged, merged, path)
            _count_changed(staged, changed.height, times if changed is merged else _seconds(changed))
        staged.times = staged.times.append(times)
        staged.years = (*staged.years, year)

    def stage_rest(self, staged: Staged, remade: Spans) -> None:
        """Stages the partitions in which something was remade and nothing came of it."""
        for year, _ in self._partitions(staged.series):
            if year not in staged.years and any(_year_meets(year, span.start, span.end) for span in remade):
                self.stage_partition(staged.series, year, [_NOTHING], staged, remade)

    def stage_removal(self, series: Series, gone: pl.DataFrame, *, origin: str, now: int) -> Staged:
        """Stages a series without some of its candles, which go into the ledger as withdrawn.

        Args:
            series: Whose.
            gone: The candles, as the lake has them.
            origin: Why, for the ledger.
            now: The moment, in seconds since the epoch.
        """
        staged = Staged(series, origin, now)
        try:
            for year, path in self._partitions(series):
                leaving = gone if year is None else gone.filter(pl.col("time").dt.year() == year)
                if leaving.is_empty():
                    continue
                stored = pl.read_parquet(path, hive_partitioning=False)
                rest = stored.join(leaving.select("time"), on="time", how="anti", maintain_order="left")
                self._stage_losers(staged, {Lost.WITHDRAWN: leaving})
                self._stage_file(staged, rest, path)
                _count_changed(staged, leaving.height, _seconds(leaving))
                staged.times = staged.times.append(_seconds(rest))
                staged.years = (*staged.years, year)
        except BaseException:
            staged.discard()
            raise
        return staged

    def _stage_losers(self, staged: Staged, losers: Mapping[Lost, pl.DataFrame]) -> None:
        """Writes what loses into a file of the ledger; it is moved before the candles that it lost to."""
        frames = [
            lost.with_columns(pl.lit(how.value, LEDGER_SCHEMA["lost"]).alias("lost"))
            for how, lost in losers.items()
            if lost.height
        ]
        if frames:
            told = (pl.lit(staged.origin).alias("by"), pl.lit(staged.now, pl.Int64).alias("at"))
            # By the clock, not by the run's moment: the writes of a run have to stay in their order.
            name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:12]}.parquet"
            self._stage_file(
                staged,
                pl.concat(frames).sort("time", maintain_order=True).with_columns(told),
                self._ledger_folder(staged.series) / name,
            )

    def _stage_file(self, staged: Staged, rows: pl.DataFrame, path: Path) -> None:
        written = self.scratch / f"{uuid.uuid4().hex}.parquet"
        staged.moves.append((written, path))
        rows.write_parquet(written, row_group_size=ROW_GROUP_ROWS, compression_level=ZSTD_LEVEL)
        sync_file(written)

    # --- asset ids

    def assets(self) -> pl.DataFrame:
        """Every pair the lake ever held: `asset_id`, `pair`, `base`, `quote`. Ids are never reused."""
        path = self.root / ASSET_IDS_FILE
        if not path.exists():
            return pl.DataFrame(schema=_ASSETS_SCHEMA)
        with _scanned([path]) as frame:
            return frame.collect()

    def register(self, pairs: Iterable[Pair]) -> list[Pair]:
        """Gives an id to every pair that has none; returns those that are new."""
        wanted = {pair.name: pair for pair in pairs}
        known = set(self.assets()["pair"])
        if wanted.keys() <= known:
            return []
        with FileLock(self._assets_lock, timeout=60, is_singleton=False):
            assets = self.assets()
            known = set(assets["pair"])
            new = [pair for name, pair in sorted(wanted.items()) if name not in known]
            if not new:
                return []
            first = int(assets.select(pl.col("asset_id").max().fill_null(0)).item()) + 1
            rows = {
                "asset_id": range(first, first + len(new)),
                "pair": [pair.name for pair in new],
                "base": [pair.base for pair in new],
                "quote": [pair.quote for pair in new],
            }
            written = self.scratch / f"{uuid.uuid4().hex}.parquet"
            pl.concat([assets, pl.DataFrame(rows, schema=_ASSETS_SCHEMA)]).write_parquet(written)
            sync_file(written)
            written.rename(self.root / ASSET_IDS_FILE)
            sync_folder(self.root)
        return new

    def pairs(self) -> list[Pair]:
        """Every pair that has an id, by name."""
        return [Pair(row["pair"], row["base"], row["quote"]) for row in self.assets().sort("pair").to_dicts()]

    def sweep(self, before: float) -> int:
        """Deletes what a killed writer left beside the lake, if last touched before a moment (seconds)."""
        swept = 0
        for path in self.scratch.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    if path.is_dir():  # where a file out of order was being sorted
                        shutil.rmtree(path)
                    else:
                        path.unlink()
                    swept += 1
        return swept


class CandleWriter:
    """Stages one series: `add` frames in order of time, then `finish`.

    A year that is complete is written and synced beside the reading of the next one: with 5 million rows in ten years,
    that takes a quarter off the time of both. The last year, which for most files is the only one, starts no thread.
    """

    def __init__(self, lake: Lake, staged: Staged, remade: Spans) -> None:
        self._lake = lake
        self._staged = staged
        self._remade = remade
        self._open: list[pl.DataFrame] = []
        self._year: int | None = None
        self._beside = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def add(self, candles: pl.DataFrame) -> None:
        """Takes candles with the columns of `CANDLE_SCHEMA`, sorted and unique by time, later than those before."""
        if candles.is_empty():
            return
        if not is_split_by_year(self._staged.series.interval):
            self._open.append(candles)
            return
        first, last = candles["time"][0].year, candles["time"][-1].year
        for year in range(first, last + 1):
            part = candles if first == last else candles.filter(pl.col("time").dt.year() == year)
            if part.height:
                self._roll(year)
                self._open.append(part)

    def _roll(self, year: int) -> None:
        if self._open and year != self._year:
            self._wait()
            self._writing = self._beside.submit(self._write, self._year, self._open)
            self._open = []
        self._year = year

    def _write(self, year: int | None, candles: list[pl.DataFrame]) -> None:
        self._lake.stage_partition(self._staged.series, year, candles, self._staged, self._remade)

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def finish(self) -> Staged:
        """What is staged, ready to be committed or discarded."""
        self._wait()
        self._beside.shutdown()
        if self._open:
            self._write(self._year, self._open)
            self._open = []
        if self._remade:
            self._lake.stage_rest(self._staged, self._remade)
        return self._staged

    def discard(self) -> None:
        """Gives up: nothing of it will reach the lake."""
        self._beside.shutdown()
        self._open = []
        self._staged.discard()


def is_split_by_year(interval: Interval) -> bool:
    """Whether a series of this interval lies in a file a year instead of in one."""
    return interval <= Interval.M30


@contextlib.contextmanager
def _scanned(paths: Iterable[Path]) -> Iterator[pl.LazyFrame]:
    """What files hold now.

    They are opened here, once: a scan of paths opens them again to read on, and may by then find what a writer has
    put in their place.
    """
    with contextlib.ExitStack() as opened:
        files: list[IO[bytes]] = [opened.enter_context(path.open("rb")) for path in paths]
        yield pl.scan_parquet(files, hive_partitioning=False)


def _without_resampled(stored: pl.DataFrame, remade: Spans) -> pl.DataFrame:
    if not remade or stored.is_empty():
        return stored
    is_made = pl.col("source") == Source.RESAMPLED.value
    return stored.filter(~(is_made & lies_in(remade, _seconds(stored))))


def _changed(stored: pl.DataFrame, merged: pl.DataFrame) -> pl.DataFrame:
    if merged.height == stored.height and merged.equals(stored):
        return merged.clear()
    return merged.join(stored, on=merged.columns, how="anti", nulls_equal=True, maintain_order="left")


def _count_changed(staged: Staged, count: int, times: pl.Series) -> None:
    staged.changed += count
    staged.changed_span = _grown(staged.changed_span, times, staged.series.interval.seconds)


def _count_refused(staged: Staged, refused: pl.DataFrame) -> None:
    if refused.height:
        staged.refused += refused.height
        staged.refused_span = _grown(staged.refused_span, _seconds(refused), staged.series.interval.seconds)


def _count_outdone(staged: Staged, outdone: pl.DataFrame) -> None:
    if outdone.height:
        staged.outdone += outdone.height
        staged.outdone_span = _grown(staged.outdone_span, _seconds(outdone), staged.series.interval.seconds)


def _within(start: int | None, end: int | None) -> list[pl.Expr]:
    first = [] if start is None else [pl.col("time") >= as_datetime(start)]
    return first + ([] if end is None else [pl.col("time") < as_datetime(end)])


def _seconds(candles: pl.DataFrame) -> pl.Series:
    return candles["time"].dt.epoch("s")


def _grown(known: Span | None, times: pl.Series, length: int) -> Span:
    start, end = int(times[0]), int(times[-1]) + length
    return Span(min(start, known.start), max(end, known.end)) if known else Span(start, end)


def _year_is_cut(year: int | None, start: int | None, end: int | None) -> bool:
    if year is None:
        return start is not None or end is not None
    return (start is not None and as_datetime(start) > datetime(year, 1, 1, tzinfo=UTC)) or (
        end is not None and as_datetime(end) < datetime(year + 1, 1, 1, tzinfo=UTC)
    )


def _year_meets(year: int | None, start: int | None, end: int | None) -> bool:
    if year is None:
        return True
    return (start is None or as_datetime(start).year <= year) and (end is None or as_datetime(end - 1).year >= year)
