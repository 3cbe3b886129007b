from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from kraken_pipeline.coverage.gaps import GapStatus
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.demo.archives import candles_name, write_csv, write_quarterly_zip
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.kraken.release import DOWNLOADS, FULL_NAME
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.quarter import Quarter
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.backfill.backfill import planned
from kraken_pipeline.workflow.gaps.gaps import Gap, find_gaps
from kraken_pipeline.workflow.gaps.plan import Plan, make_plan
from kraken_pipeline.workflow.gaps.snapshot import load_snapshot
from kraken_pipeline.workflow.report.report import make_report
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
    oracle,
    run,
    settings_of,
    write_lines,
)
from kraken_pipeline_tests.support.samples import csv_row

pytestmark = pytest.mark.slow

HOUR = 3_600
Part = tuple[str, int, int, int]
"""route, start and end in hours since the start of the world, requests"""


def plan(stores: Stores, *paths: Path, now: int = NOW, **options: object) -> Plan:
    return make_plan(stores, run_spec(archive_dirs=list(paths) or None, dry_run=True, **options), now)


def gaps_of(stores: Stores, now: int, **options: object) -> list[Gap]:
    spec = run_spec(**options)
    return find_gaps(stores, spec, load_snapshot(stores, spec, now))


def routes_of(made: Plan, pair: str, interval: int) -> list[tuple[str, Span, tuple[str, ...]]]:
    own = [each for each in made.routes if (each.series.pair, each.series.interval) == (pair, interval)]
    return [(str(each.leg.route), each.leg.span, each.leg.files) for each in own]


def hours(path: Path, *numbers: int) -> Path:
    """A file of these hours since the start of the world."""
    return write_lines(path, [csv_row(START + number * HOUR).strip() for number in numbers])


# --- routes


def test_a_file_at_hand_is_the_first_choice(stores: Stores, shelf: Shelf) -> None:
    made = plan(stores, shelf.q1, shelf.q3, intervals="60,1440", end="2023-07-07")
    q1, q3 = "Kraken_OHLCVT_Q1_2023.zip", "Kraken_OHLCVT_Q3_2023.zip"
    routes = routes_of(made, "XBTUSD", 60)
    assert routes[0] == ("ARCHIVE", Span(START, Q1.end), (f"{q1}:XBTUSD_60.csv",))
    assert ("ARCHIVE", Span(Q3.start, CUT), (f"{q3}:XBTUSD_60.csv",)) in routes
    assert all(not each.leg.requests for each in made.routes if each.leg.route == "ARCHIVE")
    # The first trade of ZORKUSD came at 13:36 of its first day.
    assert routes_of(made, "ZORKUSD", 60)[0][1].start == START + DAY
    assert routes_of(made, "ZORKUSD", 1440)[0][1].start == START + DAY


def test_a_missing_quarter_is_named_with_the_file_in_it_for_every_series(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, shelf.q3, resampling=False)
    made = plan(stores, intervals="60,1440")
    assert made.missing_archives == ("Kraken_OHLCVT_Q2_2023.zip",)
    missing = {(gap.series.pair, gap.series.interval.value): gap for gap in made.gaps if gap.span.start == Q1.end}
    for pair in SPRING.listings:
        assert missing[pair, 60].span == missing[pair, 1440].span == Span(Q1.end, Q3.start)
        assert missing[pair, 60].required_csv_file == f"Kraken_OHLCVT_Q2_2023.zip:{pair}_60.csv"
        assert {str(leg.route) for leg in missing[pair, 60].legs} == {"TRADES"}
        # The days follow from what trades will have become; the archive has them as well.
        assert {str(leg.route) for leg in missing[pair, 1440].legs} == {"RESAMPLE"}
        assert missing[pair, 1440].required_csv_file == f"Kraken_OHLCVT_Q2_2023.zip:{pair}_1440.csv"


def test_what_follows_from_files_at_hand_or_from_ohlc_names_no_archive(stores: Stores, shelf: Shelf) -> None:
    made = plan(stores, shelf.q1, intervals="60,240,1440", end="2023-04-01")
    assert {gap.required_csv_file for gap in made.gaps if gap.series.interval == 240} == {None}
    now = Q1.end + 25 * DAY + 60
    run(stores, shelf.q1, now=now, resampling=False)
    made = plan(stores, now=now, intervals="60,240,1440")
    assert {str(gap.route) for gap in made.gaps} == {"OHLC", "RESAMPLE"}
    assert {gap.required_csv_file for gap in made.gaps} == {None}


