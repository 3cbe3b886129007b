"""Archives and an exchange with thirty defects of eight kinds: each is found and nothing else; shortages are healed."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import pytest

from kraken_pipeline.coverage.completeness import SeriesCompleteness
from kraken_pipeline.coverage.ranges import Span, subtract
from kraken_pipeline.demo.archives import COMPLETE, candles_name, write_complete_zip, write_quarterly_zip
from kraken_pipeline.demo.clock import FixedClock
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.exchange import DemoExchange
from kraken_pipeline.demo.listing import DAY, demo_listings
from kraken_pipeline.demo.world import SECOND_NS, Burst, World
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.quarter import Quarter
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.states import ContradictionState
from kraken_pipeline.storage.records import proof_records
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile.verdicts import contradicted
from kraken_pipeline.workflow.report.report import make_report
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.withdraw.resolve import resolve
from kraken_pipeline.workflow.withdraw.withdrawal import withdrawal
from kraken_pipeline_tests.support.homes import covered, oracle, rows_of, run, settings_of, stored

pytestmark = pytest.mark.slow

INTERVALS = tuple(each for each in Interval if each.in_archives and each is not Interval.M30)
Q4, Q1, Q2 = Quarter(2022, 4), Quarter(2023, 1), Quarter(2023, 2)
START = Q4.start + 61 * DAY
CUT = Q2.start + 30 * DAY
NOW = CUT + 20 * DAY + 45_296
HOUR = 3_600
WORLD = World(
    23,
    [replace(each, trades_per_day=max(60, each.trades_per_day // 8)) for each in demo_listings(START)],
    NOW,
    # Of 1,400 real pairs one trades in the last minute of each quarter: its archive covers that whole.
    bursts=[Burst("XBTUSD", (quarter.end - 30) * SECOND_NS, 3) for quarter in (Q4, Q1)],
)


def day(quarter: Quarter, number: int) -> int:
    return quarter.start + number * DAY


def busy(pair: str, interval: Interval, time: int) -> int:
    """The first candle from a moment on that has enough trades to lose half of them."""
    candles = WORLD.candles(pair, interval, time, time + 2 * DAY)
    return int(candles.filter(pl.col("trade_count") >= 4)["time"].dt.epoch("s")[0])


def planted(kind: DefectKind, pair: str, interval: Interval, time: int, quarter: Quarter) -> Defect:
    return Defect(kind, pair, interval, busy(pair, interval, time), release=candles_name(quarter))


def falsely_quiet(pair: str, interval: Interval, time: int) -> Defect:
    return Defect(DefectKind.FALSE_QUIET, pair, interval, busy(pair, interval, time))


A_DAY_MISSING = [
    planted(DefectKind.MISSING_CANDLE, "XBTUSD", Interval.D1, day(Q1, 20), Q1),
    planted(DefectKind.MISSING_CANDLE, "ETHUSD", Interval.D1, day(Q1, 33), Q1),
    planted(DefectKind.MISSING_CANDLE, "ADAEUR", Interval.D1, day(Q1, 15), Q1),
    planted(DefectKind.MISSING_CANDLE, "AAPLxUSD", Interval.D1, day(Q2, 10), Q2),
]
A_LAST_ROW_SHORT = [
    Defect(DefectKind.SHORT_CANDLE, pair, interval, quarter.end - interval.seconds, release=candles_name(quarter))
    for pair, interval, quarter in (
        ("XBTUSD", Interval.D1, Q1),
        ("XDGUSD", Interval.D1, Q4),
        ("ETHUSD", Interval.H4, Q4),
        ("ADAEUR", Interval.H12, Q1),
    )
]
A_HALF_DAY_MISSING = [
    planted(DefectKind.MISSING_CANDLE, "XBTUSD", Interval.H12, day(Q1, 40) + 12 * HOUR, Q1),
    planted(DefectKind.MISSING_CANDLE, "ETHUSD", Interval.H12, day(Q1, 50), Q1),
    planted(DefectKind.MISSING_CANDLE, "XDGUSD", Interval.H12, day(Q2, 12) + 12 * HOUR, Q2),
    planted(DefectKind.MISSING_CANDLE, "ADAEUR", Interval.H12, day(Q1, 60), Q1),
]
RELEASES_THAT_DISAGREE = [
    Defect(DefectKind.FEWER_TRADES, "XBTUSD", Interval.D1, day(Q4, 70), day(Q4, 85), release=COMPLETE),
    Defect(DefectKind.FEWER_TRADES, "ETHUSD", Interval.H4, day(Q4, 65), day(Q4, 68), release=COMPLETE),
    Defect(DefectKind.FEWER_TRADES, "XDGUSD", Interval.H1, day(Q4, 72), day(Q4, 73), release=COMPLETE),
    # Only one of the releases has it at all: the intervals tell.
    Defect(DefectKind.FEWER_TRADES, "XBTUSD", Interval.D1, day(Q2, 3), day(Q2, 9), release=candles_name(Q2)),
]
TWO_ROWS_FOR_ONE_TIME = [
    planted(DefectKind.REPEATED_TIME, "XBTUSD", Interval.H1, day(Q1, 12) + 13 * HOUR, Q1),
    planted(DefectKind.REPEATED_TIME, "ETHUSD", Interval.D1, day(Q2, 15), Q2),
    planted(DefectKind.REPEATED_TIME, "ADAEUR", Interval.H4, day(Q1, 25) + 8 * HOUR, Q1),
    planted(DefectKind.REPEATED_TIME, "XDGUSD", Interval.M15, day(Q4, 75) + 15 * HOUR, Q4),
]
SPIKES = [
    planted(DefectKind.SPIKE, "XBTUSD", Interval.H4, day(Q1, 70) + 12 * HOUR, Q1),
    planted(DefectKind.SPIKE, "ETHUSD", Interval.D1, day(Q1, 75), Q1),
    planted(DefectKind.SPIKE, "XDGUSD", Interval.M15, day(Q2, 20) + 15 * HOUR, Q2),
    planted(DefectKind.SPIKE, "ADAEUR", Interval.H1, day(Q2, 22) + 15 * HOUR, Q2),
]
SHIFTED = [
    Defect(DefectKind.SHIFTED, "AAPLxUSD", Interval.H1, release=candles_name(Q1), hours=3),
    Defect(DefectKind.SHIFTED, "XDGUSD", Interval.H4, release=candles_name(Q1), hours=8),
]
FALSELY_QUIET = [
    falsely_quiet("XBTUSD", Interval.H1, Interval.H1.floor(NOW) - 5 * DAY),
    falsely_quiet("ETHUSD", Interval.H1, Interval.H1.floor(NOW) - 6 * DAY),
    falsely_quiet("XDGUSD", Interval.M15, Interval.D1.floor(NOW) - 3 * DAY + 15 * HOUR),
    falsely_quiet("ADAEUR", Interval.M30, Interval.D1.floor(NOW) - 10 * DAY + 14 * HOUR),
]
IN_ARCHIVES = [
    *A_DAY_MISSING,
    *A_LAST_ROW_SHORT,
    *A_HALF_DAY_MISSING,
    *RELEASES_THAT_DISAGREE,
    *TWO_ROWS_FOR_ONE_TIME,
    *SPIKES,
    *SHIFTED,
]
SHORTAGES = [*IN_ARCHIVES[:-6], *FALSELY_QUIET]
FOR_A_PERSON = [*SPIKES, *SHIFTED]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was found: the intervals that it may be about, and when."""

    pair: str
    intervals: frozenset[Interval]
    span: Span
    text: str


