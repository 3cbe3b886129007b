"""Weekly and 15-day candles, which are made on reading unless somebody asked for them to be stored."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

import kraken_pipeline
from kraken_pipeline.coverage.routing import Route
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.candle import seconds_of
from kraken_pipeline.market.interval import INTERVALS, INTERVALS_OF_ARCHIVES, Interval
from kraken_pipeline.market.resample import resample
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog.schema import gaps
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.explain.explain import explain
from kraken_pipeline.workflow.gaps.gaps import find_gaps
from kraken_pipeline.workflow.gaps.kept_intervals import filled_intervals, record_asked
from kraken_pipeline.workflow.gaps.snapshot import load_snapshot
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline_tests.support.homes import NOW, Q1, Shelf, open_gaps, rows_of, run, settings_of, stored, values

pytestmark = pytest.mark.slow

DERIVED = [interval for interval in INTERVALS if interval not in INTERVALS_OF_ARCHIVES]


def intervals_of(stores: Stores, pair: str) -> set[Interval]:
    return {series.interval for series in stores.lake.series() if series.pair == pair}


def weeks_of(stores: Stores, pair: str, interval: Interval) -> list[tuple[float, ...]]:
    """The whole candles that the stored daily ones add up to, without the reader's code."""
    days = stores.lake.read(Series(pair, Interval.D1))
    whole = days.group_by(seconds_of(pl.col("time")) // interval.seconds * interval.seconds).len()
    starts = set(whole.filter(pl.col("len") == interval.value // 1_440)["time"])
    return [row for row in values(resample(days, interval)) if row[0] in starts]


def test_they_are_neither_stored_nor_missed(stores: Stores, shelf: Shelf) -> None:
    assert DERIVED == [Interval.W1, Interval.D15]
    run(stores, shelf.q1)
    assert intervals_of(stores, "XBTUSD") == set(INTERVALS_OF_ARCHIVES) - {
        Interval.M1,
        Interval.M5,
        Interval.M15,
        Interval.M30,
    }
    assert not {interval for (interval,) in rows_of(stores, gaps, "interval")} & set(DERIVED)
    snapshot = load_snapshot(stores, run_spec(), NOW)
    found = find_gaps(stores, run_spec(), snapshot)
    assert found
    assert not {gap.series.interval for gap in found} & set(DERIVED)
    assert set(filled_intervals(stores, run_spec())) == set(INTERVALS_OF_ARCHIVES)


@pytest.mark.parametrize("interval", [Interval.W1, Interval.D15])
def test_reading_makes_them_of_daily_ones(stores: Stores, shelf: Shelf, interval: Interval) -> None:
    run(stores, shelf.q2)
    read = kraken_pipeline.read_candles("XBTUSD", interval.value, settings=stores.settings)
    expected = weeks_of(stores, "XBTUSD", interval)
    assert expected
    assert values(read) == [pytest.approx(row) for row in expected]
    told = explain(stores, "XBTUSD", interval.value, "2023-05-01", NOW)
    assert told.sentence == "no candle is stored; reading makes it of those of 1440 minutes"
    with pytest.raises(InvalidRequest, match=f"no candles of {interval.value} minutes are stored: read_candles makes"):
        kraken_pipeline.scan_candles("XBTUSD", interval.value, settings=stores.settings)


def test_whoever_names_them_gets_them_stored_from_then_on(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, pairs="XBTUSD")
    spec = run_spec(intervals="1w", pairs="XBTUSD")
    run(stores, intervals="1w", pairs="XBTUSD", run_id="run-two")
    record_asked(stores, spec, NOW)
    assert stored(stores, "XBTUSD", 10_080)
    run(stores, shelf.q1, run_id="run-three")
    assert stored(stores, "ADAEUR", 10_080), "of all pairs"
    assert Interval.D15 not in intervals_of(stores, "ADAEUR")
    scanned = kraken_pipeline.scan_candles("ADAEUR", "1w", settings=stores.settings).collect()
    assert scanned.height == len(stored(stores, "ADAEUR", 10_080))


def test_those_of_a_pair_are_kept_up_where_some_are_stored(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1, intervals=list(INTERVALS), pairs="XBTUSD", end=Q1.end)
    before = stored(stores, "XBTUSD", 10_080)
    assert before
    run(stores, shelf.q1, shelf.q2, run_id="run-two")
    after = stored(stores, "XBTUSD", 10_080)
    assert len(after) > 12, "as in a home that an earlier version has filled"
    assert Interval.W1 not in intervals_of(stores, "ADAEUR")


def test_the_setting_stores_them(home: Path, shelf: Shelf) -> None:
    with opened(settings_of(home, kraken_intervals="60,21600")) as stores:
        run(stores, shelf.q2)
        assert {Interval.H1, Interval.D1, Interval.D15} <= intervals_of(stores, "XBTUSD")
        assert Interval.W1 not in intervals_of(stores, "XBTUSD")


def test_their_archives_are_ingested_by_any_run_and_kept(stores: Stores, shelf: Shelf, tmp_path: Path) -> None:
    run(stores, shelf.q2, pairs="XBTUSD")
    weeks = weeks_of(stores, "XBTUSD", Interval.W1)[:3]
    assert len(weeks) == 3
    path = tmp_path / "loose" / "XBTUSD_10080.csv"
    path.parent.mkdir()
    path.write_text("".join(",".join(f"{value:.15g}" for value in row) + "\n" for row in weeks))
    run(stores, path, run_id="run-two")
    assert [row[0] for row in stored(stores, "XBTUSD", 10_080)][:3] == [row[0] for row in weeks]
    assert Interval.W1 in filled_intervals(stores, run_spec())


def test_records_of_gaps_that_nobody_looks_for_are_not_kept(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1)
    run(stores, intervals=list(INTERVALS), start="2022-06-01", end="2022-09-01", run_id="run-two")
    snapshot = load_snapshot(stores, run_spec(), NOW)
    lacking = [
        Series(pair, Interval.W1)
        for pair in snapshot.pairs
        if not snapshot.is_wanted(run_spec(), Series(pair, Interval.W1))
    ]
    assert lacking
    with stores.catalog.write() as connection:
        row = connection.execute(sa.select(gaps).where(gaps.c.closed_at.is_(None))).mappings().first()
        assert row is not None
        copied = {key: value for key, value in row.items() if key != "id"}
        connection.execute(sa.insert(gaps).values({**copied, "pair": lacking[0].pair, "interval": 10_080}))
    assert open_gaps(stores, lacking[0].pair, 10_080)
    run(stores, run_id="run-three")
    assert not open_gaps(stores, lacking[0].pair, 10_080)
    assert open_gaps(stores, lacking[0].pair, 60), "others are"


def test_who_names_them_sees_how_they_would_be_stored(stores: Stores, shelf: Shelf) -> None:
    run(stores, shelf.q1)
    spec = run_spec(intervals="1w", pairs="XBTUSD")
    found = find_gaps(stores, spec, load_snapshot(stores, spec, NOW))
    assert {leg.route for gap in found for leg in gap.legs} >= {Route.RESAMPLE}
