from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from kraken_pipeline.coverage.months import State
from kraken_pipeline.coverage.proof import Proven
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.demo.archives import write_csv
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.market.tier import Tier
from kraken_pipeline.storage.records import proof_records
from kraken_pipeline.storage.records.report_records import reports_of
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.page.contents import Contents, gather
from kraken_pipeline.workflow.page.report_page import Page, page_path, write_page
from kraken_pipeline.workflow.report.report import make_report
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.homes import NOW, Q1, Q2, Q3, SPRING, START, Shelf, oracle, run
from kraken_pipeline_tests.support.pages import Element, contradict, count_candles, parsed
from kraken_pipeline_tests.support.shell import ROOT, shell

pytestmark = pytest.mark.slow

HOURS = Series("XBTUSD", Interval.H1)
HALF = "2023-07-01"


def read(page: Page) -> Element:
    return parsed(page.path.read_text(encoding="utf-8"))


def contents(stores: Stores, **options: object) -> Contents:
    return gather(stores, run_spec(**options), NOW)


def states(found: Contents, pair: str, interval: int) -> list[State]:
    (drawn,) = [each for each in found.maps if each.interval == interval]
    (row,) = [index for index, (name, _) in enumerate(drawn.pairs) if name == pair]
    return [State(each) for each in drawn.states[row]]


def test_a_page_of_a_lake_has_the_numbers_of_its_report(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, shelf.q3, resampling=False)
    spec = run_spec(intervals="60,1440")
    made = make_report(stores, spec, NOW)
    page = write_page(stores, spec, NOW)
    assert page.report == made
    assert page.path == stores.settings.home / "reports" / "completeness-all.html"
    assert page.path == page_path(stores.settings, Tier.ALL)
    assert page.size == page.path.stat().st_size
    found = read(page)
    assert found.headline["complete"] == f"{made.percent:.2f} %"
    assert found.headline["reconciled"] == f"{made.proven_percent:.2f} %"
    assert found.headline["verified"] == f"{made.verified_percent:.2f} %"
    assert found.headline["candles"] == f"{made.overall.candles:,}"
    assert found.headline["requests to make"] == f"{made.requests:,}"
    assert found.headline["gaps"] == f"{made.overall.gaps:,}" == f"{len(found.table('gaps')):,}"
    covered = {str(each.series): f"{each.covered:,}" for each in made.series}
    assert {row["series"]: row["covered"] for row in found.table("series")} == covered
    (advice,) = found.all("ol")
    first, *others = [each.text for each in advice.all("li")]
    assert first == str(made.advice[0])  # an archive to fetch, with the page that has it
    assert others == [f"{each.what}. {each.command}".strip() for each in made.advice[1:]]
    archives = {row["file"]: (row["ingested"], row["failed"]) for row in found.table("archives")}
    assert archives == {shelf.q1.name: ("6", "0"), shelf.q3.name: ("6", "0")}
    assert {row["source"] for row in found.table("answered")} == {"CSV"}


def test_the_months_of_a_map_are_those_of_the_lake(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, shelf.q3, resampling=False)
    count_candles(stores)
    found = contents(stores, intervals="60", end=HALF)
    assert (found.months.first, found.months.count) == (2023 * 12 + 2, 4)  # March to June
    for (pair, _), months in zip(found.maps[0].pairs, found.maps[0].breakdowns, strict=True):
        assert months.candles.tolist() == [len(oracle(pair, 60, START, Q1.end)), 0, 0, 0]
        assert months.covered[1:].tolist() == [0, 0, 0]
        assert months.missing.sum(axis=0)[1:].tolist() == months.expected[1:].tolist() == [720, 744, 720]
        assert states(found, pair, 60)[1:] == [State.TRADES] * 3


def test_the_cells_of_a_page_add_up_to_its_report(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, shelf.q3)
    count_candles(stores)
    found = contents(stores, intervals="60,1440")
    for drawn in found.maps:
        for (pair, _), months in zip(drawn.pairs, drawn.breakdowns, strict=True):
            (whole,) = [each for each in found.report.series if each.series == Series(pair, drawn.interval)]
            assert months.expected.sum() == whole.expected
            assert months.covered.sum() == whole.covered
            assert (months.proven.sum(), months.verified.sum()) == (whole.proven, whole.verified)
            assert months.candles.sum() == whole.candles
            assert months.quiet.sum() == whole.quiet
            assert months.missing.sum() == whole.expected - whole.covered