def test_there_are_thirty_of_eight_kinds() -> None:
    assert len(SHORTAGES) + len(FOR_A_PERSON) == 30


def span_of(defect: Defect) -> Span:
    """Where a defect is; of a file that is late as a whole, with the hours that lie behind the quarter."""
    assert defect.interval is not None
    if defect.time is None:
        return Span(Q1.start, Q1.end + defect.hours * HOUR)
    return Span(defect.time, defect.until or defect.time + defect.interval.seconds)


def found(stores: Stores) -> list[Finding]:
    """Everything on record: contradictions, also those that are settled, and what sources say otherwise."""
    with stores.catalog.read() as connection:
        records = proof_records.contradictions_of(connection)
    conflicts = rows_of(stores, schema.conflicts, "pair", "interval", "start", "end", "reason")
    return [
        *(
            Finding(each.pair, frozenset({each.fine, each.coarse}), each.span, f"{each.fine.value} {each.reason}")
            for each in records
        ),
        *(
            Finding(pair, frozenset({Interval(interval)}), Span(start, end), reason)
            for pair, interval, start, end, reason in conflicts
        ),
    ]


def explains(defect: Defect, finding: Finding) -> bool:
    """Whether a finding is about a defect: of its interval, or of one that was resampled from it."""
    assert defect.interval is not None
    made_of_it = {defect.interval, *(each for each in Interval if defect.interval in each.finer)}
    is_near = defect.interval in finding.intervals or bool(finding.intervals & made_of_it & {Interval.M30})
    return defect.pair == finding.pair and is_near and span_of(defect).overlaps(finding.span)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    for quarter in (Q4, Q1, Q2):
        write_quarterly_zip(folder, WORLD, quarter, INTERVALS, cut=CUT if quarter == Q2 else None, defects=IN_ARCHIVES)
    write_complete_zip(folder, WORLD, Q4.end, INTERVALS, defects=IN_ARCHIVES)
    return folder


