"""Every table and sentence at five widths and piped: nothing is cut, and no line is wider than the terminal."""

from __future__ import annotations

import io
import pkgutil
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from kraken_pipeline.cli import (
    commands,
    demo_tables,
    health_tables,
    lake_tables,
    plan_tables,
    proof_tables,
    run_tables,
    tables,
)
from kraken_pipeline.cli.layout import TextTable, say
from kraken_pipeline.coverage.anchors import CountVerdict
from kraken_pipeline.coverage.causes import Cause, CauseKind
from kraken_pipeline.coverage.completeness import shown
from kraken_pipeline.coverage.gaps import GapStatus
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.demo.archives import candles_name, write_quarterly_zip
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.states import DamageKind
from kraken_pipeline.storage.records.damage import Damage
from kraken_pipeline.storage.records.gap_records import GapRow
from kraken_pipeline.storage.records.trade_counts import TradeCount
from kraken_pipeline.workflow.gaps.selection import Fetch
from kraken_pipeline.workflow.health.check import Check, HealthStatus
from kraken_pipeline.workflow.reconcile.verdicts import CandleVerdict as Judgement
from kraken_pipeline.workflow.reconcile.verdicts import Remedy, VerdictState
from kraken_pipeline.workflow.verify.verification import Verification
from kraken_pipeline.workflow.withdraw.settling import grouped
from kraken_pipeline_tests.support.homes import HOURS_AND_DAYS, Q1, SPRING, START, Shelf
from kraken_pipeline_tests.support.shell import shell

pytestmark = pytest.mark.slow

HOUR = 3_600
WIDTHS = (60, 80, 100, 120, 200)
ATOM = re.compile(r"[^ ]+|\d{4}-\d\d-\d\d \d\d:\d\d|[\d.]+ (%|s|min|h)")
"""A number, a time, a name: what stands on one line if that is wide enough."""
COMMAND = re.compile(r" *(`?kraken-pipeline |cd /)")
START_OF_WIDE = 1_790_000_000 - 1_790_000_000 % 60
WIDE = Series("1000SATSXUSDT", Interval.D15)


def on_terminal(width: int) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)


def piped() -> Console:
    return Console(file=io.StringIO())


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())


def joined(text: str) -> str:
    """A text with line breaks and indentation undone."""
    return " ".join(text.split())


def cells_of(plain: str) -> set[str]:
    """What a piped output says: the cells of its tables, without headings, and its sentences."""
    lines = plain.splitlines()
    rules = {number for number, line in enumerate(lines) if line and set(line) == {"─"}}
    said = [line for number, line in enumerate(lines) if not {number, number + 1} & rules]
    return {cell for line in said for cell in re.split(r" {2,}", line.strip())}


def left_out(plain: str, shown: str) -> set[str]:
    """What stands in the columns that a narrow terminal says it leaves out."""
    names = [name for found in re.findall(r"left out for lack of width: (.*)", shown) for name in found.split(", ")]
    lines = plain.splitlines()
    gone: set[str] = set(names)
    for number, heading in enumerate(lines[:-1]):
        if not (lines[number + 1] and set(lines[number + 1]) == {"─"}):
            continue
        for name in names:
            if found := re.search(rf"(?:^| {{2}}) *{name}(?= |$)", heading):
                rows = lines[number + 2 :]
                rows = rows[: rows.index("")]
                gone |= {row[found.start() : found.end()].strip() for row in rows}
    return gone


def assert_whole(plain: str, shown: str, width: int) -> None:
    lines = shown.splitlines()
    for line in lines:
        is_one_word = " " not in line.strip()
        assert cell_len(line) <= width or COMMAND.match(line) or is_one_word, f"{cell_len(line)} columns: {line}"
    for cell in cells_of(plain) - left_out(plain, shown):
        assert joined(cell) in joined(shown), f"{cell!r} is not there at {width}"
        if ATOM.fullmatch(cell):
            assert any(cell in line for line in lines), f"{cell!r} is broken at {width}"
    for command in re.findall(r"kraken-pipeline resolve .*?…", plain):
        assert any(command in line for line in lines), f"{command!r} cannot be copied at {width}"


# --- the widest values


def gap(**more: object) -> GapRow:
    values: dict[str, object] = {
        "series": WIDE,
        "span": Span(START_OF_WIDE, START_OF_WIDE + 1_000 * HOUR + 60),
        "missing_candles": 12_581_276,
        "overflow_candles": 0,
        "route": "RESAMPLE",
        "required_csv_file": "Kraken_OHLCVT_Full_2026Q2.zip:1000SATSXUSDT_21600.csv,Kraken_OHLCVT_2026Q3.zip",
        "status": GapStatus.UNFILLABLE,
        "attempts": 13,
        "error": None,
        "detected_at": 0,
    }
    return GapRow(**{**values, **more})  # type: ignore[arg-type]


