from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from kraken_pipeline.cli import health_tables
from kraken_pipeline.cli.app import app
from kraken_pipeline.demo.archives import candles_name, write_csv, write_quarterly_zip
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.orchestration.jobs.prove_job import prove_job
from kraken_pipeline.orchestration.jobs.verify_job import verify_job
from kraken_pipeline.settings import Settings
from kraken_pipeline.workflow.health.check import Check, HealthStatus
from kraken_pipeline.workflow.health.health import NAMES
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec
from kraken_pipeline_tests.support.homes import (
    CUT,
    HOURS_AND_DAYS,
    LISTED,
    Q1,
    Q3,
    SPRING,
    START,
    Shelf,
    digest_of,
    oracle,
    write_lines,
)
from kraken_pipeline_tests.support.servers import QuestDB
from kraken_pipeline_tests.support.shell import ROOT, Said, shell

pytestmark = pytest.mark.slow

HOUR = 3_600


@dataclass(frozen=True, slots=True)
class Filled:
    """A home with two quarters, one in between missing, and what the run that filled it said."""

    home: Path
    archives: Path
    ingested: Said


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Filled:
    """Only to read."""
    folder = tmp_path_factory.mktemp("cli")
    row = Defect(DefectKind.UNREADABLE, "XBTUSD", Interval.H1, START + 40 * HOUR, release=candles_name(Q1))
    archives = folder / "archives"
    write_quarterly_zip(archives, SPRING, Q1, HOURS_AND_DAYS, defects=[row])
    shutil.copy(shelf.q3, archives)
    (archives / "notes.txt").write_text("mine")
    ingested = shell(folder / "home", "ingest", "--archive-dir", "archives", "--no-api-backfill", "--json")
    return Filled(folder / "home", archives, ingested)


@pytest.mark.parametrize(
    "words",
    [
        "plan --pairs {} --json",
        "ingest --dry-run --pairs {} --json",
        "backfill --dry-run --pairs {} --json",
        "prove --dry-run --pairs {}",
        "reconcile --all --pairs {} --intervals 60,1440 --json",
        "verify --quick --pairs {}",
        "gaps --pairs {} --json",
        "report --pairs {}",
        "explain {} 60 2023-01-02",
        "export {} 60 --to candles.csv",
        "dead-letters list --pairs {} --json",
        "resolve --dry-run --reason why --span --pair {} --interval 60 --start 2023-01-02 --end 2023-01-03 --json",
    ],
)
def test_a_pair_in_small_letters_is_that_pair_for_every_command(filled: Filled, words: str) -> None:
    small, capital = (shell(filled.home, *words.format(name).split()) for name in ("xbtusd", "XBTUSD"))
    assert (small.code, small.out.partition(" with ")[0]) == (capital.code, capital.out.partition(" with ")[0])
    assert small.code == 0, small.err


# --- ingest


def test_ingest_says_what_it_did_in_json_alone(filled: Filled) -> None:
    assert filled.ingested.code == 0
    told = filled.ingested.json
    candles = told["candles_ingested"]
    assert list(told) == [
        *("run_id", "job", "tier", "intervals", "start", "end", "status", "progress_pct", "started_at", "finished_at"),
        *("duration_s", "assets", "files_total", "files_ingested", "candles_ingested", "error", "outcome"),
    ]
    assert (told["job"], told["tier"], told["status"], told["progress_pct"]) == ("ingest", "ALL", "SUCCESS", 100.0)
    assert told["intervals"] == [interval.value for interval in Interval]
    assert (told["files_total"], told["files_ingested"], told["error"]) == (12, 12, None)
    assert candles > 600
    assert (told["outcome"]["rows_rejected"], told["outcome"]["not_archives"]) == (1, 1)
    assert "ingesting: 6 of 12 files" in filled.ingested.err
    assert "done: 12 of 12 files" in filled.ingested.err


def test_ingest_again_stores_nothing_and_says_why(filled: Filled) -> None:
    said = shell(filled.home, "ingest", "--archive-dir", str(filled.archives))
    assert said.code == 0
    assert "SUCCESS run " in said.out
    assert "0 of 0 files ingested, 0 candles stored" in said.out
    assert "12 files were ingested before" in said.out
    assert "1 file or folder in the archive folders is not an archive" in said.out
    assert "% complete over 6 series of 3 pairs" in said.out


def test_a_file_that_fails_is_exit_code_1_and_the_rest_is_done(tmp_path: Path, shelf: Shelf) -> None:
    shutil.copytree(shelf.q1.parent / "TimeAndSales_Combined", tmp_path / "in")
    (tmp_path / "in" / "ADAEUR_60.csv").write_text("rubbish\n")
    said = shell(tmp_path / "home", "ingest", "--archive-dir", "in", "--intervals", "1,60", "--json")
    assert said.code == 1
    told = said.json
    assert (told["status"], told["files_total"], told["files_ingested"]) == ("SUCCESS", 2, 1)
    assert told["outcome"]["files_failed"] == 1
    assert "ADAEUR_60.csv: none of its 1 lines is a candle" in told["error"]
    assert shell(tmp_path / "home", "export", "XBTUSD", "60", "--to", "x.csv").code == 0
    listed = shell(tmp_path / "home", "dead-letters", "list")
    assert "rubbish" in listed.out