def test_the_last_of_two_missing_quarters_and_the_complete_archive_are_named_in_order(
    stores: Stores, tmp_path: Path
) -> None:
    run(stores, hours(tmp_path / "XBTUSD_60.csv", 0, 1), resampling=False)
    # Without quarterly archives before 2023, that is what there is for it.
    (gap,) = gaps_of(stores, Q3.end + DAY, intervals="60", start="2022-11-01", end="2023-03-26")
    names = ("Kraken_OHLCVT.zip", "Kraken_OHLCVT_Q1_2023.zip")
    assert gap.required_csv_file == ",".join(f"{name}:XBTUSD_60.csv" for name in names)


def test_a_quarter_that_has_not_ended_is_no_archive_to_fetch(stores: Stores, tmp_path: Path) -> None:
    run(stores, hours(tmp_path / "XBTUSD_60.csv", 0, 1), resampling=False)
    (gap,) = gaps_of(stores, Q2.start + DAY, intervals="60")
    assert gap.required_csv_file is None
    (gap,) = gaps_of(stores, Q2.start + 90 * DAY, intervals="60")
    assert gap.required_csv_file == "Kraken_OHLCVT_Q1_2023.zip:XBTUSD_60.csv"


def test_an_archive_counts_as_published_some_days_after_its_quarter_and_is_said_to_be_awaited_until_then(
    home: Path, tmp_path: Path
) -> None:
    rows = [csv_row(START + minute * 60).strip() for minute in range(3)]
    minutes, name = write_lines(tmp_path / "XBTUSD_1.csv", rows), "Kraken_OHLCVT_Q1_2023.zip"
    options = {"intervals": "1", "end": "2023-04-01"}
    with opened(settings_of(home, kraken_archive_published_days=10)) as stores:
        run(stores, minutes, resampling=False)
        for now, file, awaited in (
            (Q1.end - 60, None, ()),
            (Q1.end + DAY, None, (name,)),
            (Q1.end + 10 * DAY - 1, None, (name,)),
            (Q1.end + 10 * DAY, f"{name}:XBTUSD_1.csv", ()),
        ):
            (gap,) = gaps_of(stores, now, **options)
            assert (gap.required_csv_file, gap.awaited) == (file, awaited)
            made = plan(stores, now=now, **options)
            assert (made.missing_archives, made.awaited) == ((name,) if file else (), awaited)
            said = make_report(stores, run_spec(**options), now).recommendations
            sentence = (
                f"{name} is not published yet; it appears some days after the quarter's end, and would fill gaps of "
            )
            assert (f"{sentence}1 series." in said) == bool(awaited)
            assert any(each.startswith(f"Fetch {name} and put it into the drop folder") for each in said) == bool(file)
    with opened(settings_of(home, kraken_archive_published_days=10, kraken_max_requests_per_gap=0)) as stores:
        (series,) = make_report(stores, run_spec(**options), Q1.end + DAY).series
        assert series.action == f"{name} is not published yet; it appears some days after the quarter's end"
    with opened(settings_of(home, kraken_archive_published_days=0)) as stores:
        assert [gap.awaited for gap in gaps_of(stores, Q1.end + DAY, **options)] == [()]


def test_the_fewest_archives_are_named_in_order_of_time(home: Path, tmp_path: Path) -> None:
    # Six quarters are more files than the complete archive has parts.
    now = Quarter(2026, 4).start + DAY
    with opened(settings_of(home)) as stores:
        run(stores, hours(tmp_path / "XBTUSD_60.csv", 0, 1), resampling=False)
        few = ("Kraken_OHLCVT_Q1_2023.zip", "Kraken_OHLCVT_Q2_2023.zip", "Kraken_OHLCVT_Q3_2023.zip")
        assert plan(stores, now=now, intervals="60", end="2023-08-01").missing_archives == few
        assert plan(stores, now=now, intervals="60", end="2025-01-01").missing_archives == (FULL_NAME,)
        (first, *_) = make_report(stores, run_spec(intervals="60", end="2025-01-01"), now).recommendations
        assert first == (
            f"Fetch {FULL_NAME}, in its 5 parts, and put it into the drop folder: it would fill gaps of 1 series. "
            f"Kraken's archives: {DOWNLOADS}"
        )