def test_what_is_stored_and_not_counted_yet_is_not_called_quiet(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, shelf.q2, resampling=False)
    count_candles(stores)
    with stores.catalog.write() as connection:
        proof_records.keep_counts(connection, {HOURS: {2023: [0, 0, 1, *[0] * 9]}})
    found = contents(stores, intervals="60", end=HALF)
    known = zip(found.maps[0].pairs, found.maps[0].breakdowns, strict=True)
    assert [pair for (pair, _), months in known if months.candles[0] < 0] == ["XBTUSD"]
    assert State.QUIET not in states(found, "XBTUSD", 60)


def test_proven_covered_and_contradicted_months_are_told_apart(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, shelf.q2, resampling=False)
    count_candles(stores)
    day = Q2.start + 32 * DAY
    with stores.catalog.write() as connection:
        proven = Proven((Span(START, Q2.start + 30 * DAY),), (Span(START, Q2.start),))
        proof_records.replace_proofs(connection, {HOURS: proven})
    contradict(stores, "XBTUSD", day)
    spec = run_spec(pairs="XBTUSD", intervals="60,1440", end=HALF)
    found = gather(stores, spec, NOW)
    assert states(found, "XBTUSD", 60) == [State.VERIFIED, State.RECONCILED, State.CONFLICT, State.COVERED]
    assert states(found, "XBTUSD", 1440) == [State.COVERED, State.COVERED, State.CONFLICT, State.COVERED]
    (row,) = read(write_page(stores, spec, NOW)).table("contradictions")
    assert (row["finer"], row["coarser"], row["from"], row["state"]) == ("60", "1440", "2023-05-03", "conflict")
    assert (row["finer candle"], row["coarser candle"]) == ("no candle", "1.5 2 1 2, volume 3, 4 trades")


def test_a_month_in_which_nobody_traded_is_quiet(stores: Stores, tmp_path: Path) -> None:
    start, end = Q2.start, Q2.end
    lines = [f"{time},1,1,1,1,1,1" for time in (start, start + 3_600, end - 3_600, end)]
    path = tmp_path / "XBTUSD_60.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    run(stores, path, resampling=False)
    count_candles(stores)
    found = contents(stores, intervals="60", end=HALF)
    assert states(found, "XBTUSD", 60) == [State.COVERED, State.QUIET, State.COVERED]


def test_each_page_puts_its_numbers_on_record_and_shows_those_of_the_same_selection(
    stores: Stores, shelf: Shelf
) -> None:
    run(stores, shelf.q1, resampling=False)
    first = write_page(stores, run_spec(end=HALF), NOW)
    assert "This is the first report" in read(first).text
    run(stores, shelf.q2, run_id="run-two", resampling=False)
    write_page(stores, run_spec(end=HALF, pairs="XBTUSD"), NOW + 1)
    second = write_page(stores, run_spec(end=HALF), NOW + 2)
    found = read(second)
    assert [row["complete"] for row in found.table("reports")] == [
        f"{second.report.percent:.2f} %",
        f"{first.report.percent:.2f} %",
    ]
    assert len(found.all("svg")) == 2
    with stores.catalog.read() as connection:
        kept = reports_of(connection, Tier.ALL, 9)
    assert [each.made_at for each in kept] == [NOW, NOW + 1, NOW + 2]
    assert kept[1].numbers["selection"] == {"pairs": "XBTUSD", "intervals": "60,1440", "end": HALF}
    for each, report in ((kept[0], first.report), (kept[2], second.report)):
        assert each.numbers["completeness_pct"] == report.percent
        assert each.numbers["proven_pct"] == report.proven_percent
        assert each.numbers["verified_pct"] == report.verified_percent
        assert each.numbers["gaps"] == report.overall.gaps
        assert each.numbers["candles"] == report.overall.candles
        assert each.numbers["conflicts"] == 0


