"""The flow of candles in the lake: files with its columns and without, the ledger, and the order of arrival."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.candle import CANDLE_SCHEMA, Source, merge
from kraken_pipeline.market.flow import FLOW
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.lake import stored_series
from kraken_pipeline.storage.lake.lake import Lake
from kraken_pipeline.storage.lake.row_digest import row_digest, without_release
from kraken_pipeline.storage.lake.staged import LEDGER_SCHEMA, Staged
from kraken_pipeline.storage.lake.writer import CandleWriter, stage_file, stage_removal
from kraken_pipeline.storage.paths import candles_path
from kraken_pipeline.workflow.verify.sound_file import sound_file
from kraken_pipeline_tests.support.lakes import bring_in, lake_at
from kraken_pipeline_tests.support.samples import at, candle, frame

T = at("2023-12-31T23:58")
MINUTES = Series("XBTUSD", Interval.M1)
NOW = at("2024-06-01")
BARE, PAGED, CUT = (None, None, None), (10.0, 10.0, 0.0), (9.9, None, None)
Flow = tuple[float | None, float | None, float | None]


def told(*flows: Flow, start: int = T, **more: object) -> pl.DataFrame:
    """Minutes one after another, each with a flow."""
    given = frame(candle(start + 60 * number, **more) for number in range(len(flows)))  # type: ignore[arg-type]
    columns = zip(FLOW, zip(*flows, strict=True), strict=True)
    return given.with_columns(pl.Series(name, values, pl.Float64()) for name, values in columns)


def write(lake: Lake, candles: pl.DataFrame) -> Staged:
    writer = CandleWriter(lake, MINUTES, origin="a test", now=NOW)
    writer.add(candles)
    staged = writer.finish()
    bring_in(lake, staged)
    return staged


def columns(lake: Lake) -> list[list[str]]:
    """The columns of each file of the series."""
    found = []
    for _, path in lake.partitions(MINUTES):
        with lake.files.open(path) as stream:
            found.append(pl.read_parquet(stream, hive_partitioning=False).columns)
    return found


def earlier(lake: Lake, candles: pl.DataFrame, year: int | None = None) -> None:
    """Stores a file as versions without the flow did."""
    staged = Staged(MINUTES, "a test", NOW)
    stage_file(lake, staged, candles.drop(FLOW), candles_path(MINUTES, year), year)
    bring_in(lake, staged)


def test_all_files_have_the_columns_so_that_they_can_be_scanned_at_once(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    write(lake, told(BARE, BARE))
    assert columns(lake) == [CANDLE_SCHEMA.names()]
    assert_frame_equal(lake.read(MINUTES), told(BARE, BARE))
    assert lake.read(MINUTES).schema == CANDLE_SCHEMA
    scanned = pl.scan_parquet(lake.home / "lake" / "interval=*/**/*.parquet", hive_partitioning=True)
    assert scanned.select(CANDLE_SCHEMA.names()).collect().schema == CANDLE_SCHEMA


def test_a_file_of_an_earlier_version_reads_as_null_and_stays_until_it_is_written_to(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    earlier(lake, told(BARE, BARE))
    ((_, path),) = lake.partitions(MINUTES)
    before = (lake.home / path).read_bytes()
    assert_frame_equal(lake.read(MINUTES), told(BARE, BARE))
    assert lake.read(MINUTES, T + 60).schema == CANDLE_SCHEMA
    assert lake.times(MINUTES).to_list() == [T, T + 60]
    assert write(lake, told(BARE, BARE)).moves == [], "the same candles again"
    assert write(lake, told(BARE, source=Source.OHLC)).moves == []
    assert (lake.home / path).read_bytes() == before
    assert columns(lake) == [CANDLE_SCHEMA.names()[:9]]
    write(lake, told(PAGED, source=Source.TRADES, start=T + 120))
    assert columns(lake) == [CANDLE_SCHEMA.names()]
    assert lake.read(MINUTES)["vwap"].to_list() == [None, None, 10.0]


def test_files_of_both_kinds_are_read_as_one_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_series, "WHOLE_ROWS", 2)
    lake = lake_at(tmp_path)
    old, new = told(BARE, BARE), told(PAGED, CUT, start=T + 120, source=Source.TRADES)
    earlier(lake, old, 2023)
    write(lake, new)
    assert columns(lake) == [CANDLE_SCHEMA.names()[:9], CANDLE_SCHEMA.names()]
    whole = pl.concat([old, new])
    assert_frame_equal(lake.read(MINUTES), whole)
    assert_frame_equal(lake.read(MINUTES, T + 60, T + 180), whole[1:3])
    assert lake.times(MINUTES).to_list() == [T, T + 60, T + 120, T + 180]
    assert lake.activity(MINUTES)["trade_count"].to_list() == [5] * 4
    assert lake.damaged(MINUTES) == []
    for _, path in lake.partitions(MINUTES):
        (known,) = lake.manifest.of(MINUTES).files[path]
        found = sound_file(lake.files, path)
        assert found is not None
        assert (found.digest, found.sha256, found.rows) == (known.digest, known.sha256, known.rows)
    write(lake, told(CUT, source=Source.OHLC))
    assert lake.read(MINUTES)["vwap"].to_list() == [9.9, None, 10.0, 9.9]


def test_a_ledger_of_an_earlier_version_is_read_with_what_is_added_to_it(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    write(lake, told(BARE))
    write(lake, told(BARE, trades=6))
    (path,) = lake.ledger_files(MINUTES)
    with lake.files.open(path) as stream:
        rows = pl.read_parquet(stream, hive_partitioning=False)
    staged = Staged(MINUTES, "a test", NOW)
    stage_file(lake, staged, rows.drop(FLOW), path)
    bring_in(lake, staged)
    write(lake, told(PAGED, trades=7, source=Source.TRADES))
    write(lake, told(BARE, trades=8))
    lost = lake.replaced(MINUTES)
    assert lost.schema == LEDGER_SCHEMA
    assert lost.select("trade_count", *FLOW).rows() == [(5, *BARE), (6, *BARE), (7, *PAGED)]


def test_the_digest_of_rows_without_a_flow_is_that_of_earlier_versions() -> None:
    bare, paged = told(BARE, BARE), told(PAGED, BARE)
    assert row_digest(bare) == row_digest(bare.drop(FLOW))
    assert len(row_digest(bare).split("-")) == 9
    assert len(row_digest(paged).split("-")) == 12
    assert row_digest(paged).startswith(row_digest(bare))
    assert row_digest(paged) != row_digest(told((10.0, 10.0, None), BARE)), "a zero is no null"
    assert without_release(row_digest(bare)) == "-".join(row_digest(bare).split("-")[:8])
    assert len(without_release(row_digest(paged)).split("-")) == 11
    assert row_digest(paged) == row_digest(paged.reverse())


def test_a_flow_that_is_filled_in_is_stored_and_is_no_correction(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    write(lake, told(BARE, BARE, BARE))
    staged = write(lake, told(PAGED, CUT, start=T + 60, source=Source.TRADES))
    assert lake.read(MINUTES)["vwap"].to_list() == [None, 10.0, 9.9]
    assert lake.read(MINUTES)["source"].to_list() == ["CSV"] * 3
    assert (staged.changed, staged.changed_span, staged.refused) == (0, None, 0)
    assert staged.enriched_span == Span(T + 60, T + 180)
    assert staged.undisputed.is_empty()
    assert lake.replaced(MINUTES).is_empty()
    again = write(lake, told(PAGED, CUT, start=T + 60, source=Source.TRADES))
    assert (again.enriched_span, again.changed, again.moves) == (None, 0, [])


def test_a_replaced_candle_stands_in_the_ledger_with_its_flow(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    write(lake, told(PAGED, source=Source.TRADES))
    write(lake, told(BARE, trades=6))
    lost = lake.replaced(MINUTES)
    assert lost.select(FLOW).rows() == [PAGED]
    assert lost["lost"].to_list() == ["REPLACED"]
    assert lake.read(MINUTES).select(FLOW).rows() == [BARE]


# Two volumes and three of a price: an account may win over one that agrees with a third.
ACCOUNTS = st.builds(
    lambda flow, price, volume, trades, source, release: told(
        flow, price=price, volume=volume, trades=trades, source=source, release=release
    ),
    flow=st.sampled_from([BARE, BARE, PAGED, CUT, (9.95, 10.0, None)]),
    price=st.sampled_from([10.25, 10.5]),
    volume=st.sampled_from([1.0, 1.0 + 2e-7, 1.5]),
    trades=st.integers(1, 2),
    source=st.sampled_from([Source.CSV, Source.CSV, Source.TRADES, Source.OHLC]),
    release=st.sampled_from([0, 19_000, 19_090]),
)


def stored_after(accounts: tuple[pl.DataFrame, ...]) -> pl.DataFrame:
    with tempfile.TemporaryDirectory() as home:
        lake = lake_at(Path(home))
        for account in accounts:
            write(lake, account)
        return lake.read(MINUTES)


@pytest.mark.slow
@settings(max_examples=12)
@given(st.lists(ACCOUNTS, min_size=2, max_size=3))
def test_the_order_of_arrival_changes_neither_the_candle_nor_its_flow(accounts: list[pl.DataFrame]) -> None:
    first, *others = (stored_after(order) for order in itertools.permutations(accounts))
    for other in others:
        assert_frame_equal(first, other)


def test_an_account_that_lost_gives_its_flow_to_the_later_candle_that_agrees_with_it(tmp_path: Path) -> None:
    paged = told(PAGED, source=Source.TRADES)
    early, late = told(BARE, volume=2.0, release=19_000), told(BARE, release=19_090)
    for number, order in enumerate(itertools.permutations([paged, early, late])):
        lake = lake_at(tmp_path / str(number))
        for account in order:
            write(lake, account)
        assert lake.read(MINUTES).select("release", *FLOW).rows() == [(19_090, *PAGED)]
    assert merge(merge(paged, early), late)["vwap"].to_list() == [None], "so the ledger is needed"


def test_a_withdrawn_candle_gives_its_flow_to_none(tmp_path: Path) -> None:
    lake = lake_at(tmp_path)
    write(lake, told(PAGED, source=Source.TRADES))
    bring_in(lake, stage_removal(lake, MINUTES, lake.read(MINUTES), origin="wrong", now=NOW))
    write(lake, told(BARE, volume=2.0, release=19_000))
    write(lake, told(BARE, release=19_090))
    assert lake.read(MINUTES).select("release", *FLOW).rows() == [(19_090, *BARE)]
