"""The manifest: the catalog's record of every file of the lake and the ledger, as it was written.

A file is announced with its digest before it is renamed to its place. After a crash, a file is therefore either the one
on record or an announced one, and any other file is damage::

    announce → rename → confirm

The candles of a series are in the files of one layout. A write that changes the layout announces the new files, and
confirms them in the transaction that turns the old ones into announced ones. So the confirmed files are of one layout
at any moment, and announced files of another one are not read: they are of a write that is not done, or to be deleted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import sqlalchemy as sa

from kraken_pipeline.coverage.ranges import Span, Spans
from kraken_pipeline.errors import StoreError
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.database import Catalog
from kraken_pipeline.storage.catalog.schema import (
    damages,
    deliveries,
    history_starts,
    lake_commits,
    lake_files,
    of_pairs,
    unadopted,
)
from kraken_pipeline.storage.catalog.seals import intact, is_intact, sealed
from kraken_pipeline.storage.paths import Layout

_PATHS = 500
_NO_INTERVAL = 0
"""The interval recorded for the copy of the pairs' ids, a lake file that belongs to no series."""


@dataclass(frozen=True, slots=True)
class LakeFile:
    """A file of the lake or of the ledger, as it was written.

    Attributes:
        path: The path relative to the home, with slashes.
        series: The series of its candles.
        year: The year of its candles; None for a file of all years, and for the ledger.
        rows: The number of candles.
        first_time: The start of the first candle, in seconds since the epoch; None where there is none.
        last_time: The start of the last candle, likewise.
        bytes: The size in bytes.
        sha256: The SHA-256 of its bytes, as hexadecimal digits.
        digest: The digest of its rows, as computed by `row_digest`.
        write_id: The id of the write; it begins with the time, so that later writes sort after earlier ones.
        written_at: The time of the write, in seconds since the epoch.
        version: The version of an object in a versioned store; empty for a file.
        is_announced: Whether it is about to be renamed to its place, or was renamed just now.
        scrubbed_at: The time when it was last read in full and found correct; None before the first time.
    """

    path: str
    series: Series
    year: int | None
    rows: int
    first_time: int | None
    last_time: int | None
    bytes: int
    sha256: str
    digest: str
    write_id: str
    written_at: int
    version: str = ""
    is_announced: bool = False
    scrubbed_at: int | None = None

    @property
    def is_candles(self) -> bool:
        """Whether it lies in the lake itself, and not in the ledger."""
        return self.path.startswith("lake/")

    @property
    def layout(self) -> Layout:
        """The layout to which its path belongs; only candles have one."""
        if self.year is None:
            return Layout.WHOLE
        return Layout.FORMER if "/year=" in self.path else Layout.YEARS

    def overlaps(self, start: int, end: int) -> bool:
        """Return whether a candle of the file may start in `[start, end)`, in seconds since the epoch."""
        return (
            self.first_time is not None
            and self.last_time is not None
            and self.first_time < end
            and start <= self.last_time
        )


@dataclass(frozen=True)
class SeriesFiles:
    """The recorded files and damage of one series.

    Attributes:
        files: Path → the file on record and the announced ones, in the lake and in the ledger.
        is_unadopted: Whether the series was written before there was a manifest, and not all its files are on record.
        damaged: Path → kind and detail of the damage that is not settled. It is kept because a changed byte shows in
            neither size nor footer.
    """

    files: Mapping[str, tuple[LakeFile, ...]]
    is_unadopted: bool
    damaged: Mapping[str, tuple[str, str]]

    @cached_property
    def layout(self) -> Layout | None:
        """The layout in which the candles are now; None where no file of candles is on record."""
        return layout_among(self.files)

    def candles(self) -> dict[str, tuple[LakeFile, ...]]:
        """Return the files that hold the candles: path → the file on record and the announced ones."""
        layout = self.layout
        return {path: its for path, its in self.files.items() if its[0].is_candles and its[0].layout is layout}

    def retired(self, layout: Layout | None) -> list[str]:
        """Return the paths of the candles that are on record in any layout but one."""
        return [path for path, its in self.files.items() if its[0].is_candles and its[0].layout is not layout]


