from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from kraken_pipeline.coverage import batches as batching
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.candle import CANDLE_SCHEMA, Source, merge, seconds_of
from kraken_pipeline.market.flow import FLOW
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.pair import Pair, parse_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.lake import stored_series
from kraken_pipeline.storage.lake.lake import Lake
from kraken_pipeline.storage.lake.staged import LEDGER_SCHEMA, Staged
from kraken_pipeline.storage.lake.writer import ROW_GROUP_ROWS, CandleWriter, stage_removal
from kraken_pipeline.storage.records import manifest
from kraken_pipeline_tests.support.lakes import bring_in, lake_at
from kraken_pipeline_tests.support.processes import process, result
from kraken_pipeline_tests.support.samples import CandleRow, at, candle, frame

pytestmark = pytest.mark.slow

HOURS = Series("XBTUSD", Interval.H1)
MINUTES = Series("XBTUSD", Interval.M1)
T = at("2024-01-01")
HOUR = 3600
NOW = T + 90 * 86_400


def stage(lake: Lake, series: Series, *batches: Iterable[CandleRow], origin: str = "a test") -> Staged:
    writer = CandleWriter(lake, series, origin=origin, now=NOW)
    for batch in batches:
        writer.add(frame(batch))
    return writer.finish()


def write(lake: Lake, series: Series, *batches: Iterable[CandleRow], origin: str = "a test") -> Staged:
    staged = stage(lake, series, *batches, origin=origin)
    bring_in(lake, staged)
    return staged


def rows(candles: pl.DataFrame) -> list[CandleRow]:
    return candles.drop(FLOW).with_columns(seconds_of(pl.col("time"))).rows()


def files(lake: Lake) -> dict[str, int]:
    """Every file in the lake with a mark that changes when it is written."""
    return {
        str(path.relative_to(lake.home / "lake")): path.stat().st_ino
        for path in sorted((lake.home / "lake").rglob("*"))
        if path.is_file()
    }


def every_hour(start: int, count: int, *, trades: int = 5) -> list[CandleRow]:
    return [candle(start + hour * HOUR, 1.0 + hour, trades=trades) for hour in range(count)]


# --- reading and writing


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    written = [
        candle(T, 1.25, volume=0.1, trades=0, source=Source.OHLC),
        candle(T + HOUR, 3.811e-05, trades=2**31 - 1, source=Source.TRADES, release=20_634),
    ]
    staged = write(lake, HOURS, written)
    found = lake.read(HOURS)
    assert found.schema == CANDLE_SCHEMA
    assert rows(found) == written
    assert (staged.changed, staged.changed_span) == (2, Span(T, T + 2 * HOUR))
    assert staged.times.to_list() == lake.times(HOURS).to_list() == [T, T + HOUR]
    assert lake.series() == [HOURS]