def test_a_run_that_finds_nothing_fails_and_is_offered_to_be_resumed_with_its_own_configuration(
    tmp_path: Path, shelf: Shelf
) -> None:
    home = tmp_path / "home"
    first = shell(home, "ingest", "--tier", "TIER1", "--intervals", "60,1440", "--end", "2023-07-01")
    assert first.code == 1
    assert "FAILURE run " in first.out
    assert "nothing to work on for tier TIER1" in first.out
    assert "status --json has the traceback" in first.out
    (failed,) = shell(home, "status", "--json").json
    assert (failed["status"], failed["intervals"], failed["end"]) == ("FAILURE", [60, 1440], "2023-07-01T00:00:00Z")
    assert "Traceback" in failed["error"] or "Stack Trace" in failed["error"]

    (home / "drop").mkdir(exist_ok=True)
    for path in (shelf.q1, shelf.q2, shelf.q3):
        shutil.copy(path, home / "drop")
    short = failed["run_id"][:8]
    told = shell(home, "ingest", "--resume", short, "--json")
    assert told.code == 0
    assert (told.json["intervals"], told.json["end"], told.json["files_ingested"]) == (
        [60, 1440],
        "2023-07-01T00:00:00Z",
        12,
    )
    assert not re.search(r"Run [0-9a-f]{8} is ", shell(home, "ingest", "--intervals", "1440").out)


def test_ingest_tells_of_a_run_that_lies_about(tmp_path: Path, shelf: Shelf) -> None:
    home = tmp_path / "home"
    shell(home, "ingest", "--tier", "TIER3")
    said = shell(home, "ingest", "--archive-dir", str(shelf.q1), "--intervals", "1440")
    assert said.code == 0
    assert re.search(r"Run [0-9a-f]{8} is FAILURE; this run ingests what it left", said.out)
    assert "kraken-pipeline ingest --resume " in said.out


def test_a_dry_run_is_the_plan(filled: Filled) -> None:
    options = ("--intervals", "60", "--pairs", "ADAEUR", "--end", "2023-07-01", "--json")
    before = digest_of(filled.home)
    dry = shell(filled.home, "ingest", "--dry-run", *options)
    assert dry.json == shell(filled.home, "plan", *options).json
    assert digest_of(filled.home) == before


# --- what reports


def test_plan_json_is_what_others_rely_on(filled: Filled) -> None:
    options = ("--intervals", "60,1440", "--pairs", "XBTUSD,ADAEUR", "--end", "2023-07-08")
    said = shell(filled.home, "plan", *options, "--json")
    assert said.code == 0
    told = said.json
    assert list(told) == ["routes", "missing_archives", "requests", "seconds"]
    assert {tuple(route) for route in told["routes"]} == {
        ("pair", "interval", "start", "end", "source", "files", "requests", "seconds")
    }
    assert {route["pair"] for route in told["routes"]} == {"XBTUSD", "ADAEUR"}
    assert {route["interval"] for route in told["routes"]} == {60, 1440}
    assert "Kraken_OHLCVT_Q2_2023.zip" in told["missing_archives"]
    assert said.err == ""


def test_gaps_json_is_what_others_rely_on(filled: Filled) -> None:
    said = shell(filled.home, "gaps", "--intervals", "60", "--pairs", "ADAEUR", "--end", "2023-07-07", "--json")
    assert said.code == 0
    assert said.json == [
        {
            "pair": "ADAEUR",
            "interval": 60,
            "start": "2023-04-01T00:00:00Z",
            "end": "2023-07-01T00:00:00Z",
            "missing_candles": 91 * 24,
            "route": "TRADES",
            "is_api_fillable": False,
            "overflow_candles": 91 * 24,
            "required_csv_file": "Kraken_OHLCVT_Q2_2023.zip:ADAEUR_60.csv",
            "status": "DETECTED",
            "attempts": 0,
        },
        {
            "pair": "ADAEUR",
            "interval": 60,
            "start": "2023-07-06T23:00:00Z",
            "end": "2023-07-07T00:00:00Z",
            "missing_candles": 1,
            "route": "TRADES",
            "is_api_fillable": False,
            "overflow_candles": 1,
            "required_csv_file": None,
            "status": "DETECTED",
            "attempts": 0,
        },
    ]


def test_pairs_lists_those_of_a_day_with_how_it_is_known(filled: Filled) -> None:
    told = shell(filled.home, "pairs", "--at", "2023-03-28", "--json").json
    assert [listed["pair"] for listed in told] == ["ADAEUR", "XBTUSD", "ZORKUSD"]
    assert told[1] == {
        "pair": "XBTUSD",
        "base": "XBT",
        "quote": "USD",
        "status": "unknown",
        "listed_from": "2023-03-26T00:00:00Z",
        "listed_until": "2023-07-06T23:00:00Z",
        "from_evidence": "first candle stored (60 min)",
        "until_evidence": "last candle stored (60 min)",
        "notes": "XBT is called BTC elsewhere",
    }
    said = shell(filled.home, "pairs", "--at", "2023-03-28")
    assert (said.code, said.out.splitlines()[0]) == (0, "Pairs on 2023-03-28")
    everything = {listed["pair"] for listed in shell(filled.home, "pairs", "--json").json}
    assert everything > {listed["pair"] for listed in told} | {"TRIBEUSD"}