def layout_among(files: Mapping[str, tuple[LakeFile, ...]]) -> Layout | None:
    """Return the layout of the confirmed files of candles, or of the newest announced one if none is confirmed."""
    candles = [file for its in files.values() for file in its if file.is_candles]
    confirmed = [file for file in candles if not file.is_announced]
    newest = max(confirmed or candles, key=lambda file: file.write_id, default=None)
    return None if newest is None else newest.layout


class Manifest:
    """The manifest of one lake, cached by series, for readers and writers of files.

    The cache works because most reads find the files unchanged. A caller that finds a mismatch must call `reread`
    before reporting it, because another process may have written the file since.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: dict[Series, SeriesFiles] = {}
        self._guard = threading.Lock()

    def of(self, series: Series) -> SeriesFiles:
        """Return the records of one series, as last read."""
        with self._guard:
            known = self._known.get(series)
        return known or self.reread(series)

    def reread(self, series: Series) -> SeriesFiles:
        """Return the current records of one series."""
        return self.reread_all([series])[series]

    def reread_all(self, series: Collection[Series]) -> dict[Series, SeriesFiles]:
        """Return the current records of some series; a query for all of them costs little more than for one."""
        pairs = {one_series.pair for one_series in series}
        with self._catalog.read() as connection:
            legacy = unadopted_series(connection, pairs)
            recorded = files_of(connection, series)
            damaged = _damaged(connection, pairs)
        files: dict[Series, dict[str, tuple[LakeFile, ...]]] = {}
        for path, found in recorded.items():
            files.setdefault(found[0].series, {})[path] = found
        known = {
            one_series: SeriesFiles(
                files.get(one_series, {}),
                one_series in legacy,
                damaged.get((one_series.pair, one_series.interval.value), {}),
            )
            for one_series in series
        }
        with self._guard:
            self._known |= known
        return known

    def forget(self, series: Iterable[Series]) -> None:
        """Drop the cached records of some series, because they have changed."""
        with self._guard:
            for changed in series:
                self._known.pop(changed, None)

    def series(self) -> set[Series]:
        """Return every series that is on record."""
        with self._catalog.read() as connection:
            return {
                Series(pair, Interval(interval))
                for table in (lake_files, unadopted)
                for pair, interval in connection.execute(sa.select(table.c.pair, table.c.interval).distinct())
                if interval in set(Interval)
            }


def _damaged(connection: sa.Connection, pairs: Collection[str]) -> dict[tuple[str, int], dict[str, tuple[str, str]]]:
    """Return the damage that is not settled: pair and interval → path → kind and detail."""
    columns = (damages.c.pair, damages.c.interval, damages.c.path, damages.c.kind, damages.c.detail)
    query = sa.select(*columns).where(of_pairs(damages.c.pair, pairs), damages.c.settled_at.is_(None))
    found: dict[tuple[str, int], dict[str, tuple[str, str]]] = {}
    for pair, interval, path, kind, detail in connection.execute(query):
        found.setdefault((pair, interval), {})[path] = (kind, detail)
    return found


# --- in a transaction


def announce(connection: sa.Connection, files: Iterable[LakeFile]) -> None:
    """Record files that are about to be renamed to their places, and delete the deliveries of the replaced files."""
    found = list(files)
    if not found:
        return
    connection.execute(sa.insert(lake_files), [_row(file, is_announced=True) for file in found])
    connection.execute(
        sa.delete(deliveries).where(deliveries.c.path == sa.bindparam("of_path")),
        [{"of_path": file.path} for file in found],
    )


def confirm(connection: sa.Connection, files: Iterable[LakeFile]) -> None:
    """Record that announced files were renamed to their places, and delete the records of the files they replaced."""
    keys = [{"of_path": file.path, "of_write": file.write_id} for file in files]
    if not keys:
        return
    is_path = lake_files.c.path == sa.bindparam("of_path")
    connection.execute(sa.delete(lake_files).where(is_path, lake_files.c.write_id != sa.bindparam("of_write")), keys)
    is_one = lake_files.c.write_id == sa.bindparam("of_write")
    connection.execute(sa.update(lake_files).where(is_path, is_one).values(is_announced=False), keys)


def retire(connection: sa.Connection, paths: Collection[str]) -> None:
    """Record that files no longer hold the candles of their series, because confirmed files of another layout do."""
    for some in _parts(paths):
        is_one = lake_files.c.path.in_(some)
        connection.execute(sa.update(lake_files).where(is_one).values(is_announced=True))


def adopt(connection: sa.Connection, files: Iterable[LakeFile]) -> None:
    """Record files that are already in their places, replacing earlier records of their paths."""
    found = list(files)
    strike(connection, [file.path for file in found])
    if found:
        connection.execute(sa.insert(lake_files), [_row(file, is_announced=False) for file in found])
    now = time.time_ns() // 1_000
    for series in sorted({file.series for file in found if file.is_candles}):
        begin_history(connection, series, now)  # the catalog does not know which of their candles were there before


def strike(connection: sa.Connection, paths: Collection[str]) -> None:
    """Delete the records of files that are known to be gone, and on which no coverage rests."""
    for some in _parts(paths):
        connection.execute(sa.delete(lake_files).where(lake_files.c.path.in_(some)))


def _parts(paths: Collection[str]) -> Iterator[list[str]]:
    names = sorted(paths)
    return (names[start : start + _PATHS] for start in range(0, len(names), _PATHS))


def files_of(connection: sa.Connection, series: Collection[Series]) -> dict[str, tuple[LakeFile, ...]]:
    """Return path → the file on record and the announced ones, of some series; damaged rows are left out."""
    wanted = set(series)
    query = sa.select(lake_files).where(of_pairs(lake_files.c.pair, {series.pair for series in wanted}))
    if len({series.interval for series in wanted}) == 1:
        query = query.where(lake_files.c.interval == next(iter(wanted)).interval.value)
    return {path: files for path, files in _files(connection, query).items() if files[0].series in wanted}


def all_files(connection: sa.Connection) -> dict[str, tuple[LakeFile, ...]]:
    """Return path → the file on record and the announced ones, of the whole lake."""
    return _files(connection, sa.select(lake_files))


def ledger_before(connection: sa.Connection, moment: int) -> list[str]:
    """Return the paths of the ledger files written before a moment, in seconds since the epoch."""
    is_old = lake_files.c.path.like("replaced/%") & (lake_files.c.written_at < moment)
    return list(connection.scalars(sa.select(lake_files.c.path).where(is_old, lake_files.c.is_announced.is_(False))))


def rows_of(connection: sa.Connection) -> dict[Series, int]:
    """Return the number of candles in the lake files of each series."""
    query = (
        sa.select(lake_files.c.pair, lake_files.c.interval, sa.func.sum(lake_files.c.rows))
        .where(lake_files.c.path.like("lake/interval=%"), lake_files.c.is_announced.is_(False))
        .group_by(lake_files.c.pair, lake_files.c.interval)
    )
    known = set(Interval)
    return {
        Series(pair, Interval(interval)): int(rows)
        for pair, interval, rows in connection.execute(query)
        if interval in known
    }


def _files(connection: sa.Connection, query: sa.Select[Any]) -> dict[str, tuple[LakeFile, ...]]:
    found: dict[str, list[LakeFile]] = {}
    query = query.where(lake_files.c.interval != _NO_INTERVAL)
    query = query.order_by(lake_files.c.is_announced, lake_files.c.write_id)
    for row in intact(lake_files, connection.execute(query).all()):
        file = _file(row)
        found.setdefault(file.path, []).append(file)
    return {path: tuple(files) for path, files in found.items()}


_COLUMNS = [column.name for column in lake_files.columns]
_PLACES = [_COLUMNS.index(name) for name in LakeFile.__slots__ if name not in ("path", "series")]
_INTERVALS = {interval.value: interval for interval in Interval}


def _file(row: sa.Row[Any]) -> LakeFile:
    """Convert a row by column position: by column name, 10,000 rows take twice as long."""
    values = tuple(row)
    series = Series(values[1], _INTERVALS[values[2]])
    return LakeFile(values[0], series, *(values[place] for place in _PLACES))


def _row(file: LakeFile, *, is_announced: bool) -> dict[str, Any]:
    named = {name: getattr(file, name) for name in LakeFile.__slots__ if name != "series"}
    key = {"pair": file.series.pair, "interval": file.series.interval.value}
    return sealed(lake_files, {**named, **key, "is_announced": is_announced})


def record_assets(connection: sa.Connection, path: str, content: bytes) -> None:
    """Announce the copy of the pairs' ids, which is about to be renamed to its place."""
    strike(connection, [path])
    row = {
        "path": path,
        "pair": "",
        "interval": _NO_INTERVAL,
        "year": None,
        "rows": 0,
        "digest": "",
        "first_time": None,
        "last_time": None,
        "bytes": len(content),
        "sha256": sha256(content).hexdigest(),
        "write_id": "assets",
        "written_at": int(time.time()),
        "version": "",
    }
    connection.execute(sa.insert(lake_files), [{**sealed(lake_files, row), "is_announced": True}])


