"""What verified and reconciled mean, from files to the shell: what was compared with nothing is not verified."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.demo.archives import candles_name, write_csv
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline_tests.support.homes import Q1, Q3, SPRING, START, Shelf, lines_of, oracle, write_lines
from kraken_pipeline_tests.support.shell import shell

pytestmark = pytest.mark.slow

HOUR = 3_600
PAIR = "XBTUSD"
PLAIN = ("--no-api-backfill",)


def with_a_wrong_low(path: Path, time: int, low: float) -> Path:
    """The same file, in which one candle's low is another."""
    lines = [line.split(",") for line in lines_of(path)]
    for fields in lines:
        if int(fields[0]) == time:
            fields[3] = str(low)
    return write_lines(path, [",".join(fields) for fields in lines])


def hidden_low() -> tuple[int, float]:
    """An hour and a wrong low of it, between its own and the lower one of its four hours: no sum shows it."""
    for block in range(START + DAY, Q1.end - DAY, 4 * HOUR):
        rows = [row for row in oracle(PAIR, 60, block, block + 4 * HOUR) if row[-1] >= 4]
        lowest = min((row[3] for row in rows), default=0.0)
        for time, _, _, low, *_ in rows:
            if low > lowest + 1:
                return int(time), round((low + lowest) / 2, 1)
    raise AssertionError("in no four hours is there such an hour")


def explained(home: Path, interval: int, time: int) -> Mapping[str, Any]:
    return shell(home, "explain", PAIR, str(interval), iso(time), "--json").json["proof"]  # type: ignore[no-any-return]


def percents(home: Path, *options: str) -> Mapping[str, tuple[float, float]]:
    """Interval → how much is reconciled at least, and verified, of what is covered and expected."""
    told = shell(home, "report", "--pairs", PAIR, "--start", iso(START), "--end", iso(Q1.end - DAY), "--json", *options)
    return {name: (each["proven_pct"], each["verified_pct"]) for name, each in told.json["intervals"].items()}


def test_a_wrong_low_that_hides_within_its_four_hours_is_not_verified(tmp_path: Path) -> None:
    time, low = hidden_low()
    for minutes in (60, 240, 1440):
        write_csv(tmp_path / "in", SPRING, PAIR, Interval(minutes), start=START, end=Q1.end)
    with_a_wrong_low(tmp_path / "in" / f"{PAIR}_60.csv", time, low)
    home = tmp_path / "home"
    shell(home, "ingest", "--archive-dir", "in", *PLAIN)
    assert shell(home, "reconcile", "--json").json == []

    wrong = explained(home, 60, time)
    assert wrong["state"] == "RECONCILED"
    (sentence,) = wrong["by"]
    assert sentence.startswith("it adds up, with the others, to the 240-minute candle of ")
    assert sentence.endswith(
        "trades and volume were compared, and no trade is missing; its own open, high, low and close were not compared"
    )
    block = explained(home, 240, time)
    assert block["state"] == "VERIFIED"
    compared = "open, high, low, close, volume and trades were compared"
    assert block["by"][0] == f"the 60-minute candles within it add up to it: {compared}"

    assert percents(home, "--intervals", "60,240,720,1440") == {
        "60": (100.0, 0.0),
        "240": (100.0, 100.0),
        "720": (100.0, 100.0),  # made of those of 240 minutes
        "1440": (100.0, 100.0),
    }
    window = ("--intervals", "60,240", "--start", iso(START), "--end", iso(Q1.end - DAY))
    told = shell(home, "reconcile", *window, "--all", "--json").json
    assert {each["verdict"] for each in told} == {"verified"}, "of the coarser of two"
    said = shell(home, "report", "--pairs", PAIR, "--intervals", "60", *window[2:]).out
    assert "100.00 % reconciled, 0.00 % verified" in said

    # Its minutes show it: now it is a conflict, and the other hours are verified.
    write_csv(tmp_path / "minutes", SPRING, PAIR, Interval.M1, start=START, end=Q1.end)
    shell(home, "ingest", "--archive-dir", "minutes", *PLAIN)
    assert explained(home, 60, time)["state"] == "CONFLICT"
    assert explained(home, 60, time + DAY)["state"] == "VERIFIED"
    assert explained(home, 1, time + DAY)["state"] == "RECONCILED"


def test_minutes_are_verified_by_their_trades_and_what_is_made_of_them_with_them(tmp_path: Path, shelf: Shelf) -> None:
    home = tmp_path / "home"
    shell(home, "ingest", "--archive-dir", str(shelf.trades), *PLAIN)
    hours = oracle(PAIR, 60, Q3.start + 6 * HOUR, Q3.start + DAY)
    row = next(row for row in hours if row[-1] > 3)
    minute = oracle(PAIR, 1, row[0], row[0] + HOUR)[0]
    proof = explained(home, 1, minute[0])
    assert proof["state"] == "VERIFIED"
    assert proof["by"][0].startswith("it was made of the trades themselves: open, high, low,")
    hour = explained(home, 60, row[0])
    assert hour["state"] == "VERIFIED"
    assert (
        "it was made of the 30-minute candles within it, whose own open, high, low and close were compared"
        in hour["by"]
    )


