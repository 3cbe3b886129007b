from __future__ import annotations

import csv
from pathlib import Path

import pytest

from kraken_pipeline.coverage.proof import Proven
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.demo.archives import write_csv
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.kraken.release import DOWNLOADS
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.series import Series
from kraken_pipeline.market.tier import Tier
from kraken_pipeline.storage.catalog.states import ContradictionState
from kraken_pipeline.storage.records import gap_records, proof_records
from kraken_pipeline.storage.records.gap_records import Attempt
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.report.report import Report, export_unfillable, make_report
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.homes import (
    CUT,
    NOW,
    Q1,
    Q2,
    Q3,
    SPRING,
    START,
    Shelf,
    oracle,
    run,
    settings_of,
    stored,
    write_lines,
)
from kraken_pipeline_tests.support.pages import contradict
from kraken_pipeline_tests.support.samples import csv_row

pytestmark = pytest.mark.slow

HOUR = 3_600


def report(stores: Stores, now: int = NOW, **options: object) -> Report:
    return make_report(stores, run_spec(**options), now)


def hours(path: Path, *numbers: int) -> Path:
    return write_lines(path, [csv_row(START + number * HOUR).strip() for number in numbers])


def test_its_numbers_are_those_of_a_hand_computation(stores: Stores, tmp_path: Path) -> None:
    # The first ten hours and those from the 40th to the 50th are covered, up to the last candle's start; eight of
    # these twenty have a candle.
    run(stores, hours(tmp_path / "a" / "XBTUSD_60.csv", 0, 1, 2, 5, 10), now=START + 100 * HOUR, resampling=False)
    run(stores, hours(tmp_path / "b" / "XBTUSD_60.csv", 40, 41, 45, 49, 50), now=START + 100 * HOUR, resampling=False)
    # One day of two is covered, with a candle in it.
    rows = [csv_row(START).strip(), csv_row(START + DAY).strip()]
    run(stores, write_lines(tmp_path / "XBTUSD_1440.csv", rows), now=START + 100 * HOUR, resampling=False)
    made = report(stores, START + 100 * HOUR + 59, intervals="60,1440")
    assert made.as_json() == {
        "tier": "ALL",
        "made_at": iso(START + 100 * HOUR + 59),
        "overall_completeness_pct": 22.5,  # the mean of 20 and 25: each series counts alike
        "proven_pct": 0.0,
        "verified_pct": 0.0,
        "total_assets": 1,
        "total_gaps": 3,
        "conflicts": 0,
        "intervals": {
            "60": totals(20.0, expected=100, covered=20, candles=8, gaps=2),
            "1440": totals(25.0, expected=4, covered=1, candles=1, gaps=1),
        },
        "tiers": {
            "TIER1": {
                "60": totals(20.0, expected=100, covered=20, candles=8, gaps=2),
                "1440": totals(25.0, expected=4, covered=1, candles=1, gaps=1),
            }
        },
        "attention": [],
        "recommendations": [
            "3 gaps can be filled through Kraken's API, with about 1 request, and more for what lies before the first "
            "known candles of 1 pair: kraken-pipeline backfill --intervals 60,1440 --complete"
        ],
    }


def totals(percent: float, *, expected: int, covered: int, candles: int, gaps: int) -> dict[str, object]:
    return {
        "completeness_pct": percent,
        "proven_pct": 0.0,
        "verified_pct": 0.0,
        "series": 1,
        "expected": expected,
        "covered": covered,
        "candles": candles,
        "quiet": covered - candles,
        "gaps": gaps,
        "unfillable_gaps": 0,
        "conflicts": 0,
    }


def test_a_missing_quarter_is_all_that_lacks_in_a_world_without_it(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, shelf.q3, resampling=False)
    made = report(stores, intervals="60", pairs="XBTUSD", end=iso(CUT).rstrip("Z"))
    expected, absent = (CUT - START) // HOUR, (Q3.start - Q1.end) // HOUR
    (series,) = made.series
    assert (series.expected, series.covered) == (expected, expected - absent)
    true = [*oracle("XBTUSD", 60, START, Q1.end), *oracle("XBTUSD", 60, Q3.start, CUT)]
    assert (series.candles, series.quiet) == (len(true), expected - absent - len(true))
    assert made.percent == pytest.approx(100 * (expected - absent) / expected, abs=0.01)
    assert made.recommendations[0].startswith("Fetch Kraken_OHLCVT_Q2_2023.zip and put it into the drop folder")


