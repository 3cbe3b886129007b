from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from kraken_pipeline.archive_path import ArchivePath
from kraken_pipeline.coverage.ranges import Span, subtract
from kraken_pipeline.demo.archives import (
    candles_name,
    write_complete_zip,
    write_csv,
    write_full_parts,
    write_quarterly_trades_zip,
    write_quarterly_zip,
    write_trades_csv,
)
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.listing import DAY, Listing
from kraken_pipeline.demo.world import World
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.candle import EARLIEST_TIME
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.quarter import Quarter
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.catalog.states import FileStatus
from kraken_pipeline.storage.records import file_records
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.ingest import drop_folder
from kraken_pipeline.workflow.ingest.drop_folder import tidy
from kraken_pipeline.workflow.ingest.ingest import enlist, ingest
from kraken_pipeline.workflow.ingest.scan import scan
from kraken_pipeline.workflow.progress import Progress, RunContext
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.homes import (
    CUT,
    HOURS_AND_DAYS,
    NOW,
    Q1,
    Q2,
    Q3,
    SPRING,
    START,
    Shelf,
    covered,
    digest_of,
    evidence_of,
    files_of,
    lake_of,
    letters,
    lines_of,
    oracle,
    rows_of,
    run,
    settings_of,
    spans,
    stored,
    write_lines,
)
from kraken_pipeline_tests.support.samples import csv_row, write_zip

pytestmark = pytest.mark.slow

HOUR = 3_600
PAIRS = tuple(SPRING.listings)


# --- what is stored


def test_every_candle_of_two_quarterly_archives_equals_what_was_traded(stores: Stores, shelf: Shelf) -> None:
    done = run(stores, shelf.q1, shelf.q2, resampling=False)
    assert {outcome.status for outcome in done.files.values()} == {FileStatus.COMPLETED}
    for pair in PAIRS:
        for interval in HOURS_AND_DAYS:
            assert stored(stores, pair, interval) == oracle(pair, interval, Q1.start, Q2.end)
    assert done.candles_stored == sum(map(len, lake_of(stores).values()))


def test_every_candle_of_the_complete_archive_equals_what_was_traded_and_its_litter_is_skipped_with_a_reason(
    stores: Stores, shelf: Shelf
) -> None:
    done = run(stores, shelf.complete, resampling=False)
    for pair in PAIRS:
        for interval in HOURS_AND_DAYS:
            assert stored(stores, pair, interval) == oracle(pair, interval, START, Q1.end + 2 * DAY)
    reasons = {each.name.rpartition("/")[2]: each.reason for each in done.scanned.skipped}
    assert "BTCUSD_Daily_OHLC.csv" in reasons
    assert "._XBTUSD_60.csv" in reasons
    assert all(reasons.values())


