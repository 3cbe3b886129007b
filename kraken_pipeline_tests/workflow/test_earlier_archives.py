"""Homes that an earlier version filled from strange archives: the first run corrects them, and nothing else of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from kraken_pipeline.coverage.evidence import Grant
from kraken_pipeline.coverage.ranges import Span
from kraken_pipeline.market.candle import Source
from kraken_pipeline.market.interval import Interval
from kraken_pipeline.market.series import Series
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.lake.staged import Lost
from kraken_pipeline.storage.lake.writer import CandleWriter
from kraken_pipeline.storage.records import evidence_records
from kraken_pipeline.storage.stores import Stores, opened
from kraken_pipeline.workflow.ingest.earlier_archives import ORIGIN
from kraken_pipeline.workflow.lake_write import LakeWrite, commit
from kraken_pipeline_tests.support.homes import covered, run, settings_of, spans, stored
from kraken_pipeline_tests.support.samples import at, candle, csv_row, frame, write_zip

pytestmark = pytest.mark.slow

T = at("2023-05-01")
HOUR = 3_600
NOW = at("2023-09-01")
HOURS = Series("XBTUSD", Interval.H1)


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    with opened(settings_of(tmp_path / "home")) as found:
        yield found


def believed(stores: Stores, series: Series, times: list[int], span: Span, **values: object) -> None:
    """What an earlier version made of the file that was ingested last: rows without a trade, and what it granted."""
    rows = frame(candle(time, 50.0, volume=0.0, trades=0) for time in times)
    with stores.catalog.read() as connection:
        file_id = connection.scalar(sa.select(sa.func.max(schema.files.c.id)))
    with stores.locks.series([series]):
        writer = CandleWriter(stores.lake, series, origin="filled.csv", now=NOW)
        writer.add(rows)
        commit(stores, [LakeWrite(writer.finish(), (Grant(span, Source.CSV, NOW, 3),), file_id)], NOW)
    with stores.catalog.write() as connection:
        connection.execute(sa.update(schema.files).where(schema.files.c.id == file_id).values(updated_at=NOW, **values))
        connection.execute(sa.delete(schema.earlier_archives))
        connection.execute(sa.insert(schema.earlier_archives).values(pair=series.pair))


def left(stores: Stores) -> list[str]:
    with stores.catalog.read() as connection:
        return list(connection.scalars(sa.select(schema.earlier_archives.c.pair)))


def test_rows_without_a_trade_leave_the_lake_and_what_they_answered_for_is_a_gap(
    stores: Stores, tmp_path: Path
) -> None:
    path = tmp_path / "XBTUSD_60.csv"
    path.write_text(csv_row(T) + csv_row(T + 5 * HOUR), encoding="utf-8")
    run(stores, path, now=NOW, resampling=False)
    quiet = [T - 3 * HOUR, T - HOUR, T + HOUR, T + 4 * HOUR, T + 6 * HOUR, T + 7 * HOUR]
    believed(stores, HOURS, quiet, Span(quiet[0], quiet[-1]), first_time=quiet[0], last_time=quiet[-1])
    assert covered(stores, "XBTUSD", 60) == spans((quiet[0], quiet[-1]))
    assert len(stored(stores, "XBTUSD", 60)) == 8
    run(stores, now=NOW, api_backfill=False, intervals="60,240")
    assert [row[0] for row in stored(stores, "XBTUSD", 60)] == [T, T + 5 * HOUR]
    assert covered(stores, "XBTUSD", 60) == spans((T, T + 5 * HOUR))
    assert [row[1:] for row in stored(stores, "XBTUSD", 240)] == [(1.5, 2.5, 0.5, 2.0, 12.25, 3)]
    gone = stores.lake.replaced(HOURS).filter(pl.col("lost") == Lost.WITHDRAWN.value)
    assert (gone.height, set(gone["by"])) == (6, {ORIGIN}), "nothing is lost: the ledger has them"
    assert left(stores) == []


def test_a_release_that_answered_for_the_same_time_goes_on_answering(stores: Stores, tmp_path: Path) -> None:
    release = write_zip(tmp_path / "Kraken_OHLCVT_Q2_2023.zip", {"XBTUSD_60.csv": csv_row(T) + csv_row(T + 5 * HOUR)})
    run(stores, release, now=NOW, resampling=False)
    path = tmp_path / "XBTUSD_60.csv"
    path.write_text(csv_row(T) + csv_row(T + 4 * HOUR), encoding="utf-8")
    run(stores, path, now=NOW, resampling=False)
    before = covered(stores, "XBTUSD", 60)
    quiet = [T - 9 * HOUR, T + HOUR]
    believed(stores, HOURS, quiet, Span(T - 9 * HOUR, T + 4 * HOUR), first_time=quiet[0])
    run(stores, now=NOW, api_backfill=False, intervals="60")
    assert covered(stores, "XBTUSD", 60) == before == spans((at("2023-04-01"), T + 6 * HOUR))
    assert len(stored(stores, "XBTUSD", 60)) == 3


def test_a_collection_that_was_taken_for_a_release_answers_for_its_rows_alone(stores: Stores, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "Kraken_OHLCVT_incomplete.zip", {"XBTUSD_60.csv": csv_row(T) + csv_row(T + 5 * HOUR)})
    run(stores, path, now=NOW, resampling=False)
    believed(stores, HOURS, [], Span(at("2013-01-01"), T + 6 * HOUR))
    run(stores, now=NOW, api_backfill=False, intervals="60")
    assert covered(stores, "XBTUSD", 60) == spans((T, T + 5 * HOUR))
    assert len(stored(stores, "XBTUSD", 60)) == 2


def test_a_home_in_which_all_is_right_is_left_as_it_is(stores: Stores, tmp_path: Path) -> None:
    path = tmp_path / "XBTUSD_60.csv"
    path.write_text(csv_row(T) + csv_row(T + 5 * HOUR), encoding="utf-8")
    run(stores, path, now=NOW, intervals="60,240")
    believed(stores, HOURS, [], Span(T, T + 5 * HOUR))
    with stores.catalog.read() as connection:
        before = evidence_records.grants_of(connection, [HOURS])
    run(stores, now=NOW, api_backfill=False, intervals="60,240")
    with stores.catalog.read() as connection:
        assert evidence_records.grants_of(connection, [HOURS]) == before
    assert left(stores) == []