def test_a_day_without_any_pair_says_what_would_prove_one(tmp_path: Path) -> None:
    said = shell(tmp_path / "home", "pairs", "--at", "2011-01-01")
    assert (said.code, said.out.partition(":")[0]) == (0, "No pair is proven to be listed on 2011-01-01")
    assert "kraken-pipeline backfill" in said.out
    assert shell(tmp_path / "home", "pairs", "--at", "2011-01-01", "--json").json == []
    wrong = shell(tmp_path / "home", "pairs", "--at", "yesterday")
    assert (wrong.code, wrong.err) == (
        2,
        "kraken-pipeline: 'yesterday' is not a time; write 2023-10-01 or 2023-10-01T12:00 (UTC)\n",
    )


def test_gaps_are_open_ones_only_unless_all_are_asked_for(tmp_path: Path, shelf: Shelf) -> None:
    home = tmp_path / "home"
    options = ("--intervals", "60", "--pairs", "ADAEUR", "--end", "2023-07-01")
    shell(home, "ingest", "--archive-dir", str(shelf.q1), *options)
    assert [gap["status"] for gap in shell(home, "gaps", *options, "--json").json] == ["DETECTED"]
    shell(home, "ingest", "--archive-dir", str(shelf.q2), *options)
    assert shell(home, "gaps", *options, "--json").json == []
    assert "No gaps: everything that is expected is covered." in shell(home, "gaps", *options).out
    (filled,) = shell(home, "gaps", *options, "--all", "--json").json
    assert (filled["start"], filled["end"], filled["status"]) == (
        "2023-04-01T00:00:00Z",
        "2023-07-01T00:00:00Z",
        "FILLED",
    )
    elsewhere = ("--intervals", "60", "--pairs", "ADAEUR", "--start", "2023-03-26", "--end", "2023-04-01")
    assert shell(home, "gaps", *elsewhere, "--all", "--json").json == []


def test_report_json_is_what_others_rely_on(filled: Filled) -> None:
    said = shell(filled.home, "report", "--intervals", "60,1440", "--json")
    assert said.code == 0
    told = said.json
    for key in ("tier", "overall_completeness_pct", "total_assets", "total_gaps", "intervals", "recommendations"):
        assert key in told
    assert (told["tier"], told["total_assets"]) == ("ALL", 3)
    assert list(told["intervals"]) == ["60", "1440"]
    assert {"completeness_pct", "candles", "quiet", "gaps"} <= told["intervals"]["60"].keys()
    assert told["intervals"]["60"]["series"] == 3
    gaps = shell(filled.home, "gaps", "--intervals", "60,1440", "--json").json
    assert told["total_gaps"] == len(gaps)


def test_report_exports_gaps_without_a_route(filled: Filled, tmp_path: Path) -> None:
    said = shell(
        filled.home,
        *("report", "--intervals", "60", "--end", "2023-07-01", "--json"),
        *("--unfillable", str(tmp_path / "gaps.csv")),
        KRAKEN_MAX_REQUESTS_PER_GAP="0",
    )
    assert said.code == 0
    rows = list(csv.DictReader((tmp_path / "gaps.csv").read_text().splitlines()))
    assert {row["required_csv_file"] for row in rows if row["missing_candles"] != "1"} == {
        f"Kraken_OHLCVT_Q2_2023.zip:{pair}_60.csv" for pair in SPRING.listings
    }
    assert f"{len(rows)} gaps without a route written to" in said.err
    assert said.json["intervals"]["60"]["unfillable_gaps"] == len(rows)


def test_status_json_is_what_others_rely_on(filled: Filled) -> None:
    said = shell(filled.home, "status", "--json")
    assert said.code == 0
    told = said.json[-1]
    assert list(told) == [
        *("run_id", "job", "tier", "intervals", "start", "end", "status", "progress_pct", "started_at", "finished_at"),
        *("duration_s", "assets", "files_total", "files_ingested", "candles_ingested", "error"),
    ]
    assert told["run_id"] == filled.ingested.json["run_id"]
    assert len(shell(filled.home, "status", "--limit", "1", "--json").json) == 1
    assert told["run_id"][:8] in shell(filled.home, "status").out


def test_dead_letters_are_listed_and_exported(filled: Filled, tmp_path: Path) -> None:
    (letter,) = shell(filled.home, "dead-letters", "list", "--json").json
    assert list(letter) == [
        "id", "pair", "interval", "location", "line", "text", "reason", "rows", "operation", "run_id", "made_at"
    ]  # fmt: skip
    assert (letter["pair"], letter["interval"], letter["reason"]) == ("XBTUSD", 60, "close is not a number")
    assert letter["text"].startswith(f"{START + 40 * HOUR},")
    assert shell(filled.home, "dead-letters", "list", "--pairs", "ADAEUR", "--json").json == []
    assert "close is not a number" in shell(filled.home, "dead-letters", "list").out
    assert "No dead letters" in shell(filled.home, "dead-letters", "list", "--pairs", "ADAEUR").out
    said = shell(filled.home, "dead-letters", "export", "--to", str(tmp_path / "letters.csv"))
    assert (said.code, said.out) == (0, "")
    (row,) = csv.DictReader((tmp_path / "letters.csv").read_text().splitlines())
    assert row["text"] == letter["text"]