def test_an_empty_lake_has_nothing_and_says_so_in_the_same_columns(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    assert lake.read(HOURS).schema == CANDLE_SCHEMA
    assert lake.read(MINUTES, T, T + 60).is_empty()
    assert lake.times(HOURS).to_list() == []
    assert lake.series() == []
    assert lake.asset_ids.all().is_empty()


def test_later_candles_are_appended_and_those_between_merged(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    write(lake, HOURS, every_hour(T, 3))
    staged = write(lake, HOURS, every_hour(T + 10 * HOUR, 2))
    assert (staged.changed, staged.changed_span) == (2, Span(T + 10 * HOUR, T + 12 * HOUR))
    staged = write(lake, HOURS, [candle(T + HOUR, 9.0, trades=6), candle(T + 5 * HOUR)])
    assert (staged.changed, staged.changed_span) == (2, Span(T + HOUR, T + 6 * HOUR))
    assert staged.times.to_list() == [T + hour * HOUR for hour in (0, 1, 2, 5, 10, 11)]
    assert rows(lake.read(HOURS))[1] == candle(T + HOUR, 9.0, trades=6)


def test_what_is_there_already_writes_nothing(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    for series in (HOURS, MINUTES):
        write(lake, series, every_hour(T, 3))
        before = files(lake)
        staged = stage(lake, series, every_hour(T, 2))
        assert (staged.changed, staged.changed_span, staged.refused, staged.moves) == (0, None, 0, [])
        assert staged.times.to_list() == [T, T + HOUR, T + 2 * HOUR]
        bring_in(lake, staged)
        assert files(lake) == before
    assert list(lake.scratch.iterdir()) == []


def test_what_counts_fewer_trades_than_what_is_kept_is_refused(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    write(lake, HOURS, every_hour(T, 5))
    staged = write(lake, HOURS, [candle(T + HOUR, trades=4), candle(T + 3 * HOUR, trades=1), candle(T + 4 * HOUR, 5.0)])
    assert (staged.refused, staged.refused_span) == (2, Span(T + HOUR, T + 4 * HOUR))
    assert staged.changed == 0
    assert rows(lake.read(HOURS)) == every_hour(T, 5)


@pytest.mark.parametrize(
    ("start", "end", "hours"),
    [
        (None, None, [0, 1, 2, 3]),
        (T + HOUR, None, [1, 2, 3]),
        (T + HOUR + 1, None, [2, 3]),
        (None, T + HOUR, [0]),
        (None, T + HOUR + 1, [0, 1]),
        (T + HOUR, T + 3 * HOUR, [1, 2]),
        (T + HOUR, T + HOUR, []),
        (T + 9 * HOUR, None, []),
    ],
)
def test_a_window_holds_the_candles_that_start_in_it(
    tmp_path: Path, start: int | None, end: int | None, hours: list[int]
) -> None:
    lake = lake_at(tmp_path)
    for series in (HOURS, MINUTES):
        write(lake, series, every_hour(T, 4))
        found = lake.read(series, start, end)
        assert [row[0] for row in rows(found)] == [T + hour * HOUR for hour in hours]
        assert found.schema == CANDLE_SCHEMA


# --- a file a year

NEW_YEAR = at("2025-01-01")
TURN = [candle(NEW_YEAR + minute * 60) for minute in (-2, -1, 0, 1)]


@pytest.fixture
def by_years(monkeypatch: pytest.MonkeyPatch) -> None:
    """Series of any size are stored in a file for each year."""
    monkeypatch.setattr(stored_series, "WHOLE_ROWS", 0)


@pytest.mark.usefixtures("by_years")
def test_a_year_that_nothing_changes_in_is_not_written_again(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    write(lake, MINUTES, TURN)
    before = files(lake)
    staged = write(lake, MINUTES, [*TURN[:2], candle(NEW_YEAR + 120), candle(at("2026-01-01"))])
    after = files(lake)
    assert {path for path in before if after[path] == before[path]} == {"interval=1/pair=XBTUSD/2024.parquet"}
    assert staged.years == (2024, 2025, 2026)
    assert (staged.changed, staged.changed_span) == (2, Span(NEW_YEAR + 120, at("2026-01-01") + 60))
    assert lake.times(MINUTES).to_list() == [
        *(row[0] for row in TURN),
        NEW_YEAR + 120,
        at("2026-01-01"),
    ]


@pytest.mark.usefixtures("by_years")
def test_times_can_leave_out_the_years_that_were_just_written(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    write(lake, MINUTES, TURN)
    staged = stage(lake, MINUTES, [candle(NEW_YEAR + 600)])
    assert staged.years == (2025,)
    assert lake.times(MINUTES, without=staged.years).to_list() == [NEW_YEAR - 120, NEW_YEAR - 60]
    assert staged.times.to_list() == [NEW_YEAR, NEW_YEAR + 60, NEW_YEAR + 600]
    assert lake.times(MINUTES, without=(2024, 2025)).to_list() == []


@pytest.mark.usefixtures("by_years")
@pytest.mark.parametrize(
    ("start", "end", "minutes"),
    [(-60, 60, [-1, 0]), (0, None, [0, 1]), (None, 0, [-2, -1]), (60, 120, [1]), (-120, -60, [-2])],
)
def test_a_window_may_reach_over_new_year(
    tmp_path: Path, start: int | None, end: int | None, minutes: list[int]
) -> None:
    lake = lake_at(tmp_path)
    write(lake, MINUTES, TURN)
    found = lake.read(MINUTES, None if start is None else NEW_YEAR + start, None if end is None else NEW_YEAR + end)
    assert [row[0] for row in rows(found)] == [NEW_YEAR + minute * 60 for minute in minutes]


@pytest.mark.usefixtures("by_years")
def test_batches_give_all_candles_of_some_ranges_and_never_cut_a_coarser_one(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    days = [candle(at("2020-03-03") + 7 * day * 86_400) for day in range(260)]
    write(lake, MINUTES, days)
    span = Span(at("2020-03-05"), at("2024-11-07"))
    spans = (Span(days[0][0], days[0][0] + 60), span)
    batches = list(lake.batches(MINUTES, spans, Interval.W1))
    wanted = [row[0] for row in days if any(row[0] in each for each in spans)]
    assert [row[0] for batch in batches for row in rows(batch)] == wanted
    assert len(batches) == 1  # few candles, however many years
    weeks = [{Interval.W1.floor(row[0]) for row in rows(batch)} for batch in batches]
    assert sum(map(len, weeks)) == len(set().union(*weeks))


def test_large_series_come_in_batches_of_a_year_of_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "BATCH_CANDLES", 20)
    monkeypatch.setattr(batching, "ROW_GROUP", 5)
    lake = lake_at(tmp_path)
    first = at("2022-11-01")
    weeks = [candle(first + day * 86_400) for day in range(100)]
    write(lake, Series("XBTUSD", Interval.D1), weeks)
    span = Span(Interval.W1.floor(first), Interval.W1.floor(first + 100 * 86_400))
    found = list(lake.batches(Series("XBTUSD", Interval.D1), (span,), Interval.W1))
    wanted = [row[0] for row in weeks if row[0] in span]
    assert [row[0] for batch in found for row in rows(batch)] == wanted
    assert len(found) == 2  # the years, because together they have more than a batch
    assert Interval.W1.floor(rows(found[0])[-1][0]) < Interval.W1.floor(rows(found[1])[0][0])


@pytest.mark.parametrize(("start", "end"), [(0, 8 * HOUR), (-HOUR, 9 * HOUR), (0, 7 * HOUR + 1), (1, 9 * HOUR), (0, 7)])
def test_candles_outside_the_asked_time_are_left_out_whatever_the_record_says_of_a_file(
    tmp_path: Path, start: int, end: int
) -> None:
    lake = lake_at(tmp_path)
    write(lake, HOURS, every_hour(T, 8))
    found = lake.read(HOURS, T + start, T + end)
    assert [row[0] for row in rows(found)] == [T + n * HOUR for n in range(8) if start <= n * HOUR < end]


@pytest.mark.parametrize("before", [0, 3])
def test_candles_that_another_process_has_added_outside_the_asked_time_are_left_out(
    tmp_path: Path, before: int
) -> None:
    """The reader has an older record of the file, by which all of its candles are wanted."""
    reader, writer = lake_at(tmp_path), lake_at(tmp_path)
    write(writer, HOURS, every_hour(T, 8))
    assert reader.read(HOURS, T, T + 8 * HOUR).height == 8
    write(writer, HOURS, every_hour(T - before * HOUR, 12 + before))
    wanted = [T + number * HOUR for number in range(8)]
    assert [row[0] for row in rows(reader.read(HOURS, T, T + 8 * HOUR))] == wanted
    assert reader.times(HOURS, start=T, end=T + 8 * HOUR).to_list() == wanted
    write(writer, HOURS, every_hour(T - 9 * HOUR, 30))
    assert reader.activity(HOURS, T, T + 8 * HOUR)["time"].to_list() == wanted


# --- what others read


def test_the_layout_is_hives_and_other_tools_read_it_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = lake_at(tmp_path)
    names = ["XBTUSD", "AAPLxUSD", "AAPLXUSD"]
    for number, name in enumerate(names):
        write(lake, Series(name, Interval.H1), every_hour(T, number + 1))
    monkeypatch.setattr(stored_series, "WHOLE_ROWS", 2)
    for number, name in enumerate(names):
        write(lake, Series(name, Interval.M1), TURN[: number + 2])
    lake.asset_ids.register(parse_pair(name) for name in names)

    counts = {"XBTUSD": 1, "AAPLxUSD": 2, "AAPLXUSD": 3}
    scanned = pl.scan_parquet((lake.home / "lake") / "interval=60", hive_partitioning=True).collect()
    assert set(CANDLE_SCHEMA) <= set(scanned.columns)
    assert dict(scanned.group_by("pair").len().rows()) == counts

    # The whole lake at once, with series of one file and of several.
    minutes = {"XBTUSD": 2, "AAPLxUSD": 3, "AAPLXUSD": 4}
    every = sorted([(60, name, counts[name]) for name in names] + [(1, name, minutes[name]) for name in names])
    assert len({Path(path).name for path in files(lake)}) == 4, "the ids, all candles, and two years"
    whole = pl.scan_parquet((lake.home / "lake") / "interval=*/**/*.parquet", hive_partitioning=True).collect()
    assert sorted(whole.group_by("interval", "pair").len().rows()) == every
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT interval, pair, count(*)::INT, min(source)"
            " FROM read_parquet(?, hive_partitioning => true) GROUP BY ALL ORDER BY ALL",
            [str((lake.home / "lake") / "interval=*" / "**" / "*.parquet")],
        ).fetchall()
    assert found == [(*row, "CSV") for row in every]


def test_pairs_whose_names_differ_in_case_alone_lie_apart_on_any_file_system(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    upper, lower = Series("AAPLXUSD", Interval.H1), Series("AAPLxUSD", Interval.H1)
    write(lake, upper, every_hour(T, 1))
    write(lake, lower, every_hour(T, 2))
    assert (lake.read(upper).height, lake.read(lower).height) == (1, 2)
    assert lake.series() == [upper, lower]
    assert len({path.casefold() for path in files(lake)}) == 2


def test_row_groups_stay_small_enough_to_skip(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    times = pl.int_range(T, T + 60 * 50_000, 60, eager=True)
    candles = frame([candle(T)]).drop("time").join(times.alias("t").to_frame(), how="cross")
    candles = candles.with_columns((pl.col("t") * 1_000_000).cast(CANDLE_SCHEMA["time"]).alias("time"))
    writer = CandleWriter(lake, MINUTES, origin="a test", now=NOW)
    writer.add(candles.select(CANDLE_SCHEMA.names()))
    bring_in(lake, writer.finish())
    with duckdb.connect() as connection:
        groups = connection.execute(
            "SELECT DISTINCT row_group_id, row_group_num_rows FROM parquet_metadata(?)",
            [str((lake.home / "lake") / "interval=1" / "pair=XBTUSD" / "candles.parquet")],
        ).fetchall()
    assert sum(number for _, number in groups) == 50_000
    assert max(number for _, number in groups) <= ROW_GROUP_ROWS


# --- nothing half-written


@pytest.mark.usefixtures("by_years")
def test_what_is_staged_is_invisible_until_it_is_committed(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    write(lake, MINUTES, TURN[:1])
    before = files(lake)
    staged = stage(lake, MINUTES, TURN)
    assert files(lake) == before
    assert lake.read(MINUTES).height == 1
    assert len(list(lake.scratch.iterdir())) == 2
    bring_in(lake, staged)
    assert lake.read(MINUTES).height == 4
    assert list(lake.scratch.iterdir()) == []


def test_who_reads_while_others_write_finds_the_old_file_or_the_new_one_whole(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    done = threading.Event()

    def read() -> int:
        times = 0
        while not done.is_set():
            closes = lake.read(HOURS)["close"].to_list()
            assert closes == [float(number) for number in range(len(closes))]
            assert len(closes) % 20 == 0
            times += 1
        return times

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for part in range(50):
            numbers = range(20 * part, 20 * part + 20)
            write(lake, HOURS, [candle(T + number * HOUR, float(number)) for number in numbers])
        done.set()
        assert all(reader.result() for reader in readers)


def test_what_is_discarded_leaves_nothing_behind(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    stage(lake, MINUTES, TURN).discard()
    writer = CandleWriter(lake, MINUTES, origin="a test", now=NOW)
    writer.add(frame(TURN))
    writer.discard()
    bring_in(lake, writer.finish())
    assert list(lake.scratch.iterdir()) == []
    assert files(lake) == {}


def test_what_a_killed_writer_left_is_swept_when_it_is_old(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    stage(lake, HOURS, every_hour(T, 1))
    stage(lake, MINUTES, TURN[:1])
    sorting = lake.scratch / "sorting"
    sorting.mkdir()
    (sorting / "2024-000000.parquet").write_bytes(b"x")
    old, young = sorted(path for path in lake.scratch.iterdir() if path.is_file())
    os.utime(old, (1_000, 1_000))
    os.utime(sorting, (1_000, 1_000))
    assert lake.sweep(before=1_001) == 2
    assert list(lake.scratch.iterdir()) == [young]
    assert lake.sweep(before=1_001) == 0
    assert lake.read(HOURS).is_empty()


# --- against a model

CANDLES = st.lists(
    st.builds(
        candle,
        st.integers(-5, 5).map(lambda minute: NEW_YEAR + minute * 60),
        st.sampled_from([1.0, 2.0]),
        trades=st.integers(1, 3),
        source=st.sampled_from(Source),
    ),
    max_size=6,
    unique_by=lambda row: row[0],
).map(sorted)


@settings(max_examples=15)
@given(st.lists(CANDLES, max_size=5), st.sampled_from([Interval.M1, Interval.H1]), st.integers(0, 12))
def test_the_lake_holds_what_merging_in_memory_gives(
    writes: Sequence[list[CandleRow]], interval: Interval, most_in_one_file: int
) -> None:
    series = Series("XBTUSD", interval)
    model = frame([])
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_series, "WHOLE_ROWS", most_in_one_file)
        lake = lake_at(Path(home))
        for each in writes:
            before = {row[0]: row for row in rows(model)}
            model = merge(model, frame(each))
            staged = write(lake, series, each[:2], each[2:])
            changed = [row for row in rows(model) if before.get(row[0]) != row]
            assert staged.changed == len(changed)
            assert staged.changed_span == (Span(changed[0][0], changed[-1][0] + interval.seconds) if changed else None)
            assert_frame_equal(lake.read(series), model)
            untouched = lake.times(series, without=staged.years)
            assert sorted([*untouched, *staged.times]) == lake.times(series).to_list()
            assert staged.times.to_list() == sorted(staged.times)
        assert list(lake.scratch.iterdir()) == []


# --- the ledger


def lost(lake: Lake, series: Series, start: int | None = None, end: int | None = None) -> list[tuple[object, ...]]:
    """Start, prices, trade count and source of what lost, how, and to what."""
    found = lake.replaced(series, start, end)
    assert found.schema == LEDGER_SCHEMA
    return found.select(
        seconds_of(pl.col("time")), "open", "trade_count", "source", pl.col("lost").cast(pl.String), "by", "at"
    ).rows()


def test_what_gives_way_and_what_is_refused_stands_in_the_ledger_with_what_it_lost_to(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    write(lake, HOURS, [candle(T, 1.0, trades=3, source=Source.OHLC), candle(T + HOUR, 2.0)], origin="OHLC")
    assert lake.replaced(HOURS).is_empty()
    assert not (lake.home / "replaced").exists()
    write(lake, HOURS, [candle(T, 1.5, trades=4), candle(T + HOUR, 2.5, trades=4)], origin="a.zip:XBTUSD_60.csv")
    assert lost(lake, HOURS) == [
        (T, 1.0, 3, "OHLC", "REPLACED", "a.zip:XBTUSD_60.csv", NOW),
        (T + HOUR, 2.5, 4, "CSV", "REFUSED", "a.zip:XBTUSD_60.csv", NOW),
    ]
    assert lost(lake, HOURS, T + 1) == lost(lake, HOURS)[1:]
    assert lost(lake, HOURS, None, T + 1) == lost(lake, HOURS)[:1]
    assert lost(lake, MINUTES) == []


def test_a_better_source_of_the_same_values_replaces_and_a_worse_one_leaves_no_trace(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    write(lake, HOURS, [candle(T, source=Source.OHLC)])
    write(lake, HOURS, [candle(T, source=Source.TRADES)], origin="Trades")
    write(lake, HOURS, [candle(T, source=Source.RESAMPLED, volume=1.0000001)], origin="resampling")
    assert lost(lake, HOURS) == [(T, 10.0, 5, "OHLC", "REPLACED", "Trades", NOW)]


def test_what_comes_later_than_all_that_is_stored_writes_no_ledger(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    for hour in range(5):
        write(lake, HOURS, every_hour(T + hour * HOUR, 1))
    assert not (lake.home / "replaced").exists()


def test_the_ledger_keeps_the_order_in_which_candles_lost_within_one_run(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    for number in range(6):
        write(lake, MINUTES, [candle(NEW_YEAR - 60, number + 1.0, trades=number + 1)], origin=f"file {number}")
    assert [row[-2] for row in lost(lake, MINUTES)] == [f"file {number}" for number in range(1, 6)]
    assert [row[1] for row in lost(lake, MINUTES)] == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_ledger_that_was_moved_before_its_writer_died_tells_it_once_when_the_write_is_repeated(
    tmp_path: Path,
) -> None:
    lake = lake_at(tmp_path)
    write(lake, HOURS, every_hour(T, 3))
    staged = stage(lake, HOURS, [candle(T, trades=9)])
    ledger, _ = staged.moves
    with lake.catalog.write() as connection:
        manifest.announce(connection, [move.file for move in staged.moves])
    lake.manifest.forget([HOURS])
    lake.files.put([[ledger.put]])  # and here it dies
    assert rows(lake.read(HOURS)) == every_hour(T, 3)
    write(lake, HOURS, [candle(T, trades=9)])
    assert len(lost(lake, HOURS)) == 1
    assert rows(lake.read(HOURS))[0] == candle(T, trades=9)


@pytest.mark.usefixtures("by_years")
def test_a_ledger_is_moved_with_its_candles_and_discarded_with_them(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    write(lake, MINUTES, TURN)
    staged = stage(lake, MINUTES, [candle(row[0], trades=9) for row in TURN])
    assert len(staged.moves) == 4
    assert lake.replaced(MINUTES).is_empty()
    staged.discard()
    assert list(lake.scratch.iterdir()) == []
    assert lake.replaced(MINUTES).is_empty()
    write(lake, MINUTES, [candle(row[0], trades=9) for row in TURN])
    assert lake.replaced(MINUTES).height == len(TURN)
    assert list(lake.scratch.iterdir()) == []
    assert set(files(lake)) == {f"interval=1/pair=XBTUSD/{year}.parquet" for year in (2024, 2025)}, (
        "nothing of it lies in the lake"
    )


OFFERS = st.lists(
    st.tuples(st.integers(-2, 2), st.integers(1, 4), st.sampled_from(Source)), min_size=1, max_size=5, unique=True
)


@settings(max_examples=15)
@given(st.lists(OFFERS, min_size=2, max_size=3), st.sampled_from([Interval.M1, Interval.H1]), st.integers(0, 5))
def test_in_every_order_lake_and_ledger_account_for_every_row_that_differs(
    offers: list[list[tuple[int, int, Source]]], interval: Interval, most_in_one_file: int
) -> None:
    series = Series("XBTUSD", interval)
    begin = interval.floor(NEW_YEAR)
    offered = [
        [
            candle(begin + step * interval.seconds, float(trades), trades=trades, source=source)
            for step, trades, source in sorted({each[0]: each for each in offer}.values())
        ]
        for offer in offers
    ]
    for order in permutations(range(len(offered))):
        with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
            patch.setattr(stored_series, "WHOLE_ROWS", most_in_one_file)
            lake = lake_at(Path(home))
            for number in order:
                write(lake, series, offered[number], origin=str(number))
            told: set[tuple[object, ...]] = {(row[0], row[6]) for row in rows(lake.read(series))}
            told |= {(row[0], row[2]) for row in lost(lake, series)}
            assert told == {(row[0], row[6]) for offer in offered for row in offer}


# --- taking back


def test_candles_that_are_taken_back_leave_the_lake_for_the_ledger(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    for series in (HOURS, MINUTES):
        write(lake, series, TURN if series is MINUTES else every_hour(T, 4))
        kept = rows(lake.read(series))
        gone = lake.read(series)[1:3]
        staged = stage_removal(lake, series, gone, origin="the file is wrong", now=NOW)
        assert rows(lake.read(series)) == kept
        assert (staged.changed, staged.changed_span) == (2, Span(kept[1][0], kept[2][0] + series.interval.seconds))
        bring_in(lake, staged)
        assert rows(lake.read(series)) == [kept[0], kept[3]]
        assert sorted([*staged.times, *lake.times(series, without=staged.years)]) == lake.times(series).to_list()
        assert [(row[0], *row[-3:]) for row in lost(lake, series)] == [
            (row[0], "WITHDRAWN", "the file is wrong", NOW) for row in kept[1:3]
        ]
        assert stage_removal(lake, series, gone.clear(), origin="nothing", now=NOW).moves == []
    assert list(lake.scratch.iterdir()) == []


def test_a_series_of_which_everything_is_taken_back_is_read_as_empty_and_can_be_filled_again(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    write(lake, HOURS, every_hour(T, 4))
    bring_in(lake, stage_removal(lake, HOURS, lake.read(HOURS), origin="all of it", now=NOW))
    assert lake.read(HOURS).is_empty()
    assert lake.times(HOURS).to_list() == []
    write(lake, HOURS, every_hour(T + HOUR, 1))
    assert rows(lake.read(HOURS)) == every_hour(T + HOUR, 1)


# --- asset ids


def pairs(*names: str) -> list[Pair]:
    return [parse_pair(name) for name in names]


def ids(lake: Lake) -> dict[str, int]:
    return dict(lake.asset_ids.all().select("pair", "asset_id").rows())


def test_pairs_get_ids_that_are_never_given_again(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    assert lake.asset_ids.register(pairs("XBTUSD", "ADAEUR")) == pairs("ADAEUR", "XBTUSD")
    assert ids(lake) == {"ADAEUR": 1, "XBTUSD": 2}
    assert lake.asset_ids.register(pairs("XBTUSD")) == []
    assert lake.asset_ids.register([*pairs("XBTUSD", "AAVEUSD"), *pairs("AAVEUSD")]) == pairs("AAVEUSD")
    assert ids(lake_at(tmp_path)) == {"ADAEUR": 1, "XBTUSD": 2, "AAVEUSD": 3}
    assert [(pair.name, pair.base, pair.quote) for pair in lake.asset_ids.pairs()] == [
        ("AAVEUSD", "AAVE", "USD"),
        ("ADAEUR", "ADA", "EUR"),
        ("XBTUSD", "XBT", "USD"),
    ]
    assert list(lake.scratch.iterdir()) == []


NAMES = [f"COIN{number}USD" for number in range(12)]


def register_one_by_one(home: str, first: int) -> None:
    lake = lake_at(Path(home))
    for number in range(len(NAMES)):
        lake.asset_ids.register(pairs(NAMES[(first + number) % len(NAMES)]))


def test_processes_and_threads_that_register_the_same_pairs_agree(tmp_path: Path) -> None:
    with ExitStack() as stack:
        running = [stack.enter_context(process(register_one_by_one, str(tmp_path), first)) for first in (0, 5)]
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda first: register_one_by_one(str(tmp_path), first), (2, 7, 11)))
        for each in running:
            result(each)
    found = ids(lake_at(tmp_path))
    assert set(found) == set(NAMES)
    assert sorted(found.values()) == list(range(1, len(NAMES) + 1))
