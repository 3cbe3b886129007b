"""The rules of stored candles: the same answer whether a series is read at once or in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.lake.lake import Lake
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow.verify.verify import broken_candles
from kraken_pipeline_tests.support.homes import NOW, run, write_lines
from kraken_pipeline_tests.support.lakes import rewritten
from kraken_pipeline_tests.support.samples import at, csv_row

pytestmark = pytest.mark.slow

HOURS = Series("XBTUSD", Interval.H1)
BEGIN = at("2020-03-01")
DAY = 86_400
DAYS = 3 * 365
TIMES = [BEGIN + day * DAY + day % 5 * 3_600 for day in range(DAYS)]
WRONG = (TIMES[5], TIMES[DAYS // 2], TIMES[-3])
"""The candles that are made wrong by hand, in three years."""


@pytest.fixture
def stored(stores: Stores, tmp_path: Path) -> Stores:
    """A candle a day, over three years."""
    rows = [csv_row(time).strip() for time in TIMES]
    run(stores, write_lines(tmp_path / "XBTUSD_60.csv", rows), resampling=False)
    return stores


@pytest.mark.parametrize("together", [400, 1 << 20])
def test_broken_candles_are_counted_over_all_parts_of_a_series(
    stored: Stores, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    for place in ("coverage.batches", "workflow.verify.verify"):
        monkeypatch.setattr(f"kraken_pipeline.{place}.BATCH_CANDLES", together)
    heights = []
    read = Lake.read

    def noted(self: Lake, *which: Any) -> pl.DataFrame:
        found = read(self, *which)
        heights.append(found.height)
        return found

    monkeypatch.setattr(Lake, "read", noted)
    assert broken_candles(stored, [HOURS], NOW) == []
    assert sum(heights) == DAYS
    assert max(heights) <= 366 if together == 400 else heights == [DAYS]
    volume = pl.when(pl.col("time").dt.epoch("s").is_in(WRONG)).then(-1.0).otherwise("volume")
    rewritten(stored.lake, HOURS, lambda candles: candles.with_columns(volume.alias("volume")))
    negative = (HOURS, "volume is negative", len(WRONG))
    assert broken_candles(stored, [HOURS], NOW) == [negative]
    assert broken_candles(stored, [HOURS], TIMES[-11]) == [(HOURS, "time is in the future", 10), negative]


def test_a_series_without_candles_breaks_no_rule(stores: Stores) -> None:
    assert broken_candles(stores, [HOURS], NOW) == []