def test_health_is_0_where_all_is_well_and_1_where_it_is_not(filled: Filled, tmp_path: Path) -> None:
    said = shell(filled.home, "health", "--json")
    assert said.code == 0
    assert list(said.json) == ["status", "checks"]
    assert {tuple(check) for check in said.json["checks"]} == {("name", "status", "detail")}
    assert [check["name"] for check in said.json["checks"]] == LISTED
    found = {check["name"]: check for check in said.json["checks"]}
    assert found["api"]["status"] == said.json["status"] == "warning"  # nobody is at the exchange: no failure
    assert found["catalog"]["status"] == "ok"
    assert "the catalog (SQLite) answers" in shell(filled.home, "health").out
    (tmp_path / "file").write_text("no folder")
    broken = shell(tmp_path / "file", "health", "--json")
    assert broken.code == 1
    assert broken.json["status"] == "failed"
    assert [check["name"] for check in broken.json["checks"]] == list(NAMES)
    assert shell(tmp_path / "file", "health").code == 1


def test_health_shows_an_address_in_brackets_as_it_is() -> None:
    text = io.StringIO()
    health_tables.health(
        Console(file=text, width=132), [Check("questdb", HealthStatus.FAILED, "QuestDB at [fe80::1]:9000 [/red]")]
    )
    assert text.getvalue() == "failed   questdb        QuestDB at [fe80::1]:9000 [/red]\n"


def test_publish_without_questdb_is_wrong_use(tmp_path: Path) -> None:
    for options in ((), ("--json",), ("--rebuild", "--verify")):
        said = shell(tmp_path / "home", "publish", *options)
        assert (said.code, said.out) == (2, "")
        assert "QuestDB is not configured: set KRAKEN_QUESTDB_URL (http://user:password@host:9000) and" in said.err
        assert "Traceback" not in said.err
    assert not (tmp_path / "home").exists()


def test_publish_and_ingest_say_in_json_what_questdb_got(tmp_path: Path, shelf: Shelf, questdb: QuestDB) -> None:
    servers = {"KRAKEN_QUESTDB_URL": questdb.http_url, "KRAKEN_QUESTDB_PG_URL": questdb.pg_url}
    away = {
        "KRAKEN_QUESTDB_URL": "http://me:hunter2@127.0.0.1:9",
        "KRAKEN_QUESTDB_PG_URL": "postgresql://me:hunter2@127.0.0.1:9/qdb",
        "KRAKEN_QUESTDB_TIMEOUT_SECONDS": "0.3",
    }
    home = tmp_path / "home"
    options = ("--archive-dir", str(shelf.q1), "--intervals", "1440", "--no-api-backfill", "--json")
    ingested = shell(home, "ingest", *options, **away)
    assert (ingested.code, ingested.json["status"]) == (0, "SUCCESS")
    owed = ingested.json["outcome"]["publications_owed"]
    assert ingested.json["outcome"]["candles_published"] == 0 < owed
    refused = shell(home, "publish", "--json", **away)
    assert refused.code == 1
    assert refused.json["outcome"]["publications_owed"] == owed
    published = shell(home, "publish", "--verify", "--json", **servers)
    assert published.code == 0
    assert list(published.json) == list(ingested.json)
    assert (published.json["job"], published.json["status"]) == ("publish_candles", "SUCCESS")
    assert published.json["outcome"] == {
        "candles_published": ingested.json["candles_ingested"],
        "publications_owed": 0,
        "series_different": 0,
        "errors": [],
        "notes": [],
    }
    text = (ROOT / "docs" / "json.md").read_text()
    assert [key for key in published.json["outcome"] if not re.search(rf"\b{key}\b", text)] == []
    for said in (ingested, refused, published):
        assert "hunter2" not in said.out + said.err
        assert questdb.password not in said.out + said.err


def test_lines_of_json_on_standard_error_leave_standard_output_alone(tmp_path: Path, shelf: Shelf) -> None:
    options = ("--archive-dir", str(shelf.q1), "--intervals", "1440", "--no-api-backfill", "--json")
    variables = {"KRAKEN_LOG_FORMAT": "json", "KRAKEN_LOG_LEVEL": "DEBUG"}
    said = shell(tmp_path / "home", "ingest", *options, **variables)
    assert said.code == 0
    run_id = said.json["run_id"]
    lines = [json.loads(line) for line in said.err.splitlines() if line.startswith("{")]
    assert {(line["run_id"], line["job"]) for line in lines} == {(run_id, "ingest")}
    assert {"look_at_folders", None} <= {line.get("step") for line in lines}
    assert {tuple(line)[:4] for line in lines} == {("time", "level", "logger", "message")}
    assert {"DEBUG", "INFO"} <= {line["level"] for line in lines}
    assert not [line for line in said.err.splitlines() if " DEBUG " in line and not line.startswith("{")]