def test_what_lies_beyond_the_window_does_not_count(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, resampling=False)
    made = report(stores, intervals="60", start="2023-03-27", end="2023-03-29")
    for series in made.series:
        true = oracle(series.series.pair, 60, START + DAY, START + 3 * DAY)
        assert (series.expected, series.covered, series.candles) == (48, 48, len(true))
        assert (series.percent, series.gaps) == (100.0, 0)
    assert made.as_json()["overall_completeness_pct"] == 100.0
    assert made.recommendations == ("Nothing: everything that is expected is covered.",)


def test_a_row_that_nobody_answers_for_is_no_candle_of_the_covered_time(stores: Stores, tmp_path: Path) -> None:
    run(stores, hours(tmp_path / "XBTUSD_60.csv", 0, 1, 2), now=START + 5 * HOUR, resampling=False)
    (series,) = report(stores, START + 5 * HOUR, intervals="60").series
    assert (series.expected, series.covered, series.candles, series.quiet) == (5, 2, 2, 0)
    assert len(stored(stores, "XBTUSD", 60)) == 3


def test_series_that_need_a_person_are_named_with_what_to_do(home: Path, shelf: Shelf) -> None:
    with opened(settings_of(home, kraken_max_requests_per_gap=0)) as stores:
        run(stores, shelf.q1, shelf.q3, resampling=False)
        made = report(stores, intervals="60", end=iso(CUT).rstrip("Z"))
        attention = made.as_json()["attention"]
        assert attention == [
            {
                "pair": each.series.pair,
                "interval": 60,
                "completeness_pct": each.percent,
                "gaps": 1,
                "action": f"fetch Kraken_OHLCVT_Q2_2023.zip:{each.series.pair}_60.csv",
            }
            for each in sorted(made.series, key=lambda each: each.percent or 0.0)
        ]
        fetch, fill = made.recommendations
        assert fetch == (
            "Fetch Kraken_OHLCVT_Q2_2023.zip and put it into the drop folder: it would fill gaps of 3 series. "
            f"Kraken's archives: {DOWNLOADS}"
        )
        # Without limits there is another way.
        assert fill.endswith(": kraken-pipeline backfill --intervals 60 --end 2023-07-06T23:00:00Z --complete")


def test_a_gap_that_no_archive_has_yet_is_told_as_such(home: Path, tmp_path: Path) -> None:
    with opened(settings_of(home, kraken_max_requests_per_gap=0)) as stores:
        rows = [csv_row(START + minute * 60).strip() for minute in range(3)]
        run(stores, write_lines(tmp_path / "XBTUSD_1.csv", rows), now=Q1.end, resampling=False)
        (series,) = report(stores, Q1.end - 60, intervals="1", end=START + 3_600).series
        assert series.action == "raise KRAKEN_MAX_REQUESTS_PER_GAP or run with --complete: no archive has it yet"


def test_a_gap_that_keeps_failing_is_told_with_its_error(stores: Stores, tmp_path: Path) -> None:
    now = START + 20 * HOUR
    rows = [csv_row(START + hour * HOUR).strip() for hour in range(3)]
    run(stores, write_lines(tmp_path / "XBTUSD_60.csv", rows), now=now, resampling=False)
    series, gap = Series("XBTUSD", Interval.H1), Span(START + 2 * HOUR, now)
    with stores.catalog.write() as connection:
        for number in range(3):
            attempt = Attempt(gap, "OHLC", None, "Kraken answered with EService:Busy", now + number)
            gap_records.add_attempts(connection, {series: [attempt]}, f"run-{number}")
    (measured,) = report(stores, now, intervals="60").series
    assert measured.action == ("Kraken answered with EService:Busy; to retry: kraken-pipeline dead-letters retry")


def test_unfillable_gaps_are_exported_with_what_they_need(home: Path, tmp_path: Path, shelf: Shelf) -> None:
    with opened(settings_of(home, kraken_max_requests_per_gap=0)) as stores:
        run(stores, shelf.q1, shelf.q3, resampling=False)
        made = report(stores, intervals="60", pairs="ADAEUR", end="2023-07-01")
        path = tmp_path / "deep" / "unfillable.csv"
        assert export_unfillable(made, path) == 1
        (row,) = csv.DictReader(path.read_text().splitlines())
        assert row == {
            "pair": "ADAEUR",
            "interval": "60",
            "start": iso(Q2.start),
            "end": iso(Q2.end),
            "missing_candles": str(91 * 24),
            "overflow_candles": str(91 * 24),
            "required_csv_file": "Kraken_OHLCVT_Q2_2023.zip:ADAEUR_60.csv",
            "attempts": "0",
        }


