"""What someone sees who has just cloned this."""

from __future__ import annotations

import re
import shlex
import signal
import time
from pathlib import Path

import pytest
from dotenv import dotenv_values

from kraken_pipeline.cli import options
from kraken_pipeline.orchestration import steps
from kraken_pipeline_tests.support.buckets import Bucket
from kraken_pipeline_tests.support.exchanges import stop_clock
from kraken_pipeline_tests.support.shell import ended, shell, start

pytestmark = pytest.mark.slow
PROGRAM = re.compile(r"(^|[/:&] ?)kraken-pipeline \w")


def test_the_demo_plans_ingests_and_reports_a_small_world_and_says_what_to_look_at_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_clock(monkeypatch, int(time.time()), options, steps)  # no hour ends between two commands
    home = tmp_path / "demo-data"
    said = shell(home, "demo", "--home", str(home))
    assert said.code == 0, said.err
    missing = re.search(r"missing on purpose: (\S+\.zip)", said.out)
    assert missing
    assert f"Archives to fetch: {missing[1]}" in said.out
    assert f"Fetch {missing[1]} and put it into the drop folder: it would fill gaps of 15 series." in said.out
    assert "Kraken_OHLCVT.zip is not a ZIP that can be read" in said.out
    assert re.search(r"SUCCESS run [0-9a-f]{8}: (\d+) of \1 files ingested", said.out)
    for title in ("Plan", "Completeness", "What to do", "What to try next"):
        assert f"\n{title}" in said.out
    # In its folder, the same commands mean the demo.
    assert {row["reason"] for row in shell(home, "dead-letters", "list", "--json").json} >= {"volume is negative"}

    # Each command that it suggests does what it says, about what the demo was about.
    told = re.search(r"^\d+\.\d\d % complete over 15 series .*$", said.out, re.MULTILINE)
    assert told
    assert told[0] in shell(home, "report").out
    lines = [line.strip(" •") for line in said.out.splitlines()]
    suggested = [(line, shlex.split(line.rpartition("kraken-pipeline ")[2])) for line in lines if PROGRAM.search(line)]
    assert [words[0] for _, words in suggested] == [
        *("reconcile", "dead-letters", "backfill", "reconcile", "ui", "report", "gaps", "reconcile", "dead-letters"),
        *("export", "demo"),
    ]
    for line, words in suggested[:-1]:
        if words[0] == "ui":  # which never ends
            continue
        more = ("--dry-run", "--json") if words[0] == "backfill" else ()
        done = shell(home, *words, *more)
        assert done.code == 0, done.err
        if (cost := re.search(r"with about ([\d,]+) requests", line)) is not None:
            assert sum(fetch["requests"] for fetch in done.json) == int(cost[1].replace(",", ""))

    # Its exchange answers again, with the same trades, at the address that the demo's `.env` names.
    exchange = dotenv_values(home / ".env")["KRAKEN_API_URL"] or ""
    served = start(home, "demo", "--home", str(home), "--serve")
    try:
        assert served.stdout is not None
        assert served.stdout.readline().strip() == exchange
        one = ("--pairs", "XBTUSD", "--intervals", "60")
        filled = shell(home, "backfill", *one, "--complete", KRAKEN_API_URL=exchange)
        assert filled.code == 0, filled.err
        assert shell(home, "report", *one, "--json").json["overall_completeness_pct"] == 100.0
    finally:
        served.send_signal(signal.SIGINT)
    assert ended(served).code == 0


def test_with_the_lake_in_a_bucket_the_demo_lies_beside_real_candles(tmp_path: Path, bucket: Bucket) -> None:
    home = tmp_path / "demo-data"
    said = shell(home, "demo", "--home", str(home), KRAKEN_LAKE_URL=bucket.url)
    assert said.code == 0, said.err
    assert re.search(r"SUCCESS run [0-9a-f]{8}: (\d+) of \1 files ingested", said.out)
    assert bucket.objects("demo/lake")
    assert bucket.objects() == bucket.objects("demo")
    assert not list(home.rglob("*.parquet"))
    for command in ("verify", "report", "dead-letters list"):
        done = shell(home, *command.split(), KRAKEN_LAKE_URL=f"{bucket.url}/demo")
        assert done.code == 0, done.err
    assert re.search(r"^\d+\.\d\d % complete over 15 series", said.out, re.MULTILINE)


def test_a_demo_that_was_not_built_has_no_exchange(tmp_path: Path) -> None:
    said = shell(tmp_path / "home", "demo", "--home", str(tmp_path / "home"), "--serve")
    assert (said.code, "there is no demo in" in said.err) == (2, True), said