def test_an_empty_home_is_told_how_to_begin(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert shell(home, "gaps", "--json").json == []
    assert shell(home, "status", "--json").json == []
    assert "kraken-pipeline ingest starts one" in shell(home, "status").out
    assert "Put Kraken's archives into the drop folder" in shell(home, "report").out
    assert "No dead letters" in shell(home, "dead-letters", "list").out
    plan = shell(home, "plan")
    assert plan.code == 2
    assert "nothing to work on for tier ALL" in plan.err


# --- export


def test_export_writes_every_candle_as_csv(filled: Filled, tmp_path: Path) -> None:
    path = tmp_path / "ada.csv"
    said = shell(filled.home, "export", "ADA/EUR", "60", "--to", str(path))
    assert said.code == 0
    header, *rows = path.read_text().splitlines()
    assert header == "time,open,high,low,close,volume,trade_count,source"
    true = [*oracle("ADAEUR", 60, START, Q1.end), *oracle("ADAEUR", 60, Q3.start, CUT)]
    assert [tuple(map(float, row.split(",")[:7])) for row in rows] == true
    assert f"{len(true)} candles of ADAEUR 60 written to" in said.err


def test_export_takes_a_window_and_fills_quiet_time(filled: Filled, tmp_path: Path) -> None:
    path = tmp_path / "ada.parquet"
    window = ("--start", "2023-03-28", "--end", "2023-03-30")
    assert shell(filled.home, "export", "ADAEUR", "60", "--to", str(path), *window).code == 0
    assert pl.read_parquet(path).height == len(oracle("ADAEUR", 60, START + 48 * HOUR, START + 96 * HOUR)) < 48
    shell(filled.home, "export", "ADAEUR", "60", "--to", str(path), *window, "--fill-quiet")
    assert pl.read_parquet(path).height == 48


def test_export_makes_candles_of_any_width_in_any_zone(filled: Filled, tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    options = ("--offset", "5h", "--timezone", "Europe/Berlin", "--columns", "time,close", "--start", "2023-03-26")
    said = shell(filled.home, "export", "XBTUSD", "8h", "--to", str(path), *options, "--end", "2023-03-27")
    assert said.code == 0
    header, *rows = path.read_text().splitlines()
    assert header == "time,close"
    # 5, 13 and 21 o'clock in Berlin, whose clock is put forward before the first of them is over.
    assert [int(row.split(",")[0]) // HOUR % 24 for row in rows] == [3, 11, 19]
    assert "3 candles of XBTUSD 480 +300 min Europe/Berlin written to" in said.err


def test_export_writes_a_selection_to_the_folder_of_another_program(filled: Filled, tmp_path: Path) -> None:
    folder = tmp_path / "kraken"
    said = shell(filled.home, "export", "ALL", "1h,1d", "--format", "freqtrade", "--to", str(folder))
    assert said.code == 0
    found = {path.name for path in folder.iterdir()}
    assert {"BTC_USD-1h.feather", "BTC_USD-1d.feather", "ADA_EUR-1h.feather"} <= found
    assert f"candles of {len(found)} of " in said.err


def test_an_export_that_must_be_complete_names_what_is_missing(filled: Filled, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    whole = ("--start", "2023-03-28", "--end", "2023-03-31", "--require-complete")
    assert shell(filled.home, "export", "XBTUSD", "60", "--to", str(path), *whole).code == 0
    short = ("--start", "2023-03-28", "--end", "2023-07-02", "--require-complete")
    said = shell(filled.home, "export", "XBTUSD", "60", "--to", str(tmp_path / "no.csv"), *short)
    assert said.code == 1
    assert "not complete: 1 gap (XBTUSD 2023-04-01 to 2023-07-01)" in " ".join(said.err.split())
    assert not (tmp_path / "no.csv").exists()


def test_an_export_with_states_has_a_row_for_each_candle_of_the_time(filled: Filled, tmp_path: Path) -> None:
    path = tmp_path / "state.csv"
    time = ("--start", "2023-03-31", "--end", "2023-04-02", "--with-state")
    assert shell(filled.home, "export", "ADAEUR", "60", "--to", str(path), *time).code == 0
    states = [row.split(",")[-2] for row in path.read_text().splitlines()[1:]]
    assert len(states) == 48
    assert states[24:] == ["gap"] * 24
    assert set(states[:24]) == {"traded", "quiet"}


# --- proof


def test_reconcile_lists_what_contradicts_and_the_command_that_settles_it(tmp_path: Path) -> None:
    spike = Defect(DefectKind.SPIKE, "XBTUSD", Interval.H4, START + DAY)
    for minutes in (60, 240, 1440):
        write_csv(tmp_path / "archives", SPRING, "XBTUSD", Interval(minutes), start=START, end=Q1.end, defects=[spike])
    home = tmp_path / "home"
    said = shell(home, "ingest", "--archive-dir", "archives", "--no-api-backfill", "--intervals", "60,240,1440")
    assert "2 contradictions are left to you: kraken-pipeline reconcile" in said.out
    said = shell(home, "reconcile")
    assert (said.code, "0 spans refuted" in said.out) == (0, True)
    (only,) = shell(home, "reconcile", "--intervals", "240", "--json").json
    assert list(only) == [
        *("pair", "fine", "coarse", "time", "end", "verdict", "short_side", "fine_trades", "coarse_trades"),
        *("cause", "action"),
    ]
    assert (only["pair"], only["fine"], only["coarse"], only["verdict"]) == ("XBTUSD", 60, 240, "contradicted")
    assert (only["time"], only["short_side"]) == (iso(START + DAY), None)
    assert only["fine_trades"] == only["coarse_trades"] > 0
    command = only["action"].rpartition("then run kraken-pipeline ")[2]
    assert command.startswith("resolve --span --pair XBTUSD --interval 240 --start ")
    assert shell(home, *shlex.split(command)).code == 0
    assert shell(home, "reconcile", "--full", "--json").json == []
    told = shell(home, "reconcile", "--intervals", "60,240", "--end", iso(Q1.end - DAY), "--all", "--json").json
    assert {(each["fine"], each["coarse"]) for each in told} == {(60, 240)}
    # In place of what was taken back stands what was made of its hours, whose own prices nothing compared.
    made = iso(START + DAY)
    assert [each["verdict"] for each in told] == ["reconciled" if each["time"] == made else "verified" for each in told]
    assert len(told) == 5 * 6


def test_all_that_has_one_cause_is_one_line_and_settled_by_one_command(tmp_path: Path) -> None:
    spikes = [Defect(DefectKind.SPIKE, "XBTUSD", Interval.H4, START + DAY + 4 * number * HOUR) for number in range(16)]
    for minutes in (60, 240, 720):
        write_csv(tmp_path / "archives", SPRING, "XBTUSD", Interval(minutes), start=START, end=Q1.end, defects=spikes)
    home = tmp_path / "home"
    shell(home, "ingest", "--archive-dir", "archives", "--no-api-backfill", "--intervals", "60,240,720")
    singles = shell(home, "reconcile", "--json").json
    (group,) = shell(home, "reconcile", "--by-cause", "--json").json
    assert {each["cause"] for each in singles} == {group["cause"]}
    assert (group["kind"], group["of"], group["pairs"]) == ("file", "XBTUSD_240.csv", ["XBTUSD"])
    assert (group["count"], group["conflicts"], group["intervals"]) == (len(singles), len(singles), [60, 240, 720])
    command = f"resolve --cause {group['cause']} --reason …"
    assert group["action"] == f"withdraw what is suspected: kraken-pipeline {command}"
    said = shell(home, "reconcile")
    assert said.out.count(command) == 1
    assert "--one-by-one lists each" in said.out
    assert len(shell(home, "reconcile", "--one-by-one").out.splitlines()) > len(singles)
    # Whatever part is asked for, a cause is called the same.
    for more in (("--intervals", "240"), ("--end", iso(START + 2 * DAY)), ("--full",)):
        assert {each["cause"] for each in shell(home, "reconcile", *more, "--json").json} == {group["cause"]}
    dry = shell(home, *shlex.split(command), "--dry-run", "--json").json
    assert (dry["candles"], dry["what"]) == (16, f"{group['cause']} (XBTUSD_240.csv)")
    assert shell(home, *shlex.split(command)).code == 0
    assert shell(home, "reconcile", "--full", "--json").json == []
    assert shell(home, *shlex.split(command)).code == 2
    assert "there is no cause" in shell(home, *shlex.split(command)).err


def test_where_nobody_can_say_which_side_is_wrong_it_is_to_be_named(tmp_path: Path) -> None:
    spike = Defect(DefectKind.SPIKE, "XBTUSD", Interval.H4, START + DAY)
    for minutes in (60, 240):
        write_csv(tmp_path / "archives", SPRING, "XBTUSD", Interval(minutes), start=START, end=Q1.end, defects=[spike])
    home = tmp_path / "home"
    shell(home, "ingest", "--archive-dir", "archives", "--no-api-backfill", "--intervals", "60,240")
    (group,) = shell(home, "reconcile", "--by-cause", "--json").json
    assert (group["kind"], group["count"]) == ("spike", 1)
    cause = ("resolve", "--cause", group["cause"], "--reason", "a test")
    for words in ((), ("--interval", "720"), ("--file", "XBTUSD_240.csv")):
        said = shell(home, *cause, *words)
        assert (said.code, "--interval 60 --reason … or kraken-pipeline" in said.err) == (2, True)
    assert shell(home, *cause, "--pair", "XBTUSD").code == 2
    assert shell(home, *cause, "--interval", "240").code == 0
    assert shell(home, "reconcile", "--full", "--json").json == []


def test_files_that_differ_are_one_cause_a_series_and_settled_by_naming_one(tmp_path: Path) -> None:
    for name, price in (("XBTUSD", 100), ("BTCUSD", 200)):
        lines = [f"{START + HOUR * hour},{price},{price},{price},{price},1,2" for hour in range(24)]
        write_lines(tmp_path / "archives" / f"{name}_60.csv", lines)
    home = tmp_path / "home"
    shell(home, "ingest", "--archive-dir", "archives", "--no-api-backfill", "--intervals", "60")
    assert shell(home, "report", "--intervals", "60", "--json").json["conflicts"] == 1
    assert len(shell(home, "reconcile", "--json").json) == 24
    (group,) = shell(home, "reconcile", "--by-cause", "--json").json
    assert (group["kind"], group["count"]) == ("file", 24)
    cause = ("resolve", "--cause", group["cause"], "--reason", "a test")
    said = shell(home, *cause)
    assert (said.code, "--file BTCUSD_60.csv" in said.err, "--file XBTUSD_60.csv" in said.err) == (2, True, True)
    assert shell(home, *cause, "--file", "BTCUSD_60.csv").code == 0
    assert shell(home, "reconcile", "--json").json == []
    shell(home, "ingest", "--archive-dir", "archives", "--no-api-backfill", "--intervals", "60")
    assert (shell(home, "reconcile", "--json").json, shell(home, "report", "--json").json["conflicts"]) == ([], 0)
    shell(home, "export", "XBTUSD", "60", "--to", str(tmp_path / "hours.parquet"))
    assert set(pl.read_parquet(tmp_path / "hours.parquet")["open"]) == {100.0}


# --- wrong use


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("gaps", "--intervals", "60,7"), "interval '7' does not exist; allowed are 1, 5, 15, 30, 60"),
        (("gaps", "--intervals", ""), "'' names nothing; to select all, leave the option out"),
        (("report", "--tier", "TIER7"), "tier='TIER7': Input should be 'TIER1'"),
        (("report", "--pairs", "ETHUSD"), "ETHUSD is unknown"),
        (("plan", "--start", "2023-02-01", "--end", "2023-01-01"), "end must be later than start"),
        (("plan", "--start", "yesterday"), "'yesterday' is not a time; write 2023-10-01"),
        (("plan", "--archive-dir", "nowhere"), "there is no file or folder "),
        (("ingest", "--pairs", "ADAEUR", "--tier", "TIER2"), "ADAEUR is in TIER1, not in TIER2"),
        (("ingest", "--resume", "0000"), "no run begins with '0000'; `kraken-pipeline status` lists them"),
        (("ingest", "--resume", "0000", "--tier", "TIER1"), "--resume continues a run with its own configuration"),
        (("export", "XBTUSD", "60", "--to", "x.xlsx"), "must end in .csv, .parquet or .feather, or be a folder"),
        (("export", "XBTUSD", "0", "--to", "x.csv"), "interval '0' is not between a minute and 366 days"),
        (("export", "XBTUSD", "1x", "--to", "x.csv"), "'1x' is not a length of time; examples are 90"),
        (("export", "XBTUSD", "", "--to", "x.csv"), "'' names no interval"),
        (("export", ",", "60", "--to", "x.csv"), "',' names no pair"),
        (("export", "ETHUSD", "60", "--to", "x.csv"), "ETHUSD is unknown: neither the lake nor the exchange's list"),
        (("export", "XBTUSD", "60", "--to", "x.csv", "--columns", "close,vwop"), "there is no column 'vwop'"),
        (("export", "XBTUSD", "60", "--to", "x.csv", "--timezone", "Berlin"), "is not the name of a time zone"),
        (("export", "XBTUSD", "60,1d", "--to", "x.csv"), "one file has candles of one interval"),
        (("export", "XBTUSD", "60", "--to", "folder"), "or be a folder with a --format: csv, parquet"),
        (
            ("export", "XBTUSD", "60", "--to", "x.csv", "--start", "2031-01-01"),
            "the lake has no candle of XBTUSD 60 in that time",
        ),
        (("export", "ALL", "60", "--to", "x.csv", "--tier", "TIER3"), "the lake has no pair of TIER3"),
    ],
)
def test_wrong_use_is_exit_code_2_and_a_sentence(filled: Filled, arguments: tuple[str, ...], sentence: str) -> None:
    before = digest_of(filled.home)
    said = shell(filled.home, *arguments)
    assert said.code == 2
    assert said.err.startswith("kraken-pipeline: ")
    assert sentence in said.err
    assert "Traceback" not in said.err
    assert said.out == ""
    assert digest_of(filled.home) == before


@pytest.mark.parametrize("arguments", [("gaps", "--colour", "red"), ("nonsense",), ("export", "XBTUSD"), ()])
def test_what_the_program_does_not_know_is_exit_code_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert shell(tmp_path / "home", *arguments).code == 2
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("KRAKEN_API_RATE", "0", "KRAKEN_API_RATE='0': Input should be greater than 0"),
        ("KRAKEN_WORKERS", "many", "KRAKEN_WORKERS='many': Input should be a valid integer"),
        ("KRAKEN_TIERS_FILE", "nowhere.toml", "KRAKEN_TIERS_FILE: nowhere.toml is not a table of tiers"),
    ],
)
def test_a_wrong_setting_stops_at_the_start_with_its_name(
    tmp_path: Path, variable: str, value: str, sentence: str
) -> None:
    for command in ("gaps", "report", "health"):
        said = shell(tmp_path / "home", command, **{variable: value})
        if command == "health" and variable == "KRAKEN_TIERS_FILE":
            assert said.code == 1  # it is what health is for
            continue
        assert said.code == 2
        assert sentence in said.err