def test_a_run_within_its_limits_is_told_from_what_fills_everything(stores: Stores, shelf: Shelf) -> None:
    made = plan(stores, shelf.q1, intervals="60")
    run(stores, shelf.q1, intervals="60", resampling=False)
    for options in ({}, {"lookback_days": 30, "max_gaps_per_asset": 1}, {"complete": True}):
        spec = run_spec(intervals="60", **options)
        made = make_plan(stores, spec, NOW)
        assert made.run_requests == sum(fetch.requests for fetch in planned(stores, spec, NOW))
        assert (made.run_requests == made.requests) == spec.complete


def test_intervals_that_are_in_no_archive_name_none(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, resampling=False)
    found = gaps_of(stores, NOW, intervals="10080,21600", pairs="XBTUSD")
    assert found
    assert {gap.required_csv_file for gap in found} == {None}


def test_a_release_that_lacks_a_file_is_never_named_for_it(stores: Stores, tmp_path: Path, shelf: Shelf) -> None:
    lacking = Defect(DefectKind.MISSING_MEMBER, "ADAEUR", Interval.H1, release=candles_name(Q2))
    q2 = write_quarterly_zip(tmp_path, SPRING, Q2, HOURS_AND_DAYS, defects=[lacking])
    run(stores, shelf.q1, q2, shelf.q3, resampling=False)
    made = plan(stores, intervals="60", end="2023-07-01")
    assert made.missing_archives == ()
    (gap,) = [gap for gap in made.gaps if gap.series.pair == "ADAEUR"]
    assert (gap.span, gap.required_csv_file, str(gap.route)) == (Span(Q2.start, Q2.end), None, "TRADES")


def test_a_release_that_lacks_a_file_is_not_named_by_the_first_plan_that_looks_into_it_either(
    stores: Stores, tmp_path: Path, shelf: Shelf
) -> None:
    lacking = Defect(DefectKind.MISSING_MEMBER, "ADAEUR", Interval.H1, release=candles_name(Q2))
    q2 = write_quarterly_zip(tmp_path, SPRING, Q2, HOURS_AND_DAYS, defects=[lacking])
    made = plan(stores, shelf.q1, q2, intervals="60", end="2023-07-01")
    assert made.missing_archives == ()
    assert {gap.required_csv_file for gap in made.gaps if gap.series.pair == "ADAEUR"} == {
        "Kraken_OHLCVT_Q1_2023.zip:ADAEUR_60.csv"
    }


def test_a_release_whose_file_is_damaged_is_named_for_another_download(
    stores: Stores, tmp_path: Path, shelf: Shelf
) -> None:
    garbage = Defect(DefectKind.GARBAGE, "ADAEUR", Interval.H1, release=candles_name(Q2))
    q2 = write_quarterly_zip(tmp_path, SPRING, Q2, HOURS_AND_DAYS, defects=[garbage])
    run(stores, shelf.q1, q2, shelf.q3, resampling=False)
    (gap,) = [gap for gap in gaps_of(stores, NOW, intervals="60", pairs="ADAEUR") if gap.span.start == Q2.start]
    assert gap.required_csv_file == "Kraken_OHLCVT_Q2_2023.zip:ADAEUR_60.csv"


def test_without_the_api_no_route_costs_a_request(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, shelf.q3, resampling=False)
    made = plan(stores, api_backfill=False)
    assert {str(each.leg.route) for each in made.routes} == {"RESAMPLE", "NONE"}
    assert made.requests == 0
    assert made.missing_archives == ("Kraken_OHLCVT_Q2_2023.zip",)


def test_a_gap_is_never_routed_to_a_file_that_has_answered_for_it(stores: Stores, tmp_path: Path) -> None:
    at = [int(row[0]) for row in oracle("XBTUSD", 60, START + DAY, Q1.end)][10]
    bad = Defect(DefectKind.UNREADABLE, "XBTUSD", Interval.H1, at)
    path = write_csv(tmp_path, SPRING, "XBTUSD", Interval.H1, start=START, end=Q1.end, defects=[bad])
    run(stores, path, resampling=False)
    (route, *_) = routes_of(plan(stores, path, intervals="60", end="2023-03-31"), "XBTUSD", 60)
    assert route == ("TRADES", Span(at, at + HOUR), ())