def test_what_is_proven_is_counted_within_what_is_covered_and_expected(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, resampling=False)
    hours, days = Series("XBTUSD", Interval.H1), Series("XBTUSD", Interval.D1)
    with stores.catalog.write() as connection:
        # From a day before anything is covered, to the middle of what is expected.
        proven = {
            hours: Proven((Span(START - DAY, START + 2 * DAY),), (Span(START - DAY, START + DAY),)),
            days: Proven((Span(START, START + DAY),)),
        }
        proof_records.replace_proofs(connection, proven)
    made = report(stores, pairs="XBTUSD", intervals="60,1440", end="2023-03-30")
    assert {each.series: (each.expected, each.proven, each.verified) for each in made.series} == {
        hours: (96, 48, 24),
        days: (4, 1, 0),
    }
    assert (made.verified_percent, made.proven_percent, made.percent) == (12.5, 37.5, 100.0)
    told = made.as_json()
    assert (told["proven_pct"], told["verified_pct"]) == (37.5, 12.5)
    intervals = told["intervals"]
    assert isinstance(intervals, dict)
    assert [intervals[name]["proven_pct"] for name in ("60", "1440")] == [50.0, 25.0]
    assert [intervals[name]["verified_pct"] for name in ("60", "1440")] == [25.0, 0.0]


def test_conflicts_count_for_both_sides_and_what_is_still_being_filled_for_none(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, resampling=False)
    contradict(stores, "XBTUSD", START)
    contradict(stores, "XBTUSD", START + DAY, state="REFUTED")
    contradict(stores, "XBTUSD", START + 2 * DAY, state="SETTLED")
    contradict(stores, "ADAEUR", START + 4 * DAY)
    made = report(stores, intervals="1,60,1440", end="2023-03-30")
    assert [each.pair for each in made.conflicts] == ["XBTUSD"]  # the other one lies behind the end
    assert [each.state for each in made.contradictions] == [ContradictionState.CONFLICT, ContradictionState.REFUTED]
    assert {each.series.interval.value: each.conflicts for each in made.series if each.series.pair == "XBTUSD"} == {
        1: 0,
        60: 1,
        1440: 1,
    }
    assert made.as_json()["conflicts"] == 1
    assert made.recommendations[-1].startswith("1 contradiction between intervals is left")
    assert made.recommendations[-1].endswith(": kraken-pipeline reconcile --intervals 1440 --end 2023-03-30")
    assert not report(stores, intervals="5", end="2023-03-30").contradictions
    assert not report(stores, tier="TIER4", end="2023-03-30").contradictions


def test_an_empty_lake_is_told_how_to_begin(stores: Stores) -> None:
    made = report(stores)
    told = made.as_json()
    assert [told[name] for name in ("overall_completeness_pct", "proven_pct", "verified_pct")] == [None] * 3
    assert made.unknown.startswith("The lake is empty: kraken-pipeline ingest --archive-dir")
    assert made.recommendations == (
        "Put Kraken's archives into the drop folder, or name their folder with ingest --archive-dir.",
    )


def test_a_time_of_which_nothing_is_expected_has_no_percentages(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, resampling=False)
    made = report(stores, pairs="XBTUSD", intervals="60", end="2015-01-01")
    (row,) = made.as_json()["intervals"].values()  # type: ignore[attr-defined]
    assert (row["expected"], row["completeness_pct"], row["proven_pct"], row["verified_pct"]) == (0, None, None, None)
    assert made.percent is None
    assert made.unknown.startswith("There is no data of that time yet")
    assert made.recommendations == ("Nothing: nothing is expected.",)
    assert not report(stores, pairs="XBTUSD", intervals="60").unknown


def test_a_tier_and_pairs_narrow_it(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, resampling=False)
    assert {each.series.pair for each in report(stores, tier="TIER1").series} == {"XBTUSD", "ADAEUR"}
    assert {each.tier for each in report(stores, tier="TIER4").series} == {Tier.TIER4}
    assert len(report(stores, pairs="XBT/USD,ADAEUR", intervals="1,60").series) == 4
    with pytest.raises(InvalidRequest, match="ETHUSD is unknown"):
        report(stores, pairs="ETHUSD")


def test_percent_is_rounded_down_so_that_only_what_is_whole_is_100(stores: Stores, tmp_path: Path) -> None:
    minutes = write_csv(tmp_path, SPRING, "XBTUSD", Interval.M1, start=START, end=Q2.start + 30 * DAY)
    now = int(stores_end(minutes)) + 60
    run(stores, minutes, now=now, resampling=False)
    (series,) = report(stores, now, intervals="1").series
    assert series.expected - series.covered == 1
    assert series.percent is not None
    assert series.percent < 100
    assert f"{series.percent:.2f}" == "99.99"


def stores_end(path: Path) -> str:
    return path.read_text().splitlines()[-1].split(",")[0]
