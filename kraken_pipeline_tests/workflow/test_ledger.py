"""What loses in a merge is not lost: files that disagree, ingested in every order."""

from __future__ import annotations

import shutil
from itertools import permutations
from pathlib import Path

import polars as pl
import pytest

from kraken_pipeline.demo.archives import candles_name, write_complete_zip, write_csv, write_quarterly_zip
from kraken_pipeline.demo.defects import Defect, DefectKind
from kraken_pipeline.demo.listing import DAY
from kraken_pipeline.market.candle import seconds_of
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.stores import opened
from kraken_pipeline_tests.support.homes import Q1, SPRING, START, run, settings_of, stored

pytestmark = pytest.mark.slow

HOURS = Series("XBTUSD", Interval.H1)
PRICES_AND_COUNT = ("open", "high", "low", "close", "trade_count")


def said(rows: pl.DataFrame) -> set[tuple[float, ...]]:
    """What rows say but for their volume: time, prices and trade count."""
    return set(rows.select(seconds_of(pl.col("time")), *PRICES_AND_COUNT).rows())


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three archives of the same hours, each wrong in its own way."""
    folder = tmp_path_factory.mktemp("archives")
    hours = [
        int(row[0])
        for row in SPRING.candles("XBTUSD", Interval.H1, START, Q1.end).select(seconds_of(pl.col("time"))).rows()
    ]
    fewer = Defect(DefectKind.FEWER_TRADES, "XBTUSD", Interval.H1)
    spike = Defect(DefectKind.SPIKE, "XBTUSD", Interval.H1, hours[30], release=candles_name(Q1))
    pairs = ["XBTUSD"]
    return {
        "quarterly": write_quarterly_zip(folder, SPRING, Q1, [Interval.H1], defects=[spike], pairs=pairs),
        "complete": write_complete_zip(folder, SPRING, Q1.end + DAY, [Interval.H1], defects=[fewer], pairs=pairs),
        "loose": write_csv(folder, SPRING, "XBTUSD", Interval.H1, start=START + DAY, end=Q1.end - DAY),
    }


def test_in_every_order_of_ingestion_lake_and_ledger_account_for_every_row_that_differs(
    tmp_path: Path, empty_home: Path, archives: dict[str, Path]
) -> None:
    offered: set[tuple[float, ...]] = set()
    for name, path in archives.items():
        home = Path(shutil.copytree(empty_home, tmp_path / name))
        with opened(settings_of(home)) as stores:
            run(stores, path, resampling=False)
            offered |= said(stores.lake.read(HOURS))
    kept = []
    for order in permutations(archives):
        home = Path(shutil.copytree(empty_home, tmp_path / "-".join(order)))
        with opened(settings_of(home)) as stores:
            for number, name in enumerate(order):
                run(stores, archives[name], run_id=f"run-{number}", resampling=False)
            ledger = stores.lake.replaced(HOURS)
            assert said(stores.lake.read(HOURS)) | said(ledger) == offered, order
            assert set(ledger["by"]) <= {
                "XBTUSD_60.csv",
                "Kraken_OHLCVT.zip:XBTUSD_60.csv",
                f"{candles_name(Q1)}:XBTUSD_60.csv",
            }
            kept.append(stored(stores, "XBTUSD", 60))
            assert list(stores.lake.scratch.iterdir()) == []
    assert all(each == kept[0] for each in kept)