def test_a_store_that_cannot_be_opened_is_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    said = shell(tmp_path / "file", "gaps")
    assert said.code == 1
    assert "KRAKEN_PIPELINE_HOME" in said.err
    assert "Traceback" not in said.err


def test_a_run_that_succeeded_cannot_be_resumed(filled: Filled) -> None:
    run_id = filled.ingested.json["run_id"]
    said = shell(filled.home, "ingest", "--resume", run_id[:12])
    assert said.code == 2
    assert f"run {run_id} is SUCCESS; there is nothing to resume" in said.err


# --- tables


def test_tables_name_what_they_count(filled: Filled) -> None:
    plan = shell(filled.home, "plan", "--intervals", "60,1440", "--end", "2023-07-08").out
    assert re.search(r"TRADES\s+3\s", plan)
    assert re.search(r"Archives to fetch: .*Kraken_OHLCVT_Q2_2023\.zip", plan)
    gaps = shell(filled.home, "gaps", "--intervals", "60", "--end", "2023-07-08").out
    assert "Kraken_OHLCVT_Q2_2023.zip:ADAEUR_" in gaps
    report = shell(filled.home, "report", "--intervals", "60", "--end", "2023-07-08").out
    assert "Fetch Kraken_OHLCVT_Q2_2023.zip" in report


