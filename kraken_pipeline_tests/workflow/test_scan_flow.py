"""Lazy reading over files with the columns of the flow and without."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from kraken_pipeline.market.flow import FLOW
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow.reading.scan import scan_candles
from kraken_pipeline_tests.support.homes import Shelf, run, settings_of
from kraken_pipeline_tests.support.lakes import rewritten

pytestmark = pytest.mark.slow


def test_files_of_earlier_versions_are_scanned_with_newer_ones(home: Path, shelf: Shelf) -> None:
    settings = settings_of(home)
    with opened(settings) as stores:
        run(stores, shelf.q1, api_backfill=False, resampling=False)
        rewritten(stores.lake, Series("XBTUSD", Interval.H1), lambda candles: candles.drop(FLOW))
    for pairs in (["XBTUSD", "ADAEUR"], ["ADAEUR", "XBTUSD"], "XBTUSD"):
        found = scan_candles(pairs, 60, settings=settings).collect()
        assert found.height > 100
        assert found["vwap"].null_count() == found.height
        assert found.schema["vwap"] == pl.Float64()
