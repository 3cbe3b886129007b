"""Layouts: how many files a series has, how a write changes that, and what readers see meanwhile."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.candle import CANDLE_SCHEMA, Source, seconds_of
from kraken_pipeline.market.flow import FLOW
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.lake import stored_series
from kraken_pipeline.storage.lake.files import OpenFile
from kraken_pipeline.storage.lake.inspection import Inspector
from kraken_pipeline.storage.lake.lake import Lake
from kraken_pipeline.storage.lake.staged import Staged
from kraken_pipeline.storage.lake.stored_series import WHOLE_ROWS, is_misplaced
from kraken_pipeline.storage.lake.writer import CandleWriter, stage_removal
from kraken_pipeline.storage.paths import Layout, candles_path, former_path, layout_of, named_in
from kraken_pipeline.storage.records.damage import Damage
from kraken_pipeline_tests.support.lakes import bring_in, into_former_layout, lake_at, move_and_die
from kraken_pipeline_tests.support.processes import process, result
from kraken_pipeline_tests.support.samples import CandleRow, at, candle, frame

pytestmark = pytest.mark.slow

MINUTES = Series("XBTUSD", Interval.M1)
NEW_YEAR = at("2025-01-01")
NOW = at("2027-01-01")
FOLDER = "lake/interval=1/pair=XBTUSD"
WHOLE = {f"{FOLDER}/candles.parquet"}
YEARS = {f"{FOLDER}/{year}.parquet" for year in (2023, 2024, 2025, 2026)}
FORMER = {f"{FOLDER}/year={year}/candles.parquet" for year in (2023, 2024, 2025, 2026)}
ROWS = [
    candle(at(f"{year}-06-01") + 60 * minute, 1.0 + minute) for year in (2023, 2024, 2025, 2026) for minute in (0, 1)
]


def limit(patch: pytest.MonkeyPatch, rows: int) -> None:
    """Stores series of up to a number of candles in one file."""
    patch.setattr(stored_series, "WHOLE_ROWS", rows)


def stage(lake: Lake, *batches: Iterable[CandleRow], series: Series = MINUTES) -> Staged:
    writer = CandleWriter(lake, series, origin="a test", now=NOW)
    for batch in batches:
        writer.add(frame(batch))
    return writer.finish()


def write(lake: Lake, *batches: Iterable[CandleRow], series: Series = MINUTES) -> Staged:
    staged = stage(lake, *batches, series=series)
    bring_in(lake, staged)
    return staged


def rows(lake: Lake, series: Series = MINUTES) -> list[CandleRow]:
    return lake.read(series).drop(FLOW).with_columns(seconds_of(pl.col("time"))).rows()


def files(lake: Lake) -> set[str]:
    """The paths of the candle files, relative to the home."""
    return {path.relative_to(lake.home).as_posix() for path in (lake.home / "lake").rglob("*") if path.is_file()}


def recorded(lake: Lake, series: Series = MINUTES) -> set[str]:
    return set(lake.manifest.reread(series).files)


# --- paths


@pytest.mark.parametrize("pair", ["XBTUSD", "AAPLxUSD", "1INCHEUR"])
def test_a_path_names_its_series_its_year_and_its_layout(pair: str) -> None:
    series = Series(pair, Interval.M5)
    for path, year, layout in [
        (candles_path(series, None), None, Layout.WHOLE),
        (candles_path(series, 2025), 2025, Layout.YEARS),
        (former_path(series, 2025), 2025, Layout.FORMER),
    ]:
        assert (named_in(path), layout_of(path)) == ((series, year), layout)


@pytest.mark.parametrize(
    "path",
    [
        f"{FOLDER}/2025/candles.parquet",
        f"{FOLDER}/year=2025/2025.parquet",
        f"{FOLDER}/copy.parquet",
        f"{FOLDER}/02025.parquet",
        f"{FOLDER}/99999.parquet",
        f"{FOLDER}/2025.parquet.bak",
        f"{FOLDER}/year=2025/more/candles.parquet",
        "lake/interval=2/pair=XBTUSD/candles.parquet",
        "lake/pair=XBTUSD/interval=1/candles.parquet",
        "replaced/interval=1/pair=XBTUSD/2025.parquet",
        "lake/assets.parquet",
    ],
)
def test_any_other_path_belongs_to_no_layout(path: str) -> None:
    assert layout_of(path) is None


# --- the layout follows from the number of candles


def test_a_series_is_one_file_up_to_a_number_of_candles_and_a_file_a_year_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = lake_at(tmp_path)
    limit(monkeypatch, 7)
    for interval in (Interval.M1, Interval.H1, Interval.W1):
        series = Series("XBTUSD", interval)
        offered = [(interval.floor(row[0]), *row[1:]) for row in ROWS[::2]]
        offered += [(row[0] + interval.seconds, *row[1:]) for row in offered]
        write(lake, sorted(offered)[:7], series=series)
        assert recorded(lake, series) == {candles_path(series, None)}
        write(lake, sorted(offered)[7:], series=series)
        assert recorded(lake, series) == {candles_path(series, year) for year in (2023, 2024, 2025, 2026)}
        assert rows(lake, series) == sorted(offered)
    assert files(lake) == {path for series in lake.series() for path in recorded(lake, series)}


def test_the_limit_is_as_documented(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    times = pl.int_range(NEW_YEAR - 60 * 1_000, NEW_YEAR + 60 * (WHOLE_ROWS - 1_000), 60, eager=True).alias("t")
    candles = frame([candle(NEW_YEAR)]).drop("time").join(times.to_frame(), how="cross")
    candles = candles.with_columns((pl.col("t") * 1_000_000).cast(CANDLE_SCHEMA["time"]).alias("time"))
    candles = candles.select(CANDLE_SCHEMA.names())
    writer = CandleWriter(lake, MINUTES, origin="a test", now=NOW)
    for part in candles.iter_slices(40_000):
        writer.add(part)
    bring_in(lake, writer.finish())
    assert recorded(lake) == WHOLE
    assert_frame_equal(lake.read(MINUTES), candles)
    last = int(times[-1])
    write(lake, [candle(last)])
    assert recorded(lake) == WHOLE, "a candle that is there already adds none"
    write(lake, [candle(last + 60)])
    assert recorded(lake) == {candles_path(MINUTES, 2024), candles_path(MINUTES, 2025)}
    assert_frame_equal(lake.read(MINUTES)[:-1], candles)


@settings(max_examples=30, deadline=None)
@given(st.permutations(ROWS), st.integers(1, 9), st.integers(0, 9), st.randoms(use_true_random=False))
def test_the_same_candles_are_in_the_same_files_whatever_the_order_of_writes(
    order: list[CandleRow], size: int, most: int, chance: random.Random
) -> None:
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        limit(patch, most)
        lake = lake_at(Path(home))
        for start in range(0, len(order), size):
            offered = sorted([*order[start : start + size], *chance.sample(order[:start], min(start, 2))])
            cut = chance.randrange(len(offered) + 1)
            write(lake, offered[:cut], offered[cut:])
        assert rows(lake) == ROWS
        assert files(lake) == recorded(lake) == (WHOLE if len(ROWS) <= most else YEARS)
        before = {path: (lake.home / path).stat().st_ino for path in files(lake)}
        assert write(lake, order[:0], ROWS).moves == []
        assert {path: (lake.home / path).stat().st_ino for path in files(lake)} == before


def test_a_write_that_is_larger_than_one_file_is_split_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = lake_at(tmp_path)
    limit(monkeypatch, 3)
    write(lake, ROWS[:1])
    writer = CandleWriter(lake, MINUTES, origin="a test", now=NOW)
    for row in ROWS[2:6]:
        writer.add(frame([row]))
    writer.add(frame(ROWS[6:7]))
    writer._wait()
    assert len(list(lake.scratch.iterdir())) == 2, "two years are written before the end"
    bring_in(lake, writer.finish())
    assert files(lake) == YEARS
    assert rows(lake) == [ROWS[0], *ROWS[2:7]]


def test_a_withdrawal_leaves_the_files_as_they_are_and_the_next_write_joins_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = lake_at(tmp_path)
    limit(monkeypatch, 6)
    write(lake, ROWS)
    bring_in(lake, stage_removal(lake, MINUTES, lake.read(MINUTES)[1:4], origin="wrong", now=NOW))
    assert files(lake) - {path for path in recorded(lake) if path.startswith("replaced/")} == YEARS
    assert is_misplaced(lake.manifest.reread(MINUTES))
    staged = write(lake, ROWS[-1:])
    assert (staged.changed, files(lake)) == (0, WHOLE)
    assert rows(lake) == [ROWS[0], *ROWS[4:]]
    assert not is_misplaced(lake.manifest.reread(MINUTES))


def test_candles_that_are_resampled_again_may_leave_few_enough_for_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = lake_at(tmp_path)
    limit(monkeypatch, 6)
    made = [candle(row[0], row[1], source=Source.RESAMPLED) for row in ROWS]
    write(lake, made)
    assert files(lake) == YEARS
    limit(monkeypatch, 8)
    span = stored_span(made[1:5])
    writer = CandleWriter(lake, MINUTES, origin="resampling", now=NOW, remade=(span,))
    writer.add(frame([candle(made[2][0], 7.0, source=Source.RESAMPLED)]))
    staged = writer.finish()
    bring_in(lake, staged)
    assert staged.times.to_list() == [row[0] for row in (made[0], made[2], *made[5:])]
    assert files(lake) == WHOLE
    assert lake.times(MINUTES).to_list() == staged.times.to_list()


def stored_span(candles: list[CandleRow]) -> Span:
    return Span(candles[0][0], candles[-1][0] + 60)


# --- the former layout


@pytest.mark.parametrize(("most", "wanted"), [(2, YEARS), (100, WHOLE)])
def test_the_former_layout_is_read_and_the_next_write_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, wanted: set[str]
) -> None:
    lake = lake_at(tmp_path)
    limit(monkeypatch, most)
    write(lake, ROWS[:-1])
    assert into_former_layout(lake) == [MINUTES]
    assert files(lake) == FORMER
    assert rows(lake) == ROWS[:-1]
    assert lake.times(MINUTES, start=NEW_YEAR).to_list() == [row[0] for row in ROWS[4:-1]]
    staged = write(lake, ROWS[-1:])
    assert staged.changed == 1
    assert rows(lake) == ROWS
    assert files(lake) == recorded(lake) == wanted
    assert not list((lake.home / "lake").rglob("year=*"))


# --- writers that were killed, and readers meanwhile


def old_and_new(patch: pytest.MonkeyPatch, home: Path, way: str) -> tuple[Lake, set[str], set[str]]:
    """A lake whose next write changes its layout, and the files before and after it."""
    lake = lake_at(home)
    limit(patch, 100 if way == "whole to years" else 0)
    write(lake, ROWS)
    if way.startswith("former"):
        into_former_layout(lake)
    before = files(lake)
    limit(patch, 0 if way.endswith("years") else 100)
    return lake, before, YEARS if way.endswith("years") else WHOLE


WAYS = ["whole to years", "years to whole", "former to years", "former to whole"]


@pytest.mark.parametrize("way", WAYS)
def test_of_a_write_that_was_killed_nothing_is_read_and_the_next_write_clears_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    lake, before, after = old_and_new(monkeypatch, tmp_path, way)
    move_and_die(lake, stage(lake, [candle(ROWS[-1][0] + 60)]))
    assert files(lake) == before | after
    for reader in (lake, lake_at(tmp_path)):
        assert rows(reader) == ROWS
        assert reader.times(MINUTES).to_list() == [row[0] for row in ROWS]
        assert reader.damaged(MINUTES) == []
    write(lake, ROWS[:1])
    assert files(lake) == recorded(lake) == after
    assert rows(lake) == ROWS


@pytest.mark.parametrize("way", ["whole to years", "years to whole"])
def test_a_write_that_stays_in_the_layout_clears_what_a_killed_one_left_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    lake, before, _ = old_and_new(monkeypatch, tmp_path, way)
    move_and_die(lake, stage(lake, ROWS[:1]))
    limit(monkeypatch, 100 if way == "whole to years" else 0)
    assert is_misplaced(lake.manifest.reread(MINUTES))
    write(lake, ROWS[:1])
    assert files(lake) == recorded(lake) == before
    assert rows(lake) == ROWS


def test_of_a_first_write_that_was_killed_the_newest_layout_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = lake_at(tmp_path)
    move_and_die(lake, stage(lake, ROWS[:3]))
    assert rows(lake) == ROWS[:3]
    limit(monkeypatch, 0)
    move_and_die(lake, stage(lake, ROWS[3:]))
    assert rows(lake) == ROWS
    assert lake.damaged(MINUTES) == []
    write(lake, ROWS)
    assert files(lake) == recorded(lake) == YEARS


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_cached", [True, False])
def test_a_read_has_all_candles_once_at_whatever_moment_the_layout_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, is_cached: bool
) -> None:
    moments = 0
    while True:
        home = tmp_path / f"{moments}"
        with pytest.MonkeyPatch.context() as patch:
            writer, _, after = old_and_new(patch, home, way)
            reader = lake_at(home)
            if is_cached:
                assert rows(reader) == ROWS
            left = changes_before(patch, reader.inspector, moments, partial(write, writer, ROWS[:1]))
            assert rows(reader) == ROWS, moments
            assert reader.times(MINUTES).to_list() == [row[0] for row in ROWS]
            if left:
                break
            assert files(reader) == after
        moments += 1
    assert moments >= (1 if way == "whole to years" else 4)


@pytest.mark.parametrize("way", ["whole to years", "years to whole"])
def test_a_read_has_all_candles_once_at_whatever_moment_the_layout_changes_there_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    for moment in range(4 if way == "years to whole" else 1):
        with pytest.MonkeyPatch.context() as patch:
            writer, before, _ = old_and_new(patch, tmp_path / f"{moment}", way)
            reader = lake_at(tmp_path / f"{moment}")
            assert rows(reader) == ROWS

            def there_and_back(patch: pytest.MonkeyPatch = patch, writer: Lake = writer) -> None:
                write(writer, ROWS[:1])
                limit(patch, 100 if way == "whole to years" else 0)
                write(writer, ROWS[:1])

            left = changes_before(patch, reader.inspector, moment, there_and_back)
            assert rows(reader) == ROWS
            assert left == []
            assert files(reader) == before


def test_a_reader_that_knew_a_file_as_announced_sees_what_became_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, 0)
    writer, reader = lake_at(tmp_path), lake_at(tmp_path)
    write(writer, ROWS[:6])
    move_and_die(writer, stage(writer, ROWS[6:]))
    assert rows(reader) == ROWS
    write(writer, ROWS)
    limit(monkeypatch, 100)
    left = changes_before(monkeypatch, reader.inspector, 3, partial(write, writer, ROWS[:1]))
    assert rows(reader) == ROWS
    assert left == []


def test_a_reader_that_knew_of_no_candles_sees_them_in_the_layout_of_the_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = lake_at(tmp_path), lake_at(tmp_path)
    assert rows(reader) == []
    write(writer, ROWS)
    limit(monkeypatch, 0)
    staged = stage(writer, ROWS[:1])
    move_and_die(writer, staged)
    assert rows(reader) == ROWS


def changes_before(
    patch: pytest.MonkeyPatch, inspector: Inspector, number: int, change: Callable[[], object]
) -> list[int]:
    """Lets something happen once, right before an inspector opens a file; what it returns is empty once it did."""
    left = list(range(number + 1))
    opens = inspector.open

    def opening(series: Series, path: str, *, is_whole: bool = False) -> tuple[OpenFile | None, Damage | None]:
        if left:
            left.pop()
            if not left:
                change()
        return opens(series, path, is_whole=is_whole)

    patch.setattr(inspector, "open", opening)
    return left


def change_back_and_forth(home: str, times: int) -> None:
    lake = lake_at(Path(home))
    for number in range(times):
        stored_series.WHOLE_ROWS = 0 if number % 2 else 100
        write(lake, ROWS[:1])


def test_readers_have_all_candles_once_while_a_process_changes_the_layout_back_and_forth(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    write(lake, ROWS)
    reads = 0
    seen: set[frozenset[str]] = set()
    with ExitStack() as stack:
        running = stack.enter_context(process(change_back_and_forth, str(tmp_path), 40))
        while running.poll() is None:
            assert rows(lake) == ROWS
            assert lake.times(MINUTES, start=NEW_YEAR).to_list() == [row[0] for row in ROWS[4:]]
            assert lake.damaged(MINUTES) == []
            seen.add(frozenset(lake.manifest.of(MINUTES).candles()))
            reads += 1
        result(running)
    assert reads > 20
    assert {frozenset(WHOLE), frozenset(YEARS)} <= seen