# --- the documents


def commands(command: Any = None, name: str = "kraken-pipeline") -> Iterator[tuple[str, Any]]:
    """Every command of the program with its full name."""
    command = command or app
    if hasattr(command, "commands"):
        for each, inner in command.commands.items():
            yield from commands(inner, f"{name} {each}")
    else:
        yield name, command


def test_every_command_is_documented_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    names = [name for name, _ in commands()]
    assert len(names) >= 9
    missing = [name for name in names if name not in readme and name.removeprefix("kraken-pipeline ") not in readme]
    assert missing == []


def test_every_command_and_option_says_what_it_is() -> None:
    for name, command in commands():
        assert command.help, name
        for parameter in command.params:
            if parameter.name != "help":
                assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_every_option_that_the_readme_shows_exists() -> None:
    known = {option for _, command in commands() for parameter in command.params for option in parameter.opts}
    known |= {option for _, command in commands() for each in command.params for option in each.secondary_opts}
    readme = (ROOT / "README.md").read_text()
    lines = [line for line in readme.splitlines() if "kraken-pipeline " in line and "dagster " not in line]
    shown = {option for line in lines for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line)}
    assert shown - known == set()


OWN_JOBS = {job.name: job for job in (verify_job, prove_job)}
"""Jobs whose configuration is not only a `RunSpec`."""