def test_two_releases_verify_what_they_say_alike_until_one_is_withdrawn(tmp_path: Path, shelf: Shelf) -> None:
    home = tmp_path / "home"
    only = ("--pairs", PAIR, "--intervals", "60", *PLAIN)
    shell(home, "ingest", "--archive-dir", str(shelf.q1), *only)
    assert percents(home, "--intervals", "60") == {"60": (0.0, 0.0)}
    # A loose file may be a copy of it.
    write_csv(tmp_path / "loose", SPRING, PAIR, Interval.H1, start=START, end=Q1.end)
    shell(home, "ingest", "--archive-dir", "loose", *only)
    assert percents(home, "--intervals", "60") == {"60": (0.0, 0.0)}

    shell(home, "ingest", "--archive-dir", str(shelf.complete), *only)
    assert percents(home, "--intervals", "60") == {"60": (100.0, 100.0)}
    time = oracle(PAIR, 60, START + DAY, START + 2 * DAY)[0][0]
    proof = explained(home, 60, time)
    assert proof["state"] == "VERIFIED"
    assert proof["by"][0] == (
        "a second, independent source has the same values: open, high, low, close, volume and trades were compared"
    )
    name = f"{candles_name(Q1)}:{PAIR}_60.csv"
    assert shell(home, "resolve", "--file", name, "--reason", "a test").code == 0
    assert percents(home, "--intervals", "60") == {"60": (0.0, 0.0)}


@pytest.mark.parametrize("first", ["quarter", "complete"])
def test_what_two_archives_say_otherwise_is_not_verified_whichever_comes_first(
    tmp_path: Path, shelf: Shelf, first: str
) -> None:
    """Their trade counts are the same, so neither refutes the other, and the values are in no conflict's record."""
    time, low = hidden_low()
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(shelf.q1) as archive:
        text = archive.read(f"{PAIR}_60.csv")
    loose = tmp_path / f"{PAIR}_60.csv"
    loose.write_bytes(text)
    with_a_wrong_low(loose, time, low)
    with zipfile.ZipFile(tmp_path / "in" / candles_name(Q1), "w") as changed:
        changed.write(loose, f"{PAIR}_60.csv")
    home = tmp_path / "home"
    only = ("--pairs", PAIR, "--intervals", "60", *PLAIN)
    archives = [str(tmp_path / "in"), str(shelf.complete)]
    for path in archives if first == "quarter" else archives[::-1]:
        shell(home, "ingest", "--archive-dir", path, *only)
    assert explained(home, 60, time)["state"] == "NOT_TESTED"
    others = [row[0] for row in oracle(PAIR, 60, START + DAY, Q1.end - DAY) if row[0] != time]
    assert {explained(home, 60, other)["state"] for other in others[::7]} == {"VERIFIED"}


def test_nothing_is_not_a_hundred_percent(tmp_path: Path) -> None:
    home = tmp_path / "home"
    told = shell(home, "report", "--json").json
    assert [told[name] for name in ("overall_completeness_pct", "proven_pct", "verified_pct")] == [None] * 3
    next_ = "The lake is empty: kraken-pipeline ingest --archive-dir FOLDER reads Kraken's archives."
    for command in ("report", "gaps", "reconcile"):
        said = shell(home, command).out
        assert next_ in said, command
        assert "100" not in said
        assert "covered." not in said
    shell(home, "report", "--html", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    assert page.count('<dd class="unknown">–') == 3  # noqa: RUF001 - a dash
    assert next_.replace("'", "&#39;") in page
    assert "100.00" not in page


def test_an_ingest_that_stored_nothing_because_its_files_failed_says_so_first(tmp_path: Path) -> None:
    home = tmp_path / "home"
    write_lines(tmp_path / "in" / "ADAEUR_60.csv", ["rubbish"])
    (tmp_path / "in" / candles_name(Q1)).write_bytes(b"no archive")
    said = shell(home, "ingest", "--archive-dir", "in", *PLAIN)
    assert said.code == 1
    assert said.out.index("Nothing was stored: every file failed (2).") < said.out.index("SUCCESS run ")
    assert "100.00" not in said.out
    # What was there before is there still: the files that were new failed.
    write_csv(tmp_path / "in", SPRING, PAIR, Interval.H1, start=START, end=Q1.end)
    assert "Nothing was stored" not in shell(home, "ingest", "--archive-dir", "in", *PLAIN).out
    again = shell(home, "ingest", "--archive-dir", "in", *PLAIN)
    assert "Nothing was stored: every file that was new failed (2)." in again.out