def verdict(fine: Interval | None, action: str) -> Judgement:
    counts = None if fine is None else 12_581_276
    side = None if fine is None else "coarse"
    span = Span(START_OF_WIDE, START_OF_WIDE + 900)
    return Judgement(WIDE.pair, fine, Interval.D15, span, VerdictState.CONTRADICTED, side, counts, counts, action)


RESOLVE = (
    "kraken-pipeline resolve --span --pair 1000SATSXUSDT --interval 10080 --start 2026-08-10T12:00:00Z "
    "--end 2026-08-10T16:00:00Z --reason …"
)
SENTENCE = "10080 and 21600 count the same trades and differ in high, low, close and volume; find out which is wrong"
RUN = {
    "run_id": "263e2b2c-1111",
    "job": "retry_dead_letters",
    "tier": "TIER1",
    "status": "CANCELED",
    "progress_pct": 100.0,
    "started_at": "2026-11-28T17:57:14Z",
    "duration_s": 5_399.0,
    "files_ingested": 13_970,
    "files_total": 13_971,
    "candles_ingested": 1_234_581_276,
    "error": "Kraken_OHLCVT.zip is not a ZIP that can be read; "
    + "download it again and again, " * 9
    + "then stop\nat",
}
LETTER = {
    "rows": None,
    "id": 1_581_276,
    "location": "/archives/kraken/Kraken_OHLCVT_Full_2026Q2.zip:master_q4/1000SATSXUSDT_21600.csv",
    "operation": None,
    "line": 12_581_276,
    "text": "1784455200,0.1100053,0.1100052,[red],\t110648,3006.40973824",
    "reason": "time is not a multiple of 3600 s, and comes before that of the line above, which cannot be either",
}
DAMAGE = Damage(
    "lake/interval=30/pair=1000SATSXUSDT/2026.parquet",
    Series(WIDE.pair, Interval.M30),
    2026,
    DamageKind.CHANGED,
    "has 12,581,276 bytes instead of 12,581,277",
    12_581_276,
)
FETCH = Fetch(
    Route.TRADES,
    WIDE,
    (Span(START_OF_WIDE, START_OF_WIDE + 60), Span(START_OF_WIDE + 600, START_OF_WIDE + 12_060)),
    tuple((Series(WIDE.pair, interval), Span(0, 60)) for interval in Interval),
    581_276,
)
CAUSE = Cause(CauseKind.RELEASE, ("20000",), "Kraken_OHLCVT_Full_2026Q2.zip and Kraken_OHLCVT_2026Q2.zip")
FILES = ("1000SATSXUSDT_21600.csv", "Kraken_OHLCVT_Full_2026Q2.zip:1000SATSXUSDT_21600.csv")
COUNT = TradeCount(
    WIDE,
    Span(START_OF_WIDE, START_OF_WIDE + 1_000 * HOUR + 60),
    12_581_276,
    12_581_275,
    CountVerdict.OVER,
    f"find out which candles are wrong, then run {RESOLVE}",
    "run",
)
RECONCILED = {
    "pairs_compared": 13_970,
    "spans_refuted": 581_276,
    "contradictions_healed": 581_276,
    "new_conflicts": 581_276,
}
PRINTED: dict[str, Callable[[Console], None]] = {
    "gaps": lambda console: tables.gaps(console, [gap(), gap(status=GapStatus.DETECTED, attempts=0)]),
    "verdicts": lambda console: proof_tables.verdicts(
        console,
        [verdict(Interval.W1, f"{SENTENCE}, then {RESOLVE} or {RESOLVE}"), verdict(None, SENTENCE)],
        RECONCILED,
        is_known=True,
    ),
    "causes": lambda console: proof_tables.causes(
        console,
        grouped(
            [
                replace(
                    verdict(Interval.W1, SENTENCE),
                    cause=CAUSE,
                    suspects=(Interval.W1, Interval.D15),
                    remedy=Remedy.WITHDRAW,
                ),
                *[replace(verdict(Interval.W1, SENTENCE), cause=CAUSE, suspects=(Interval.W1,), remedy=Remedy.FILL)]
                * 12_581,
                replace(
                    verdict(None, SENTENCE), cause=replace(CAUSE, kind=CauseKind.PRECISION), remedy=Remedy.WITHDRAW
                ),
                replace(
                    verdict(None, SENTENCE),
                    cause=replace(CAUSE, kind=CauseKind.FILE),
                    files=FILES,
                    remedy=Remedy.WITHDRAW,
                ),
            ]
        ),
        RECONCILED,
        is_known=True,
    ),
    "counts": lambda console: proof_tables.counts(console, [COUNT, replace(COUNT, by_ids=None, action="not dense")]),
    "verification": lambda console: lake_tables.verification(
        console, Verification(13_970, 12_581_276_000, 581_276.5, (DAMAGE, DAMAGE), 7, (DAMAGE,))
    ),
    "status": lambda console: run_tables.status(console, [RUN, {**RUN, "error": None, "tier": None}]),
    "dead letters": lambda console: tables.dead_letters(console, [LETTER, {**LETTER, "line": None}], 581_276, 300_010),
    "fetches": lambda console: plan_tables.fetches(console, [FETCH, FETCH], 1, ["XBTUSD"]),
    "health": lambda console: health_tables.health(console, [Check("requests", HealthStatus.WARNING, SENTENCE)]),
    "what a run did": lambda console: run_tables.ran(
        console, RUN, {"rows_rejected": 12_581_276, "new_pairs": [WIDE.pair] * 40, "notes": [SENTENCE]}, None
    ),
    "what is next": lambda console: demo_tables.next_steps(console, Path("/srv/kraken/home/of/the/demo/demo-data")),
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PRINTED)
def test_the_widest_values_are_whole(name: str, width: int) -> None:
    everything, console = piped(), on_terminal(width)
    PRINTED[name](everything)
    PRINTED[name](console)
    assert_whole(text_of(everything), text_of(console), width)