def test_every_configuration_that_the_readme_shows_is_valid() -> None:
    shown = re.findall(r"-j (\w+) --config-json '([^']+)'", (ROOT / "README.md").read_text())
    assert shown
    for job, text in shown:
        if job == "publish_candles":
            assert json.loads(text) == {"verify": True}
        elif job in OWN_JOBS:
            mapping = OWN_JOBS[job].config_mapping
            assert mapping is not None
            assert mapping.resolve_from_unvalidated_config(json.loads(text))
        else:
            assert run_spec(json.loads(text)) != RunSpec()


def documented(title: str) -> dict[str, tuple[str, str]]:
    """The rows of the table below a heading of docs/settings.md: name → default and description."""
    text = (ROOT / "docs" / "settings.md").read_text().partition(f"# {title}\n")[2].partition("\n#")[0]
    rows = [[cell.strip() for cell in line.strip("| \n").split("|")] for line in text.splitlines() if "| `" in line]
    return {row[0].strip("`"): (row[1].strip("`"), row[2]) for row in rows}


def test_every_setting_is_documented_with_its_default() -> None:
    table = documented("Settings")
    for name, field in Settings.model_fields.items():
        default, description = table[name.upper()]
        assert description == field.description, name
        if name != "kraken_workers":  # which depends on the machine
            assert default == ("" if field.default in (None, (), {}) else str(field.default)), name


def test_every_option_of_a_run_is_documented_with_its_default() -> None:
    table = documented("Options of a run")
    assert set(table) == set(RunSpec.model_fields)
    for name, field in RunSpec.model_fields.items():
        default, description = table[name]
        assert description == field.description, name
        if name != "intervals":
            assert default == ("" if field.default in (None, (), {}) else str(field.default)), name


def test_every_key_of_the_json_is_documented(filled: Filled) -> None:
    text = (ROOT / "docs" / "json.md").read_text()
    told = [
        shell(filled.home, "status", "--json").json[0],
        shell(filled.home, "gaps", "--intervals", "60", "--json").json[0],
        shell(filled.home, "report", "--intervals", "60", "--json").json,
        shell(filled.home, "plan", "--intervals", "60", "--json").json,
        shell(filled.home, "plan", "--intervals", "60", "--json").json["routes"][0],
        shell(filled.home, "dead-letters", "list", "--json").json[0],
        shell(filled.home, "health", "--json").json,
        shell(filled.home, "pairs", "--json").json[0],
        filled.ingested.json,
        filled.ingested.json["outcome"],
    ]
    assert [key for each in told for key in each if not re.search(rf"\b{key}\b", text)] == []
