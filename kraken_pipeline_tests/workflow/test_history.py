"""The lake as it was at an earlier moment, against what was read then."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.market.candle import Source
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.moment import iso
from kraken_pipeline.market.pair import parse_pair
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.lake import stored_series
from kraken_pipeline.storage.lake.history import candles_as_of
from kraken_pipeline.storage.lake.writer import CandleWriter, stage_removal
from kraken_pipeline.storage.records import manifest
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.cleanup import clean_up
from kraken_pipeline.workflow.lake_write import LakeWrite, commit
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reading.candles import read_candles
from kraken_pipeline.workflow.run_spec import run_spec
from kraken_pipeline.workflow.verify.repair import repair
from kraken_pipeline_tests.support.homes import NOW, Shelf, run, settings_of
from kraken_pipeline_tests.support.samples import at, candle, frame
from kraken_pipeline_tests.support.shell import shell

pytestmark = pytest.mark.slow

HOURS = Series("XBTUSD", Interval.H1)
NEW_YEAR = at("2024-01-01T00:00")
HOUR = 3_600


def present() -> int:
    return time.time_ns() // 1_000


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    with opened(settings_of(tmp_path / "home")) as stores:
        stores.lake.asset_ids.register([parse_pair("XBTUSD")])
        yield stores


def write(stores: Stores, candles: pl.DataFrame, remade: tuple[Span, ...] = ()) -> None:
    with stores.locks.series([HOURS]):
        writer = CandleWriter(stores.lake, HOURS, origin="a test", now=NOW, remade=remade)
        writer.add(candles)
        commit(stores, [LakeWrite(writer.finish(), (Grant(Span(NEW_YEAR, NEW_YEAR + HOUR), Source.CSV, NOW, 1),))], NOW)


def withdraw(stores: Stores, gone: pl.DataFrame) -> None:
    with stores.locks.series([HOURS]):
        commit(stores, [LakeWrite(stage_removal(stores.lake, HOURS, gone, origin="a test", now=NOW), ())], NOW)


def some(chance: random.Random, source: Source) -> pl.DataFrame:
    hours = sorted(chance.sample(range(-30, 30), chance.randint(1, 25)))
    return frame(
        candle(NEW_YEAR + hour * HOUR, chance.choice([1.0, 2.0]), trades=chance.randint(1, 3), source=source)
        for hour in hours
    )


@given(chance=st.randoms(use_true_random=False), steps=st.integers(1, 9), most=st.sampled_from([20, 1_000]))
@settings(max_examples=12, deadline=None)
def test_the_lake_as_of_each_moment_is_what_was_read_then(chance: random.Random, steps: int, most: int) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        opened(settings_of(Path(folder) / "home")) as stores,
    ):
        patch.setattr(stored_series, "WHOLE_ROWS", most)  # so that a series changes its layout on the way
        stores.lake.asset_ids.register([parse_pair("XBTUSD")])
        kept = [(present(), stores.lake.read(HOURS))]
        for _ in range(steps):
            step = chance.random()
            stored = stores.lake.read(HOURS)
            if step < 0.2 and stored.height:
                withdraw(
                    stores, stored.sample(chance.randint(1, stored.height), seed=chance.randint(0, 99)).sort("time")
                )
            elif step < 0.4:
                span = Span(NEW_YEAR - chance.randint(0, 30) * HOUR, NEW_YEAR + chance.randint(1, 30) * HOUR)
                made = some(chance, Source.RESAMPLED).filter(
                    pl.col("time").dt.epoch("s").is_between(span.start, span.end - 1)
                )
                write(stores, made, remade=(span,))
            else:
                write(stores, some(chance, chance.choice([Source.CSV, Source.TRADES, Source.OHLC])))
            kept.append((present(), stores.lake.read(HOURS)))
        for moment, held in kept:
            assert candles_as_of(stores.lake, HOURS, moment).equals(held)
            window = (NEW_YEAR - 10 * HOUR, NEW_YEAR + 10 * HOUR)
            inside = pl.col("time").dt.epoch("s").is_between(window[0], window[1] - 1)
            assert candles_as_of(stores.lake, HOURS, moment, *window).equals(held.filter(inside))


def test_as_of_a_moment_between_two_runs_is_the_export_of_that_time(tmp_path: Path, shelf: Shelf) -> None:
    its = settings_of(tmp_path / "home")
    with opened(its) as stores:
        run(stores, shelf.q1)
    held = read_candles("XBTUSD", "1h", settings=its)
    moment = int(time.time())
    time.sleep(1.1)  # a moment is a second
    with opened(its) as stores:
        run(stores, shelf.q3)
    assert read_candles("XBTUSD", "1h", settings=its).height > held.height
    assert read_candles("XBTUSD", "1h", settings=its, as_of=moment).equals(held)
    time.sleep(1.1)
    assert read_candles("XBTUSD", "1h", settings=its, as_of=int(time.time()) - 1).equals(
        read_candles("XBTUSD", "1h", settings=its)
    )
    with pytest.raises(InvalidRequest, match=r"2999-01-01T00:00:00Z is not over: as_of names a moment of the past"):
        read_candles("XBTUSD", "1h", settings=its, as_of="2999-01-01")
    with pytest.raises(InvalidRequest, match=r"is on record from .* on: that is the first moment"):
        read_candles("XBTUSD", "1h", settings=its, as_of="2020-01-01")
    for more in ({"fill_quiet": True}, {"with_state": True}, {"timezone": "Europe/Berlin"}):
        with pytest.raises(InvalidRequest, match="as_of reads candles of the stored intervals"):
            read_candles("XBTUSD", "1d", settings=its, as_of=moment, **more)
    with pytest.raises(InvalidRequest, match="as_of and release exclude each other"):
        read_candles("XBTUSD", "1h", settings=its, as_of=moment, release="a")
    where = ("--to", str(tmp_path / "then"), "--format", "parquet")
    assert shell(its.home, "export", "XBTUSD", "1h,1d", *where, "--as-of", iso(moment)).code == 0
    assert pl.read_parquet(tmp_path / "then" / "XBTUSD_60.parquet").equals(held)


def test_a_crash_before_or_after_the_move_changes_no_earlier_moment(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(stores, frame([candle(NEW_YEAR)]))
    held, moment = stores.lake.read(HOURS), present()
    more = frame(candle(NEW_YEAR + hour * HOUR, trades=9) for hour in (-1, 0, 1))
    for place in ("move_all", "all_times"):
        with monkeypatch.context() as patch:
            patch.setattr(f"kraken_pipeline.workflow.lake_write.{place}", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                write(stores, more)
        assert candles_as_of(stores.lake, HOURS, moment).equals(held)
        stores.lake.manifest.forget([HOURS])
    write(stores, more)
    assert stores.lake.read(HOURS).height == 3
    assert candles_as_of(stores.lake, HOURS, moment).equals(held)
    assert candles_as_of(stores.lake, HOURS, present()).equals(stores.lake.read(HOURS))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_pruning_the_ledger_moves_the_first_moment(stores: Stores) -> None:
    write(stores, frame([candle(NEW_YEAR)]))
    before = present()
    write(stores, frame([candle(NEW_YEAR, trades=9)]))
    after = present()
    write(stores, frame([candle(NEW_YEAR + HOUR)]))
    assert candles_as_of(stores.lake, HOURS, before)["trade_count"].to_list() != [9]
    kept = stores.settings.model_copy(update={"kraken_aside_retention_days": 1})
    object.__setattr__(stores, "settings", kept)
    assert clean_up(stores, 1, NOW + 10 * 86_400).files == 1
    with pytest.raises(InvalidRequest, match="is on record from"):
        candles_as_of(stores.lake, HOURS, before)
    assert candles_as_of(stores.lake, HOURS, after)["trade_count"].to_list() == [9]


def commits_of(stores: Stores, series: Series = HOURS) -> int:
    with stores.catalog.read() as connection:
        return len(manifest.commits_after(connection, series, 0))


def test_records_of_writes_are_kept_as_long_as_the_ledger(stores: Stores) -> None:
    for hour in range(4):
        write(stores, frame([candle(NEW_YEAR + hour * HOUR)]))
    moment = present()
    write(stores, frame([candle(NEW_YEAR + 4 * HOUR)]))
    held = candles_as_of(stores.lake, HOURS, moment)
    assert (held.height, commits_of(stores)) == (4, 5)
    now = int(time.time())
    assert clean_up(stores, 1, now + 10 * 86_400).files == 0
    assert commits_of(stores) == 5, "they are kept for ever unless a setting says otherwise"
    kept = stores.settings.model_copy(update={"kraken_aside_retention_days": 1})
    object.__setattr__(stores, "settings", kept)
    clean_up(stores, 1, now + 86_400 - 60)
    assert commits_of(stores) == 5, "a day is not over"
    assert candles_as_of(stores.lake, HOURS, moment).equals(held)
    clean_up(stores, 1, now + 2 * 86_400)
    assert commits_of(stores) == 0
    with pytest.raises(InvalidRequest, match="is on record from"):
        candles_as_of(stores.lake, HOURS, moment)
    assert candles_as_of(stores.lake, HOURS, present()).height == 5
    later = present()
    write(stores, frame([candle(NEW_YEAR, trades=9)]))
    assert (
        candles_as_of(stores.lake, HOURS, later)["trade_count"].to_list()
        != stores.lake.read(HOURS)["trade_count"].to_list()
    ), "what happens afterwards is on record again"


def test_a_series_that_was_damaged_is_not_read_as_of_before(tmp_path: Path, shelf: Shelf) -> None:
    with opened(settings_of(tmp_path / "home")) as stores:
        run(stores, shelf.q1)
        moment = present()
        (_, path), *_ = stores.lake.partitions(HOURS)
        (stores.settings.home / path).unlink()
        repair(stores, run_spec(), RunContext("repair", int(time.time())))
        stores.lake.manifest.forget([HOURS])
        with pytest.raises(InvalidRequest, match="is on record from"):
            candles_as_of(stores.lake, HOURS, moment)
        days = Series("XBTUSD", Interval.D1)
        assert (commits_of(stores), commits_of(stores, days)) == (1, 1), (
            "that of the repair: nobody needs the one before"
        )
        assert candles_as_of(stores.lake, days, moment).height == stores.lake.read(days).height
        with stores.catalog.read() as connection:
            assert manifest.history_start(connection, HOURS) > manifest.history_start(connection, days)
