"""What this project needs for the work, through the functions that runs call."""

from __future__ import annotations

import math
import shutil
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator

import polars as pl

from benchmarks.catalogs import INTERVALS as CATALOG_INTERVALS
from benchmarks.catalogs import MONTHS
from benchmarks.questdb import warmed
from benchmarks.side import NOW, RANGES, RECONCILED, WEEK, Given, Measurement, frames, on_disk, run, sent
from benchmarks.startup import (
    seconds_of,
    start_explain,
    start_export,
    start_gaps,
    start_help,
    start_report,
    start_status,
)
from kraken_pipeline.coverage.gaps import missing
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.kraken.replies import TradeRow
from kraken_pipeline.kraken.trades import FULL_PAGE, TradesPage, page_trades
from kraken_pipeline.market.bars import Bars
from kraken_pipeline.market.candle import time_from_seconds
from kraken_pipeline.market.interval import INTERVALS, Interval
from kraken_pipeline.market.pair import Pair
from kraken_pipeline.market.resample import fold_trades, resample
from kraken_pipeline.market.series import Series
from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.catalog.states import FileStatus
from kraken_pipeline.storage.records import proof_records
from kraken_pipeline.storage.records.evidence_records import CoverageRecord
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow import publish as publishing
from kraken_pipeline.workflow.gaps.gaps import expected, find_gaps
from kraken_pipeline.workflow.gaps.snapshot import CatalogSnapshot
from kraken_pipeline.workflow.ingest import ingest as ingesting
from kraken_pipeline.workflow.ingest.scan import scan
from kraken_pipeline.workflow.page.report_page import write_page
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reading.export import ExportFormat, export_pairs
from kraken_pipeline.workflow.reading.request import ReadRequest
from kraken_pipeline.workflow.reading.scan import scan_candles
from kraken_pipeline.workflow.reconcile.reconcile import reconcile_changes
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.verify.verification import verify

_WINDOW = math.lcm(*(interval.seconds for interval in INTERVALS))
"""Seconds, 105 days: the shortest time that is made of whole candles of every interval."""


def ingest(given: Given) -> Measurement:
    """Archives into an empty home: found, hashed, parsed, validated, stored, on record, covered."""
    spec = run_spec(archive_dirs=[given.source], api_backfill=False)
    with opened(_settings(given)) as stores:
        began = time.perf_counter()
        tasks = scan(stores, spec, NOW).tasks
        outcomes = ingesting.ingest(stores, spec, tasks, RunContext("benchmark", NOW))
        seconds = time.perf_counter() - began
    assert outcomes
    assert all(each.status is FileStatus.COMPLETED and not each.rows_rejected for each in outcomes)
    return Measurement(sum(each.rows for each in outcomes), seconds)


def fold(given: Given) -> Measurement:
    """Trades to one-minute candles as they come, and these to every coarser interval; none of it is kept."""
    reading = 0.0

    def chunks() -> Iterator[pl.DataFrame]:
        nonlocal reading
        began = time.perf_counter()
        for trades in frames(given):
            reading += time.perf_counter() - began
            yield trades
            began = time.perf_counter()
        reading += time.perf_counter() - began

    counted: Counter[Interval] = Counter()
    began = time.perf_counter()
    for minutes in _windows(fold_trades(chunks())):
        made = {Interval.M1: minutes}
        for interval in INTERVALS[1:]:
            made[interval] = resample(made[interval.finer[0]], interval)
        counted.update({interval: int(candles["trade_count"].sum()) for interval, candles in made.items()})
    seconds = time.perf_counter() - began - reading
    assert counted == dict.fromkeys(INTERVALS, given.size)
    return Measurement(given.size, seconds)


