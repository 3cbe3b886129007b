from __future__ import annotations

from pathlib import Path

import pytest

from kraken_pipeline.coverage.gaps import GapStatus
from kraken_pipeline.coverage.ranges import Span, whole_candles
from kraken_pipeline.demo.archives import candles_name, write_csv, write_quarterly_zip
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.records import gap_records, refutations
from kraken_pipeline.storage.records.gap_records import Attempt
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline_tests.support.homes import (
    NOW,
    Q1,
    Q3,
    SPRING,
    START,
    Shelf,
    closed_gaps,
    covered,
    evidence_of,
    lake_of,
    open_gaps,
    oracle,
    rows_of,
    run,
    spans,
    stored,
)
from kraken_pipeline_tests.support.samples import csv_row

pytestmark = pytest.mark.slow

HOUR = 3_600
COARSER = [interval for interval in Interval if interval > Interval.M1]
Row = tuple[float, ...]


def rounded(rows: list[Row]) -> list[Row]:
    """Candles with their volume to 1e-6, as far as a sum of floats goes."""
    return [(*row[:5], round(row[5], 6), row[6]) for row in rows]


# --- resampling


def test_coarser_candles_follow_from_complete_minutes(stores: Stores, shelf: Shelf) -> None:
    done = run(stores, shelf.minutes)
    assert done.backfilled is not None
    (minutes,) = covered(stores, "XBTUSD", 1)
    for interval in COARSER:
        # The pair begins with its first known candle, and nothing is expected before.
        whole = whole_candles((minutes,), interval)
        assert covered(stores, "XBTUSD", interval) == whole, interval
        true = [row for each in whole for row in oracle("XBTUSD", interval, each.start, each.end)]
        assert rounded(stored(stores, "XBTUSD", interval)) == rounded(true), interval
        assert set(stores.lake.read(Series("XBTUSD", interval))["source"]) <= {"RESAMPLED"}
    assert stored(stores, "XBTUSD", 1440) != []
    filled = {each.series.interval: each.candles_stored for each in done.backfilled.filled}
    assert filled == {interval: len(rows) for interval in COARSER if (rows := stored(stores, "XBTUSD", interval))}


def test_coarser_candles_follow_from_a_trades_archive(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.trades)
    for interval in (5, 15, 60, 240):
        (span,) = covered(stores, "XBTUSD", interval)
        true = oracle("XBTUSD", interval, span.start, span.end)
        assert rounded(stored(stores, "XBTUSD", interval)) == rounded(true)
        assert len(true) > 5


def test_what_lies_around_a_minute_that_nobody_answered_for_is_not_resampled(stores: Stores, tmp_path: Path) -> None:
    at = next(int(row[0]) for row in oracle("XBTUSD", 1, START + DAY + 5 * HOUR, START + 2 * DAY))
    bad = Defect(DefectKind.NEGATIVE_VOLUME, "XBTUSD", Interval.M1, at, release=candles_name(Q1))
    run(stores, write_quarterly_zip(tmp_path, SPRING, Q1, [Interval.M1], pairs=["XBTUSD"], defects=[bad]))
    for interval in COARSER:
        hole = interval.floor(at)
        times = {row[0] for row in stored(stores, "XBTUSD", interval)}
        assert hole not in times
        assert all(hole not in each for each in covered(stores, "XBTUSD", interval))
        if interval <= Interval.D1:
            # The release ends with the latest minute in it, which need not be the last of the quarter.
            end = interval.floor(covered(stores, "XBTUSD", 1)[-1].end)
            true = oracle("XBTUSD", interval, START, end)
            assert rounded(stored(stores, "XBTUSD", interval)) == rounded([row for row in true if row[0] != hole])


def test_nothing_is_resampled_from_what_is_only_planned(stores: Stores, tmp_path: Path) -> None:
    # Twelve hours of a day are there; the rest of it could be had from the API, and is not there yet.
    now = START + DAY + 600
    path = write_csv(tmp_path, SPRING, "XBTUSD", Interval.M1, start=START, end=START + 12 * HOUR)
    done = run(stores, path, now=now, intervals="1,60,1440")
    assert done.backfilled is not None
    (day,) = [gap for gap in done.backfilled.gaps if gap.series.interval is Interval.D1]
    assert [(str(leg.route), leg.is_ready) for leg in day.legs] == [("RESAMPLE", False)]
    assert stored(stores, "XBTUSD", 1440) == []
    assert covered(stores, "XBTUSD", 1440) == ()
    assert [each.series.interval for each in done.backfilled.filled] == [Interval.H1]