def test_it_does_not_matter_how_a_folder_is_spelled(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = [int(row[0]) for row in oracle("XBTUSD", 60, START + DAY, Q1.end)][10]
    bad = Defect(DefectKind.UNREADABLE, "XBTUSD", Interval.H1, at)
    path = write_csv(tmp_path / "in", SPRING, "XBTUSD", Interval.H1, start=START, end=Q1.end, defects=[bad])
    run(stores, path, resampling=False)
    monkeypatch.chdir(tmp_path)
    for spelling in (Path("in"), Path("in/../in"), Path("./in/XBTUSD_60.csv")):
        made = plan(stores, spelling, intervals="60", end="2023-03-31")
        assert made.scanned.tasks == []
        assert [each.name for each in made.scanned.ingested_before] == ["XBTUSD_60.csv"]


def test_coarser_candles_are_resampled_from_what_trades_at_hand_will_become(stores: Stores, shelf: Shelf) -> None:
    made = plan(stores, shelf.trades, intervals="1,60", end="2023-07-03")
    (minutes,) = [span for route, span, _ in routes_of(made, "XBTUSD", 1) if route == "ARCHIVE"]
    (resampled,) = [span for route, span, _ in routes_of(made, "XBTUSD", 60) if route == "RESAMPLE"]
    assert minutes.start <= resampled.start < resampled.end
    # The last hour is made of minutes the last of which are to come from Trades.
    assert (resampled.end, resampled.end - HOUR) == (Q3.start + 2 * DAY, Interval.H1.floor(minutes.end))


def test_coarser_candles_alone_are_resampled_from_trades_at_hand_as_well(stores: Stores, shelf: Shelf) -> None:
    made = plan(stores, shelf.trades, intervals="60", start="2023-07-01T01:00", end="2023-07-02T20:00")
    assert [route for route, _, _ in routes_of(made, "XBTUSD", 60)] == ["RESAMPLE"]
    assert made.requests == 0


def test_the_newest_720_candles_come_from_ohlc_and_older_ones_from_trades(stores: Stores, tmp_path: Path) -> None:
    now = START + 1_000 * HOUR + 1_800
    run(stores, hours(tmp_path / "XBTUSD_60.csv", *range(11)), now=now, resampling=False)
    made = plan(stores, now=now, intervals="60")
    assert [(route, span) for route, span, _ in routes_of(made, "XBTUSD", 60)] == [
        ("TRADES", Span(START + 10 * HOUR, START + 280 * HOUR)),
        ("OHLC", Span(START + 280 * HOUR, START + 1_000 * HOUR)),
    ]
    (gap,) = made.gaps
    assert (gap.missing_candles, gap.overflow_candles, gap.is_api_fillable) == (990, 270, False)
    assert gap.as_json() == {
        "pair": "XBTUSD",
        "interval": 60,
        "start": "2023-03-26T10:00:00Z",
        "end": "2023-05-06T16:00:00Z",
        "missing_candles": 990,
        "route": "TRADES",
        "is_api_fillable": False,
        "overflow_candles": 270,
        "required_csv_file": "Kraken_OHLCVT_Q1_2023.zip:XBTUSD_60.csv",
        "status": "DETECTED",
        "attempts": 0,
    }


def test_a_gap_within_the_newest_720_candles_is_fillable_through_the_api(stores: Stores, tmp_path: Path) -> None:
    now = START + 700 * HOUR + 1_800
    run(stores, hours(tmp_path / "XBTUSD_60.csv", *range(11)), now=now, resampling=False)
    (gap,) = gaps_of(stores, now, intervals="60")
    assert (gap.overflow_candles, gap.is_api_fillable, str(gap.route)) == (0, True, "OHLC")
    assert gap.required_csv_file is None


def test_twelve_hours_are_made_of_a_reply_with_four_because_none_has_them(stores: Stores, tmp_path: Path) -> None:
    now = START + 10 * DAY + 60
    days = [csv_row(START + half * 12 * HOUR).strip() for half in range(4)]
    run(stores, write_lines(tmp_path / "XBTUSD_720.csv", days), now=now, resampling=False)
    (gap,) = gaps_of(stores, now, intervals="720")
    (leg,) = gap.legs
    assert (str(leg.route), leg.fetched, leg.requests) == ("OHLC", Interval.H4, 1)


# --- what it costs


def test_the_cost_in_requests_is_about_what_the_trades_take_and_the_time_follows_from_the_rate(
    home: Path, tmp_path: Path
) -> None:
    with opened(settings_of(home, kraken_api_rate=0.5)) as stores:
        for name, day in (("a", START), ("b", Q3.start)):
            write_csv(tmp_path / name, SPRING, "XBTUSD", Interval.H1, start=day, end=day + 6 * DAY)
        run(stores, tmp_path, resampling=False)
        made = plan(stores, intervals="60", end="2023-07-02")
        trades = sum(row[-1] for row in oracle("XBTUSD", 60, Q1.end, Q3.start))
        assert 0.7 * trades / 1_000 < made.requests < 1.4 * trades / 1_000 + 2
        assert made.seconds == pytest.approx(made.requests / 0.5)
        assert made.requests == sum(each.leg.requests for each in made.routes)


def test_the_years_before_a_pair_was_listed_do_not_make_it_look_quiet(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.complete, resampling=False)
    made = plan(stores, intervals="60", pairs="XBTUSD", end="2023-07-01")
    trades = sum(row[-1] for row in oracle("XBTUSD", 60, Q1.end + 2 * DAY, Q2.end))
    assert 0.7 * trades / 1_000 < made.requests < 1.4 * trades / 1_000 + 2


def test_one_reply_of_ohlc_serves_every_part_of_its_reach(home: Path, tmp_path: Path) -> None:
    now = START + 100 * HOUR + 60
    with opened(settings_of(home, kraken_api_rate=1)) as stores:
        run(stores, hours(tmp_path / "a" / "XBTUSD_60.csv", 0, 9, 10), now=now, resampling=False)
        run(stores, hours(tmp_path / "b" / "XBTUSD_60.csv", 40, 49, 50), now=now, resampling=False)
        made = plan(stores, now=now, intervals="60")
    assert [(str(each.leg.route), each.leg.requests) for each in made.routes] == [("OHLC", 1), ("OHLC", 0)]
    assert (made.requests, made.seconds) == (1, 1.0)


def test_what_costs_more_than_the_limit_has_no_route_and_is_named_with_its_archive(home: Path, shelf: Shelf) -> None:
    with opened(settings_of(home, kraken_max_requests_per_gap=0)) as stores:
        run(stores, shelf.q1, shelf.q3, resampling=False)
        made = plan(stores, intervals="60", end="2023-07-01")
        assert {str(each.leg.route) for each in made.routes} == {"NONE"}
        assert {gap.status for gap in made.gaps} == {GapStatus.UNFILLABLE}
        assert made.missing_archives == ("Kraken_OHLCVT_Q2_2023.zip",)
        assert made.requests == 0
        without_limit = plan(stores, intervals="60,1440", end="2023-07-01", complete=True)
        assert {str(each.leg.route) for each in without_limit.routes} == {"TRADES", "RESAMPLE"}
        assert without_limit.requests > 3


def test_archives_that_would_fill_the_most_candles_are_named_first(home: Path, tmp_path: Path) -> None:
    with opened(settings_of(home, kraken_max_requests_per_gap=0)) as stores:
        write_csv(tmp_path / "a", SPRING, "XBTUSD", Interval.H1, start=Q1.end - 3 * DAY, end=Q1.end - DAY)
        write_csv(tmp_path / "b", SPRING, "XBTUSD", Interval.H1, start=Q2.end + DAY, end=Q2.end + 2 * DAY)
        run(stores, tmp_path, resampling=False)
        made = plan(stores, intervals="60", now=Q3.end + 60 * DAY, end="2023-07-02")
        missing = {str(gap.required_csv_file): gap.missing_candles for gap in made.gaps}
        assert list(missing) == [
            "Kraken_OHLCVT_Q1_2023.zip:XBTUSD_60.csv,Kraken_OHLCVT_Q2_2023.zip:XBTUSD_60.csv,"
            "Kraken_OHLCVT_Q3_2023.zip:XBTUSD_60.csv"
        ]
        assert made.missing_archives == tuple(candles_name(q) for q in (Q1, Q2, Q3))


# --- what it says


def test_its_json_is_what_others_rely_on(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, resampling=False)
    planned = plan(stores, shelf.q3, intervals="60", pairs="XBTUSD", end="2023-07-07")
    made = planned.as_json()
    assert list(made) == ["routes", "missing_archives", "requests", "seconds"]
    assert made["missing_archives"] == ["Kraken_OHLCVT_Q2_2023.zip"]
    routes = made["routes"]
    assert isinstance(routes, list)
    assert {tuple(route) for route in routes} == {
        ("pair", "interval", "start", "end", "source", "files", "requests", "seconds")
    }
    assert routes[1] == {
        "pair": "XBTUSD",
        "interval": 60,
        "start": iso(Q3.start),
        "end": iso(CUT),
        "source": "ARCHIVE",
        "files": ["Kraken_OHLCVT_Q3_2023.zip:XBTUSD_60.csv"],
        "requests": 0,
        "seconds": 0.0,
    }
    assert made["requests"] == routes[0]["requests"] + routes[2]["requests"]
    assert made["seconds"] == planned.requests / stores.settings.kraken_api_rate


def test_the_window_is_half_open(stores: Stores, shelf: Shelf) -> None:
    made = plan(stores, shelf.q1, intervals="60", pairs="XBTUSD", start="2023-03-28", end="2023-03-30")
    assert [gap.span for gap in made.gaps] == [Span(START + 2 * DAY, START + 4 * DAY)]


def test_what_is_broken_skipped_or_still_grows_is_told(home: Path, tmp_path: Path, shelf: Shelf) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "Kraken_OHLCVT_Q2_2023.zip").write_bytes(shelf.q2.read_bytes()[:1_000])
    shutil.copy(shelf.q1, folder)
    for path in folder.iterdir():
        os.utime(path, (NOW, NOW))
    shutil.copy(shelf.minutes, folder)
    with opened(settings_of(home, kraken_settle_seconds=3_600)) as stores:
        made = plan(stores, folder, intervals="60", end="2023-07-01")
        assert [each.name for each in made.scanned.broken] == ["Kraken_OHLCVT_Q2_2023.zip"]
        assert [each.name for each in made.scanned.waiting] == ["XBTUSD_1.csv"]
        assert [(each.name, each.reason) for each in made.scanned.skipped] == [("notes.txt", "not a CSV file")]
        # An archive that cannot be read is one to fetch.
        assert made.missing_archives == ("Kraken_OHLCVT_Q2_2023.zip",)