def _windows(minutes: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Candles in order, never cut within a candle of any interval, as the lake gives them out to be resampled."""
    held: list[pl.DataFrame] = []
    for frame in minutes:
        both = pl.concat([*held, frame])
        last = int(both["time"].dt.epoch("s")[-1])
        is_over = pl.col("time") < time_from_seconds(pl.lit(last // _WINDOW * _WINDOW))
        if (over := both.filter(is_over)).height:
            yield over
        held = [both.filter(~is_over)]
    yield from held


def page(given: Given) -> Measurement:
    """Pages of trades to one-minute candles; the rows are in memory, as they are once a reply is parsed."""
    ticks, rows = _rows(given)
    wanted = Span(Interval.M1.floor(int(rows[0][2])), Interval.M1.floor(int(rows[-1][2])) + Interval.M1.seconds)

    def fetch(since: int) -> TradesPage:
        first = bisect_left(ticks, since)
        some = rows[first : first + FULL_PAGE]
        return TradesPage(some, ticks[first + len(some) - 1], NOW, f"Trades since {since}")

    began = time.perf_counter()
    counted = sum(folded.trades for folded in page_trades(fetch, wanted))
    seconds = time.perf_counter() - began
    assert counted == given.size
    return Measurement(counted, seconds)


def _rows(given: Given) -> tuple[list[int], list[TradeRow]]:
    """The time of every trade in nanoseconds, and its row as a reply has it."""
    ticks: list[int] = []
    rows: list[TradeRow] = []
    for trades in frames(given):
        for time_us, price, volume in trades.with_columns(pl.col("time").dt.epoch("us")).iter_rows():
            ticks.append(time_us * 1_000)
            rows.append((price, volume, time_us / 1e6, "b", "m", "", len(rows) + 1))
    return ticks, rows


def detect_gaps(given: Given) -> Measurement:
    """What each series should have and has not."""
    snapshot, spec = _snapshot(given.size), run_spec()
    began = time.perf_counter()
    gaps = {}
    for pair in snapshot.pairs:
        for interval in spec.intervals:
            series = Series(pair, interval)
            gaps[series] = missing(expected(snapshot, spec, series), snapshot.covered(series))
    seconds = time.perf_counter() - began
    assert all(len(each) == RANGES for each in gaps.values())
    return Measurement(len(gaps), seconds)


def route_gaps(given: Given) -> Measurement:
    """The gaps of each series with their routes and the archives to fetch, as plans and reports have them."""
    snapshot = _snapshot(given.size)
    with opened(_settings(given)) as stores:
        began = time.perf_counter()
        gaps = find_gaps(stores, run_spec(), snapshot)
        seconds = time.perf_counter() - began
    assert len(gaps) == RANGES * len(snapshot.coverage)
    return Measurement(len(snapshot.coverage), seconds)


def reconcile(given: Given) -> Measurement:
    """Every interval of every pair compared with the next, and the proof put on record."""
    shutil.copytree(given.source, given.scratch / "home")
    with opened(load_settings(_env_file=None, kraken_pipeline_home=given.scratch / "home")) as stores:
        pairs = [pair.name for pair in stores.lake.asset_ids.pairs()]
        began = time.perf_counter()
        done = reconcile_changes(stores, pairs, RunContext("benchmark", NOW))
        seconds = time.perf_counter() - began
        with stores.catalog.read() as connection:
            proven = proof_records.proven(connection)
    assert (done.refuted, done.conflicts) == (0, 0)
    assert len(proven) == len(pairs) * len(RECONCILED)
    return Measurement(given.size, seconds)


def verify_whole(given: Given) -> Measurement:
    """Every byte of a lake compared with the manifest."""
    return _verified(given, quick=False)


def verify_quickly(given: Given) -> Measurement:
    """Size and footer of every file of a lake compared with the manifest."""
    return _verified(given, quick=True)


def _verified(given: Given, *, quick: bool) -> Measurement:
    with opened(load_settings(_env_file=None, kraken_pipeline_home=given.source)) as stores:
        began = time.perf_counter()
        done = verify(stores, run_spec(), RunContext("benchmark", NOW), quick=quick)
        seconds = time.perf_counter() - began
    assert done.status == "ok"
    return Measurement(done.files, seconds, f"{done.bytes / 2**20:,.0f} MiB in {seconds:.2f} s")


def scan_week(given: Given) -> Measurement:
    """A week of every pair of a lake, lazily."""
    settings = load_settings(_env_file=None, kraken_pipeline_home=given.source)
    names = [f"Q{number:03}USD" for number in range(given.size)]
    began = time.perf_counter()
    rows = scan_candles(names, Interval.H1, *WEEK, settings=settings).collect().height
    seconds = time.perf_counter() - began
    assert rows == 7 * 24 * given.size
    return Measurement(given.size, seconds)


def export_lake(given: Given) -> Measurement:
    """Every pair of a lake into a Parquet file of its own."""
    names = [f"Q{number:03}USD" for number in range(given.size)]
    with opened(load_settings(_env_file=None, kraken_pipeline_home=given.source)) as stores:
        began = time.perf_counter()
        request = ReadRequest(Bars.parse(Interval.H1))
        done = list(export_pairs(stores, names, [request], given.scratch, ExportFormat.PARQUET))
        seconds = time.perf_counter() - began
    return Measurement(sum(its.candles for its in done), seconds)


def make_page(given: Given) -> Measurement:
    """The page of the completeness report, from a catalog that has everything on record."""
    import matplotlib.image  # noqa: F401, PLC0415 - imports are not timed, and the other figures need none of it

    shutil.copytree(given.source, given.scratch / "home")
    path = given.scratch / "report.html"
    with opened(load_settings(_env_file=None, kraken_pipeline_home=given.scratch / "home")) as stores:
        spec = run_spec(intervals=list(CATALOG_INTERVALS))
        began = time.perf_counter()
        page = write_page(stores, spec, NOW, path)
        seconds = time.perf_counter() - began
    assert page.report.overall.pairs == given.size
    return Measurement(
        given.size * len(CATALOG_INTERVALS) * MONTHS.count, seconds, f"the page has {page.size / 1000:,.0f} kB"
    )


def list_gaps(given: Given) -> Measurement:
    """`gaps --json` of everything, as a command, in seconds of CPU."""
    return _command(given, "gaps", "--json")


def print_report(given: Given) -> Measurement:
    """`report` of everything, as a command, in seconds of CPU."""
    return _command(given, "report")


def _command(given: Given, *words: str) -> Measurement:
    seconds, printed = seconds_of(given.source, "-m", "kraken_pipeline", *words)
    assert printed
    return Measurement(len(INTERVALS) * given.size, seconds, f"{len(printed) / 1000:,.0f} kB of output")


def publish(given: Given) -> Measurement:
    """A lake to QuestDB, through the outbox, until all of it is applied."""
    (given.scratch / "home").mkdir()
    (given.scratch / "home" / "lake").symlink_to(given.source / "lake")
    shutil.copy(given.source / "catalog.sqlite", given.scratch / "home")  # a lake without its manifest is not read
    with warmed(given.scratch, sent(given.source, 1)) as (server, _):
        settings = load_settings(
            _env_file=None,
            kraken_pipeline_home=given.scratch / "home",
            kraken_questdb_url=server.http_url,
            kraken_questdb_pg_url=server.pg_url,
        )
        with opened(settings) as stores:
            publishing.enqueue_everything(stores, NOW)
            began = time.perf_counter()
            done = publishing.publish(stores, RunContext("benchmark", NOW))
            seconds = time.perf_counter() - began
            assert not done.failed
            assert not done.pending
            assert publishing.differences(stores) == []
        there = on_disk(server.data / "db", "candles_1h~*")
        here = on_disk(given.source / "lake", "*")
        told = f"{here / done.candles:.0f} bytes a candle in the lake, {there / done.candles:.0f} in QuestDB"
    return Measurement(done.candles, seconds, told)


def _settings(given: Given) -> Settings:
    return load_settings(_env_file=None, kraken_pipeline_home=given.scratch, kraken_settle_seconds=0)


def _snapshot(pairs: int) -> CatalogSnapshot:
    """What a catalog of so many pairs knows: ten intervals of each, covered in ranges of 50 candles."""
    listed = [Pair(f"Q{number}USD", f"Q{number}", "USD") for number in range(pairs)]
    first_known = {pair.name: 1_380_000_000 + number % 40 * 1_000_000 for number, pair in enumerate(listed)}
    return CatalogSnapshot(
        now=NOW,
        pairs={pair.name: pair for pair in listed},
        coverage={
            Series(pair.name, interval): _covered(first_known[pair.name], interval)
            for pair in listed
            for interval in INTERVALS
        },
        extents={},
        attempts={},
        rates={},
        containers=[],
        listings={},
        failed=(),
        published_until=NOW,
        first_known=first_known,
    )


def _covered(first: int, interval: Interval) -> list[CoverageRecord]:
    length = 50 * interval.seconds
    starts = (interval.floor(first) + 2 * length * number for number in range(RANGES))
    return [CoverageRecord(Span(start, start + length), "CSV", 50, NOW) for start in starts]


if __name__ == "__main__":
    run(
        (
            ingest,
            fold,
            page,
            detect_gaps,
            route_gaps,
            make_page,
            list_gaps,
            print_report,
            start_help,
            start_gaps,
            start_report,
            start_explain,
            start_export,
            start_status,
            reconcile,
            verify_whole,
            verify_quickly,
            publish,
            scan_week,
            export_lake,
        )
    )