def test_a_day_that_an_archive_lacks_is_resampled_from_its_hours(stores: Stores, tmp_path: Path) -> None:
    # As in Kraken's XBTUSD of 2024-03-31: the daily file lacks the day. Its absence inside of the release reads as
    # quiet time until adjacent intervals are reconciled; here the row is there and bad, so the slot is open.
    at = START + 2 * DAY
    bad = Defect(DefectKind.CUT_LINE, "XBTUSD", Interval.D1, at, release=candles_name(Q1))
    path = write_quarterly_zip(tmp_path, SPRING, Q1, [Interval.H1, Interval.D1], pairs=["XBTUSD"], defects=[bad])
    done = run(stores, path, intervals="60,1440")
    assert done.backfilled is not None
    assert [(each.series.interval, each.spans) for each in done.backfilled.filled] == [(1440, spans((at, at + DAY)))]
    assert rounded(stored(stores, "XBTUSD", 1440)) == rounded(oracle("XBTUSD", 1440, START, Q1.end))
    sources = dict(zip(*stores.lake.read(Series("XBTUSD", Interval.D1)).select("time", "source"), strict=True))
    assert sorted(sources.values()) == ["CSV"] * 5 + ["RESAMPLED"]
    assert covered(stores, "XBTUSD", 1440) == spans((Q1.start, Q1.end))
    ((source,),) = rows_of(stores, schema.coverage, "source")[:1]
    assert source == "CSV"
    assert ("XBTUSD", 1440, "MIXED") in rows_of(stores, schema.coverage, "pair", "interval", "source")


def test_resampled_candles_never_make_a_pair_begin_earlier(stores: Stores, shelf: Shelf) -> None:
    # The week and the fifteen days of the first trade begin long before it.
    first = run(stores, shelf.q1, shelf.q2, intervals=list(Interval))
    before = (lake_of(stores), evidence_of(stores))
    assert stored(stores, "XBTUSD", 10080)[0][0] < START
    second = run(stores, run_id="run-two")
    assert first.backfilled is not None
    assert second.backfilled is not None
    assert second.backfilled.filled == ()
    assert (lake_of(stores), evidence_of(stores)) == before


def test_every_resampling_is_an_attempt_on_record(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.minutes, intervals="1,60")
    (hours,) = covered(stores, "XBTUSD", 60)
    columns = ("pair", "interval", "start", "end", "route", "origin", "error", "run_id", "made_at")
    assert rows_of(stores, schema.attempts, *columns) == [
        ("XBTUSD", 60, hours.start, hours.end, "RESAMPLE", "1", None, "run-one", NOW)
    ]


def test_a_selection_of_intervals_is_filled_from_finer_ones_outside_of_it(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.minutes, intervals="1")
    run(stores, intervals="240", run_id="run-two")
    (minutes,) = covered(stores, "XBTUSD", 1)
    assert covered(stores, "XBTUSD", 240) == whole_candles((minutes,), Interval.H4)
    assert stored(stores, "XBTUSD", 60) == []


# --- the records of gaps


def test_a_gap_is_detected_and_its_record_is_filled_when_it_is(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, shelf.q3, intervals="60,1440")
    missing = Span(Q1.end, Q3.start)
    first = next(row for row in open_gaps(stores, "ADAEUR", 60) if row.span == missing)
    assert (first.status, first.detected_at) == (GapStatus.DETECTED, NOW)
    run(stores, shelf.q2, intervals="60,1440", now=NOW + 100, run_id="run-two")
    assert missing not in [row.span for row in open_gaps(stores, "ADAEUR", 60)]
    (filled,) = closed_gaps(stores, "ADAEUR", 60)
    assert (filled.span, filled.status, filled.detected_at, filled.closed_at) == (
        missing,
        GapStatus.FILLED,
        NOW,
        NOW + 100,
    )


def hours(path: Path, *numbers: int) -> Path:
    """XBTUSD_60.csv with these hours since the start of the world."""
    path.mkdir()
    file = path / "XBTUSD_60.csv"
    file.write_text("".join(csv_row(START + number * HOUR) for number in numbers))
    return file


def an_attempt(stores: Stores, span: Span, error: str | None, made_at: int) -> None:
    with stores.catalog.write() as connection:
        attempt = Attempt(span, "TRADES", None, error, made_at)
        gap_records.add_attempts(connection, {Series("XBTUSD", Interval.H1): [attempt]}, "api")