def test_a_cut_value_would_be_seen() -> None:
    everything = piped()
    PRINTED["gaps"](everything)
    whole = text_of(everything)
    for value in ("12,581,276", "1000SATSXUSDT", "2026-09-21 14:13", "UNFILLABLE"):
        with pytest.raises(AssertionError, match="is not there"):
            assert_whole(whole, whole.replace(value, value[:-1]), 1_000)
    with pytest.raises(AssertionError, match="is broken"):
        assert_whole(whole, whole.replace(" 14:13", "\n14:13"), 1_000)
    with pytest.raises(AssertionError, match="columns"):
        assert_whole(whole, whole, 100)


def test_piped_a_row_is_one_line() -> None:
    everything = piped()
    PRINTED["verdicts"](everything)
    assert f"{SENTENCE}, then {RESOLVE} or {RESOLVE}\n" in text_of(everything)
    assert len(text_of(everything).splitlines()) == 1 + 3 + 2 + 1


# --- real values, from every command


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Path:
    """A home with gaps, rejected rows and a run. Only to read."""
    folder = tmp_path_factory.mktemp("tables")
    rows = [Defect(DefectKind.UNREADABLE, "XBTUSD", Interval.H1, START + 40 * HOUR, release=candles_name(Q1))]
    write_quarterly_zip(folder / "in", SPRING, Q1, HOURS_AND_DAYS, defects=rows)
    shutil.copy(shelf.q3, folder / "in")
    assert shell(folder / "home", "ingest", "--archive-dir", "in", "--no-api-backfill").code == 0
    return folder / "home"


BEFORE = ("--end", "2023-07-10")
COMMANDS = (
    ("plan", *BEFORE),
    ("gaps", *BEFORE),
    ("report", *BEFORE),
    ("reconcile", "--all", "--intervals", "60,1440", "--pairs", "XBTUSD", *BEFORE),
    ("resolve", "--file", f"{candles_name(Q1)}:XBTUSD_60.csv", "--reason", "a test", "--dry-run"),
    ("backfill", "--dry-run", "--complete", *BEFORE),
    ("explain", "XBTUSD", "60", "2023-03-28T05:00"),
    ("prove", "--dry-run", *BEFORE),
    ("pairs",),
    ("status",),
    ("dead-letters", "list"),
    ("health",),
    ("cache", "stats"),
)