@pytest.fixture(scope="module")
def exchange() -> Iterator[DemoExchange]:
    with DemoExchange(WORLD, clock=FixedClock(NOW), defects=FALSELY_QUIET) as exchange:
        yield exchange


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def first(home: Path, exchange: DemoExchange, archives: Path) -> Sequence[Finding]:
    """What is found by a run that asks for OHLC only: trades are too dear for it."""
    with opened(settings_of(home, kraken_api_url=exchange.url, kraken_max_requests_per_gap=0)) as stores:
        # Weekly and 15-day candles too, which later runs keep up then.
        run(stores, archives, now=NOW, lookback_days=30, intervals=list(Interval))
        return found(stores)


def test_every_defect_is_found(first: Sequence[Finding]) -> None:
    missed = [each for each in (*SHORTAGES, *FOR_A_PERSON) if not any(explains(each, finding) for finding in first)]
    assert missed == []


def test_nothing_else_is_found(first: Sequence[Finding]) -> None:
    defects = [*SHORTAGES, *FOR_A_PERSON]
    assert [each for each in first if not any(explains(defect, each) for defect in defects)] == []


@pytest.fixture(scope="module")
def completed(home: Path, exchange: DemoExchange, archives: Path, first: Sequence[Finding]) -> Iterator[Stores]:
    with opened(settings_of(home, kraken_api_url=exchange.url)) as stores:
        run(stores, archives, now=NOW, run_id="run-two", complete=True)
        yield stores


def is_of(defects: Sequence[Defect], pair: str, interval: Interval, time: int) -> bool:
    """Whether a candle of a series lies where one of some defects does, of the same interval or a finer one."""
    candle = Span(time, time + interval.seconds)
    return any(
        each.pair == pair and each.interval is not None and each.interval <= interval and span_of(each).overlaps(candle)
        for each in defects
    )


def is_same(kept: tuple[float, ...] | None, true: tuple[float, ...] | None) -> bool:
    """Whether two candles are one: prices and count exactly, volume to a millionth, as sums of floats differ."""
    if kept is None or true is None:
        return kept is true
    return (*kept[:5], kept[6]) == (*true[:5], true[6]) and math.isclose(kept[5], true[5], rel_tol=1e-6)


def wrong(stores: Stores) -> dict[tuple[str, int], list[int]]:
    """Series → the times at which the lake does not hold what happened."""
    differences = {}
    for pair, listing in WORLD.listings.items():
        for interval in Interval:
            start, end = interval.floor(listing.first_trade), interval.floor(NOW)
            kept = {row[0]: row for row in stored(stores, pair, interval, start, end)}
            true = {
                row[0]: row for row in oracle(pair, interval, start, end, WORLD) if row[0] + interval.seconds <= NOW
            }
            times = sorted(time for time in kept.keys() | true.keys() if not is_same(kept.get(time), true.get(time)))
            if times:
                differences[pair, interval.value] = times
    return differences