def test_the_history_of_a_gap_survives_its_splitting(stores: Stores, tmp_path: Path) -> None:
    now = START + 30 * HOUR + 60
    run(stores, hours(tmp_path / "a", 0, 5, 6), hours(tmp_path / "b", 20, 29, 30), now=now, intervals="60")
    whole = next(row for row in open_gaps(stores, "XBTUSD", 60) if row.span.start == START + 6 * HOUR)
    assert whole.span == Span(START + 6 * HOUR, START + 20 * HOUR)
    an_attempt(stores, whole.span, "EService:Busy", now)
    run(stores, hours(tmp_path / "c", 10, 13, 14), now=now + 500, intervals="60", run_id="run-two")
    parts = [row for row in open_gaps(stores, "XBTUSD", 60) if row.span.overlaps(whole.span)]
    assert [row.span for row in parts] == [
        Span(START + 6 * HOUR, START + 10 * HOUR),
        Span(START + 14 * HOUR, START + 20 * HOUR),
    ]
    assert [(row.detected_at, row.attempts, row.error) for row in parts] == [(now, 1, "EService:Busy")] * 2
    (filled,) = closed_gaps(stores, "XBTUSD", 60)
    assert (filled.span, filled.detected_at, filled.closed_at) == (
        Span(START + 10 * HOUR, START + 14 * HOUR),
        now,
        now + 500,
    )


def test_the_history_of_a_gap_survives_its_growing(stores: Stores, tmp_path: Path) -> None:
    now = START + 20 * HOUR + 60
    run(stores, hours(tmp_path / "a", 0, 9, 10), now=now, intervals="60")
    (row,) = open_gaps(stores, "XBTUSD", 60)
    an_attempt(stores, row.span, "EService:Busy", now)
    later = now + 3 * DAY
    run(stores, now=later, intervals="60", run_id="run-two")
    (grown,) = open_gaps(stores, "XBTUSD", 60)
    assert grown.span == Span(row.span.start, row.span.end + 3 * DAY)
    assert (grown.detected_at, grown.attempts, grown.missing_candles) == (now, 1, row.missing_candles + 72)


def test_a_gap_that_is_found_again_remembers_the_attempts_at_it(stores: Stores, tmp_path: Path) -> None:
    now = START + 20 * HOUR + 60
    run(stores, hours(tmp_path / "a", 0, 5, 6), now=now, intervals="60")
    an_attempt(stores, Span(START + 8 * HOUR, START + 10 * HOUR), "EService:Busy", now)
    run(stores, hours(tmp_path / "b", 6, 19, 20), now=now, intervals="60", run_id="run-two")
    assert open_gaps(stores, "XBTUSD", 60) == []
    with stores.catalog.write() as connection:  # what a person withdraws, or a contradiction refutes
        span = Span(START + 8 * HOUR, START + 9 * HOUR)
        refutations.refute(connection, [(Series("XBTUSD", Interval.H1), span, None, "a test")], now)
    run(stores, hours(tmp_path / "c", 18, 19, 20), now=now + 60, intervals="60", run_id="run-three")
    (again,) = open_gaps(stores, "XBTUSD", 60)
    assert (again.span, again.attempts) == (Span(START + 8 * HOUR, START + 9 * HOUR), 1)
    # It was filled in between, so it is a new one: it was found now.
    assert again.detected_at == now + 60
    with stores.catalog.read() as connection:
        listed = [str(row.status) for row in gap_records.closed_gaps(connection, None)[Series("XBTUSD", Interval.H1)]]
    assert set(listed) == {"FILLED"}


def test_a_narrower_look_leaves_the_records_of_the_rest_alone(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, shelf.q3, intervals="60")
    before = open_gaps(stores, "ADAEUR", 60)
    run(stores, intervals="60", start="2023-05-01", end="2023-05-02", now=NOW + 10, run_id="run-two")
    after = open_gaps(stores, "ADAEUR", 60)
    assert [(row.span, row.detected_at, row.status) for row in after] == [
        (row.span, row.detected_at, row.status) for row in before
    ]
    run(stores, pairs="XBTUSD", intervals="60", now=NOW + 20, run_id="run-three")
    assert open_gaps(stores, "ADAEUR", 60) == after


@pytest.mark.parametrize("error", [None, "EService:Busy"])
def test_only_a_route_that_answered_without_filling_is_not_planned_again(
    stores: Stores, tmp_path: Path, error: str | None
) -> None:
    now = START + 20 * HOUR + 60
    run(stores, hours(tmp_path / "a", 0, 9, 10), now=now, intervals="60")
    (row,) = open_gaps(stores, "XBTUSD", 60)
    assert row.route == "OHLC"
    with stores.catalog.write() as connection:
        # What trades answered for is said of the minutes that they are folded to.
        minutes = row.series if error else Series("XBTUSD", Interval.M1)
        for series, route in ((row.series, "OHLC"), (minutes, "TRADES")):
            gap_records.add_attempts(connection, {series: [Attempt(row.span, route, None, error, now)]}, "api")
    run(stores, now=now + 60, intervals="60", run_id="run-two")
    (again,) = open_gaps(stores, "XBTUSD", 60)
    assert again.attempts == (2 if error else 1)
    expected = ("NONE", GapStatus.UNFILLABLE) if error is None else ("OHLC", GapStatus.DETECTED)
    assert (again.route, again.status) == expected