COMMAND_MODULES = [
    module
    for name in sorted(found.name for found in pkgutil.iter_modules(commands.__path__))
    if hasattr(module := import_module(f"{commands.__name__}.{name}"), "out")
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_a_command_prints_is_whole(
    stored: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def printed(console: Console) -> str:
        for module in COMMAND_MODULES:
            monkeypatch.setattr(module, "out", console)
        shell(stored, *command)
        return re.sub(r"[\d.]+ GiB", "", text_of(console))  # the free space changes meanwhile

    plain = printed(piped())
    assert plain.strip()
    for width in WIDTHS:
        assert_whole(plain, printed(on_terminal(width)), width)


HELPED = [(), ("ingest",), ("dead-letters", "retry"), *sorted({command[:1] for command in COMMANDS})]


@pytest.mark.parametrize("command", HELPED, ids=" ".join)
def test_help_cuts_nothing(tmp_path: Path, command: tuple[str, ...]) -> None:
    for width in (60, 80):
        said = shell(tmp_path / "home", *command, "--help", COLUMNS=str(width)).out
        assert "..." not in said.replace("[ARGS]...", "")
        assert all(len(line) <= width for line in said.splitlines())


# --- the layout


TEXT = st.text(st.characters(codec="utf-8"), max_size=30)


@given(
    st.lists(st.tuples(st.from_regex(r"[A-Z]{1,15}", fullmatch=True), TEXT, TEXT, TEXT), min_size=1, max_size=4),
    st.sampled_from([(), ("second",), ("fourth", "third")]),
    st.integers(20, 130),
)
def test_every_cell_is_there_whatever_it_holds(
    rows: list[tuple[str, str, str, str]], least: tuple[str, ...], width: int
) -> None:
    table = TextTable("All", "first", ">second", "third", ">fourth", least=least)
    for row in rows:
        table.add_row(*row)
    everything, console = piped(), on_terminal(width)
    table.print(everything)
    table.print(console)
    assert_whole(text_of(everything), text_of(console), width)
    assert len(text_of(everything).splitlines()) == len(rows) + 4


def lines_of(table: TextTable, width: int) -> list[str]:
    console = on_terminal(width)
    table.print(console)
    return text_of(console).splitlines()


def pairs_and_more(*routes: str) -> TextTable:
    table = TextTable("Some", "pair", ">missing", "route", "parts", least=("parts", "route"), spare=("parts",))
    for route in routes:
        table.add_row("1000SATSXUSDT", "581,276", route, "17")
    return table


def test_what_does_not_fit_stands_below_its_row() -> None:
    assert lines_of(pairs_and_more("OHLC", "RESAMPLE"), 24) == [
        *("Some", "left out for lack of", "  width: parts", "pair           missing", "──────────────────────"),
        *("1000SATSXUSDT  581,276", "    route: OHLC", "1000SATSXUSDT  581,276", "    route: RESAMPLE", ""),
    ]


def test_what_is_the_same_in_all_rows_is_said_once() -> None:
    shown = lines_of(pairs_and_more("OHLC", "OHLC"), 24)
    assert [line for line in shown if "OHLC" in line] == ["in all rows: route: OHLC"]


def test_where_everything_fits_nothing_is_moved() -> None:
    assert lines_of(pairs_and_more("OHLC", "RESAMPLE"), 60)[1:4] == [
        "pair           missing  route     parts",
        "───────────────────────────────────────",
        "1000SATSXUSDT  581,276  OHLC      17",
    ]


@pytest.fixture
def said() -> Callable[[str, int], list[str]]:
    def at(text: str, width: int) -> list[str]:
        console = on_terminal(width)
        say(console, text)
        return text_of(console).splitlines()

    return at


def test_a_sentence_is_wrapped_between_words(said: Callable[[str, int], list[str]]) -> None:
    assert said("  • missing since 2026-10-01 12:00, 34 min away", 24) == [
        *("  • missing since", "    2026-10-01 12:00,", "    34 min away")
    ]


def test_a_command_that_does_not_fit_is_a_line_of_its_own(said: Callable[[str, int], list[str]]) -> None:
    assert said("9 gaps can be filled: kraken-pipeline backfill --complete or kraken-pipeline ingest", 30) == [
        *("9 gaps can be filled:", "  kraken-pipeline backfill --complete", "  or", "  kraken-pipeline ingest")
    ]
    assert said("Fill them: kraken-pipeline backfill", 40) == ["Fill them: kraken-pipeline backfill"]


def test_what_cannot_be_printed_is_written_out(said: Callable[[str, int], list[str]]) -> None:
    assert said("a\tb\x1b[31mc", 40) == [r"a\tb\x1b[31mc"]


def test_where_there_is_no_percentage_there_is_a_dash() -> None:
    assert (shown(None), shown(99.994), shown(0.0)) == ("\N{EN DASH}", "99.99 %", "0.00 %")


# --- gaps


def test_the_gaps_that_miss_the_most_time_come_first_and_filled_ones_last() -> None:
    minutes = gap(series=Series("A", Interval.M1), span=Span(0, 600 * 60))
    days = gap(series=Series("B", Interval.D1), span=Span(0, 48 * HOUR))
    hours = gap(series=Series("C", Interval.H1), span=Span(0, 10 * HOUR))
    filled = gap(series=Series("D", Interval.D1), span=Span(0, 240 * HOUR), status=GapStatus.FILLED, closed_at=1)
    console = piped()
    tables.gaps(console, [filled, hours, minutes, days])
    rows = text_of(console).splitlines()[3:7]
    assert [row.split()[0] for row in rows] == ["B", "A", "C", "D"]


def test_long_tables_are_cut_and_say_where_the_rest_is() -> None:
    rows = [gap(span=Span(at, at + HOUR)) for at in range(0, 50 * 2 * HOUR, 2 * HOUR)]
    console = on_terminal(132)
    tables.gaps(console, rows)
    assert "… and 10 more: gaps --json" in text_of(console)
    assert len(re.findall("^1000SATSXUSDT", text_of(console), re.MULTILINE)) == 40