def test_every_shortage_is_healed_to_what_happened(completed: Stores) -> None:
    left = {
        (pair, interval): [time for time in times if not is_of(FOR_A_PERSON, pair, Interval(interval), time)]
        for (pair, interval), times in wrong(completed).items()
    }
    assert {series: times for series, times in left.items() if times} == {}


def test_what_is_left_are_conflicts_about_what_a_person_must_resolve(completed: Stores) -> None:
    with completed.catalog.read() as connection:
        records = proof_records.contradictions_of(
            connection, None, [ContradictionState.REFUTED, ContradictionState.CONFLICT]
        )
    assert {each.state for each in records} == {ContradictionState.CONFLICT}
    findings = [Finding(each.pair, frozenset({each.fine, each.coarse}), each.span, each.reason) for each in records]
    assert [each for each in findings if not any(explains(defect, each) for defect in FOR_A_PERSON)] == []
    assert [each for each in FOR_A_PERSON if not any(explains(each, finding) for finding in findings)] == []


def command_for(defect: Defect) -> str:
    """What a person is told to do about it: the file whose times are shifted, or the candle that is outvoted."""
    assert defect.interval is not None
    assert defect.pair is not None
    if defect.time is None:
        return f"kraken-pipeline resolve --file {defect.release}:{defect.pair}_{defect.interval.value}.csv --reason …"
    return (
        f"kraken-pipeline resolve --span --pair {defect.pair} --interval {defect.interval.value} "
        f"--start {iso(defect.time)} --end {iso(defect.time + defect.interval.seconds)} --reason …"
    )


def test_a_person_is_told_the_command_for_each_of_these(completed: Stores) -> None:
    told = [each.action for each in contradicted(completed, run_spec(), NOW)]
    commands = [command_for(each) for each in FOR_A_PERSON]
    assert [each for each in commands if not any(action.endswith(f"then run {each}") for action in told)] == []


@pytest.fixture(scope="module")
def resolved(completed: Stores, archives: Path) -> Stores:
    """After these commands, and one more run."""
    for defect in FOR_A_PERSON:
        options = shlex.split(command_for(defect))[2:]
        given = {name.removeprefix("--"): value for name, value in itertools.pairwise(options)}
        named = {name: given.get(name) for name in ("file", "pair", "interval", "start", "end")}
        what = withdrawal(reason="a test", is_span="span" in given, **named)
        resolve(completed, what, RunContext("resolve", NOW))
    run(completed, archives, now=NOW, run_id="run-three", complete=True)
    return completed


def test_then_every_candle_is_what_happened(resolved: Stores) -> None:
    assert wrong(resolved) == {}


def test_then_nothing_contradicts_and_everything_is_covered_and_proven(resolved: Stores) -> None:
    assert contradicted(resolved, run_spec(intervals=list(INTERVALS[1:])), NOW) == []
    made = make_report(resolved, run_spec(), NOW)
    assert (made.percent, made.overall.gaps) == (100.0, 0)
    with resolved.catalog.read() as connection:
        proven = proof_records.proven(connection)
    unproven = [
        span
        for each in made.series
        for span in subtract(covered(resolved, *series_of(each)), proven.get(each.series, ()))
    ]
    # Of the newest minutes, which OHLC gave, no coarser candle is closed yet.
    assert [span for span in unproven if span.start < NOW - HOUR] == []


def series_of(each: SeriesCompleteness) -> tuple[str, int]:
    return each.series.pair, each.series.interval.value


def test_what_is_done_is_done(resolved: Stores, exchange: DemoExchange, archives: Path) -> None:
    """Nothing is taken back, asked for or compared once more."""
    before = len(exchange.requests)
    done = run(resolved, archives, now=NOW, run_id="run-four", complete=True)
    assert done.backfilled is not None
    assert (done.candles_stored, done.backfilled.refuted, done.backfilled.conflicts) == (0, 0, 0)
    assert len(exchange.requests) == before