def test_an_empty_world_is_refused_with_the_places_that_were_looked_at(stores: Stores, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InvalidRequest, match=r"nothing to work on for tier TIER2: .*/home/drop, .*/in matches"):
        plan(stores, tmp_path / "in", tier="TIER2")


def test_a_pair_of_which_nothing_is_known_is_refused(stores: Stores, shelf: Shelf) -> None:
    with pytest.raises(InvalidRequest, match="ETHUSD is unknown"):
        plan(stores, shelf.q1, pairs="ETHUSD")


def test_a_pair_of_another_tier_is_refused(stores: Stores, shelf: Shelf) -> None:
    with pytest.raises(InvalidRequest, match="ADAEUR is in TIER1, not in TIER2"):
        plan(stores, shelf.q1, pairs="ADAEUR", tier="TIER2")


# --- what it leaves alone


def test_it_writes_nothing(home: Path, shelf: Shelf) -> None:
    with opened(settings_of(home)) as stores:
        run(stores, shelf.q1)
        shutil.copy(shelf.minutes, stores.settings.home / "drop")
    before = digest_of(home)
    with opened(settings_of(home)) as stores:
        made = plan(stores, shelf.q1, shelf.q2, shelf.q3, shelf.trades)
    assert {str(each.leg.route) for each in made.routes} >= {"ARCHIVE", "RESAMPLE", "OHLC", "TRADES"}
    assert digest_of(home) == before


def test_it_says_the_same_twice_and_what_it_says_comes_true(stores: Stores, shelf: Shelf) -> None:
    options: dict[str, Any] = {"intervals": "60,1440", "end": "2023-07-05"}
    first, again = (plan(stores, shelf.q1, shelf.q3, **options) for _ in range(2))
    assert first.as_json() == again.as_json()
    run(stores, shelf.q1, shelf.q3, **options)
    for part in first.routes:
        is_there = any(
            span.start <= part.leg.span.start and part.leg.span.end <= span.end
            for span in covered(stores, part.series.pair, part.series.interval)
        )
        assert is_there is (part.leg.route == "ARCHIVE"), part