def test_candles_of_an_archive_in_parts_with_a_manifest_equal_what_was_traded(stores: Stores, tmp_path: Path) -> None:
    quarter = Quarter(2026, 2)
    start = quarter.end - 5 * DAY
    world = World(3, [Listing("XBTUSD", "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 9e4, 0.01, 900, start)], quarter.end)
    parts = write_full_parts(tmp_path / "in", world, quarter, HOURS_AND_DAYS, part_bytes=1_500)
    assert len(parts) > 2
    done = run(stores, tmp_path / "in", now=quarter.end + DAY, resampling=False)
    assert set(done.files) == {f"Kraken_OHLCVT_Full_2026Q2.zip:XBTUSD_{interval}.csv" for interval in (60, 1440)}
    for interval in HOURS_AND_DAYS:
        assert stored(stores, "XBTUSD", interval) == oracle("XBTUSD", interval, start, quarter.end, world)
        # A manifest says where it starts: with the day of the first trade.
        assert covered(stores, "XBTUSD", interval) == spans((start, quarter.end))


def test_a_quarterly_archive_with_a_manifest_covers_what_the_manifest_says(stores: Stores, tmp_path: Path) -> None:
    quarter = Quarter(2026, 2)
    listing = Listing("XBTUSD", "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 9e4, 0.01, 900, quarter.end - 5 * DAY)
    world = World(3, [listing], quarter.end + 5 * DAY)
    run(stores, write_quarterly_zip(tmp_path, world, quarter, HOURS_AND_DAYS), now=world.now, resampling=False)
    assert covered(stores, "XBTUSD", 60) == spans((quarter.start, quarter.end))
    assert len(stored(stores, "XBTUSD", 60)) == len(oracle("XBTUSD", 60, quarter.start, quarter.end, world)) > 100


def test_an_archive_that_is_not_what_its_manifest_says_is_reported_and_stops_nothing_else(
    stores: Stores, tmp_path: Path, shelf: Shelf
) -> None:
    content = {"MANIFEST.json": '{"files": 3}', "XBTUSD_60.csv": csv_row(Q1.end - HOUR)}
    wrong = write_zip(tmp_path / "Kraken_OHLCVT_2026Q2.zip", content)
    done = run(stores, wrong, shelf.q1, now=Quarter(2026, 2).end, resampling=False)
    (broken,) = done.scanned.broken
    assert "has 1 CSV files, but its MANIFEST.json lists 3" in broken.reason
    assert done.files["Kraken_OHLCVT_Q1_2023.zip:XBTUSD_60.csv"].status is FileStatus.COMPLETED


def test_a_trades_archive_becomes_the_minutes_that_it_spans_whole(stores: Stores, shelf: Shelf) -> None:
    done = run(stores, shelf.trades, resampling=False)
    start, end = Q3.start, Q3.start + 2 * DAY
    true = oracle("XBTUSD", 1, start, end)
    # A loose file's first and last minute may be cut; both are left out.
    assert stored(stores, "XBTUSD", 1) == true[1:-1]
    assert covered(stores, "XBTUSD", 1) == spans((true[0][0] + 60, true[-1][0]))
    assert done.files["XBTUSD.csv"].rows == sum(row[-1] for row in true)


def test_quarterly_trades_become_every_minute_of_the_quarter(stores: Stores, tmp_path: Path) -> None:
    run(stores, write_quarterly_trades_zip(tmp_path, SPRING, Q1, pairs=["ADAEUR"]), resampling=False)
    assert stored(stores, "ADAEUR", 1) == oracle("ADAEUR", 1, Q1.start, Q1.end)
    # What it answers for ends with the minute of its last trade: nothing in it says that it goes on.
    last = oracle("ADAEUR", 1, Q1.start, Q1.end)[-1][0]
    assert covered(stores, "ADAEUR", 1) == spans((Q1.start, last + 60))


def test_candles_say_where_they_came_from(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, shelf.trades, resampling=False)
    assert stores.lake.read(Series("XBTUSD", Interval.H1))["source"].unique().to_list() == ["CSV"]
    assert stores.lake.read(Series("XBTUSD", Interval.M1))["source"].unique().to_list() == ["TRADES"]


# --- what it is evidence for


def test_a_quarterly_archive_covers_its_whole_quarter(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, shelf.q2, resampling=False)
    for pair in PAIRS:
        assert covered(stores, pair, 60) == spans((Q1.start, Q2.end))
        assert covered(stores, pair, 1440) == spans((Q1.start, Q2.end))


def test_an_archive_that_was_made_at_23_hours_is_cut_there_in_every_interval(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q3, resampling=False)
    for pair in PAIRS:
        assert covered(stores, pair, 60) == spans((Q3.start, CUT))
        assert covered(stores, pair, 1440) == spans((Q3.start, Q3.start + 5 * DAY))
        # The row of the day that was cut is stored as it stands, but nobody answers for it.
        assert stored(stores, pair, 1440)[-1][0] == Q3.start + 5 * DAY


def test_the_end_of_a_release_is_found_although_the_run_asks_for_another_pair_and_interval(
    stores: Stores, shelf: Shelf
) -> None:
    run(stores, shelf.q3, pairs="ZORKUSD", intervals="1440", resampling=False)
    assert covered(stores, "ZORKUSD", 1440) == spans((Q3.start, Q3.start + 5 * DAY))


def test_the_complete_archive_covers_everything_up_to_its_latest_candle(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.complete, resampling=False)
    for pair in PAIRS:
        for interval in HOURS_AND_DAYS:
            start = interval.ceil(EARLIEST_TIME)
            assert covered(stores, pair, interval) == spans((start, Q1.end + 2 * DAY))


def test_a_loose_file_covers_its_first_candle_to_the_start_of_its_last_one(stores: Stores, tmp_path: Path) -> None:
    end = Q1.end + 12 * HOUR  # in the middle of a day: its row is short
    for interval in HOURS_AND_DAYS:
        write_csv(tmp_path, SPRING, "XBTUSD", interval, start=START, end=end)
    run(stores, tmp_path, resampling=False)
    first = oracle("XBTUSD", 60, START, end)
    assert covered(stores, "XBTUSD", 60) == spans((first[0][0], first[-1][0]))
    assert covered(stores, "XBTUSD", 1440) == spans((START, Q1.end))
    assert stored(stores, "XBTUSD", 1440)[-1][0] == Q1.end


def test_a_loose_file_of_one_candle_is_stored_and_covers_nothing(stores: Stores, tmp_path: Path) -> None:
    run(stores, write_lines(tmp_path / "XBTUSD_60.csv", [csv_row(START).strip()]), resampling=False)
    assert len(stored(stores, "XBTUSD", 60)) == 1
    assert covered(stores, "XBTUSD", 60) == ()


def test_a_zip_that_is_no_release_of_krakens_covers_what_loose_files_do(stores: Stores, tmp_path: Path) -> None:
    rows = "".join(csv_row(START + hour * HOUR) for hour in (0, 1, 5))
    run(stores, write_zip(tmp_path / "my backup.zip", {"XBTUSD_60.csv": rows}), resampling=False)
    assert covered(stores, "XBTUSD", 60) == spans((START, START + 5 * HOUR))


# --- bad rows


def a_busy_hour(pair: str, number: int) -> int:
    """The start of an hour with at least two trades, well inside the first quarter."""
    return [int(row[0]) for row in oracle(pair, 60, START + DAY, Q1.end - DAY) if row[-1] > 2][number]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (DefectKind.HIGH_BELOW_LOW, "high is below|low is above"),
        (DefectKind.NEGATIVE_VOLUME, "volume is negative"),
        (DefectKind.MISALIGNED, "time is not a multiple of 3600 s"),
        (DefectKind.UNREADABLE, "close is not a number"),
        (DefectKind.CUT_LINE, "the line does not have 7 fields"),
    ],
)
def test_a_bad_row_becomes_a_dead_letter_and_its_slot_is_not_covered(
    stores: Stores, tmp_path: Path, kind: DefectKind, reason: str
) -> None:
    at = a_busy_hour("XBTUSD", 40)
    defect = Defect(kind, "XBTUSD", Interval.H1, at, release=candles_name(Q1))
    path = write_quarterly_zip(tmp_path, SPRING, Q1, [Interval.H1], pairs=["XBTUSD"], defects=[defect])
    done = run(stores, path, resampling=False)
    (outcome,) = done.files.values()
    assert (outcome.status, outcome.rows_rejected) == (FileStatus.COMPLETED, 1)

    with zipfile.ZipFile(path) as archive:
        lines = archive.read("XBTUSD_60.csv").decode().splitlines()
    (letter,) = letters(stores)
    assert letter["location"] == f"{path}:XBTUSD_60.csv"
    assert lines[letter["line"] - 1] == letter["text"]
    assert any(each in letter["reason"] for each in reason.split("|"))
    assert (letter["pair"], letter["interval"], letter["run_id"]) == ("XBTUSD", 60, "run-one")

    true = oracle("XBTUSD", 60, Q1.start, Q1.end)
    assert stored(stores, "XBTUSD", 60) == [row for row in true if row[0] != at]
    assert covered(stores, "XBTUSD", 60) == spans((Q1.start, at), (at + HOUR, Q1.end))


def test_of_a_row_whose_time_cannot_be_read_the_span_between_its_neighbours_is_not_covered(
    stores: Stores, tmp_path: Path
) -> None:
    hours = [csv_row(START + hour * HOUR).strip() for hour in range(10)]
    hours[4] = csv_row("yesterday").strip()
    del hours[5]
    run(stores, write_lines(tmp_path / "XBTUSD_60.csv", hours), resampling=False)
    start = START
    assert covered(stores, "XBTUSD", 60) == spans((start, start + 4 * HOUR), (start + 6 * HOUR, start + 9 * HOUR))


def test_of_repeated_times_the_last_row_wins_and_the_slot_is_not_covered(stores: Stores, tmp_path: Path) -> None:
    hours = [csv_row(START + hour * HOUR, trades=hour + 1).strip() for hour in range(6)]
    hours.insert(4, csv_row(START + 2 * HOUR, trades=77).strip())
    run(stores, write_lines(tmp_path / "XBTUSD_60.csv", hours), resampling=False)
    assert [row[-1] for row in stored(stores, "XBTUSD", 60)] == [1, 2, 77, 4, 5, 6]
    (letter,) = letters(stores)
    assert (letter["line"], letter["reason"]) == (
        3,
        "the time is repeated with other values; the last row of that time is used",
    )
    # Nor is hour 3, behind which the second row of hour 2 stands: which of the three is wrong cannot be known.
    assert covered(stores, "XBTUSD", 60) == spans((START, START + 2 * HOUR), (START + 4 * HOUR, START + 5 * HOUR))


def test_dead_letters_are_not_doubled_when_a_file_is_read_in_two_windows(stores: Stores, tmp_path: Path) -> None:
    hours = [csv_row(START + hour * HOUR).strip() for hour in range(10)]
    hours[4] = "rubbish"
    path = write_lines(tmp_path / "XBTUSD_60.csv", hours)
    run(stores, path, end="2023-03-26T02:00", resampling=False, run_id="first")
    run(stores, path, resampling=False, run_id="second")
    assert [letter["text"] for letter in letters(stores)] == ["rubbish"]


# --- bad files


def test_a_corrupt_member_fails_with_its_error_and_the_rest_is_done(stores: Stores, tmp_path: Path) -> None:
    garbage = Defect(DefectKind.GARBAGE, "ADAEUR", Interval.H1, release=candles_name(Q1))
    path = write_quarterly_zip(tmp_path, SPRING, Q1, HOURS_AND_DAYS, defects=[garbage])
    done = run(stores, path, resampling=False)
    failed = done.files["Kraken_OHLCVT_Q1_2023.zip:ADAEUR_60.csv"]
    assert failed.status is FileStatus.FAILED
    assert "is a candle" in str(failed.reason)
    others = [outcome for outcome in done.files.values() if outcome is not failed]
    assert {outcome.status for outcome in others} == {FileStatus.COMPLETED}
    assert stored(stores, "ADAEUR", 60) == []
    assert covered(stores, "ADAEUR", 60) == ()
    assert covered(stores, "ADAEUR", 1440) == spans((Q1.start, Q1.end))


def damaged(source: Path, target: Path, member: str) -> Path:
    """A copy of a ZIP in which some bytes of a member are others."""
    content = bytearray(source.read_bytes())
    with zipfile.ZipFile(source) as archive:
        info = archive.getinfo(member)
    middle = info.header_offset + 30 + len(member) + info.compress_size // 2
    content[middle : middle + 20] = bytes(20)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return target


def test_a_member_with_broken_bytes_fails_without_leaving_anything_of_it(
    stores: Stores, tmp_path: Path, shelf: Shelf
) -> None:
    path = damaged(shelf.q2, tmp_path / shelf.q2.name, "XBTUSD_60.csv")
    done = run(stores, path, resampling=False)
    failed = done.files[f"{path.name}:XBTUSD_60.csv"]
    assert failed.status is FileStatus.FAILED
    assert "download its archive again" in str(failed.reason)
    assert stored(stores, "XBTUSD", 60) == []
    assert stored(stores, "XBTUSD", 1440) == oracle("XBTUSD", 1440, Q2.start, Q2.end)
    assert list((stores.settings.home / "tmp").iterdir()) == []
    assert [letter["reason"] for letter in letters(stores)] == [failed.reason]


def test_a_failed_file_is_taken_once_it_is_whole(stores: Stores, tmp_path: Path, shelf: Shelf) -> None:
    path = damaged(shelf.q2, tmp_path / shelf.q2.name, "XBTUSD_60.csv")
    run(stores, path, resampling=False)
    shutil.copy(shelf.q2, path)
    done = run(stores, path, resampling=False, run_id="run-two")
    assert done.files[f"{path.name}:XBTUSD_60.csv"].status is FileStatus.COMPLETED
    assert stored(stores, "XBTUSD", 60) == oracle("XBTUSD", 60, Q2.start, Q2.end)
    assert letters(stores) == []


def test_a_zip_that_is_none_is_on_record_as_failed_with_a_dead_letter_and_the_rest_is_done(
    stores: Stores, tmp_path: Path, shelf: Shelf
) -> None:
    broken = tmp_path / "Kraken_OHLCVT_Q3_2023.zip"
    broken.write_bytes(shelf.q3.read_bytes()[:500])
    for run_id in ("run-one", "run-two"):
        done = run(stores, broken, shelf.q1, resampling=False, run_id=run_id)
        assert [each.name for each in done.scanned.broken] == [broken.name]
    failed = [row for row in rows_of(stores, schema.files, "name", "status", "reason") if row[1] == "FAILED"]
    ((name, _, reason),) = failed
    assert name == broken.name
    assert "is not a ZIP that can be read" in reason
    assert [(letter["location"], letter["reason"]) for letter in letters(stores)] == [(broken.name, reason)]
    assert stored(stores, "XBTUSD", 60) == oracle("XBTUSD", 60, Q1.start, Q1.end)


@pytest.mark.parametrize("content", ["", "rubbish\nmore of it\n", "\n\n"])
def test_a_file_without_a_candle_fails(stores: Stores, tmp_path: Path, content: str) -> None:
    path = tmp_path / "XBTUSD_60.csv"
    path.write_text(content)
    done = run(stores, path, resampling=False)
    assert done.files["XBTUSD_60.csv"].status is FileStatus.FAILED
    assert done.files["XBTUSD_60.csv"].reason
    assert stores.lake.series() == []


def test_a_missing_part_of_an_archive_is_named(stores: Stores, tmp_path: Path, shelf: Shelf) -> None:
    content = shelf.q1.read_bytes()
    for number in (0, 2):
        (tmp_path / f"Kraken_OHLCVT_Full_2023Q1.zip.part0{number}").write_bytes(content[number * 100 :][:100])
    (broken,) = run(stores, tmp_path, shelf.q3, resampling=False).scanned.broken
    assert broken.reason == "missing parts: part01; put all parts into one folder"


# --- the same file again


def test_a_second_run_stores_nothing_and_says_why(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, shelf.minutes)
    before = (lake_of(stores), evidence_of(stores), files_of(stores))
    done = run(stores, shelf.q1, shelf.minutes, run_id="run-two")
    assert (done.files, done.candles_stored) == ({}, 0)
    assert done.backfilled is not None
    assert done.backfilled.filled == ()
    reasons = {each.name: each.reason for each in done.scanned.ingested_before}
    assert len(reasons) == len(files_of(stores)) == 7
    assert set(reasons.values()) == {"read before: ingested by run run-one"}
    assert (lake_of(stores), evidence_of(stores), files_of(stores)) == before


def test_the_same_file_under_another_name_is_skipped_with_the_reason(stores: Stores, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a", SPRING, "XBTUSD", Interval.H1, start=START, end=Q1.end)
    run(stores, path, resampling=False)
    before = (lake_of(stores), evidence_of(stores))
    (tmp_path / "b").mkdir()
    done = run(stores, Path(shutil.copy(path, tmp_path / "b" / "BTCUSD_60.csv")), resampling=False, run_id="run-two")
    outcome = done.files["BTCUSD_60.csv"]
    assert (outcome.status, outcome.candles_stored) == (FileStatus.SKIPPED, 0)
    assert outcome.reason == "the same as XBTUSD_60.csv, ingested by run run-one"
    assert (lake_of(stores), evidence_of(stores)) == before
    again = run(stores, tmp_path / "b", resampling=False, run_id="run-three")
    assert (again.files, len(again.scanned.ingested_before)) == ({}, 1)


def test_a_release_that_was_downloaded_twice_is_skipped_member_by_member(
    stores: Stores, tmp_path: Path, shelf: Shelf
) -> None:
    run(stores, shelf.q1, resampling=False)
    copy = Path(shutil.copy(shelf.q1, tmp_path / "Kraken_OHLCVT_Q1_2023 (1).zip"))
    done = run(stores, copy, resampling=False, run_id="run-two")
    assert {outcome.status for outcome in done.files.values()} == {FileStatus.SKIPPED}
    outcome = done.files[f"{copy.name}:XBTUSD_60.csv"]
    assert outcome.reason == "the same as Kraken_OHLCVT_Q1_2023.zip:XBTUSD_60.csv, ingested by run run-one"


def test_the_same_bytes_under_the_name_of_another_series_are_not_the_same_file(stores: Stores, tmp_path: Path) -> None:
    midnight = csv_row(START).strip()
    names = [f"XBTUSD_{interval.value}.csv" for interval in Interval if interval.in_archives] + ["ADAEUR_60.csv"]
    for name in names:
        write_lines(tmp_path / name, [midnight])
    done = run(stores, tmp_path, resampling=False)
    assert {name: outcome.status for name, outcome in done.files.items()} == dict.fromkeys(names, FileStatus.COMPLETED)


def test_the_same_bytes_in_another_release_answer_for_its_time_as_well(stores: Stores, tmp_path: Path) -> None:
    # A pair without a trade in the later quarter has the same file in both, were it not for what they answer for.
    rows = {"XBTUSD_60.csv": csv_row(Q1.end - HOUR)}
    first = write_zip(tmp_path / "Kraken_OHLCVT_Q1_2023.zip", rows)
    full = write_zip(tmp_path / "Kraken_OHLCVT_Full_2023Q2.zip", {**rows, "ADAEUR_60.csv": csv_row(Q2.end - HOUR)})
    run(stores, first, resampling=False)
    assert covered(stores, "XBTUSD", 60) == spans((Q1.start, Q1.end))
    done = run(stores, full, resampling=False, run_id="run-two")
    assert done.files["Kraken_OHLCVT_Full_2023Q2.zip:XBTUSD_60.csv"].status is FileStatus.COMPLETED
    assert covered(stores, "XBTUSD", 60) == spans((EARLIEST_TIME, Q2.end))


def test_changed_content_under_a_known_name_is_ingested_again(stores: Stores, tmp_path: Path) -> None:
    path = write_csv(tmp_path, SPRING, "XBTUSD", Interval.H1, start=START, end=START + 2 * DAY)
    run(stores, path, resampling=False)
    write_csv(tmp_path, SPRING, "XBTUSD", Interval.H1, start=START, end=START + 4 * DAY)
    done = run(stores, path, resampling=False, run_id="run-two")
    assert done.files["XBTUSD_60.csv"].status is FileStatus.COMPLETED
    true = oracle("XBTUSD", 60, START, START + 4 * DAY)
    assert stored(stores, "XBTUSD", 60) == true
    assert done.candles_stored == len(oracle("XBTUSD", 60, START + 2 * DAY, START + 4 * DAY))
    assert covered(stores, "XBTUSD", 60) == spans((START, true[-1][0]))
    assert len(rows_of(stores, schema.files, "id")) == 2


def test_a_release_that_was_published_again_is_ingested_again_and_its_trades_are_taken_in(
    stores: Stores, tmp_path: Path
) -> None:
    fewer = Defect(DefectKind.FEWER_TRADES, "XBTUSD", Interval.H1, release=candles_name(Q1))
    write_quarterly_zip(tmp_path, SPRING, Q1, [Interval.H1], pairs=["XBTUSD"], defects=[fewer])
    run(stores, tmp_path, resampling=False)
    assert stored(stores, "XBTUSD", 60) != oracle("XBTUSD", 60, Q1.start, Q1.end)
    path = write_quarterly_zip(tmp_path, SPRING, Q1, [Interval.H1], pairs=["XBTUSD"])
    done = run(stores, path, resampling=False, run_id="run-two")
    assert {outcome.status for outcome in done.files.values()} == {FileStatus.COMPLETED}
    assert stored(stores, "XBTUSD", 60) == oracle("XBTUSD", 60, Q1.start, Q1.end)


# --- the order of ingestion


def overlapping(folder: Path) -> list[Path]:
    """Four sources of the same two weeks of ADAEUR, each with something wrong that the others have right."""
    fewer = Defect(DefectKind.FEWER_TRADES, "ADAEUR", Interval.H1)
    short = Defect(DefectKind.SHORT_CANDLE, "ADAEUR", Interval.H1, a_busy_hour("ADAEUR", 20))
    absent = Defect(DefectKind.MISSING_CANDLE, "ADAEUR", Interval.H1, a_busy_hour("ADAEUR", 30))
    bad = Defect(DefectKind.NEGATIVE_VOLUME, "ADAEUR", Interval.H1, a_busy_hour("ADAEUR", 10))
    hours, pairs = [Interval.H1], ["ADAEUR"]
    return [
        write_quarterly_zip(folder, SPRING, Q1, hours, pairs=pairs, defects=[fewer]),
        write_complete_zip(folder, SPRING, Q1.end + DAY, hours, pairs=pairs, defects=[short, bad]),
        write_csv(folder, SPRING, "ADAEUR", Interval.H1, start=START + DAY, end=Q1.end + 2 * DAY, defects=[absent]),
        write_trades_csv(folder, SPRING, "ADAEUR", START + 2 * DAY, Q1.end + 3 * DAY),
    ]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return overlapping(tmp_path_factory.mktemp("overlapping"))


def end_state(home: Path, *batches: list[Path]) -> tuple[object, ...]:
    with opened(settings_of(home)) as stores:
        for number, batch in enumerate(batches):
            run(stores, *batch, run_id=f"run-{number}", intervals="1,60")
        evidence = evidence_of(stores)
        return lake_of(stores), evidence["coverage"], evidence["extents"], evidence["gaps"], files_of(stores)


def test_the_order_of_ingestion_never_matters(tmp_path: Path, empty_home: Path, sources: list[Path]) -> None:
    def fresh(name: str) -> Path:
        return Path(shutil.copytree(empty_home, tmp_path / name))

    together = end_state(fresh("together"), sources)
    for number, order in enumerate(list(permutations(sources))[::5]):
        state = end_state(fresh(str(number)), *([path] for path in order))
        # Resampling fills what is missing at the time, so with a run after each file its share depends on the order;
        # the candles, and what is covered, do not.
        assert values_only(state[0]) == values_only(together[0]), [path.name for path in order]
        assert bounds(state[1]) == bounds(together[1])


def values_only(lake: object) -> dict[Series, list[object]]:
    assert isinstance(lake, dict)
    return {series: [row[:7] for row in rows] for series, rows in lake.items()}


def bounds(coverage: object) -> list[object]:
    assert isinstance(coverage, list)
    return [(row[:4], row[5]) for row in coverage]


def test_the_order_of_archives_does_not_even_show_in_sources_and_releases(
    tmp_path: Path, empty_home: Path, sources: list[Path]
) -> None:
    def state(name: str, order: tuple[Path, ...]) -> object:
        with opened(settings_of(Path(shutil.copytree(empty_home, tmp_path / name)))) as stores:
            for number, path in enumerate(order):
                run(stores, path, run_id=f"run-{number}", resampling=False)
            evidence = evidence_of(stores)
            return lake_of(stores), evidence["coverage"], evidence["extents"], evidence["grants"], files_of(stores)

    first = state("first", tuple(sources))
    for number, order in enumerate(list(permutations(sources))[4::5]):
        assert state(str(number), order) == first


# --- a part of the time


def test_a_window_takes_only_what_lies_in_it_and_a_later_whole_run_takes_the_rest(
    tmp_path: Path, empty_home: Path, shelf: Shelf
) -> None:
    start, end = START + DAY, START + 3 * DAY
    with opened(settings_of(Path(shutil.copytree(empty_home, tmp_path / "parts")))) as stores:
        first = run(stores, shelf.q1, start="2023-03-27", end="2023-03-29", resampling=False)
        for pair in PAIRS:
            for interval in HOURS_AND_DAYS:
                assert stored(stores, pair, interval) == oracle(pair, interval, start, end)
                assert covered(stores, pair, interval) == spans((start, end))
        again = run(stores, shelf.q1, start="2023-03-27T12:00", end="2023-03-28", resampling=False, run_id="again")
        assert again.files == {}
        rest = run(stores, shelf.q1, resampling=False, run_id="run-two")
        assert {outcome.status for outcome in rest.files.values()} == {FileStatus.COMPLETED}
        assert run(stores, shelf.q1, resampling=False, run_id="run-three").files == {}
        in_parts = (lake_of(stores), evidence_of(stores)["coverage"])
        counts = (first.candles_stored, rest.candles_stored)
    with opened(settings_of(Path(shutil.copytree(empty_home, tmp_path / "whole")))) as stores:
        whole = run(stores, shelf.q1, resampling=False)
        assert (lake_of(stores), evidence_of(stores)["coverage"]) == in_parts
        assert whole.candles_stored == sum(counts)


def test_a_window_that_cuts_a_candle_covers_only_whole_ones(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, start="2023-03-27T10:30", end="2023-03-28T10:30", resampling=False)
    first, last = START + DAY + 11 * HOUR, START + 2 * DAY + 10 * HOUR
    assert covered(stores, "XBTUSD", 60) == spans((first, last))
    # A candle belongs to the window by its start.
    assert stored(stores, "XBTUSD", 60) == oracle("XBTUSD", 60, first, last + HOUR)
    assert covered(stores, "XBTUSD", 1440) == ()


def test_two_windows_that_meet_make_a_whole_of_them(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, end="2023-03-28", resampling=False)
    run(stores, shelf.q1, start="2023-03-28", resampling=False, run_id="run-two")
    assert run(stores, shelf.q1, resampling=False, run_id="run-three").files == {}
    assert covered(stores, "XBTUSD", 60) == spans((Q1.start, Q1.end))
    assert stored(stores, "XBTUSD", 60) == oracle("XBTUSD", 60, Q1.start, Q1.end)


# --- the selection


def test_only_the_pairs_and_intervals_that_are_asked_for_are_taken(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, pairs="ADAEUR", intervals="1440", resampling=False)
    assert stores.lake.series() == [Series("ADAEUR", Interval.D1)]
    run(stores, shelf.q1, tier="TIER4", resampling=False, run_id="run-two")
    assert {series.pair for series in stores.lake.series()} == {"ADAEUR", "ZORKUSD"}


def test_an_unknown_pair_is_accepted_into_tier4_and_reported(stores: Stores, shelf: Shelf) -> None:
    done = run(stores, shelf.q1, resampling=False)
    tiers = {pair.name: str(stores.tiers.tier_of(pair)) for pair in done.scanned.new_pairs}
    assert tiers == {"ADAEUR": "TIER1", "XBTUSD": "TIER1", "ZORKUSD": "TIER4"}
    assert run(stores, shelf.q2, resampling=False, run_id="run-two").scanned.new_pairs == []
    assert stored(stores, "ZORKUSD", 60)


def test_a_folder_that_does_not_exist_is_refused_before_anything_happens(stores: Stores, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"there is no file or folder .*/nowhere"):
        run(stores, tmp_path / "nowhere")
    assert rows_of(stores, schema.files, "id") == []


# --- the drop folder


def dropped(stores: Stores, *paths: Path) -> list[Path]:
    return [Path(shutil.copy(path, stores.settings.home / "drop")) for path in paths]


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_file_in_the_drop_folder_moves_to_ingested_after_success(stores: Stores, shelf: Shelf) -> None:
    dropped(stores, shelf.minutes, shelf.q1)
    run(stores, resampling=False)
    assert tree(stores.settings.home / "drop") == {"ingested/XBTUSD_1.csv", f"ingested/{shelf.q1.name}"}
    assert (stores.settings.home / "drop" / "ingested" / shelf.q1.name).read_bytes() == shelf.q1.read_bytes()
    assert run(stores, resampling=False, run_id="run-two").files == {}


def test_a_dropped_folder_keeps_its_shape(stores: Stores, shelf: Shelf) -> None:
    deep = stores.settings.home / "drop" / "from kraken" / "2023"
    deep.mkdir(parents=True)
    shutil.copy(shelf.minutes, deep)
    run(stores, resampling=False)
    assert tree(stores.settings.home / "drop") == {"ingested/from kraken/2023/XBTUSD_1.csv"}


def test_a_name_that_is_taken_in_ingested_gets_a_number(stores: Stores, shelf: Shelf) -> None:
    for run_id in ("one", "two", "three"):
        dropped(stores, shelf.minutes)
        run(stores, resampling=False, run_id=run_id)
    assert tree(stores.settings.home / "drop") == {f"ingested/XBTUSD_1{number}.csv" for number in ("", ".1", ".2")}


def test_a_file_that_failed_and_an_archive_with_a_member_that_failed_stay(
    stores: Stores, tmp_path: Path, shelf: Shelf
) -> None:
    damaged(shelf.q2, stores.settings.home / "drop" / shelf.q2.name, "XBTUSD_60.csv")
    write_lines(stores.settings.home / "drop" / "ADAEUR_1.csv", ["rubbish"])
    dropped(stores, shelf.minutes)
    run(stores, resampling=False)
    assert tree(stores.settings.home / "drop") == {shelf.q2.name, "ADAEUR_1.csv", "ingested/XBTUSD_1.csv"}


def test_an_archive_of_which_only_a_part_was_asked_for_stays(stores: Stores, shelf: Shelf) -> None:
    dropped(stores, shelf.q1)
    run(stores, pairs="XBTUSD", resampling=False)
    assert tree(stores.settings.home / "drop") == {shelf.q1.name}
    run(stores, start="2023-03-30", resampling=False, run_id="run-two")
    assert tree(stores.settings.home / "drop") == {shelf.q1.name}
    run(stores, resampling=False, run_id="run-three")
    assert tree(stores.settings.home / "drop") == {f"ingested/{shelf.q1.name}"}


def test_a_run_that_was_killed_before_it_moved_a_file_is_made_up_for_by_the_next(stores: Stores, shelf: Shelf) -> None:
    (path,) = dropped(stores, shelf.minutes)
    spec = run_spec()
    ingest(stores, spec, scan(stores, spec, NOW).tasks, RunContext("killed", NOW))
    assert path.exists()
    assert run(stores, resampling=False, run_id="run-two").files == {}
    assert tree(stores.settings.home / "drop") == {"ingested/XBTUSD_1.csv"}


def test_a_file_that_changed_since_it_was_read_is_not_moved(stores: Stores, shelf: Shelf) -> None:
    (path,) = dropped(stores, shelf.minutes)
    spec = run_spec()
    ingest(stores, spec, scan(stores, spec, NOW).tasks, RunContext("run-one", NOW))
    with path.open("a") as stream:
        stream.write(csv_row(Q3.start + 4 * DAY))
    assert tidy(stores) == []
    assert path.exists()


@pytest.mark.parametrize("moment", ["look_into", "container_by_stamp", "_parts", "_move"])
def test_what_another_run_moves_at_the_same_time_is_left_to_that_run(
    stores: Stores, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    dropped(stores, shelf.q1, shelf.minutes)
    spec = run_spec()
    ingest(stores, spec, scan(stores, spec, NOW).tasks, RunContext("run-one", NOW))
    by_the_other: list[ArchivePath] = []
    place = file_records if moment == "container_by_stamp" else drop_folder
    ours = getattr(place, moment)

    def after_the_other(*arguments: Any, **options: Any) -> Any:
        found = None if moment == "_move" else ours(*arguments, **options)
        if not by_the_other:
            with monkeypatch.context() as patch:
                patch.setattr(place, moment, ours)
                by_the_other.extend(tidy(stores))
        return ours(*arguments, **options) if moment == "_move" else found

    monkeypatch.setattr(place, moment, after_the_other)
    assert tidy(stores) == []
    assert sorted(path.name for path in by_the_other) == sorted([shelf.q1.name, "XBTUSD_1.csv"])
    assert tree(stores.settings.home / "drop") == {f"ingested/{shelf.q1.name}", "ingested/XBTUSD_1.csv"}


def test_what_another_run_has_taken_in_the_meantime_is_not_read_again_although_it_moved_away(
    stores: Stores, shelf: Shelf
) -> None:
    dropped(stores, shelf.q1, shelf.minutes)
    spec = run_spec()
    tasks = scan(stores, spec, NOW).tasks
    run(stores, resampling=False)
    before = (lake_of(stores), files_of(stores), rows_of(stores, schema.grants, "id", "pair", "start"))
    outcomes = ingest(stores, spec, tasks, RunContext("run-two", NOW))
    assert {outcome.status for outcome in outcomes} == {FileStatus.SKIPPED}
    assert {outcome.reason for outcome in outcomes} == {"ingested by run run-one"}
    assert (lake_of(stores), files_of(stores), rows_of(stores, schema.grants, "id", "pair", "start")) == before


def test_a_file_that_two_runs_found_at_the_same_time_is_pending_for_none_of_them_in_the_end(
    stores: Stores, shelf: Shelf
) -> None:
    spec = run_spec(archive_dirs=[shelf.minutes])
    tasks = scan(stores, spec, NOW).tasks
    ingest(stores, spec, tasks, RunContext("run-one", NOW))
    enlist(stores, tasks, RunContext("run-two", NOW))
    ingest(stores, spec, tasks, RunContext("run-two", NOW))
    assert {row[0] for row in rows_of(stores, schema.files, "status")} == {"COMPLETED", "SKIPPED"}


def test_files_stay_in_the_drop_folder_by_setting_and_are_not_read_twice(home: Path, shelf: Shelf) -> None:
    with opened(settings_of(home, kraken_keep_dropped_files=True)) as stores:
        dropped(stores, shelf.minutes)
        run(stores, resampling=False)
        assert tree(stores.settings.home / "drop") == {"XBTUSD_1.csv"}
        assert run(stores, resampling=False, run_id="run-two").files == {}


def test_a_folder_of_archives_that_is_only_named_is_never_touched(home: Path, tmp_path: Path, shelf: Shelf) -> None:
    named, by_setting = tmp_path / "named", tmp_path / "by setting"
    for folder, path in ((named, shelf.q1), (by_setting, shelf.minutes)):
        folder.mkdir()
        shutil.copy(path, folder)
        (folder / "notes.txt").write_text("mine")
        folder.chmod(0o500)
    before = [digest_of(folder) for folder in (named, by_setting)]
    with opened(settings_of(home, kraken_archive_dirs=(by_setting,))) as stores:
        done = run(stores, named)
        assert {name for name, outcome in done.files.items() if outcome.status is FileStatus.COMPLETED} >= {
            "XBTUSD_1.csv",
            f"{shelf.q1.name}:XBTUSD_60.csv",
        }
    assert [digest_of(folder) for folder in (named, by_setting)] == before


def test_a_file_that_still_grows_waits(home: Path, shelf: Shelf) -> None:
    with opened(settings_of(home, kraken_settle_seconds=3_600)) as stores:
        (path,) = dropped(stores, shelf.minutes)
        done = run(stores)
        assert done.files == {}
        assert [(each.name, each.reason) for each in done.scanned.waiting] == [
            ("XBTUSD_1.csv", "changed less than 3600 s ago: it may still grow")
        ]
        set_back(path, 3_700)
        assert run(stores, run_id="run-two").files["XBTUSD_1.csv"].status is FileStatus.COMPLETED


def set_back(path: Path, seconds: int) -> None:
    changed = path.stat().st_mtime - seconds
    os.utime(path, (changed, changed))


def test_an_archive_waits_for_the_part_that_still_grows(home: Path, shelf: Shelf) -> None:
    content = shelf.q1.read_bytes()
    with opened(settings_of(home, kraken_settle_seconds=3_600)) as stores:
        name = "Kraken_OHLCVT_Full_2023Q1.zip"
        parts = [stores.settings.home / "drop" / f"{name}.part0{number}" for number in range(2)]
        for number, part in enumerate(parts):
            part.write_bytes(content[number * 2_000 :][: 2_000 if number == 0 else None])
        set_back(parts[0], 3_700)
        done = run(stores)
        assert (done.files, done.scanned.broken) == ({}, [])
        assert {each.name for each in done.scanned.waiting} == {f"{name}.part01", name}
        set_back(parts[1], 3_700)
        assert len(run(stores, run_id="run-two").files) == 6
        assert tree(stores.settings.home / "drop") == {f"ingested/{name}.part0{number}" for number in range(2)}


# --- the records of files


def test_files_are_pending_from_the_moment_they_are_found(stores: Stores, shelf: Shelf) -> None:
    spec = run_spec(archive_dirs=[shelf.q1])
    tasks = scan(stores, spec, NOW).tasks
    ids = enlist(stores, tasks, RunContext("killed", NOW))
    assert {row[0] for row in rows_of(stores, schema.files, "status")} == {"PENDING"}
    run(stores, shelf.q1, resampling=False, run_id="run-two")
    records = rows_of(stores, schema.files, "id", "status", "run_id", "updated_at")
    assert records == [(number, "COMPLETED", "run-two", NOW) for number in sorted(ids.values())]


def test_a_files_record_tells_its_range_counts_and_run(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.minutes, resampling=False)
    true = oracle("XBTUSD", 1, Q3.start, Q3.start + 4 * DAY)
    columns = ("name", "status", "reason", "start", "end", "first_time", "last_time", "rows", "candles_stored")
    first, last = true[0][0], true[-1][0]
    assert rows_of(stores, schema.files, *columns, "rows_rejected", "run_id", "size") == [
        (
            *("XBTUSD_1.csv", "COMPLETED", None, first, last, first, last, len(true), len(true)),
            *(0, "run-one", shelf.minutes.stat().st_size),
        )
    ]


def test_what_is_stored_is_owed_to_the_outbox(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.minutes, resampling=False)
    true = oracle("XBTUSD", 1, Q3.start, Q3.start + 4 * DAY)
    owed = rows_of(stores, schema.publications, "pair", "interval", "start", "end")
    assert owed == [("XBTUSD", 1, true[0][0], true[-1][0] + 60)]


def test_a_source_that_counts_fewer_trades_is_a_recorded_conflict_and_loses(stores: Stores, tmp_path: Path) -> None:
    fewer = Defect(DefectKind.FEWER_TRADES, "XBTUSD", Interval.H1)
    write: Callable[..., Path] = write_csv
    run(stores, write(tmp_path / "a", SPRING, "XBTUSD", Interval.H1, start=START, end=Q1.end), resampling=False)
    path = write(tmp_path / "b", SPRING, "XBTUSD", Interval.H1, start=START, end=Q1.end, defects=[fewer])
    run(stores, path, resampling=False, run_id="run-two")
    assert stored(stores, "XBTUSD", 60) == oracle("XBTUSD", 60, START, Q1.end)
    ((pair, interval, candles, reason),) = rows_of(stores, schema.conflicts, "pair", "interval", "candles", "reason")
    assert (pair, interval) == ("XBTUSD", 60)
    assert candles > 100
    assert reason == "XBTUSD_60.csv counts fewer trades than the kept candles"


# --- the way it is done


def test_progress_counts_files_candles_and_bytes(stores: Stores, shelf: Shelf) -> None:
    seen: list[Progress] = []
    spec = run_spec(archive_dirs=[shelf.q1, shelf.minutes])
    tasks = scan(stores, spec, NOW).tasks
    ingest(stores, spec, tasks, RunContext("run-one", NOW, seen.append))
    assert seen[-1].phase == "ingesting"
    assert seen[-1].files_done == seen[-1].files_ingested == len(tasks) == 7
    assert seen[-1].bytes_done == sum(task.file.size for task in tasks)
    assert seen[-1].candles == sum(map(len, lake_of(stores).values()))


def test_several_files_of_one_series_in_one_run_are_all_taken(stores: Stores, tmp_path: Path) -> None:
    begins = [START + day * DAY for day in range(5)]
    paths = [write_csv(tmp_path / str(at), SPRING, "XBTUSD", Interval.H1, start=at, end=at + DAY) for at in begins]
    spec = run_spec(archive_dirs=paths)
    ingest(stores, spec, scan(stores, spec, NOW).tasks, RunContext("run-one", NOW))
    assert stored(stores, "XBTUSD", 60) == oracle("XBTUSD", 60, START, START + 5 * DAY)
    # Each file leaves the slot of its last candle, and what follows up to the next file's first, unanswered.
    days = [oracle("XBTUSD", 60, at, at + DAY) for at in begins]
    assert covered(stores, "XBTUSD", 60) == spans(*((rows[0][0], rows[-1][0]) for rows in days))


def test_a_file_out_of_order_is_sorted(stores: Stores, tmp_path: Path, shelf: Shelf) -> None:
    lines = lines_of(shelf.minutes)
    path = write_lines(tmp_path / "XBTUSD_1.csv", lines[50:] + lines[:50])
    done = run(stores, path, resampling=False)
    assert done.files["XBTUSD_1.csv"].rows_rejected == 0
    true = oracle("XBTUSD", 1, Q3.start, Q3.start + 4 * DAY)
    assert stored(stores, "XBTUSD", 1) == true
    # It was put together of two pieces, and of the time between them it says nothing.
    assert covered(stores, "XBTUSD", 1) == spans((true[0][0], true[49][0] + 60), (true[50][0], true[-1][0]))


def test_nothing_is_left_beside_the_lake(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, shelf.minutes, shelf.trades)
    assert list((stores.settings.home / "tmp").iterdir()) == []
    frame = pl.read_parquet(stores.settings.home / "lake" / "interval=60", hive_partitioning=True)
    assert frame["pair"].unique().sort().to_list() == ["ADAEUR", "XBTUSD", "ZORKUSD"]


def test_the_slot_of_a_rejected_row_can_be_filled_by_another_source(stores: Stores, tmp_path: Path) -> None:
    at = a_busy_hour("XBTUSD", 40)
    bad = Defect(DefectKind.NEGATIVE_VOLUME, "XBTUSD", Interval.H1, at, release=candles_name(Q1))
    path = write_quarterly_zip(tmp_path, SPRING, Q1, [Interval.H1], pairs=["XBTUSD"], defects=[bad])
    loose = write_csv(tmp_path, SPRING, "XBTUSD", Interval.H1, start=at - DAY, end=at + DAY)
    run(stores, path, loose, resampling=False)
    assert covered(stores, "XBTUSD", 60) == spans((Q1.start, Q1.end))
    assert subtract((Span(at, at + HOUR),), covered(stores, "XBTUSD", 60)) == ()
    assert stored(stores, "XBTUSD", 60) == oracle("XBTUSD", 60, Q1.start, Q1.end)