def confirm_assets(connection: sa.Connection, path: str, digest: str) -> None:
    """Record that a copy of the pairs' ids was renamed to its place, unless a newer one was announced since."""
    is_one = (lake_files.c.path == path) & (lake_files.c.sha256 == digest)
    connection.execute(sa.update(lake_files).where(is_one).values(is_announced=False))


def outdate_assets(connection: sa.Connection, path: str) -> None:
    """Record, together with new ids of pairs, that their copy lacks them until another one is confirmed."""
    connection.execute(sa.update(lake_files).where(lake_files.c.path == path).values(is_announced=True))


def has_assets(connection: sa.Connection, path: str) -> bool:
    """Return whether the newest copy of the pairs' ids was renamed to its place."""
    query = sa.select(lake_files.c.is_announced).where(lake_files.c.path == path)
    return connection.scalars(query).all() == [False]


def digest_of(connection: sa.Connection, path: str) -> str | None:
    """Return the recorded SHA-256 of a file; None where there is none."""
    query = sa.select(lake_files.c.sha256).where(lake_files.c.path == path).order_by(lake_files.c.write_id.desc())
    return connection.scalars(query.limit(1)).first()


def unadopted_series(connection: sa.Connection, pairs: Collection[str] | None = None) -> set[Series]:
    """Return the series whose files were written before there was a manifest, of some pairs or of all."""
    query = sa.select(unadopted.c.pair, unadopted.c.interval).where(of_pairs(unadopted.c.pair, pairs))
    return {Series(pair, Interval(interval)) for pair, interval in connection.execute(query)}


