"""Homes to test with: a small world's archives, a run without Dagster, and what a run leaves behind, to compare."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa

from kraken_pipeline.archive_path import ArchivePath
from kraken_pipeline.coverage.ranges import Span, Spans
from kraken_pipeline.demo.archives import write_complete_zip, write_csv, write_quarterly_zip, write_trades_csv
from kraken_pipeline.demo.listing import DAY, Listing
from kraken_pipeline.demo.world import World
from kraken_pipeline.market.candle import seconds_of
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.quarter import Quarter
from kraken_pipeline.market.series import Series
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.records import dead_letters, evidence_records, gap_records
from kraken_pipeline.storage.records.gap_records import GapRow
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import pipeline
from kraken_pipeline.workflow.backfill.backfill import backfill
from kraken_pipeline.workflow.backfill.outcome import BackfillOutcome, together
from kraken_pipeline.workflow.health.dagster_health import DagsterState
from kraken_pipeline.workflow.health.health import NAMES
from kraken_pipeline.workflow.ingest.drop_folder import tidy
from kraken_pipeline.workflow.ingest.ingest import fail_broken
from kraken_pipeline.workflow.ingest.outcome import FileOutcome
from kraken_pipeline.workflow.ingest.scan import Scan, scan
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import run_spec

Q1, Q2, Q3 = Quarter(2023, 1), Quarter(2023, 2), Quarter(2023, 3)
START = Q1.end - 6 * DAY
CUT = Q3.start + 6 * DAY - 3_600
"""When the archive of the third quarter was made: at 23:00, an hour before its sixth day was over."""
NOW = Q3.start + 60 * DAY + 1_234
SPRING = World(
    7,
    (
        Listing("XBTUSD", "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 28_000.0, 0.006, 300, START),
        Listing("ADAEUR", "ADAEUR", "ADA/EUR", "ADA", "ZEUR", 6, 0.355, 55.0, 120, START, night=(2, 4)),
        Listing("ZORKUSD", "ZORKUSD", "ZORK/USD", "ZORK", "ZUSD", 4, 2.5, 0.35, 40, START + DAY + 48_977, night=(1, 8)),
    ),
    NOW,
)
"""Three pairs, of TIER1, TIER1 and TIER4, from 26 March 2023 on."""
HOURS_AND_DAYS = (Interval.H1, Interval.D1)
NO_DAEMON = DagsterState(
    is_on_server=False, queued=0, queued_since=None, not_started=0, at_work=0, heartbeats={}, needed=frozenset()
)
"""What Dagster's storage says where no run and no daemon was ever started."""
OF_DAGSTER = ("dagster", "dagster daemon", "dagster queue")
LISTED = [each for name in NAMES for each in (OF_DAGSTER if name == "dagster" else (name,))]
"""The names of the health checks of a home without servers, in their order."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """Archives of `SPRING`, of hours and days but for `minutes` and `trades`; only to read.

    Attributes:
        q1: The last six days of the first quarter.
        q2: The second quarter.
        q3: The first six days of the third, but for their last hour: it was made at 23:00.
        complete: Everything up to 2 April, a Sunday.
        minutes: XBTUSD_1.csv, from 1 July to 5 July.
        trades: XBTUSD.csv, the trades of 1 July to 3 July, with cut minutes at both ends.
    """

    q1: Path
    q2: Path
    q3: Path
    complete: Path
    minutes: Path
    trades: Path


def write_shelf(folder: Path) -> Shelf:
    """Writes the archives; takes half a second."""
    day = Q3.start
    return Shelf(
        q1=write_quarterly_zip(folder, SPRING, Q1, HOURS_AND_DAYS),
        q2=write_quarterly_zip(folder, SPRING, Q2, HOURS_AND_DAYS),
        q3=write_quarterly_zip(folder, SPRING, Q3, HOURS_AND_DAYS, cut=CUT),
        complete=write_complete_zip(folder, SPRING, Q1.end + 2 * DAY, HOURS_AND_DAYS),
        minutes=write_csv(folder, SPRING, "XBTUSD", Interval.M1, start=day, end=day + 4 * DAY),
        trades=write_trades_csv(folder, SPRING, "XBTUSD", day, day + 2 * DAY),
    )


NOBODY = "http://127.0.0.1:9"
"""Connections to the discard port are refused at once."""


def settings_of(home: Path, **more: Any) -> Settings:
    """Settings for a test: no `.env`, files taken at once, and an exchange that nobody is at, asked without waits."""
    given = {"kraken_settle_seconds": 0, "kraken_api_url": NOBODY, "kraken_api_rate": 50, "kraken_api_retry_seconds": 0}
    return Settings(_env_file=None, kraken_pipeline_home=home, **{**given, **more})


# --- a run without Dagster


@dataclass(frozen=True, slots=True)
class Done:
    """What a run did.

    Attributes:
        scanned: What the folders held.
        files: What became of each file, by name; of the last one where several have it.
        backfilled: What was resampled, and the gaps that are left; None where that was left out.
    """

    scanned: Scan
    files: Mapping[str, FileOutcome]
    backfilled: BackfillOutcome | None

    @property
    def candles_stored(self) -> int:
        """How many candles files brought."""
        return sum(outcome.candles_stored for outcome in self.files.values())


def run(
    stores: Stores,
    *paths: ArchivePath,
    now: int = NOW,
    run_id: str = "run-one",
    resampling: bool = True,
    **options: Any,
) -> Done:
    """Does what the job `ingest` does, in its order, but for the proof by ids that ends one with `complete`."""
    spec = run_spec(archive_dirs=list(paths) or None, **options)
    scanned = scan(stores, spec, now)
    moment = RunContext(run_id, now)
    fail_broken(stores, scanned.broken, moment)
    changes = pipeline.ingest_archives(stores, spec, scanned.tasks, moment, is_whole_run=resampling)
    tidy(stores)
    backfilled = backfill(stores, spec, moment, searched=changes.searched) if resampling else None
    if backfilled is not None:
        backfilled = together([changes.filled, backfilled], backfilled.gaps)
    return Done(scanned, {outcome.name: outcome for outcome in changes.files}, backfilled)


# --- what it leaves behind


def values(candles: pl.DataFrame) -> list[tuple[float, ...]]:
    """Time (seconds), open, high, low, close, volume and trade count of each candle."""
    names = ("open", "high", "low", "close", "volume", "trade_count")
    return candles.select(seconds_of(pl.col("time")), *names).rows()


def stored(stores: Stores, pair: str, interval: int, start: int | None = None, end: int | None = None) -> list[Any]:
    """The candles of a series in the lake, as `values`."""
    return values(stores.lake.read(Series(pair, Interval(interval)), start, end))


def oracle(pair: str, interval: int, start: int, end: int, world: World = SPRING) -> list[Any]:
    """What really happened, as `values`."""
    return values(world.candles(pair, Interval(interval), start, end))


def covered(stores: Stores, pair: str, interval: int) -> Spans:
    """The coverage of a series."""
    with stores.catalog.read() as connection:
        records = evidence_records.coverage_of(connection, [Interval(interval)], [pair])
    return tuple(record.span for record in records.get(Series(pair, Interval(interval)), ()))


def open_gaps(stores: Stores, pair: str, interval: int) -> list[GapRow]:
    """The open gap records of a series."""
    with stores.catalog.read() as connection:
        return gap_records.open_gaps(connection, [pair]).get(Series(pair, Interval(interval)), [])


def closed_gaps(stores: Stores, pair: str, interval: int) -> list[GapRow]:
    """The records of gaps that were filled."""
    with stores.catalog.read() as connection:
        return gap_records.closed_gaps(connection, [pair]).get(Series(pair, Interval(interval)), [])


def letters(stores: Stores) -> list[dict[str, Any]]:
    """The dead letters, the newest file first."""
    with stores.catalog.read() as connection:
        return dead_letters.listed(connection, None, None)


def rows_of(stores: Stores, table: sa.Table, *columns: str) -> list[tuple[Any, ...]]:
    """Some columns of a table of the catalog, sorted; nulls first."""
    with stores.catalog.read() as connection:
        found = connection.execute(sa.select(*(table.c[name] for name in columns))).all()
    return sorted((tuple(row) for row in found), key=lambda row: [(value is not None, value) for value in row])


def lake_of(stores: Stores) -> dict[Series, list[Any]]:
    """Every candle with all its columns, by series."""
    return {series: stores.lake.read(series).rows() for series in stores.lake.series()}


def evidence_of(stores: Stores) -> dict[str, Any]:
    """What the catalog knows that does not depend on when it was told, and by which run.

    The newest gap of a series reaches up to the moment of asking: where it ends and what it misses is left out.
    """
    where = ("pair", "interval", "start", "end")
    gaps = rows_of(stores, schema.gaps, *where, "missing_candles", "route", "required_csv_file", "status")
    ends = {(pair, interval): end for pair, interval, _, end, *_ in sorted(gaps, key=lambda gap: gap[3])}
    return {
        "coverage": rows_of(stores, schema.coverage, *where, "source", "candles"),
        "extents": rows_of(stores, schema.extents, "pair", "interval", "candles", "first_time", "last_time"),
        "grants": set(rows_of(stores, schema.grants, *where, "source", "trades")),
        "gaps": [
            (pair, interval, start, *((None, None) if end == ends[pair, interval] else (end, missing)), *others)
            for pair, interval, start, end, missing, *others in gaps
        ],
    }


def files_of(stores: Stores) -> list[tuple[Any, ...]]:
    """The catalog's records of files, without ids, runs and moments."""
    return rows_of(stores, schema.files, "name", "kind", "pair", "interval", "status", "sha256", "start", "end", "rows")


def digest_of(folder: Path) -> dict[str, str]:
    """The content of every file below a folder; without what SQLite keeps beside a database while it is open."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
        if not path.name.endswith(("-wal", "-shm"))
    }


def spans(*bounds: tuple[int, int]) -> Spans:
    """Ranges from their bounds."""
    return tuple(Span(start, end) for start, end in bounds)


def lines_of(path: Path) -> list[str]:
    """The lines of a file, without line feeds."""
    return path.read_text(encoding="utf-8").splitlines()


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    """A file of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