def test_a_page_that_cannot_be_made_leaves_the_old_one_and_no_record(
    stores: Stores, shelf: Shelf, tmp_path: Path
) -> None:
    run(stores, shelf.q1, resampling=False)
    path = tmp_path / "deep" / "report.html"
    write_page(stores, run_spec(), NOW, path)
    before = path.read_bytes()
    with pytest.raises(InvalidRequest, match="ETHUSD is unknown"):
        write_page(stores, run_spec(pairs="ETHUSD"), NOW, path)
    with pytest.raises(OSError, match=r"report\.html"):
        write_page(stores, run_spec(), NOW, path / "below")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    with stores.catalog.read() as connection:
        assert len(reports_of(connection, Tier.ALL, 9)) == 1


def test_a_page_of_an_empty_lake_says_how_to_begin(stores: Stores) -> None:
    page = write_page(stores, run_spec(tier="TIER1"), NOW)
    assert page.path.name == "completeness-tier1.html"
    assert (page.picture, page.markdown) == (b"", "")
    assert "Put Kraken's archives into the drop folder" in read(page).text


def test_a_page_comes_with_a_small_picture_for_where_pages_cannot_be_shown(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, resampling=False)
    page = write_page(stores, run_spec(), NOW)
    assert len(page.picture) < 60_000
    said, _, data = page.markdown.partition("](data:image/png;base64,")
    assert said.startswith("![Shares of the states of ALL at 2023-")
    assert base64.b64decode(data.removesuffix(")")) == page.picture


def test_a_name_of_a_file_that_is_a_script_is_text_on_the_page(stores: Stores, tmp_path: Path) -> None:
    folder = tmp_path / "<script>alert(1)<"
    folder.mkdir()
    path = write_csv(folder, SPRING, "XBTUSD", Interval.H1, start=START, end=START + 2 * DAY)
    hostile = path.rename(folder / "Kraken_OHLCVT<img src=x onerror=alert(1)>.zip")
    run(stores, hostile, write_csv(folder, SPRING, "XBTUSD", Interval.H1, start=START, end=START + 2 * DAY))
    found = read(write_page(stores, run_spec(), NOW))
    assert hostile.name in [row["file"] for row in found.table("archives")]
    assert not [each for each in found.walk() if "onerror" in each.attributes]


# --- from the shell


def test_the_shell_writes_a_page_and_says_where(home: Path, stores: Stores, shelf: Shelf, tmp_path: Path) -> None:
    run(stores, shelf.q1, resampling=False)
    path = tmp_path / "pages" / "report.html"
    said = shell(home, "report", "--html", str(path), "--pairs", "XBTUSD", "--intervals", "60", "--end", "2023-04-01")
    assert said.code == 0
    assert f"The page of the report is {path}" in said.out
    found = parsed(path.read_text(encoding="utf-8"))
    assert [row["series"] for row in found.table("series")] == ["XBTUSD 60"]
    assert found.headline["complete"] == "100.00 %"
    told = shell(home, "report", "--html", str(path), "--tier", "TIER1", "--json")
    assert told.json["tier"] == "TIER1"
    assert f"The page of the report is {path}" in told.err
    assert parsed(path.read_text(encoding="utf-8")).all("h1")[0].text == "Completeness of TIER1"
    charted = shell(home, "report", "--html", str(path), "--chart", "XBT/USD:1d", "--chart", "XBTUSD:4h")
    assert (charted.code, path.read_text().count('class="chart"')) == (0, 2), charted
    for words, why in ((("--chart", "XBTUSD:1d"), "--html FILE"), (("--html", str(path), "--chart", "x"), "XBTUSD:1h")):
        refused = shell(home, "report", *words)
        assert (refused.code, refused.err.count("\n")) == (2, 1), refused
        assert why in refused.err
    failed = shell(home, "report", "--html", str(path / "below"))
    assert failed.code == 1
    assert "Traceback" not in failed.err


def test_what_draws_is_loaded_when_a_page_is_made_and_not_before() -> None:
    program = """
import json, sys
import kraken_pipeline.cli.commands.report, kraken_pipeline.workflow.page.report_page
print(json.dumps([name for name in ("matplotlib", "jinja2", "PIL") if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_the_quarter_that_is_missing_shows_as_its_months(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, shelf.q3, resampling=False)
    found = contents(stores, intervals="1440")
    shown = states(found, "XBTUSD", 1440)
    gaps = {State.TRADES, State.NONE, State.OHLC}
    assert [each in gaps for each in shown[:4]] == [False, True, True, True]
    assert found.months.edges[1] == Q2.start
    assert found.months.edges[4] == Q3.start