def adopted(connection: sa.Connection, series: Sequence[Series]) -> None:
    """Record that all files of some series are in the manifest."""
    keys = [{"of_pair": one_series.pair, "of_interval": one_series.interval.value} for one_series in series]
    if keys:
        is_one = (unadopted.c.pair == sa.bindparam("of_pair")) & (unadopted.c.interval == sa.bindparam("of_interval"))
        connection.execute(sa.delete(unadopted).where(is_one), keys)


def scrubbed(connection: sa.Connection, files: Iterable[LakeFile], now: int) -> None:
    """Record that some files were read in full and found correct."""
    keys = [{"of_path": file.path, "of_write": file.write_id} for file in files]
    if keys:
        is_one = (lake_files.c.path == sa.bindparam("of_path")) & (lake_files.c.write_id == sa.bindparam("of_write"))
        connection.execute(sa.update(lake_files).where(is_one).values(scrubbed_at=now), keys)


# --- the history of the candles


@dataclass(frozen=True, slots=True)
class LakeCommit:
    """What a write added to the candles of a series, and where the candles are that it replaced or withdrew.

    Attributes:
        added: The ranges in which all candles that there are after the write were added by it.
        ledger: The paths of the files of the ledger that it wrote.
        made_at: The moment before its files were moved, in microseconds since the epoch.
    """

    added: Spans
    ledger: tuple[str, ...]
    made_at: int


def keep_history(connection: sa.Connection, made: Mapping[Series, LakeCommit]) -> None:
    """Record what writes are about to add to the candles of some series."""
    rows = [
        {
            "pair": series.pair,
            "interval": series.interval.value,
            "made_at": its.made_at,
            "added": [[span.start, span.end] for span in its.added],
            "ledger": list(its.ledger),
        }
        for series, its in made.items()
        if its.added or its.ledger
    ]
    if rows:
        connection.execute(sa.insert(lake_commits), [sealed(lake_commits, row) for row in rows])


def commits_after(connection: sa.Connection, series: Series, moment: int) -> list[LakeCommit]:
    """Return the writes to a series after a moment (microseconds since the epoch), in order.

    Raises:
        StoreError: The record of one of them is damaged.
    """
    table = lake_commits
    query = sa.select(table).where(table.c.pair == series.pair, table.c.interval == series.interval.value)
    found = []
    for row in connection.execute(query.order_by(table.c.id)).mappings():
        if not is_intact(table, row):
            raise StoreError(f"the catalog's record of a write to {series} is damaged: read it as of a later moment")
        if row["made_at"] > moment:
            added = tuple(Span(start, end) for start, end in row["added"])
            found.append(LakeCommit(added, tuple(row["ledger"]), row["made_at"]))
    return found


def history_start(connection: sa.Connection, series: Series) -> int:
    """Return the first moment as of which a series can be read, in microseconds since the epoch."""
    table = history_starts
    of_all = (table.c.pair == "") & (table.c.interval == _NO_INTERVAL)
    of_one = (table.c.pair == series.pair) & (table.c.interval == series.interval.value)
    rows = connection.execute(sa.select(table).where(of_all | of_one)).mappings().all()
    if not rows or not all(is_intact(table, row) for row in rows):
        return time.time_ns() // 1_000
    return max(int(row["starts_at"]) for row in rows)


def begin_history(connection: sa.Connection, series: Series | None, moment: int) -> None:
    """Record that a series, or all for None, cannot be read as of a moment before this one (microseconds).

    The records of the writes until then are deleted, because only reading as of an earlier moment would need them.
    """
    key = {"pair": series.pair, "interval": series.interval.value} if series else {"pair": "", "interval": _NO_INTERVAL}
    table = history_starts
    is_one = (table.c.pair == key["pair"]) & (table.c.interval == key["interval"])
    before = connection.scalar(sa.select(table.c.starts_at).where(is_one)) or 0
    connection.execute(sa.delete(table).where(is_one))
    row = {**key, "starts_at": max(moment, before)}
    connection.execute(sa.insert(table).values(sealed(table, row)))
    of_series = [lake_commits.c[name] == value for name, value in key.items()] if series else []
    connection.execute(sa.delete(lake_commits).where(lake_commits.c.made_at <= row["starts_at"], *of_series))


def shorten_history(connection: sa.Connection, given_way: Collection[str], before: int) -> None:
    """Delete the records of writes before a moment, and up to the last one whose files of the ledger are deleted.

    Nothing can be read as of a moment before the last of these writes.

    Args:
        connection: The connection.
        given_way: The paths of the deleted files of the ledger.
        before: The moment, in seconds since the epoch.
    """
    table = lake_commits
    last = connection.scalar(sa.select(sa.func.max(table.c.made_at)).where(table.c.made_at < before * 1_000_000)) or 0
    if given_way:
        gone = set(given_way)
        rows = connection.execute(sa.select(table.c.made_at, table.c.ledger).where(table.c.made_at > last))
        last = max((made_at for made_at, ledger in rows if gone.intersection(ledger)), default=last)
    if last:
        begin_history(connection, None, last)
